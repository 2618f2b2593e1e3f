"""Sessions of a HeyGen account: begun, kept, and stopped whatever happens, for each one counts against a quota."""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from bridge.errors import ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.net.rest import Rest
from bridge.net.url_policy import UrlPolicy
from bridge.protocols import heygen_rest as rest
from bridge.protocols.heygen import KEEP_ALIVE_S
from bridge.protocols.heygen_rest import Opened, OwnRoom, Quality, parse_opened
from bridge.protocols.livekit_room import Choice
from bridge.protocols.livekit_token import Grant
from bridge.providers.livekit_entry import Entry, MintedToken
from bridge.redact import Secret, redact_url

# The service starts a machine before it answers.
REQUEST_TIMEOUT_S = 15.0
# A program that was told to end waits so long for the answer to what it has asked for, and then for what it must stop.
ANSWER_TIMEOUT_S, STOP_TIMEOUT_S = 5.0, 3.0
# Sessions end by themselves (trial accounts: after ten minutes), so those that a service refuses to stop for longer are
# over; each is a request before the next session begins.
MOST_UNSTOPPED = 16

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who asks, and for which avatar.

    url    of the REST interface.  key: opens it; or token, which opens one session.
    extra  goes into the request for a session as it is, over what we say there.
    """

    url: Secret
    avatar_id: str
    key: Secret | None = None
    token: Secret | None = None
    quality: Quality = "high"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        if self.token is not None:
            return {"Authorization": f"Bearer {self.token.reveal()}"}
        assert self.key is not None
        return {rest.KEY_HEADER: self.key.reveal()}


@dataclass(frozen=True, slots=True)
class Room:
    """A LiveKit room of the operator's, opened by tokens that are made with an API key of its server.

    identity  who we are in it.
    """

    url: Secret
    name: str
    api_key: str
    api_secret: Secret
    identity: str

    def entry(self, identity: str, *, may_publish: bool) -> Entry:
        """What opens it to somebody."""
        grant = Grant(identity, self.name, may_publish=may_publish)
        return Entry(self.url, MintedToken(self.api_key, self.api_secret, grant), key="avatar.room")


class Lives(ABC):
    """Begins sessions, and stops each one that was begun; those that could not be stopped before the next one.

    has_own_room  the avatar is sent into a room of the operator's.
    policy        judges where the account's URL leads; None: it is the operator's own.
    """

    has_own_room = False
    _ADVICE: Mapping[int, str] = {
        401: "check avatar.api_key; a token opens one session, and then a new one is needed",
        402: "top up the account",
        403: "check what the key allows",
        404: "check avatar.url and avatar.avatar_id",
    }

    def __init__(self, account: Account, where: str, *, policy: UrlPolicy | None = None) -> None:
        self.where = where
        self._account = account
        otherwise = "check avatar.avatar_id and avatar.session"
        self._rest = Rest(where, REQUEST_TIMEOUT_S, self._ADVICE, otherwise, policy)
        self._unstopped: dict[str, Opened] = {}  # that are over, and that the service may not know of
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Opened]:
        """A session, until it is left. Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError.

        Who is cancelled meanwhile waits for the answer, because a session that nobody knows of would stay.
        """
        client = await self._rest.client()
        begun: list[Opened] = []
        beginning = asyncio.create_task(self._begin_anew(client, begun), name="heygen-begin")
        try:
            yield await asyncio.shield(beginning)
        finally:
            # A task of its own: it outlasts a second cancellation.
            ending = asyncio.create_task(self._end(client, beginning, begun), name="heygen-end")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)

    async def keep_alive(self, opened: Opened) -> None:
        """Keep one from ending for want of something to do, until cancelled. A request that fails is logged."""
        async with await self._rest.client() as client:
            while True:
                await asyncio.sleep(KEEP_ALIVE_S)
                try:
                    await self._keep(client, opened)
                except (ProviderRejected, ProviderUnavailable) as error:
                    log.warning("heygen_keep_alive_failed", error=str(error))

    def entry(self, opened: Opened) -> tuple[Entry, Choice]:
        """What opens the room that its avatar is in, and who that is there. Raises RemoteProtocolError."""
        if not opened.room_url or not opened.room_token:
            what = f"{self.where} names no LiveKit room, or nothing that opens it"
            raise RemoteProtocolError(what, reason="protocol")
        token = Secret(opened.room_token, is_passing=True)
        return Entry(Secret.url(opened.room_url), token, key="its answer"), Choice()

    @abstractmethod
    async def _begin(self, client: httpx.AsyncClient, begun: list[Opened]) -> Opened:
        """`begun` gets it as soon as it counts."""

    @abstractmethod
    async def _keep(self, client: httpx.AsyncClient, opened: Opened) -> None: ...

    @abstractmethod
    async def _stop(self, client: httpx.AsyncClient, opened: Opened) -> None: ...

    # ------------------------------------------------------------------------------------------ ends

    async def _begin_anew(self, client: httpx.AsyncClient, begun: list[Opened]) -> Opened:
        await self._stop_all(client)
        opened = await self._begin(client, begun)
        host, api_host = _socket_host(opened.socket_url), urlsplit(self._account.url.reveal()).hostname
        if not host:
            what = f"{self.where} names no WebSocket for the session's sound (realtime_endpoint, ws_url)"
            raise RemoteProtocolError(what, reason="protocol")
        if host != api_host:
            # As a rule it is; whoever it is gets the URL's own credential, and never the key.
            log.info("heygen_socket_elsewhere", host=host, api=api_host)
        return opened

    async def _end(self, client: httpx.AsyncClient, beginning: asyncio.Task[Opened], begun: list[Opened]) -> None:
        async with aclosing(client):
            await asyncio.wait({beginning}, timeout=ANSWER_TIMEOUT_S)
            beginning.cancel()
            await asyncio.wait({beginning})
            if not beginning.cancelled() and (error := beginning.exception()) is not None:
                log.debug("heygen_session_not_begun", error=str(error))
            self._unstopped |= {opened.session_id: opened for opened in begun}
            for session_id in tuple(self._unstopped)[:-MOST_UNSTOPPED]:
                del self._unstopped[session_id]
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._stop_all(client)
            except TimeoutError:
                log.warning("heygen_session_unstopped", error=f"{self.where} did not answer in {STOP_TIMEOUT_S:g} s")

    async def _stop_all(self, client: httpx.AsyncClient) -> None:
        """Stop those that are over; what cannot be reached now is tried again before the next one begins."""
        for session_id, opened in tuple(self._unstopped.items()):
            try:
                await self._stop(client, opened)
            except ProviderUnavailable as error:
                log.warning("heygen_session_unstopped", error=str(error))
                if error.reason == "unreachable":
                    return
                continue
            except ProviderRejected as error:
                log.info("heygen_session_gone", error=str(error))
            self._unstopped.pop(session_id, None)

    # ------------------------------------------------------------------------------------------ requests

    async def _post(
        self, client: httpx.AsyncClient, path: str, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> str:
        url = self._account.url.reveal().rstrip("/") + path
        return await self._rest.ask(client, "POST", url, headers=dict(headers), json=dict(body))

    def _read(self, text: str) -> Opened:
        try:
            opened = parse_opened(text)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self.where}: {error}", reason="protocol") from None
        # Its URL is what opens its WebSocket, and the id is a part of that.
        for value in (opened.session_id, opened.token, opened.room_token, opened.socket_url):
            Secret(value, is_passing=True)
        return opened


class HeyGenLives(Lives):
    """HeyGen's own interface, /v1/streaming.*"""

    async def _begin(self, client: httpx.AsyncClient, begun: list[Opened]) -> Opened:
        account = self._account
        body = rest.new_body(account.avatar_id, account.quality, account.extra)
        opened = self._read(await self._post(client, rest.NEW, account.headers, body))
        begun.append(opened)
        await self._about(client, rest.START, opened)
        return opened

    async def _keep(self, client: httpx.AsyncClient, opened: Opened) -> None:
        await self._about(client, rest.KEEP_ALIVE, opened)

    async def _stop(self, client: httpx.AsyncClient, opened: Opened) -> None:
        await self._about(client, rest.STOP, opened)

    async def _about(self, client: httpx.AsyncClient, path: str, opened: Opened) -> None:
        await self._post(client, path, self._account.headers, {"session_id": opened.session_id})


class LiveAvatarLives(Lives):
    """LiveAvatar's interface, /v1/sessions/*: the key buys a token, and the token opens one session."""

    def __init__(
        self,
        account: Account,
        where: str,
        *,
        is_sandbox: bool = False,
        room: Room | None = None,
        policy: UrlPolicy | None = None,
    ) -> None:
        super().__init__(account, where, policy=policy)
        self._is_sandbox = is_sandbox
        self._room = room
        self.has_own_room = room is not None

    async def _begin(self, client: httpx.AsyncClient, begun: list[Opened]) -> Opened:
        account, room = self._account, None
        # Two sessions, of which one takes over from the other, are in one room for a while.
        avatar = f"avatar-{secrets.token_hex(4)}"
        if self._room is not None:
            token = self._room.entry(avatar, may_publish=True).token(self.where)
            room = OwnRoom(self._room.url.reveal(), self._room.name, token.reveal())
        body = rest.token_body(
            account.avatar_id, account.quality, account.extra, is_sandbox=self._is_sandbox, room=room
        )
        bought = self._read(await self._post(client, rest.LIVE_TOKEN, account.headers, body))
        begun.append(bought)
        about = {"session_id": bought.session_id}
        started = self._read(await self._post(client, rest.LIVE_START, _bearer(bought), about))
        return replace(started, session_id=bought.session_id, token=bought.token, avatar=avatar)

    def entry(self, opened: Opened) -> tuple[Entry, Choice]:
        if self._room is None:
            return super().entry(opened)
        identity = f"{self._room.identity}-{opened.avatar}"
        return self._room.entry(identity, may_publish=False), Choice(identity=opened.avatar)

    async def _keep(self, client: httpx.AsyncClient, opened: Opened) -> None:
        await self._post(client, rest.LIVE_KEEP_ALIVE, _bearer(opened), {"session_id": opened.session_id})

    async def _stop(self, client: httpx.AsyncClient, opened: Opened) -> None:
        body = {"session_id": opened.session_id, "reason": "USER_CLOSED"}
        # By the key: the session's token may have expired.
        await self._post(client, rest.LIVE_STOP, self._account.headers, body)


def _socket_host(url: str) -> str:
    """The host of a WebSocket's URL; empty: it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme in ("ws", "wss") else ""


def _bearer(opened: Opened) -> dict[str, str]:
    return {"Authorization": f"Bearer {opened.token}"}


def place_of(name: str, url: Secret) -> str:
    """What errors call the service."""
    return f"{name} at {redact_url(url.reveal())}"
