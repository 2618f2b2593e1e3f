"""Requests to a service's REST interface: each within a deadline, and refusals that say who has to act."""

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

import httpx

from bridge import __version__
from bridge.errors import BridgeError, ProviderRejected, ProviderUnavailable
from bridge.net.reasons import root_cause, system_reason
from bridge.net.tls import Trust
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.redact import mask

# Answers are a few names and addresses; a page of HTML is not read further.
_MOST_ANSWER_BYTES = 64 * 1024
_MOST_WORDS = 200
# RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4, and all of the server's own failures pass by themselves.
_PASSING = frozenset({408, 425, 429, *range(500, 600)})
# The reason that renewals know as: no second session beside the first.
NO_ROOM = "connection_limit_exceeded"
# The reason of a refusal that says: there is no such thing, or not any more.
GONE = "gone"
# What is sent along may take the time that it needs at 1 Mb/s.
_SLOWEST_BYTES_PER_S = 125_000

# They write URLs, and keys stand in some.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Rest:
    """A service's REST interface. `where`: what errors call it.

    timeout_s  of a whole request, from connecting to the last byte of its answer. A large body has more, 8 s per MB.
    advice     what the operator is to do about a refusal, by HTTP status; `otherwise` for all others.
    policy     judges where URLs lead; None: they are the operator's own.
    """

    def __init__(
        self,
        where: str,
        timeout_s: float,
        advice: Mapping[int, str],
        otherwise: str,
        policy: UrlPolicy | None = None,
    ) -> None:
        self._where = where
        self._timeout_s = timeout_s
        self._advice = advice
        self._otherwise = otherwise
        self._policy = policy

    async def client(self) -> httpx.AsyncClient:
        """For any number of requests; to be closed. Proxies and .netrc of the environment are not read."""
        tls = await asyncio.to_thread(Trust().context)
        headers = {"User-Agent": f"avatar-bridge/{__version__}", "Accept-Encoding": "identity"}
        return httpx.AsyncClient(verify=tls, trust_env=False, timeout=self._timeout_s, headers=headers)

    async def ask(self, client: httpx.AsyncClient, method: str, url: str, **content: Any) -> str:
        """The answer's text; redirects are refusals. Raises ProviderRejected, ProviderUnavailable."""
        limit_s = self._timeout_s
        try:
            target = httpx.URL(url)
            if self._policy is not None:
                # What was judged is what is connected to.
                pinned = await self._policy.check(url, schemes=frozenset({"http", "https"}))
                content["headers"] = {**content.get("headers", {}), "Host": target.netloc.decode("ascii")}
                content["extensions"] = {"sni_hostname": pinned.host}
                target = target.copy_with(host=pinned.addresses[0])
            request = client.build_request(method, target, **content)
            limit_s += len(request.content) / _SLOWEST_BYTES_PER_S
            async with asyncio.timeout(limit_s):
                response = await client.send(request, stream=True)
                async with aclosing(response):
                    text = await _read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise self._unavailable(f"did not answer within {limit_s:.3g} s", "unreachable") from None
        except UrlRefused as error:
            raise ProviderRejected(f"{self._where}: the URL {error}", reason="unreachable") from None
        except (httpx.InvalidURL, UnicodeError):
            raise ProviderRejected(f"{self._where}: the URL is malformed", reason="unreachable") from None
        except httpx.HTTPError as error:
            cause = root_cause(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                what = f"{self._where} shows a certificate that is not trusted: {cause.verify_message}"
                raise ProviderRejected(what, reason="unreachable") from None
            raise self._unavailable(f"cannot be reached: {system_reason(error)}", "unreachable") from None
        except OSError as error:
            what = f"cannot be reached: its host has no address ({error.strerror or 'no answer in time'})"
            raise self._unavailable(what, "unreachable") from None
        if not response.is_success:
            raise self._refusal(response.status_code, text)
        return text

    def _refusal(self, status: int, text: str) -> BridgeError:
        words = words_of(text)
        said = f' "{words}"' if words else ""
        if "concurren" in words.lower():
            # Services tell by words alone that others of our own sessions are in the way.
            return self._unavailable(f"has no room for one more session (HTTP {status}{said})", NO_ROOM)
        if status in _PASSING:
            return self._unavailable(f"is not available now (HTTP {status}{said})", "refused")
        advice = self._advice.get(status, self._otherwise)
        reason = GONE if status in (404, 410) else "refused"
        return ProviderRejected(f"{self._where} refused (HTTP {status}{said}): {advice}", reason=reason)

    def _unavailable(self, what: str, reason: str) -> ProviderUnavailable:
        return ProviderUnavailable(f"{self._where} {what}", reason=reason)


def words_of(text: str) -> str:
    """What a refusal says, fit for an error; empty where that is no line of text, such as a page of HTML."""
    with suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict):
            inner = fields.get("error")
            places = (inner, fields) if isinstance(inner, dict) else (fields,)
            names = ("message", "error", "detail")
            text = next((str(place[name]) for place in places for name in names if place.get(name)), "")
    return line_of(text)


def line_of(text: str) -> str:
    """A service's text as one line for people, masked and cut; empty where that is none."""
    line = " ".join(text.split())
    return mask(line)[:_MOST_WORDS] if line.isprintable() and not line.startswith("<") else ""


async def _read(response: httpx.Response) -> str:
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MOST_ANSWER_BYTES:
            break
    return body[:_MOST_ANSWER_BYTES].decode(errors="replace")
