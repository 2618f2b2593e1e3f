"""WebSockets of the API: senders of raw sound, each to an input of a session.

A token comes as the subprotocol `bearer.TOKEN` beside `pcm`, which is the one that is agreed on, if it holds neither /
nor =, which subprotocols may not; in the header Authorization, from programs that can set it; or in the first message,
`{"type": "open", "token": …}`. Never in the URL, which proxies and browsers write down.
"""

import asyncio
from http import HTTPStatus

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from bridge.errors import SourceError
from bridge.ops.access import Access, host_of
from bridge.ops.control import ControlledDaemon
from bridge.ops.problems import Problem, problem_of
from bridge.ops.sessions_api import find_running
from bridge.ports import PcmPoint, PcmSender
from bridge.protocols.pcm_messages import POLICY, Refused, parse

PCM_PATH = "/v1/sessions/{name}/pcm/{input}"
SUBPROTOCOL = "pcm"
_BEARER = "bearer."
# A client has its token at hand; who waits longer holds a connection for nothing.
TOKEN_TIMEOUT_S = 5.0
# RFC 6455 §7.4.1: going away.
_GOING_AWAY = 1001
# RFC 6455 §5.5: a control frame has 125 bytes at most, of which two are the code.
_REASON_BYTES = 123

log = structlog.get_logger()


class PcmSockets:
    """Lets senders in, moves their messages, and closes with a reason what breaks the rules."""

    def __init__(self, daemon: ControlledDaemon, access: Access) -> None:
        self._daemon = daemon
        self._access = access

    async def serve(self, socket: WebSocket) -> None:
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None
        try:
            _check_query(socket)
            # Who has shown no token yet learns nothing, and takes nobody's place.
            sender = self._connect(socket) if self._check_tokens(socket) else None
        except Problem as problem:
            log.info("pcm_refused", path=socket.url.path[:200], status=int(problem.status))
            await socket.send_denial_response(problem.response())
            return
        try:
            await socket.accept(subprotocol)
            if sender is None:
                opening = await self._take_token(socket)
                sender = self._connect(socket)
                await _pass_on(socket, sender, opening)
            while True:
                await _pass_on(socket, sender, await _receive(socket))
        except WebSocketDisconnect:
            pass
        except Refused as refused:
            await _close(socket, refused.code, str(refused))
        except Problem as problem:
            await _close(socket, POLICY, problem.detail)
        except SourceError as error:
            await _close(socket, _GOING_AWAY, str(error))
        finally:
            if sender is not None:
                sender.close()

    def _check_tokens(self, socket: WebSocket) -> bool:
        """Whether a token that opens this has come with the request. Raises Problem if only others have."""
        protocols: list[str] = socket.scope["subprotocols"]
        tokens = [each.removeprefix(_BEARER) for each in protocols if each.startswith(_BEARER)]
        scheme, _, token = socket.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            tokens.append(token.strip())
        if tokens:
            self._access.check_sender(tokens, host_of(socket.scope))
        return bool(tokens) or not self._access.wants_tokens

    def _connect(self, socket: WebSocket) -> PcmSender:
        name, input = socket.path_params["name"], socket.path_params["input"]
        source = find_running(self._daemon, name).source(input)
        if not isinstance(source, PcmPoint):
            raise Problem(HTTPStatus.NOT_FOUND, f"session {name} has no input {input} whose URL is ws:")
        try:
            return source.connect()
        except SourceError as error:
            raise problem_of(error) from None

    async def _take_token(self, socket: WebSocket) -> str:
        """The first message, with a token that opens this. Raises Refused, Problem."""
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                message = await _receive(socket)
        except TimeoutError:
            raise Refused(POLICY, f"no token within {TOKEN_TIMEOUT_S:g} s") from None
        if isinstance(message, bytes):
            raise Refused(POLICY, 'samples before {"type": "open", "token": …}')
        token = parse(message).get("token")
        self._access.check_sender([token] if isinstance(token, str) else [], host_of(socket.scope))
        return message


def _check_query(socket: WebSocket) -> None:
    """Whoever puts a token there is to find out before it stands in somebody's log. Raises Problem."""
    if socket.url.query:
        raise Problem(HTTPStatus.BAD_REQUEST, "no query here: a token is a subprotocol, header or first message")


async def _receive(socket: WebSocket) -> str | bytes:
    """Raises WebSocketDisconnect."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    data = message.get("bytes")
    said: str | bytes = data if data is not None else message.get("text", "")
    return said


async def _pass_on(socket: WebSocket, sender: PcmSender, message: str | bytes) -> None:
    if (reply := sender.take(message)) is not None:
        await socket.send_text(reply)


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    log.info("pcm_closed", path=socket.url.path[:200], code=code, reason=reason)
    await socket.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
