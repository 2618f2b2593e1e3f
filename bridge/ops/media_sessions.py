"""What endpoints of WebRTC clients have in common (RFC 9725): offers and fragments in, answers and session URLs out."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request, Response

from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.ops.problems import Problem
from bridge.ports import MediaPoint, MediaSession
from bridge.protocols.webrtc_offers import Fragment, Refused, read_fragment
from bridge.protocols.whip import FRAGMENT_TYPE, SDP_TYPE

_TEXT = {"schema": {"type": "string"}}
OFFER = {"requestBody": {"required": True, "content": {SDP_TYPE: _TEXT}}}
FRAGMENT = {"requestBody": {"required": True, "content": {FRAGMENT_TYPE: _TEXT}}}


class Reach:
    """Which addresses of clients ICE may try."""

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy

    def __call__(self, address: str) -> bool:
        try:
            self._policy.check_address(address)
        except UrlRefused:
            return False
        return True


def description() -> Response:
    """What may be done at an endpoint."""
    return Response(headers={"Accept-Post": SDP_TYPE, "Allow": "OPTIONS, POST"})


async def read_offer(request: Request) -> str:
    """Raises Problem."""
    _check_type(request, SDP_TYPE, "Accept-Post")
    if not _accepts(request.headers.get("accept", ""), SDP_TYPE):
        raise Problem(HTTPStatus.NOT_ACCEPTABLE, f"the answer is {SDP_TYPE}, which Accept leaves out")
    return await _text(request)


def created(request: Request, session: MediaSession) -> Response:
    """The answer to an offer that was accepted."""
    headers = {
        "Location": f"{request.url.path}/{session.id}",
        "ETag": session.etag,
        "Accept-Patch": FRAGMENT_TYPE,
    }
    return Response(session.answer, HTTPStatus.CREATED, headers, SDP_TYPE)


async def trickle(request: Request, point: MediaPoint, session: MediaSession) -> None:
    """Take what a PATCH brings. Raises Problem."""
    _check_type(request, FRAGMENT_TYPE, "Accept-Patch")
    _check_match(request.headers.get("if-match"), session.etag)
    fragment = _fragment(await _text(request))
    if fragment.users - session.users:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "other ICE credentials: there are no ICE restarts here")
    await point.trickle(session.id, fragment.candidates)


def refusal(error: Exception, headers: Mapping[str, str] | None = None) -> Problem:
    """What an offer is answered with that is of no use."""
    status = HTTPStatus(error.status) if isinstance(error, Refused) else HTTPStatus.UNPROCESSABLE_ENTITY
    return Problem(status, str(error), headers=headers)


def _check_type(request: Request, wanted: str, header: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != wanted:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {wanted}", headers={header: wanted})


def _accepts(accept: str, media_type: str) -> bool:
    ranges = {each.partition(";")[0].strip().lower() for each in accept.split(",")} - {""}
    return not ranges or not ranges.isdisjoint((media_type, f"{media_type.partition('/')[0]}/*", "*/*"))


def _check_match(if_match: str | None, etag: str) -> None:
    """RFC 9110 §13.1.1. An ICE restart comes with `*`, which the RFC on WHIP also shows in quotes."""
    if if_match is None:
        raise Problem(HTTPStatus.PRECONDITION_REQUIRED, "If-Match must name the ETag of the session")
    if {each.strip() for each in if_match.split(",")}.isdisjoint((etag, "*", '"*"')):
        raise Problem(HTTPStatus.PRECONDITION_FAILED, "If-Match names another ICE session")


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is no UTF-8") from None


def _fragment(body: str) -> Fragment:
    try:
        return read_fragment(body)
    except Refused as refused:
        raise refusal(refused) from None
