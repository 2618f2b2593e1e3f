"""NavTalk v2 as an avatar provider: one WebSocket for sound, events and signalling, one WebRTC peer for the media."""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from bridge.errors import BridgeError, ProviderError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.net.ice import IceServer, IceSettings
from bridge.net.peer import ReceivingPeer
from bridge.ports import AvatarListener
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event
from bridge.providers.navtalk_events import Conversation
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.redact import Secret, mask, redact_url

log = structlog.get_logger()

# The vendor's workers allow 20 s for the answer to a ping; a dead path is to be noticed sooner by the media than here.
PING_S = 20.0
CLOSE_TIMEOUT_S = 2.0
# A socket that takes no message for this long holds 250 live audio messages: its far end has stopped reading.
SEND_TIMEOUT_S = 5.0
# The longest message we know of is an offer; 2 MiB leave room for one second of base64 sound and any tool call.
MAX_MESSAGE_BYTES = 2 * 2**20
# An ICE agent gathers one candidate per address and server; a stream of them without an offer is a mistake.
MAX_EARLY_CANDIDATES = 64
# WebSocket close codes that we send when the other end broke the framing, the text coding or the size limit
# (RFC 6455 §7.4.1).
_BROKEN_FRAMES = (1002, 1007, 1009)
# The library's own log would print the request line, and the licence stands in it.
_SILENT = logging.Logger("navtalk", level=logging.CRITICAL + 1)

# What each step of the hand-shake is for.
_PURPOSES: Mapping[str, str] = {
    navtalk.Connected.TYPE: "confirm the session",
    navtalk.SessionCreated.TYPE: "create the conversation",
    navtalk.SessionUpdated.TYPE: "accept the configuration",
    navtalk.Offer.TYPE: "offer its media",
}
# What the operator, or nobody, has to do about an end.
_ADVICE: Mapping[navtalk.End, str] = {
    navtalk.End.FAIL: "check the licence, avatar.name and avatar.avatar_id",
    navtalk.End.CLOSE: "the service ended it",
    navtalk.End.INSUFFICIENT_BALANCE: "top up the account of this licence",
    navtalk.End.GPU_FULL: "the service is full for now",
    navtalk.End.CONNECTION_LIMIT_EXCEEDED: "too many sessions of this licence are open",
    navtalk.End.BACKEND_ERROR: "the service has a fault of its own",
    navtalk.End.DISCONNECTED: "the connection is gone",
}


class NavTalkProvider:
    """The avatar service NavTalk, or one that speaks its protocol.

    history  what users said before, oldest first; read anew whenever a session begins.
    """

    def __init__(self, options: NavTalkOptions, ice: IceSettings, history: Sequence[str] = ()) -> None:
        self._options = options
        self._ice = ice
        self._history = history
        self._where = f"NavTalk at {redact_url(options.url.reveal())}"

    async def run(self, listener: AvatarListener) -> None:
        """Serve one session and raise what ended it: there is no other end than an error or a cancellation.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError; ConfigError for an unknown interface.
        """
        socket = await self._open()
        session = _Session(socket, self._options, self._ice, self._history, listener, self._where)
        try:
            await session.run()
        finally:
            await _close(socket)

    async def _open(self) -> ClientConnection:
        try:
            is_local = urlsplit(self._options.url.reveal()).hostname in ("localhost", "127.0.0.1", "::1")
            return await connect(
                self._options.request_url(),
                open_timeout=self._options.step_s,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                max_size=MAX_MESSAGE_BYTES,
                compression=None,  # base64 of noise-like sound shrinks by a quarter at best: not worth holding it up
                user_agent_header="avatar-bridge",
                proxy=None if is_local else True,
                logger=_SILENT,
            )
        # `from None` everywhere: the library's exceptions may hold the URL, and with it the licence.
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            if status == 429 or status >= 500:
                raise ProviderUnavailable(f"{self._where} is not available now (HTTP {status})") from None
            raise ProviderRejected(
                f"{self._where} refused the WebSocket (HTTP {status}): check avatar.url and the licence"
            ) from None
        except TimeoutError:
            raise ProviderUnavailable(
                f"{self._where} did not open the WebSocket within {self._options.step_s:g} s"
            ) from None
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message
            raise ProviderRejected(f"{self._where} shows a certificate that is not trusted: {reason}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ProviderUnavailable(f"{self._where} cannot be reached: {reason}") from None
        # A malformed host or port is a ValueError of the URL's reader, or a UnicodeError of the resolver.
        except (InvalidURI, ValueError):
            raise ProviderRejected(f"{self._where}: avatar.url is no WebSocket URL") from None
        except (WebSocketException, EOFError) as error:
            name = type(error).__name__
            raise ProviderUnavailable(f"{self._where} did not complete the WebSocket's opening ({name})") from None


async def _close(socket: ClientConnection) -> None:
    """Close the WebSocket within `CLOSE_TIMEOUT_S`, properly if the far end takes part."""
    try:
        # The library's own deadline begins once its buffer is empty, and a far end that does not read never lets it be.
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.close()
    except TimeoutError:
        socket.transport.abort()
        await socket.wait_closed()


class _Session:
    """One open WebSocket: its hand-shake, its events, its peer connection. It is the listener's `AvatarLink`."""

    def __init__(
        self,
        socket: ClientConnection,
        options: NavTalkOptions,
        ice: IceSettings,
        history: Sequence[str],
        listener: AvatarListener,
        where: str,
    ) -> None:
        self.pacing = options.pacing
        self._socket = socket
        self._options = options
        self._ice = ice
        self._history = history
        self._listener = listener
        self._where = where
        self._state = navtalk.State.CONNECTING
        self._has_stopped_reading = False
        self._conversation = Conversation()
        self._ice_servers: Sequence[IceServer] = options.ice_servers or ()
        self._tasks = asyncio.TaskGroup()
        self._media: asyncio.Task[None] | None = None
        self._peer: ReceivingPeer | None = None
        self._early_candidates: deque[navtalk.Candidate] = deque(maxlen=MAX_EARLY_CANDIDATES)
        # A mirror may be spoken to once it is connected, and some services send it nothing else before the offer.
        is_mirror = options.role == "speak"
        configuring = () if is_mirror else (navtalk.SessionCreated.TYPE, navtalk.SessionUpdated.TYPE)
        self._ready_at = navtalk.Connected.TYPE if is_mirror else navtalk.SessionUpdated.TYPE
        self._steps = {
            type_name: asyncio.Event() for type_name in (navtalk.Connected.TYPE, *configuring, navtalk.Offer.TYPE)
        }

    async def run(self) -> None:
        try:
            async with self._tasks:
                self._tasks.create_task(self._watch_handshake(), name="navtalk-handshake")
                config = navtalk.InputConfig(self._options.voice, self._options.prompt)
                if config.settings:
                    await self._send(config)
                while True:
                    await self._handle(await self._receive())
        except ExceptionGroup as group:
            raise _cause(group) from None

    @property
    def datagrams_rejected(self) -> Mapping[str, int]:
        return self._peer.datagrams_rejected if self._peer is not None else {}

    @property
    def media_path(self) -> str:
        return self._peer.path if self._peer is not None else ""

    async def send_audio(self, pcm16: bytes) -> None:
        """Send whole samples, in messages of at most 64 ms. Raises ProviderUnavailable once the session is over."""
        for start in range(0, len(pcm16), 2 * navtalk.BUFFERED_SAMPLES):
            piece = pcm16[start : start + 2 * navtalk.BUFFERED_SAMPLES]
            await self._send(navtalk.AudioAppend(piece, is_bare=self._options.is_transparent))

    async def _send(self, message: navtalk.Request) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send(dump(message))
        except TimeoutError:
            # Whoever sends need not be who serves: the loss of the connection is what reaches `run`.
            self._has_stopped_reading = True
            self._socket.transport.abort()
            await self._socket.wait_closed()
            raise self._stopped_reading() from None
        except ConnectionClosed as closed:
            raise self._closed(closed) from None

    async def _receive(self) -> navtalk.Event:
        try:
            frame = await self._socket.recv()
        except ConnectionClosed as closed:
            raise self._closed(closed) from None
        if not isinstance(frame, str):
            return navtalk.Unknown("binary")  # the documents allow such frames and do not say what is in them
        with self._naming():
            event = parse_event(frame)
            self._state = navtalk.advance(self._state, event)
        return event

    # ------------------------------------------------------------------------------------------ events

    async def _handle(self, event: navtalk.Event) -> None:
        if isinstance(event, navtalk.Ended):
            raise self._ended(event)
        match event:
            case navtalk.Connected():
                if self._options.ice_servers is None:
                    self._ice_servers = [_ice_server(server) for server in event.ice_servers]
            case navtalk.SessionCreated():
                for text in self._history:
                    await self._send(navtalk.HistoryItem(text))
            case navtalk.Offer():
                await self._negotiate(event)
            case navtalk.Candidate():
                await self._add_candidate(event)
            case navtalk.Warned(message):
                log.warning("avatar_service_warning", message=mask(message))
            case navtalk.Unknown(type_name):
                log.debug("avatar_service_event_unknown", type=mask(type_name)[:80])
        for meaning in self._conversation.read(event):
            self._listener.on_event(meaning)
        step = self._steps.get(event.TYPE)
        if step is None or step.is_set():
            return
        step.set()
        if event.TYPE == self._ready_at:
            self._listener.on_ready(self)

    async def _watch_handshake(self) -> None:
        """Raises ProviderUnavailable when a step of the hand-shake does not come in time."""
        for type_name, done in self._steps.items():
            try:
                async with asyncio.timeout(self._options.step_s):
                    await done.wait()
            except TimeoutError:
                purpose = _PURPOSES[type_name]
                raise ProviderUnavailable(
                    f"{self._where} did not {purpose} within {self._options.step_s:g} s (waiting for {type_name})"
                ) from None

    # ------------------------------------------------------------------------------------------ media

    async def _negotiate(self, offer: navtalk.Offer) -> None:
        """Begin a peer connection for an offer; only the newest offer counts."""
        self._peer = ReceivingPeer(self._ice, self._listener.on_track)
        while self._early_candidates:
            await self._add_candidate(self._early_candidates.popleft())
        self._media = self._tasks.create_task(self._serve_offer(offer, self._peer, self._media), name="navtalk-media")

    async def _serve_offer(
        self, offer: navtalk.Offer, peer: ReceivingPeer, previous: asyncio.Task[None] | None
    ) -> None:
        if previous is not None:
            previous.cancel()
            await asyncio.wait([previous])
        await self._steps[navtalk.Connected.TYPE].wait()  # it brings the ICE servers
        async with peer:
            with self._naming():
                answer = await peer.answer(offer.sdp, self._ice_servers)
            await self._send(navtalk.Answer(answer))
            with self._naming():
                await peer.run()

    async def _add_candidate(self, candidate: navtalk.Candidate) -> None:
        if self._peer is None:
            self._early_candidates.append(candidate)
        else:
            await self._peer.add_candidate(candidate.candidate, candidate.sdp_mid, candidate.sdp_mline_index)

    # ------------------------------------------------------------------------------------------ ends

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Say in errors from elsewhere which service they are about."""
        try:
            yield
        except BridgeError as error:
            raise type(error)(f"{self._where}: {error}") from error

    def _ended(self, ended: navtalk.Ended) -> ProviderError:
        said = f' ("{mask(ended.message)[:200]}")' if ended.message else ""
        awaited = next((type_name for type_name, done in self._steps.items() if not done.is_set()), None)
        when = f" while {awaited} was awaited" if awaited else ""
        error = ProviderRejected if ended.is_permanent else ProviderUnavailable
        return error(f"{self._where} ended the session{when}: {ended.end}{said}; {_ADVICE[ended.cause]}")

    def _stopped_reading(self) -> ProviderError:
        return ProviderUnavailable(f"{self._where} has stopped reading for {SEND_TIMEOUT_S:g} s")

    def _closed(self, closed: ConnectionClosed) -> BridgeError:
        if self._has_stopped_reading:
            return self._stopped_reading()
        if closed.sent is not None and not closed.rcvd_then_sent:
            if closed.sent.code in _BROKEN_FRAMES:
                return RemoteProtocolError(f"{self._where} broke the WebSocket protocol: {closed.sent.reason}")
            if closed.rcvd is None:
                return ProviderUnavailable(f"{self._where} does not answer any more: {closed.sent.reason}")
        reason = closed.rcvd.reason if closed.rcvd is not None else ""
        return self._ended(navtalk.Ended(navtalk.End.DISCONNECTED, reason))


def _ice_server(server: navtalk.IceServer) -> IceServer:
    credential = Secret(server.credential, is_passing=True) if server.credential else None
    return IceServer(server.urls, server.username, credential)


def _cause(group: ExceptionGroup) -> Exception:
    """What the session is to be told: the end that lasts, else the first; a bug is shown whole."""
    known = [error for error in group.exceptions if isinstance(error, BridgeError)]
    if len(known) < len(group.exceptions):
        return group
    return next((error for error in known if not error.retryable), known[0])
