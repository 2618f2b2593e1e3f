"""The avatar's media to one client: a performance, and the connections that carry it, with all that may befall them."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic_ns

import structlog

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.coding import Profile
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.performer import PerformanceOptions, Performer
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.h264 import parameter_sets, split_avcc
from bridge.net.aiortc_sender import SenderClock
from bridge.net.data_channels import DataChannels
from bridge.net.ice import IceSettings
from bridge.net.impairment import Impairment, RandomLoss, Reordering, in_turn
from bridge.net.peer import SendingPeer
from bridge.net.peer_connection import CONNECT_TIMEOUT_S, DTLS_TIMEOUT_S
from bridge.net.race import race
from bridge.protocols import navtalk

log = structlog.get_logger()

# Half a second of pictures and sound at 25 and 50 units per second: the viewer has no use for older ones.
MAX_QUEUED_UNITS = 40
# A client that has lost its media offers anew at once, and has the connection up or has given up after this time.
MEDIA_GRACE_S = 10.0
# To answer an offer: what clients wait for one. Until a connection is up then: what the peer allows it.
ANSWER_S = 10.0
CONNECT_S = ANSWER_S + CONNECT_TIMEOUT_S + DTLS_TIMEOUT_S
# A connection stays open for so long after its successor is up: a client has time to see media on the new one.
HANDOVER_S = 1.0
_PROFILE_LEVEL_IDS = {"baseline": "42e01f", "main": "4d001f", "high": "64001f"}
_OTHER_PROFILES: Mapping[Profile, Profile] = {"baseline": "main", "main": "high", "high": "main"}
# Forwards and backwards, and by different times: whoever compares the tracks' timestamps is wrong after it.
_VIDEO_JUMP_TICKS, _AUDIO_JUMP_TICKS = 1_000 * 90_000, -500 * 48_000
# These show in the first unit that is sent: when it is due or arrives, and that no sender report comes with it.
_FROM_THE_FIRST_UNIT = ("clock-drift", "video-delay", "no-reports", "late-reports")


class Transmission:
    """Sends one performance over the newest media connection that is up; older ones are closed soon after.

    Connections live in `tasks`, events for the client go to `send`. A connection that is lost pauses the performance
    until there is another; a client that has none `MEDIA_GRACE_S` later is gone, which ends `tasks` with
    ProviderUnavailable.

    performer      speaks, listens, shows; it begins with the first connection.
    dropped_units  that came while too much waited to be sent.
    """

    def __init__(
        self,
        ice: IceSettings,
        options: LocalAvatarOptions,
        faults: Faults,
        tasks: asyncio.TaskGroup,
        send: Callable[[navtalk.Event], Awaitable[None]],
        make_data: Callable[[], DataChannels] | None = None,
    ) -> None:
        """`make_data`: the data channels of each connection, whose tracks then wait for `publish`."""
        self._make_data = make_data
        self._ice, self._options, self._faults, self._tasks, self._send = ice, options, faults, tasks, send
        width_px, height_px = options.size_px
        self._looks = PerformanceOptions(
            width_px=width_px,
            height_px=height_px,
            fps=options.fps,
            codec=Codec.VP8 if "vp8-only" in faults else options.codec,
            profile=options.profile,
            timecode=options.timecode,
            flash=options.flash,
            expected_loss_percent=math.ceil(faults.value("loss")),
        )
        self._now_ns = drifting_clock(faults.value("clock-drift"))
        self.performer = Performer(self._looks, self._queue_unit, self._queue_unit, now_ns=self._now_ns)
        self.dropped_units = 0
        self._units: deque[AccessUnit] = deque()
        self._unit_came = asyncio.Event()
        self._lacks_keyframe = True
        self._serving: dict[SendingPeer, asyncio.Task[None]] = {}  # the oldest connection first
        self._unanswered: deque[SendingPeer] = deque()  # that have made their first offer, in its order
        self._on_air: SendingPeer | None = None
        self._is_up = asyncio.Event()
        self._lost: SendingPeer | None = None  # carries nothing any more
        self._is_stalled = False
        self._is_withheld = make_data is not None

    async def run(self) -> None:
        """Perform from the first connection on, until cancelled."""
        await self._is_up.wait()
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.performer.run(), name="avatar-performer")
            parts.create_task(self._send_units(), name="avatar-sending")
            parts.create_task(self._misbehave(), name="avatar-media-faults")

    # ------------------------------------------------------------------------------------------ signalling

    async def offer(self) -> None:
        """Offer the client a further connection."""
        peer = self._open()
        early, late = self._faults.strikes("early-candidates"), self._faults.strikes("trickle-only")
        offer = await peer.offer(candidates=not (early or late))
        candidates = [navtalk.Candidate(*candidate) for candidate in peer.candidates()] if early or late else []
        for candidate in candidates if early else ():
            await self._send(candidate)
        self._unanswered.append(peer)
        await self._send(navtalk.Offer(offer))
        for candidate in candidates if late else ():
            await self._send(candidate)

    @property
    def is_stable(self) -> bool:
        """Whether the newest connection's offers have all been answered."""
        return bool(self._serving) and next(reversed(self._serving)).is_stable

    async def publish(self, *, is_on: bool) -> None:
        """Offer the tracks on the newest connection, or take them away. To be called while it is stable."""
        peer = next(reversed(self._serving))
        peer.publish(is_on=is_on)
        self._is_withheld = not is_on
        self._pause_or_go_on()
        await self._send(navtalk.Offer(await peer.renegotiate()))

    async def take(self, message: navtalk.Signalling) -> None:
        """Take the client's part. Raises RemoteProtocolError when it does not fit; what is on air goes on."""
        match message:
            case navtalk.Offer(sdp):
                await self._answer(sdp)
            case navtalk.Answer(sdp):
                await self._accept(sdp)
            case navtalk.Candidate(candidate, sdp_mid, sdp_mline_index) if self._serving:
                newest = next(reversed(self._serving))
                await newest.add_candidate(candidate, sdp_mid, sdp_mline_index)

    async def _accept(self, answer: str) -> None:
        """Give the answer to the connection it is about; a first one names none, and belongs to the oldest offer."""
        peer = self._peer_of(answer)
        if peer is None:
            if not self._unanswered:
                raise RemoteProtocolError("an answer, and no offer that waits for one")
            peer = self._unanswered.popleft()
        if peer in self._serving:
            await peer.accept(answer)

    async def _answer(self, offer: str) -> None:
        known = self._peer_of(offer)
        peer = known or self._open()
        try:
            answer = await peer.answer(offer)
        except RemoteProtocolError:
            if known is None:
                self._serving[peer].cancel()
            raise
        await self._send(navtalk.Answer(answer))

    def _peer_of(self, sdp: str) -> SendingPeer | None:
        return next((peer for peer in self._serving if peer.continues(sdp)), None)

    # ------------------------------------------------------------------------------------------ connections

    def _open(self) -> SendingPeer:
        self._faults.strikes("vp8-only")
        peer = SendingPeer(
            self._ice,
            self._on_keyframe_request,
            codec=self._looks.codec,
            profile_level_id=_PROFILE_LEVEL_IDS[self._options.profile],
            clock=SenderClock(self._now_ns),
            impairment=self._impairment(),
            video_delay_s=self._faults.value("video-delay"),
            first_report_s=math.inf if "no-reports" in self._faults else self._faults.value("late-reports"),
            lost=ProviderUnavailable,
            tells_capture=True,
            data=self._make_data() if self._make_data is not None else None,
        )
        self._serving[peer] = self._tasks.create_task(self._serve(peer), name="avatar-media")
        return peer

    async def _serve(self, peer: SendingPeer) -> None:
        try:
            async with peer:
                # No group: Python 3.11's forgets that it was cancelled if a task fails in the same moment.
                await race(peer.run(), self._carry(peer))
        except ProviderUnavailable as error:
            log.info("avatar_media_lost", reason=str(error))
        finally:
            del self._serving[peer]
            if self._on_air is peer:
                self._on_air = None
                self._is_up.clear()
                self._pause_or_go_on()
        try:
            async with asyncio.timeout(MEDIA_GRACE_S):
                await self._is_up.wait()
        except TimeoutError:
            raise ProviderUnavailable(f"the client has had no media for {MEDIA_GRACE_S:g} s") from None

    async def _carry(self, peer: SendingPeer) -> None:
        """Put a connection on air once it is up, in the place of older ones; never returns."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await peer.connected()
        except TimeoutError:
            raise ProviderUnavailable(f"no answer to an offer within {ANSWER_S:g} s") from None
        if peer.is_connected:
            self._take_over(peer)
            await asyncio.sleep(HANDOVER_S)
            self._close_before(peer)
        await asyncio.Event().wait()

    def _take_over(self, peer: SendingPeer) -> None:
        self._on_air = peer
        self._units.clear()
        self._lacks_keyframe = True
        self.performer.request_keyframe()
        self._pause_or_go_on()
        self._is_up.set()

    def _close_before(self, peer: SendingPeer) -> None:
        for older, serving in self._serving.items():
            if older is peer:
                break
            serving.cancel()

    def _pause_or_go_on(self) -> None:
        self.performer.paused = self._is_stalled or self._is_withheld or self._on_air is None

    def _impairment(self) -> Impairment | None:
        kinds: Mapping[str, type[RandomLoss | Reordering]] = {"loss": RandomLoss, "reorder": Reordering}
        asked = [
            self._telling(name, kind(self._faults.value(name) / 100))
            for name, kind in kinds.items()
            if name in self._faults
        ]
        return in_turn(*asked) if asked else None

    def _telling(self, name: str, impairment: Impairment) -> Impairment:
        """The same, and its first packet that is not sent tells that the fault strikes."""

        def impair(packet: bytes) -> Sequence[bytes]:
            packets = impairment(packet)
            if not packets:
                self._faults.strikes(name)
            return packets

        return impair

    def _on_keyframe_request(self) -> None:
        if not self._faults.strikes("ignore-pli"):
            self.performer.request_keyframe()

    # ------------------------------------------------------------------------------------------ media

    def _queue_unit(self, unit: AccessUnit) -> None:
        if len(self._units) == MAX_QUEUED_UNITS:
            self.dropped_units += len(self._units)
            self._units.clear()
            self._lacks_keyframe = True
            self.performer.request_keyframe()
        if unit.codec.kind == "video":
            # What was dropped is referred to until then.
            self._lacks_keyframe = self._lacks_keyframe and not unit.is_keyframe
            if self._lacks_keyframe:
                self.dropped_units += 1
                return
        self._units.append(unit)
        self._unit_came.set()

    async def _send_units(self) -> None:
        while True:
            while not self._units:
                self._unit_came.clear()
                await self._unit_came.wait()
            unit, peer = self._units.popleft(), self._on_air
            if peer is None or peer is self._lost:
                continue
            for name in _FROM_THE_FIRST_UNIT:
                self._faults.strikes(name)
            captured_ns = unit.captured.at_ns if unit.captured is not None else None
            match unit.codec:
                case Codec.OPUS:
                    peer.send_audio(unit.payload, unit.pts_ns)
                case Codec.VP8:
                    peer.send_vp8(unit.payload, unit.pts_ns, captured_ns)
                case _:
                    sps, pps = parameter_sets(unit.codec_config) if unit.codec_config else ([], [])
                    nals = [*sps, *pps, *split_avcc(unit.payload)]
                    peer.send_video(nals, unit.pts_ns, captured_ns)

    # ------------------------------------------------------------------------------------------ faults

    async def _misbehave(self) -> None:
        await self._faults.commit(
            {
                "duplicate-offers": self.offer,
                "renegotiate": self._renegotiate,
                "media-close": self._close_media,
                "media-lost": self._lose_media,
                "media-stall": self._stall,
                "size-change": self._change_size,
                "sps-change": self._change_profile,
                "timestamp-reset": self._reset_timestamps,
                "ssrc-change": self._restart_streams,
            }
        )

    async def _renegotiate(self) -> None:
        if self._on_air is not None and self._on_air.is_stable:
            await self._send(navtalk.Offer(await self._on_air.renegotiate()))

    async def _close_media(self) -> None:
        for serving in self._serving.values():
            serving.cancel()

    async def _lose_media(self) -> None:
        self._lost = self._on_air

    async def _stall(self) -> None:
        self._is_stalled = True
        self._pause_or_go_on()

    async def _change_size(self) -> None:
        width_px, height_px = self._looks.width_px, self._looks.height_px
        if width_px == height_px:
            height_px = max(64, width_px // 4 * 2)
        self._change(replace(self._looks, width_px=height_px, height_px=width_px))

    async def _change_profile(self) -> None:
        self._change(replace(self._looks, profile=_OTHER_PROFILES[self._looks.profile]))

    def _change(self, looks: PerformanceOptions) -> None:
        self._looks = looks
        self.performer.change(looks)

    async def _reset_timestamps(self) -> None:
        if self._on_air is not None:
            self._on_air.shift_timestamps("video", _VIDEO_JUMP_TICKS)
            self._on_air.shift_timestamps("audio", _AUDIO_JUMP_TICKS)

    async def _restart_streams(self) -> None:
        if self._on_air is not None:
            self._on_air.restart_stream("video")
            self._on_air.restart_stream("audio")


def drifting_clock(ppm: float, now_ns: Callable[[], int] = monotonic_ns) -> Callable[[], int]:
    """A clock that agrees with `now_ns` now and gains so many millionths from then on."""
    if not ppm:
        return now_ns
    began_ns = now_ns()
    return lambda: began_ns + round((now_ns() - began_ns) * (1 + ppm / 1e6))
