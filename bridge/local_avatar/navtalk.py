"""The service's side of one NavTalk v2 session: it greets, listens, and performs to one viewer."""

import asyncio
import secrets
from collections import deque
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import BridgeError, ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.performer import PerformanceOptions, Performer
from bridge.local_avatar.turns import SilenceGate, TurnDetector, TurnEnded, TurnStarted
from bridge.media.access_unit import AccessUnit
from bridge.media.h264 import parameter_sets, split_avcc
from bridge.net.ice import IceSettings
from bridge.net.peer import SendingPeer
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_request

log = structlog.get_logger()

# All look alike; the names are there so that a wrong one can be refused as the cloud refuses it.
AVATARS = {"navtalk.Leo": "local-leo", "navtalk.Lauren": "local-lauren", "navtalk.Mia": "local-mia"}
# A client that takes no message for this long is gone.
SEND_TIMEOUT_S = 5.0
# Half a second of pictures and sound at 25 and 50 units per second: the viewer has no use for older ones.
MAX_QUEUED_UNITS = 40
_PROFILE_LEVEL_IDS = {"baseline": "42e01f", "main": "4d001f", "high": "64001f"}


class NavTalkSession:
    """One client, from its WebSocket's opening to its close.

    In the role conversation the avatar answers each turn that it hears by repeating it; in the role speak, which a
    client asks for with `audioBack=true` or `model=transparency`, it says what it is sent, at once.
    """

    def __init__(self, socket: ServerConnection, options: LocalAvatarOptions, ice: IceSettings) -> None:
        self._socket = socket
        self._options = options
        self._faults = Faults(options.faults)
        request = socket.request
        self._query = parse_qs(urlsplit(request.path).query) if request is not None else {}
        is_mirror = self._asked("audioBack") == "true" or self._asked("model") == "transparency"
        self.role: Literal["conversation", "speak"] = "speak" if is_mirror else "conversation"
        self._peer = SendingPeer(
            ice,
            self._on_keyframe_request,
            profile_level_id=_PROFILE_LEVEL_IDS[options.profile],
            lost=ProviderUnavailable,
        )
        width_px, height_px = options.size_px
        looks = PerformanceOptions(
            width_px=width_px,
            height_px=height_px,
            fps=options.fps,
            profile=options.profile,
            timecode=options.timecode,
            flash=options.flash,
        )
        self._performer = Performer(looks, self._queue_unit, self._queue_unit)
        self._units: deque[AccessUnit] = deque()
        self._unit_came = asyncio.Event()
        self._turns = TurnDetector()
        self._gate = SilenceGate()
        self._n_responses = 0
        self._lacks_keyframe = True
        self._is_offered = False
        self.unreadable_frames = 0
        self.dropped_units = 0

    async def run(self) -> None:
        """Serve until the client leaves. What clients and networks do wrong is logged; only a bug is raised."""
        refusal = self._refusal()
        try:
            if refusal:
                await self._send(navtalk.Ended(navtalk.End.FAIL, refusal))
            else:
                await self._serve()
        except* ProviderUnavailable as group:
            # A client that leaves closes its media first, or takes no more messages.
            log.info("avatar_session_ended", reason=str(group.exceptions[0]))
        except* BridgeError as group:
            log.warning("avatar_session_failed", errors=[str(error) for error in group.exceptions])
        except* ConnectionClosed:
            log.debug("avatar_client_left")
        finally:
            await self._socket.close()

    async def _serve(self) -> None:
        log.info("avatar_session_began", role=self.role)
        async with self._peer, asyncio.TaskGroup() as tasks:
            parts = (self._greet, self._peer.run, self._perform, self._send_media, self._drop, self._stall)
            background = [tasks.create_task(part(), name=part.__name__) for part in parts]
            try:
                await self._listen()
            finally:
                for task in background:
                    task.cancel()
        log.info(
            "avatar_session_ended",
            unreadable_frames=self.unreadable_frames,
            dropped_units=self.dropped_units,
            skipped_pictures=self._performer.skipped_pictures,
            dropped_speech_s=self._performer.dropped_speech_s,
        )

    def _asked(self, name: str) -> str:
        return self._query.get(name, [""])[0]

    def _refusal(self) -> str:
        """Why this client is not served, as the cloud words it; empty when it is."""
        license = self._asked("license")
        expected = self._options.license
        if not license or (expected is not None and license != expected.reveal()):
            return "Invalid license key"
        if self._asked("avatarId"):
            return "" if self._asked("avatarId") in AVATARS.values() else "Avatar not found: no such avatarId"
        known = ", ".join(AVATARS)
        return "" if self._asked("name") in AVATARS else f"Avatar not found: this service has {known}"

    # ------------------------------------------------------------------------------------------ to the client

    async def _greet(self) -> None:
        offer = await self._peer.offer()
        if "vp8-only" in self._faults:
            offer = offer.replace("H264/90000", "VP9/90000")
        self._is_offered = True
        for step, message in (
            ("success", navtalk.Connected(f"local-{secrets.token_hex(8)}")),
            ("offer", navtalk.Offer(offer)),
            ("created", navtalk.SessionCreated()),
            ("updated", navtalk.SessionUpdated()),
        ):
            if self._faults.choice("close-at") == step:
                await self._socket.close()
            if self._faults.choice("mute-at") == step:
                return
            await self._send(message)

    async def _send(self, message: navtalk.Event) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send(dump(message))
        except TimeoutError:
            raise ProviderUnavailable(f"The client takes no message for {SEND_TIMEOUT_S:g} s") from None

    async def _perform(self) -> None:
        await self._peer.connected()
        await self._performer.run()

    def _queue_unit(self, unit: AccessUnit) -> None:
        if len(self._units) == MAX_QUEUED_UNITS:
            self.dropped_units += len(self._units)
            self._units.clear()
            self._lacks_keyframe = True
            self._performer.request_keyframe()
        if unit.codec.kind == "video":
            # What was dropped is referred to until then.
            self._lacks_keyframe = self._lacks_keyframe and not unit.is_keyframe
            if self._lacks_keyframe:
                self.dropped_units += 1
                return
        self._units.append(unit)
        self._unit_came.set()

    async def _send_media(self) -> None:
        while True:
            while not self._units:
                self._unit_came.clear()
                await self._unit_came.wait()
            unit = self._units.popleft()
            if unit.codec.kind == "audio":
                await self._peer.send_audio(unit.payload, unit.pts_ns)
                continue
            sps, pps = parameter_sets(unit.codec_config) if unit.codec_config else ([], [])
            await self._peer.send_video([*sps, *pps, *split_avcc(unit.payload)], unit.pts_ns)

    def _on_keyframe_request(self) -> None:
        if "ignore-pli" not in self._faults:
            self._performer.request_keyframe()

    async def _drop(self) -> None:
        if "ws-drop" in self._faults:
            await asyncio.sleep(self._faults.value("ws-drop"))
            self._socket.transport.abort()

    async def _stall(self) -> None:
        if "media-stall" in self._faults:
            await self._peer.connected()
            await asyncio.sleep(self._faults.value("media-stall"))
            self._performer.paused = True

    # ------------------------------------------------------------------------------------------ from the client

    async def _listen(self) -> None:
        async for frame in self._socket:
            if isinstance(frame, str):
                try:
                    request = parse_request(frame)
                except RemoteProtocolError as error:
                    self.unreadable_frames += 1
                    log.warning("avatar_request_unreadable", error=str(error))
                    continue
                await self._handle(request)

    async def _handle(self, request: navtalk.Request) -> None:
        match request:
            case navtalk.AudioAppend(pcm16) if self.role == "speak":
                if self._gate.passes(pcm16):
                    self._performer.speak(pcm16)
            case navtalk.AudioAppend(pcm16):
                for event in self._turns.push(pcm16):
                    await self._take_turn(event)
            case navtalk.AudioClear():
                self._performer.stop_speaking()
            case navtalk.Answer(sdp):
                if not self._is_offered:
                    raise RemoteProtocolError("The client answered before there was an offer")
                await self._peer.accept(sdp)
            case navtalk.Candidate(candidate, sdp_mid, sdp_mline_index):
                await self._peer.add_candidate(candidate, sdp_mid, sdp_mline_index)
            case navtalk.Unknown(type_name):
                self.unreadable_frames += not type_name
                log.debug("avatar_request_unknown", type=type_name[:80])

    async def _take_turn(self, event: TurnStarted | TurnEnded) -> None:
        if isinstance(event, TurnStarted):
            # Somebody who speaks while the avatar answers is interrupting it.
            self._performer.stop_speaking()
            self._performer.attend("listening")
            await self._send(navtalk.SpeechStarted())
            return
        self._performer.attend("idle")
        self._performer.speak(event.pcm16)
        self._n_responses += 1
        response_id = f"response-{self._n_responses}"
        heard = f"(speech, {event.duration_s:.1f} s)"
        await self._send(navtalk.SpeechStopped())
        await self._send(navtalk.UserTranscript(heard))
        words = ["(repeats ", heard.strip("()"), ")"]
        for word in words:
            await self._send(navtalk.AvatarTranscriptDelta(word, response_id))
        await self._send(navtalk.AvatarTranscript("".join(words), response_id))
        for start in range(0, len(event.pcm16), 2 * navtalk.BUFFERED_SAMPLES):
            await self._send(navtalk.AvatarAudio(event.pcm16[start : start + 2 * navtalk.BUFFERED_SAMPLES]))
        await self._send(navtalk.AvatarAudioDone())
