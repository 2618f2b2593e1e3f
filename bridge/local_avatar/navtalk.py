"""The service's side of one NavTalk v2 session: whom it serves, how it greets, and how it ends."""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import BridgeError, ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.conversation import Conversation, Role
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.noise import Frame, Noise
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.service import House
from bridge.local_avatar.spelling import Spelling
from bridge.local_avatar.transmission import Transmission
from bridge.net.ice import IceSettings
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import parse_request
from bridge.redact import mask

log = structlog.get_logger()

# A client that takes no message for this long is gone.
SEND_TIMEOUT_S = 5.0
# A name of the client's, and what is wrong with it.
MAX_SHOWN_CHARACTERS = 200
# Often enough to fall into every state of a client.
NOISE_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Avatar:
    """Somebody to talk to. Names need not differ, ids do."""

    id: str
    name: str


# All look alike; the names are there so that a wrong one can be refused as the cloud refuses it. The newest comes last.
AVATARS = (
    Avatar("local-leo", "navtalk.Leo"),
    Avatar("local-lauren", "navtalk.Lauren"),
    Avatar("local-mia", "navtalk.Mia"),
    Avatar("local-ava-1", "navtalk.Ava"),
    Avatar("local-ava-2", "navtalk.Ava"),
)


class NavTalkService:
    """The unified interface: one WebSocket for everything."""

    PATH = "/wss/v2/realtime-chat"

    def __init__(self, house: House) -> None:
        self._house = house
        self.sockets = {self.PATH: self._serve}
        self.routes = ()

    def urls(self, sockets: str, web: str) -> Sequence[str]:
        return (f"{sockets}{self.PATH}",)

    async def _serve(self, socket: ServerConnection) -> None:
        house = self._house
        await NavTalkSession(socket, house.options, house.ice, house.stun_port).run()


# How a session ends by fault: with an event, or without a word but the reason of the WebSocket's close.
_ENDS: Mapping[str, navtalk.Ended | None] = {
    "bad-licence": navtalk.Ended(navtalk.End.FAIL, "Invalid license key"),
    "balance": navtalk.Ended(navtalk.End.INSUFFICIENT_BALANCE, "The balance is used up"),
    "points": None,
    "gpu-full": navtalk.Ended(navtalk.End.GPU_FULL, "All GPUs are busy"),
    "connection-limit": navtalk.Ended(navtalk.End.CONNECTION_LIMIT_EXCEEDED, "More than 5 connections"),
    "backend-error": navtalk.Ended(navtalk.End.BACKEND_ERROR, "The backend does not answer"),
    "session-limit": navtalk.Ended(navtalk.End.CLOSE, "The session has reached its maximum duration"),
}


class NavTalkSession:
    """One client, from its WebSocket's opening to its close.

    The role is conversation, or speak for a client that asks with `audioBack=true` or `model=transparency`. Faults are
    those of the service and, in the URL's `fault` parameters, of this session. `stun_port` is where the service tells
    clients their address, on the host that they reached.
    """

    NAME = "name"  # of the avatar, in the query

    def __init__(
        self, socket: ServerConnection, options: LocalAvatarOptions, ice: IceSettings, stun_port: int = 0
    ) -> None:
        self._socket = socket
        self._options, self._ice, self._stun_port = options, ice, stun_port
        self._query = query_of(socket)
        is_mirror = self._asked("audioBack") == "true" or self._asked("model") == "transparency"
        self.role: Role = "speak" if is_mirror else "conversation"
        self._faults, self._wrong_fault = Faults(options.faults), ""
        try:
            self._faults = self._faults.and_also(self._query.get("fault", ()))
        except ValueError as error:
            self._wrong_fault = str(error)
        self._spelling = self._spell()
        self._noise = Noise(self._faults)
        limit_s = self._faults.value("session-limit", math.inf)
        self._expires_at_s = time.time() + limit_s if math.isfinite(limit_s) else None
        self.id = f"local-{secrets.token_hex(8)}"
        self._is_mute = False
        self._reason = ""  # of an end that is ours
        self._transmission: Transmission | None = None
        self._conversation: Conversation | None = None
        self.unreadable_frames = 0
        self.binary_frames = 0

    async def run(self) -> None:
        """Serve until the client leaves. What clients and networks do wrong is logged; only a bug is raised."""
        reason = ""
        try:
            refusal = self._refusal()
            end = next((name for name in _ENDS if name in self._faults and not self._faults.value(name)), None)
            if refusal:
                await self._send_end(navtalk.Ended(navtalk.End.FAIL, refusal))
            elif end is not None:
                await self._end(end)
            else:
                await self._serve()
        except* ProviderUnavailable as group:
            reason = str(group.exceptions[0])
        except* BridgeError as group:
            reason = "failed"
            log.warning("avatar_session_failed", errors=[str(error) for error in group.exceptions])
        except* ConnectionClosed:
            reason = "the connection was lost"
        finally:
            await self._socket.close()
            self._log_end(self._reason or reason)

    async def _serve(self) -> None:
        log.info("avatar_session_began", role=self.role)
        async with asyncio.TaskGroup() as tasks:
            transmission = Transmission(self._ice, self._options, self._faults, tasks, self._send)
            name = self._choices()[-1].name.rpartition(".")[2]
            conversation = Conversation(name, self.role, transmission.performer, tasks, self._send)
            self._transmission, self._conversation = transmission, conversation
            for part in self._parts(transmission):
                tasks.create_task(part())
            await self._listen(transmission, conversation)
            # It ends everything else that belongs to the session.
            raise ProviderUnavailable("the client has left")

    def _parts(self, transmission: Transmission) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """What happens meanwhile."""
        return (transmission.run, partial(self._greet, transmission), self._disturb, self._misbehave)

    def _log_end(self, reason: str) -> None:
        if self._transmission is None or self._conversation is None:
            return
        performer = self._transmission.performer
        log.info(
            "avatar_session_ended",
            reason=reason,
            unreadable_frames=self.unreadable_frames,
            binary_frames=self.binary_frames,
            dropped_units=self._transmission.dropped_units,
            skipped_pictures=performer.skipped_pictures,
            dropped_speech_s=performer.dropped_speech_s,
            **self._conversation.counts,
        )

    def _spell(self) -> Spelling:
        return Spelling(self._faults)

    # ------------------------------------------------------------------------------------------ whom it serves

    def _asked(self, name: str) -> str:
        return self._query.get(name, [""])[0]

    def _choices(self) -> list[Avatar]:
        """The avatars that the URL asks for, the newest last; an id goes before a name."""
        avatar_id, name = self._asked("avatarId"), self._asked(self.NAME)
        return [avatar for avatar in AVATARS if (avatar.id == avatar_id if avatar_id else avatar.name == name)]

    def _refusal(self) -> str:
        """Why this client is not served, as the cloud words it; empty when it is."""
        license = self._asked("license")
        expected = self._options.license
        if not license or (expected is not None and license != expected.reveal()):
            return "Invalid license key"
        if self._wrong_fault:
            return f"fault={self._wrong_fault}"
        if self._choices():
            return ""
        known = ", ".join(dict.fromkeys(avatar.name for avatar in AVATARS))
        missing = "no such avatarId" if self._asked("avatarId") else f"this service has {known}"
        return f"Avatar not found: {missing}"

    # ------------------------------------------------------------------------------------------ to the client

    async def _greet(self, transmission: Transmission) -> None:
        steps: Mapping[str, Callable[[], Awaitable[None]]] = {
            "success": self._welcome,
            "offer": partial(self._offer, transmission),
            "created": self._create,
            "updated": partial(self._send, navtalk.SessionUpdated()),
        }
        for step, take in steps.items():
            if not await self._step(step, take):
                return
        await self._offer_late(transmission)

    async def _step(self, step: str, take: Callable[[], Awaitable[None]]) -> bool:
        """Take a step of the greeting; whether there are to be more."""
        if self._faults.choice("close-at") == step and self._faults.strikes("close-at"):
            self._reason = "fault close-at"
            await self._socket.close()
            return False
        if self._faults.choice("mute-at") == step:
            self._is_mute = self._faults.strikes("mute-at")
        await self._make_noise()
        await take()
        return True

    async def _welcome(self) -> None:
        await self._send(navtalk.Connected(self.id, self._ice_servers()))
        choices = self._choices()
        if len(choices) > 1:
            chosen = choices[-1]
            message = f"{len(choices)} avatars are named {chosen.name}: {chosen.id} was chosen, the newest"
            await self._send(navtalk.Warned(message, chosen.id))

    async def _create(self) -> None:
        # A client that renews in time never sees it end.
        self._faults.strikes("session-limit")
        await self._send(navtalk.SessionCreated(self._expires_at_s))

    def _ice_servers(self) -> tuple[navtalk.IceServer, ...]:
        if self._faults.choice("ice-servers") not in ("string", "list", "snake"):
            return ()
        host = self._socket.local_address[0]
        return (navtalk.IceServer((f"stun:{f'[{host}]' if ':' in host else host}:{self._stun_port}",)),)

    async def _offer(self, transmission: Transmission) -> None:
        if not (self._faults.strikes("no-offer") or "late-offer" in self._faults):
            await transmission.offer()

    async def _offer_late(self, transmission: Transmission) -> None:
        if "late-offer" in self._faults:
            await asyncio.sleep(self._faults.value("late-offer"))
            self._faults.strikes("late-offer")
            await transmission.offer()

    async def _send(self, event: navtalk.Event) -> None:
        text = self._spelling.write(event)
        if text is not None:
            await self._send_frame(text)

    async def _send_frame(self, frame: Frame) -> None:
        if self._is_mute:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send(frame)
        except TimeoutError:
            raise ProviderUnavailable(f"The client takes no message for {SEND_TIMEOUT_S:g} s") from None

    async def _make_noise(self) -> None:
        for frame in self._noise.next_frames():
            await self._send_frame(frame)

    async def _disturb(self) -> None:
        while not self._noise.is_silent:
            await asyncio.sleep(NOISE_INTERVAL_S)
            await self._make_noise()

    # ------------------------------------------------------------------------------------------ ends

    async def _misbehave(self) -> None:
        await self._faults.commit(self._faults_in_time())

    def _faults_in_time(self) -> dict[str, Callable[[], Awaitable[None]]]:
        ends: dict[str, Callable[[], Awaitable[None]]] = {name: partial(self._end, name) for name in _ENDS}
        return ends | {"ws-drop": self._drop, "ws-close": self._break, "barge-in": self._barge_in}

    async def _end(self, name: str) -> None:
        self._faults.strikes(name)
        self._reason = f"fault {name}"
        end = _ENDS[name]
        if end is None:
            await self._socket.close(1000, "Insufficient points")
        else:
            await self._send_end(end)
            await self._socket.close()

    async def _send_end(self, end: navtalk.Ended) -> None:
        await self._send(end)

    async def _barge_in(self) -> None:
        await self._send(navtalk.SpeechStarted())

    async def _drop(self) -> None:
        self._reason = "fault ws-drop"
        self._socket.transport.abort()

    async def _break(self) -> None:
        self._reason = "fault ws-close"
        await self._socket.close(1011, "internal error")

    # ------------------------------------------------------------------------------------------ from the client

    async def _listen(self, transmission: Transmission, conversation: Conversation) -> None:
        async for frame in self._socket:
            if not isinstance(frame, str):
                self.binary_frames += 1
                continue
            try:
                request = self._parse(frame)
                match request:
                    case navtalk.Unknown(type_name):
                        self._note_unknown(type_name)
                    case navtalk.Offer() | navtalk.Answer() | navtalk.Candidate():
                        await transmission.take(request)
                    case _:
                        await self._converse(request, conversation)
            except RemoteProtocolError as error:
                await self._refuse(error)

    def _parse(self, text: str) -> Any:
        return parse_request(text)

    async def _converse(self, request: Any, conversation: Conversation) -> None:
        await conversation.take(request)

    def _note_unknown(self, type_name: str) -> None:
        self.unreadable_frames += not type_name
        log.debug("avatar_request_unknown", type=shown(type_name))

    async def _refuse(self, error: RemoteProtocolError) -> None:
        self.unreadable_frames += 1
        log.warning("avatar_request_refused", error=shown(str(error)))
        await self._send(navtalk.Failed(shown(str(error))))


def query_of(socket: ServerConnection) -> Mapping[str, Sequence[str]]:
    """The query parameters that a client has come with."""
    return parse_qs(urlsplit(socket.request.path).query) if socket.request is not None else {}


def shown(text: str) -> str:
    """What a client has had a part in: masked before it is cut, for half of a secret is not known as one."""
    return mask(text)[:MAX_SHOWN_CHARACTERS]
