"""A LiveKit server that is good for one avatar and those who watch it: tokens at the door, signalling of version 0.

What other participants publish, sound alone, is heard by the avatar and by nobody else.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import structlog
from livekit.protocol import models, rtc
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from bridge.errors import BridgeError, ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.livekit_media import MemberMedia
from bridge.local_avatar.livekit_stage import AVATAR, Stage
from bridge.local_avatar.service import House
from bridge.media.clock import NS_PER_MS
from bridge.protocols import livekit
from bridge.protocols.livekit_token import BadToken, Grant, mint, verify
from bridge.redact import Secret, mask

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

log = structlog.get_logger()

# `livekit-server --dev` has the key devkey too; its secret is shorter than what HMAC-SHA256 should have.
API_KEY = "devkey"
DEV_SECRET = "secret-of-the-local-avatar-service"
ROOM = "local"
SERVER_VERSION = "1.9.0"  # of the protocol that is imitated: clients ask for calls from 1.8.0 on
SEND_TIMEOUT_S = 5.0
TOKEN_LIFETIME_S = 600

# How a stay ends by fault, and what the door says where it is to end at once.
_Reason, _Action = models.DisconnectReason, rtc.LeaveRequest.Action
_ENDS: Mapping[str, tuple[models.DisconnectReason, rtc.LeaveRequest.Action]] = {
    "bad-licence": (_Reason.PARTICIPANT_REMOVED, _Action.DISCONNECT),
    "balance": (_Reason.PARTICIPANT_REMOVED, _Action.DISCONNECT),
    "gpu-full": (_Reason.JOIN_FAILURE, _Action.DISCONNECT),
    "connection-limit": (_Reason.JOIN_FAILURE, _Action.DISCONNECT),
    "backend-error": (_Reason.SERVER_SHUTDOWN, _Action.RECONNECT),
    "session-limit": (_Reason.ROOM_DELETED, _Action.DISCONNECT),
}
_DOOR: Mapping[str, tuple[HTTPStatus, str]] = {
    "bad-licence": (HTTPStatus.UNAUTHORIZED, "invalid token"),
    "balance": (HTTPStatus.PAYMENT_REQUIRED, "quota exceeded"),
    "gpu-full": (HTTPStatus.SERVICE_UNAVAILABLE, "no capacity"),
    "connection-limit": (HTTPStatus.TOO_MANY_REQUESTS, "too many participants"),
    "backend-error": (HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"),
}
_KINDS = {"agent": models.ParticipantInfo.Kind.AGENT}


class LiveKitService:
    """Rooms with an avatar in each.

    prefix  of the path, for rooms that belong to another service.  secret: signs tokens; None: the house's.

    identities  of avatars, by room, where they have one of their own.
    """

    def __init__(self, house: House, prefix: str = "", secret: Secret | None = None) -> None:
        self._house = house
        self._secret = secret or house.options.license or Secret(DEV_SECRET)
        self._stages: dict[str, Stage] = {}
        self.identities: dict[str, str] = {}
        self.sockets = {prefix + livekit.JOIN_PATH: self._serve}
        self.routes: Sequence[BaseRoute] = ()

    def urls(self, sockets: str, web: str) -> Sequence[str]:
        return (sockets,)

    def refusal(self, request: Request) -> tuple[HTTPStatus, str] | None:
        """Why a client is not let in."""
        try:
            faults = self._faults(request)
            self._grant(request)
        except BadToken as error:
            return HTTPStatus.UNAUTHORIZED, f"invalid token: {error}"
        except ValueError as error:
            return HTTPStatus.BAD_REQUEST, str(error)
        at_once = (name for name in _DOOR if name in faults and not faults.value(name) and faults.strikes(name))
        return next((_DOOR[name] for name in at_once), None)

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        grant = self._grant(socket.request)
        faults = self._faults(socket.request)
        stage = self._stages.get(grant.room)
        if stage is None:
            identity = self.identities.get(grant.room, AVATAR)
            stage = self._stages[grant.room] = Stage(grant.room, self._house.options, faults, identity)
        client = LiveKitClient(socket, self._house, stage, grant, faults, self._secret)
        try:
            await client.run()
        finally:
            if not stage.members:
                self._stages.pop(grant.room, None)

    def stage(self, room: str) -> Stage | None:
        """The room while somebody is in it."""
        return self._stages.get(room)

    def token(self, identity: str, room: str) -> str:
        """What opens a room to a viewer."""
        now_s = time.time()
        grant = Grant(identity, room, may_publish=False, expires_s=int(now_s) + TOKEN_LIFETIME_S)
        return mint(grant, API_KEY, self._secret.reveal(), now_s)

    def read(self, token: str) -> Grant:
        """Raises BadToken."""
        return verify(token, API_KEY, self._secret.reveal(), time.time())

    def _faults(self, request: Request) -> Faults:
        query = parse_qs(urlsplit(request.path).query)
        return Faults(self._house.options.faults).and_also(query.get("fault", ()))

    def _grant(self, request: Request) -> Grant:
        query = parse_qs(urlsplit(request.path).query)
        header = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = header or query.get("access_token", [""])[0]
        return self.read(token)


class LiveKitClient:
    """One participant, from its WebSocket's opening to its close."""

    def __init__(
        self, socket: ServerConnection, house: House, stage: Stage, grant: Grant, faults: Faults, secret: Secret
    ) -> None:
        self._socket, self._house, self._stage = socket, house, stage
        self._grant, self._faults, self._secret = grant, faults, secret
        query = parse_qs(urlsplit(socket.request.path).query) if socket.request is not None else {}
        self._subscribes = query.get("auto_subscribe", ["1"])[0] not in ("0", "false")
        self._info = models.ParticipantInfo(
            sid=f"PA_{secrets.token_hex(6)}",
            identity=grant.identity,
            state=models.ParticipantInfo.State.ACTIVE,
            joined_at=int(time.time()),
            kind=_KINDS.get(grant.kind, models.ParticipantInfo.Kind.STANDARD),
            attributes=grant.attributes,
            permission=models.ParticipantPermission(
                can_subscribe=True, can_publish=grant.may_publish, can_publish_data=True
            ),
        )
        self._outgoing: asyncio.Queue[rtc.SignalResponse] = asyncio.Queue()
        self.unreadable_frames = 0

    async def run(self) -> None:
        """Serve until the client leaves. What clients and networks do wrong is logged; only a bug is raised."""
        reason = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(), name="livekit-writing")
                await self._serve(tasks)
                raise ProviderUnavailable("the client has left")
        except* BridgeError as group:
            reason = str(group.exceptions[0])
        except* ConnectionClosed:
            reason = "the connection was lost"
        finally:
            self._stage.leave(self._info.sid)
            await self._socket.close()
            log.info(
                "avatar_participant_left",
                reason=mask(reason)[:200],
                unreadable_frames=self.unreadable_frames,
                participants=len(self._stage.members),
            )

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        is_first = not self._stage.members
        media = MemberMedia(
            self._info, self._house, self._faults, self._stage, self._queue, tasks, subscribes=self._subscribes
        )
        self._greet()
        self._stage.enter(media)
        log.info("avatar_participant_joined", participants=len(self._stage.members))
        tasks.create_task(media.run(), name="livekit-media")
        tasks.create_task(self._misbehave(), name="livekit-faults")
        if is_first:
            tasks.create_task(self._stage.run(), name="livekit-stage")
        await self._listen(media)

    def _queue(self, response: rtc.SignalResponse) -> None:
        self._outgoing.put_nowait(response)

    async def _write(self) -> None:
        while True:
            response = await self._outgoing.get()
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._socket.send(response.SerializeToString())
            except TimeoutError:
                raise ProviderUnavailable(f"the client takes no message for {SEND_TIMEOUT_S:g} s") from None
            if response.HasField("leave"):
                await self._socket.close()

    def _greet(self) -> None:
        join = rtc.JoinResponse(
            room=models.Room(sid=f"RM_{self._stage.name}", name=self._stage.name),
            participant=self._info,
            other_participants=self._stage.participants(),
            subscriber_primary=True,
            ping_interval=livekit.PING_INTERVAL_S,
            ping_timeout=livekit.PING_TIMEOUT_S,
            server_version=SERVER_VERSION,
            server_info=models.ServerInfo(version=SERVER_VERSION, protocol=livekit.PROTOCOL_VERSION),
        )
        self._queue(rtc.SignalResponse(join=join))
        now_s = time.time()
        lasting = replace(self._grant, expires_s=int(now_s) + TOKEN_LIFETIME_S)
        self._queue(rtc.SignalResponse(refresh_token=mint(lasting, API_KEY, self._secret.reveal(), now_s)))

    # ------------------------------------------------------------------------------------------ ends

    async def _misbehave(self) -> None:
        await self._faults.commit(
            {name: partial(self._end, name) for name in _ENDS} | {"ws-drop": self._drop, "ws-close": self._break}
        )

    async def _end(self, name: str) -> None:
        reason, action = _ENDS[name]
        leave = rtc.LeaveRequest(reason=reason, action=action, can_reconnect=action != _Action.DISCONNECT)
        self._queue(rtc.SignalResponse(leave=leave))

    async def _drop(self) -> None:
        self._socket.transport.abort()

    async def _break(self) -> None:
        await self._socket.close(1011, "internal error")

    # ------------------------------------------------------------------------------------------ from the client

    async def _listen(self, media: MemberMedia) -> None:
        async for frame in self._socket:
            try:
                request = livekit.parse(rtc.SignalRequest, frame)
                if request.HasField("leave"):
                    self._stage.leave(self._info.sid)  # at once, as LiveKit does, not after its media
                    return
                await self._take(request, media)
            except RemoteProtocolError as error:
                self.unreadable_frames += 1
                log.warning("avatar_request_refused", error=mask(str(error))[:200])

    async def _take(self, request: rtc.SignalRequest, media: MemberMedia) -> None:
        now_ms = time.time_ns() // NS_PER_MS
        match request.WhichOneof("message"):
            case "answer":
                await media.accept(request.answer)
            case "offer":
                await media.answer(request.offer)
            case "trickle":
                await media.trickle(request.trickle)
            case "subscription":
                await media.subscribe(request.subscription)
            case "add_track":
                self._stage.add_track(media, request.add_track)
            case "ping":
                self._queue(rtc.SignalResponse(pong=now_ms))
            case "ping_req":
                pong = rtc.Pong(last_ping_timestamp=request.ping_req.timestamp, timestamp=now_ms)
                self._queue(rtc.SignalResponse(pong_resp=pong))
