"""Opus to AAC: the sound that RTMP, FLV, MP4 and MPEG-TS take."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import structlog

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ticks_to_ns
from bridge.media.opus_decoder import N_CHANNELS, Samples
from bridge.media.opus_sound import MAX_FILL_NS, OpusSound, is_stand_in, open_decoder
from bridge.worker import SharedWorker

AAC_FRAME_SAMPLES = 1024  # AAC-LC: ISO 14496-3 §4.5.2.1.1
# Without sound from the avatar, silence follows the pictures at this distance, because players wait for sound. Sound
# that came later than this would be lost: the receiver waits 120 ms for a packet at most, the rest is the tracks' skew.
SILENCE_BEHIND_NS = 500 * NS_PER_MS
SILENCE_UNIT_NS = 100 * NS_PER_MS
# The codecs are cheap, but each wake-up of the thread costs half a millisecond of cold caches: sound goes through them
# in rounds of four packets, and on the wire it is at most so much behind its picture. Measured in whole sessions, of
# a core: 0.018 with 80 ms, 0.021 with 60 ms, 0.025 with 40 ms. 40 ms less would move the median delay by 19 ms. The
# rounds of all sessions begin together, on multiples of this on the event loop's clock: one wake-up, and warm caches.
ROUND_S = 0.080
INBOX_NS = 2 * NS_PER_S

# Of all sessions: a call takes a millisecond.
_codecs = SharedWorker("opus to aac")

log = structlog.get_logger()


class Repairs(NamedTuple):
    """What became of sound that was lost on the way, broken or dropped here, in seconds.

    concealed_s  made up, or silent.  restored_s: brought by the packet behind it (in-band FEC).
    """

    concealed_s: float = 0.0
    restored_s: float = 0.0


class AacTranscoder:
    """Opus packets on session time in, AAC-LC frames of 48 kHz stereo on session time out. Blocks.

    Sound lies where the avatar's encoder heard it: the delay of Opus is taken off by `OpusSound`, the AAC encoder's
    first frame decodes to the time before its input. Timestamps are never negative and strictly increase.
    """

    def __init__(self, bit_rate: int) -> None:
        self._bit_rate = bit_rate
        decoder = open_decoder()
        self.concealment = decoder.name
        self.sound = OpusSound(decoder)
        self._encoder: av.AudioCodecContext | None = None
        self._codec_config = b""
        self._anchor_ns = 0  # session time of the encoder's first sample
        self._n_encoded = 0  # samples since the anchor
        self._pending: Samples = np.zeros((N_CHANNELS, 0), np.float32)
        self._arrival_ns = 0

    def push(self, unit: AccessUnit) -> list[AccessUnit]:
        """The frames that this packet completes. An empty packet stands for sound that did not come."""
        units: list[AccessUnit] = []
        if self._encoder is None or self.sound.is_out_of_reach(unit):
            units += self.flush()
            self._begin(self.sound.begin(unit))
        self._arrival_ns = unit.arrival_ns
        self._append(self.sound.push(unit))
        return units + self._encode_pending()

    def push_all(self, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        return [frame for unit in units for frame in self.push(unit)]

    def flush(self) -> list[AccessUnit]:
        """The frames that were waiting for more; the next packet starts a new count."""
        if self._encoder is None:
            return []
        self._append(self.sound.rest())
        self._append(np.zeros((N_CHANNELS, -self._pending.shape[1] % AAC_FRAME_SAMPLES), np.float32))
        units = self._encode_pending() + self._units_of(self._encoder.encode(None))
        self._encoder = None
        return units

    def _begin(self, anchor_ns: int) -> None:
        encoder = av.AudioCodecContext.create("aac", "w")
        encoder.sample_rate = OPUS_CLOCK_HZ
        encoder.layout = "stereo"
        encoder.format = "fltp"
        encoder.bit_rate = self._bit_rate
        encoder.time_base = Fraction(1, OPUS_CLOCK_HZ)
        encoder.thread_count = 1
        # Less than half the CPU of the default search (0.006 of a core against 0.013).
        # Its search for mid/side stereo is dear (0.009 of a core against 0.005) exactly where both channels are the
        # same, as an avatar's are; at 128 kb/s each has 64 kb/s to itself, 33 dB above its noise on speech.
        encoder.options = {"aac_coder": "fast", "aac_ms": "0", "aac_tns": "0", "aac_pns": "0"}
        encoder.open()
        self._encoder = encoder
        self._codec_config = bytes(encoder.extradata or b"")
        self._anchor_ns = anchor_ns
        self._n_encoded = 0
        self._pending = self._pending[:, :0]

    def _append(self, samples: Samples) -> None:
        self._pending = np.concatenate((self._pending, samples), axis=1)

    def _encode_pending(self) -> list[AccessUnit]:
        assert self._encoder is not None
        units: list[AccessUnit] = []
        n_whole = self._pending.shape[1] // AAC_FRAME_SAMPLES * AAC_FRAME_SAMPLES
        whole, self._pending = self._pending[:, :n_whole], self._pending[:, n_whole:]
        for start in range(0, n_whole, AAC_FRAME_SAMPLES):
            block = np.ascontiguousarray(whole[:, start : start + AAC_FRAME_SAMPLES])
            # from_ndarray fills every plane: a frame made otherwise holds NaN, which the encoder refuses.
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate = OPUS_CLOCK_HZ
            frame.pts = self._n_encoded
            self._n_encoded += AAC_FRAME_SAMPLES
            units += self._units_of(self._encoder.encode(frame))
        return units

    def _units_of(self, packets: "Iterable[av.Packet[Any]]") -> list[AccessUnit]:
        units = []
        for packet in packets:
            # The encoder counts its own delay: the first packet has pts -1024.
            assert packet.pts is not None
            pts_ns = self._anchor_ns + ticks_to_ns(packet.pts, OPUS_CLOCK_HZ)
            ends_ns = self._anchor_ns + ticks_to_ns(packet.pts + AAC_FRAME_SAMPLES, OPUS_CLOCK_HZ)
            if pts_ns >= 0:
                units.append(
                    AccessUnit(
                        Codec.AAC,
                        bytes(packet),
                        pts_ns,
                        ends_ns - pts_ns,
                        codec_config=self._codec_config,
                        arrival_ns=self._arrival_ns,
                    )
                )
        return units


class OpusToAac:
    """One session's sound as AAC: takes the session's units, gives AAC units to `emit` on the event loop.

    Where the avatar sends no sound, silence follows its pictures. What waits is bounded by `INBOX_NS`; what a thread
    that cannot keep up loses, the oldest first, is concealed like any loss, and counted.

    concealment  what makes up sound that was lost: libopus and its version, or what makes do without; empty: not
                 known yet.
    repairs      what was lost so far.
    """

    def __init__(self, emit: Callable[[AccessUnit], None], bit_rate: int) -> None:
        self._emit = emit
        self._bit_rate = bit_rate
        self._waiting: deque[AccessUnit] = deque()
        self._is_ready = asyncio.Event()
        self._round: asyncio.TimerHandle | None = None
        self._is_finished = False
        self._covered_until_ns: int | None = None
        self.dropped_units = 0
        self.concealment = ""
        self.repairs = Repairs()

    def put(self, unit: AccessUnit) -> None:
        """Take Opus to be transcoded, and pictures to know how far the session has come; never waits."""
        if unit.codec is Codec.OPUS:
            self._covered_until_ns = max(self._covered_until_ns or 0, unit.pts_ns + unit.duration_ns)
            self._append(unit)
        elif unit.codec.kind == "video":
            self._follow(unit.pts_ns - SILENCE_BEHIND_NS)

    def finish(self) -> None:
        self._is_finished = True
        self._is_ready.set()

    async def run(self) -> None:
        """Transcode until `finish` and the last packet."""
        async with _codecs as worker:
            transcoder = await worker.call(AacTranscoder, self._bit_rate)
            self.concealment = transcoder.concealment
            sound, seen = transcoder.sound, (0, 0)
            while self._waiting or not self._is_finished:
                await self._is_ready.wait()
                if not self._is_finished:
                    self._is_ready.clear()
                batch, self._waiting = self._waiting, deque()
                for ready in await worker.call(transcoder.push_all, batch):
                    self._emit(ready)
                self.repairs = Repairs(sound.concealed_samples / OPUS_CLOCK_HZ, sound.restored_samples / OPUS_CLOCK_HZ)
                if (sound.broken_packets, self.dropped_units) != seen:
                    seen = sound.broken_packets, self.dropped_units
                    log.warning("sound_concealed", broken_packets=seen[0], dropped_units=seen[1])
            for ready in await worker.call(transcoder.flush):
                self._emit(ready)

    def _append(self, unit: AccessUnit) -> None:
        self._waiting.append(unit)
        ends_ns = unit.pts_ns + unit.duration_ns
        while ends_ns - self._waiting[0].pts_ns > INBOX_NS:
            dropped = self._waiting.popleft()
            self.dropped_units += 1
            lost_ns = dropped.lost_ns + (0 if is_stand_in(dropped) else dropped.duration_ns)
            self._waiting[0] = replace(self._waiting[0], lost_ns=self._waiting[0].lost_ns + lost_ns)
        if self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.call_at((loop.time() // ROUND_S + 1) * ROUND_S, self._begin_round)

    def _begin_round(self) -> None:
        self._round = None
        self._is_ready.set()

    def _follow(self, until_ns: int) -> None:
        if self._covered_until_ns is None or until_ns - self._covered_until_ns > MAX_FILL_NS:
            self._covered_until_ns = until_ns
        while until_ns - self._covered_until_ns >= SILENCE_UNIT_NS:
            self._append(AccessUnit(Codec.OPUS, b"", self._covered_until_ns, SILENCE_UNIT_NS))
            self._covered_until_ns += SILENCE_UNIT_NS
