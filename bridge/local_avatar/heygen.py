"""The local HeyGen and LiveAvatar: sessions over HTTP, commands over a WebSocket each, and a room for every avatar."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request as Opening

from bridge.local_avatar.faults import Faults
from bridge.local_avatar.heygen_session import Session
from bridge.local_avatar.livekit import DEV_SECRET, LiveKitService
from bridge.local_avatar.rest import TEXTS, page_of, refused
from bridge.local_avatar.service import House
from bridge.protocols import heygen_rest as rest
from bridge.protocols.livekit_token import BadToken
from bridge.redact import Secret

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

# Trial accounts (limits page), and the sandbox by what clients of it say.
SESSION_S, SANDBOX_S = 600.0, 60.0
MOST_BODY_BYTES = 256 * 1024
_DOOR: Mapping[str, tuple[int, str]] = {
    "bad-licence": (401, TEXTS[401]),
    "balance": (402, TEXTS[402]),
    "gpu-full": (503, TEXTS[503]),
    "connection-limit": (400, "Concurrent limit reached"),
    "backend-error": (500, "Internal error"),
}
Answer = Callable[["Request", Mapping[str, Any]], "Response"]

log = structlog.get_logger()


class HeyGenService:
    """Sessions of the streaming interface; each is open until it is stopped, or ends by itself, and is counted."""

    PREFIX: ClassVar[str] = "/heygen"
    # Of the seed: the id is all that opens it.
    SOCKET: ClassVar[str] = "/v2-alpha/interactive-avatar/session"

    def __init__(self, house: House) -> None:
        self._house = house
        self._faults = Faults(house.options.faults)
        self._rooms = LiveKitService(house, self.PREFIX, Secret(DEV_SECRET))
        self._sessions: dict[str, Session] = {}
        self._tokens: set[str] = set()  # that open a session each
        self._base = ""
        self.sockets = {**self._rooms.sockets, f"{self.SOCKET}/[0-9a-f]+": self._serve}

    def urls(self, sockets: str, web: str) -> Sequence[str]:
        self._base = sockets
        return (web,)

    @property
    def routes(self) -> "Sequence[BaseRoute]":
        return (
            self._route("/v1/streaming.create_token", self._create_token),
            self._route(rest.NEW, self._new),
            self._route(rest.START, self._start),
            self._route(rest.KEEP_ALIVE, self._keep_alive),
            self._route(rest.INTERRUPT, self._interrupt),
            self._route(rest.STOP, self._stop),
        )

    def refusal(self, request: Opening) -> tuple[HTTPStatus, str] | None:
        """Why a client is not let in, to a room or to a session's commands."""
        path = urlsplit(request.path).path
        if self.SOCKET not in path:
            return self._rooms.refusal(request)
        return None if path.rpartition("/")[2] in self._sessions else (HTTPStatus.NOT_FOUND, "no such session")

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        session = self._sessions.get(urlsplit(socket.request.path).path.rpartition("/")[2])
        if session is not None:
            await session.serve(socket)

    # ------------------------------------------------------------------------------------------ sessions

    def _open(self, room: str = "", limit_s: float = SESSION_S) -> Session:
        name = room or secrets.token_hex(8)
        faults = Faults(self._house.options.faults)
        limit_s = faults.value("session-limit", limit_s)
        session = Session(name, lambda: self._rooms.stage(name), faults, limit_s, self._on_end)
        self._sessions[session.id] = session
        log.info("avatar_session_opened", open_sessions=len(self._sessions))
        return session

    def _on_end(self, session: Session, reason: str) -> None:
        del self._sessions[session.id]
        self._rooms.identities.pop(session.room, None)
        log.info("avatar_session_ended", reason=reason, open_sessions=len(self._sessions))

    def _socket_url(self, session: Session) -> str:
        return f"{self._base}{self.SOCKET}/{session.id}"

    # ------------------------------------------------------------------------------------------ requests

    def _route(self, path: str, answer: Answer) -> "BaseRoute":
        from starlette.routing import Route

        async def serve(request: "Request") -> "Response":
            if (page := page_of(self._faults)) is not None:
                return page
            text = b""
            async for chunk in request.stream():
                text += chunk
                if len(text) > MOST_BODY_BYTES:
                    return refused(413, "The request is too large")
            try:
                body = json.loads(text or b"{}")
            except (ValueError, RecursionError):
                return refused(400, "The request is no JSON")
            return answer(request, body) if isinstance(body, dict) else refused(400, "The request is no object")

        return Route(path, serve, methods=["POST"])

    def _has_key(self, request: "Request") -> bool:
        key, expected = request.headers.get(rest.KEY_HEADER, ""), self._house.options.license
        return bool(key) and (expected is None or key == expected.reveal())

    def _at_door(self) -> "Response | None":
        """Why there is no session for anybody, where a fault says so."""
        faults = self._faults
        at_once = (name for name in _DOOR if name in faults and not faults.value(name) and faults.strikes(name))
        return next((refused(*_DOOR[name]) for name in at_once), None)

    def _create_token(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        if not self._has_key(request):
            return refused(401, TEXTS[401])
        token = secrets.token_urlsafe(24)
        self._tokens.add(token)
        return _success({"token": token})

    def _new(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        bearer = _bearer(request)
        if not self._has_key(request) and bearer not in self._tokens:
            return refused(401, TEXTS[401])
        if (refusal := self._at_door()) is not None:
            return refusal
        if not body.get("avatar_id") or body.get("version") != "v2":
            return refused(400, "avatar_id and version v2 are needed", 40001)
        self._tokens.discard(bearer)
        session = self._open()
        session.token = bearer
        return _success(
            {
                "session_id": session.id,
                "url": self._base + self.PREFIX,
                "access_token": self._rooms.token("client", session.room),
                "realtime_endpoint": self._socket_url(session),
                "is_paid": True,
                "session_duration_limit": round(session.limit_s),
            }
        )

    def _start(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        return self._with_session(request, body, lambda session: None)

    def _keep_alive(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        return self._with_session(request, body, lambda session: None)

    def _interrupt(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        def interrupt(session: Session) -> None:
            if (stage := self._rooms.stage(session.room)) is not None:
                stage.stop_speaking()

        return self._with_session(request, body, interrupt)

    def _stop(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        return self._with_session(request, body, lambda session: session.end("stopped"))

    def _with_session(self, request: "Request", body: Mapping[str, Any], do: Callable[[Session], None]) -> "Response":
        session = self._sessions.get(str(body.get("session_id", "")))
        bearer = _bearer(request)
        if not self._has_key(request) and not (session and bearer and bearer == session.token):
            return refused(401, TEXTS[401])
        if session is None:
            return refused(404, "session not found", 10005)
        session.touch()
        do(session)
        return _success(None)


class LiveAvatarService(HeyGenService):
    """Sessions of LiveAvatar, in its LITE mode: a token, and then a start by that token."""

    PREFIX = "/liveavatar"
    SOCKET = "/liveavatar/session"

    @property
    def routes(self) -> "Sequence[BaseRoute]":
        return (
            self._route(rest.LIVE_TOKEN, self._token),
            self._route(rest.LIVE_START, self._begin),
            self._route(rest.LIVE_KEEP_ALIVE, self._keep_alive),
            self._route(rest.LIVE_STOP, self._stop),
        )

    def _token(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        if not self._has_key(request):
            return refused(401, TEXTS[401])
        if (refusal := self._at_door()) is not None:
            return refusal
        if not body.get("avatar_id") or body.get("mode") != "LITE":
            return refused(422, "avatar_id and mode LITE are needed")
        own = body.get("livekit_config")
        room = ""
        if isinstance(own, dict):
            try:
                grant = self._rooms.read(str(own.get("livekit_client_token", "")))
            except BadToken as bad:
                return refused(422, f"livekit_client_token: {bad}")
            if grant.room != own.get("livekit_room"):
                return refused(422, "livekit_client_token is for another room")
            room = grant.room
            self._rooms.identities[room] = grant.identity
        session = self._open(room, SANDBOX_S if body.get("is_sandbox") is True else SESSION_S)
        session.is_in_own_room = bool(room)
        return _success({"session_id": session.id, "session_token": session.token})

    def _begin(self, request: "Request", body: Mapping[str, Any]) -> "Response":
        bearer = _bearer(request)
        session = next((each for each in self._sessions.values() if each.token == bearer), None)
        if session is None:
            return refused(401, "Invalid session token")
        room: dict[str, Any] = {"livekit_url": None, "livekit_client_token": None, "livekit_agent_token": None}
        if not session.is_in_own_room:
            room = {
                "livekit_url": self._base + self.PREFIX,
                "livekit_client_token": self._rooms.token("client", session.room),
                "livekit_agent_token": self._rooms.token("agent", session.room),
            }
        data = {"session_id": session.id, "max_session_duration": round(session.limit_s)}
        return _success(data | room | {"ws_url": self._socket_url(session)}, 201)


def _bearer(request: "Request") -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _success(data: Mapping[str, Any] | None, status: int = 200) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse({"code": 100, "message": "success", "data": data}, status)
