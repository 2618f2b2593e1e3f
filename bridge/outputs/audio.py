"""Opus to AAC: the sound that RTMP, FLV, MP4 and MPEG-TS take."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import structlog
from av.error import FFmpegError
from numpy.typing import NDArray

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.opus import PRE_SKIP_SAMPLES
from bridge.worker import SharedWorker

AAC_FRAME_SAMPLES = 1024  # AAC-LC: ISO 14496-3 §4.5.2.1.1
LOOKAHEAD_NS = ticks_to_ns(PRE_SKIP_SAMPLES, OPUS_CLOCK_HZ)
# Where session time and the count of samples differ by more than this, sound is missing or too much, and is filled
# or cut at once: just less than one of the 20 ms packets that WebRTC senders make, so that a lost one is always filled,
# and stamps may jitter by half a packet. Where the unit itself says that something is missing, half a packet is enough.
GAP_NS = 18 * NS_PER_MS
# Differences between this and GAP_NS are the timeline's slewing: the sound follows by stretching, without a crack.
# Below it nothing is done; ITU-R BT.1359 puts the threshold of detection at 45 ms.
DEAD_ZONE_NS = NS_PER_MS
# One sample in 128 is 7.8 ms a second, more than the 5 ms a second a timeline slews, and 13 cents of pitch.
STRETCH_DIVISOR = 128
# A longer gap is left open: the count starts anew behind it.
MAX_FILL_NS = 10 * NS_PER_S
# Sound that breaks off or sets in beside a gap fades over 5 ms instead of clicking.
FADE_SAMPLES = 240
# Without sound from the avatar, silence follows the pictures at this distance, because players wait for sound. Sound
# that came later than this would be lost: the receiver gives audio up after 60 ms, the rest is the tracks' skew.
SILENCE_BEHIND_NS = 500 * NS_PER_MS
SILENCE_UNIT_NS = 100 * NS_PER_MS
# The codecs are cheap, but each wake-up of the thread costs half a millisecond of cold caches: sound goes through them
# in batches of four packets, and on the wire it is at most so much behind its picture. Measured in whole sessions, of
# a core: 0.018 with 80 ms, 0.021 with 60 ms, 0.025 with 40 ms. 40 ms less would move the median delay by 19 ms.
BATCH_NS = 80 * NS_PER_MS
INBOX_NS = 2 * NS_PER_S

# Of all sessions: a call takes a millisecond.
_codecs = SharedWorker("opus to aac")

log = structlog.get_logger()

Samples = NDArray[np.float32]  # shape (2, n_samples), nominal range [-1, 1]


class AacTranscoder:
    """Opus packets on session time in, AAC-LC frames of 48 kHz stereo on session time out. Blocks.

    The count of samples keeps to session time: gaps up to `MAX_FILL_NS` become silence, surplus is cut, differences
    up to `GAP_NS` are slewed. The delays of both codecs are taken off: an Opus packet is stamped with what its
    encoder heard and decodes `PRE_SKIP_SAMPLES` late, the AAC encoder's first frame decodes to the time before its
    input. So sound lies where the avatar's encoder heard it. Timestamps are never negative and strictly increase.
    """

    def __init__(self, bit_rate: int) -> None:
        self._bit_rate = bit_rate
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate = OPUS_CLOCK_HZ
        self._decoder.layout = "stereo"
        self._decoder.thread_count = 1
        self._encoder: av.AudioCodecContext | None = None
        self._codec_config = b""
        self._anchor_ns = 0  # session time of the encoder's first sample
        self._n_counted = 0  # samples since the anchor, of which the encoder has had
        self._n_encoded = 0
        self._pending: Samples = _silence(0)
        self._last_sample: Samples = _silence(1)
        self._is_silent = True
        self._arrival_ns = 0
        self.broken_packets = 0
        self.concealed_samples = 0

    def push(self, unit: AccessUnit) -> list[AccessUnit]:
        """The frames that this packet completes. An empty or broken packet is silence of the unit's duration."""
        sound = self._decode(unit)
        starts_ns = unit.pts_ns - LOOKAHEAD_NS
        units: list[AccessUnit] = []
        if self._encoder is None or starts_ns - self._ends_ns > MAX_FILL_NS:
            units += self.flush()
            self._begin(starts_ns)
        self._arrival_ns = unit.arrival_ns
        if sound is None:
            self._append_silence(starts_ns + unit.duration_ns)
        else:
            self._append_sound(self._fit(sound, starts_ns, unit.is_discontinuity))
        return units + self._encode_pending()

    def push_all(self, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        return [frame for unit in units for frame in self.push(unit)]

    def flush(self) -> list[AccessUnit]:
        """The frames that were waiting for more; the next packet starts a new count."""
        if self._encoder is None:
            return []
        self._append(_silence(-self._pending.shape[1] % AAC_FRAME_SAMPLES))
        units = self._encode_pending() + self._units_of(self._encoder.encode(None))
        self._encoder = None
        return units

    @property
    def _ends_ns(self) -> int:
        return self._anchor_ns + ticks_to_ns(self._n_counted, OPUS_CLOCK_HZ)

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
        encoder.options = {"aac_coder": "fast", "aac_ms": "0"}
        encoder.open()
        self._encoder = encoder
        self._codec_config = bytes(encoder.extradata or b"")
        self._anchor_ns = anchor_ns
        self._n_counted = self._n_encoded = 0
        self._pending = _silence(0)

    def _decode(self, unit: AccessUnit) -> Samples | None:
        if not unit.payload:
            return None
        try:
            frames = self._decoder.decode(av.Packet(unit.payload))
        except FFmpegError:
            self.broken_packets += 1
            return None
        # Packed 16-bit samples: shape (1, 2 n_samples).
        packed = [frame.to_ndarray().reshape(-1, 2) for frame in frames]
        return np.concatenate(packed).T.astype(np.float32) / np.float32(32768) if packed else None

    def _fit(self, sound: Samples, starts_ns: int, is_discontinuity: bool) -> Samples:
        """Bring the count and session time together; what is missing before `starts_ns` is filled first."""
        n_samples = sound.shape[1]
        late_ns = starts_ns - self._ends_ns
        gap_ns = min(GAP_NS, ticks_to_ns(n_samples, OPUS_CLOCK_HZ) // 2) if is_discontinuity else GAP_NS
        if late_ns > gap_ns:
            self._append_silence(starts_ns)
            return sound
        n_late = ns_to_ticks(late_ns, OPUS_CLOCK_HZ)
        if late_ns < -gap_ns:
            return sound[:, -n_late:]
        if abs(late_ns) <= DEAD_ZONE_NS:
            return sound
        n_most = n_samples // STRETCH_DIVISOR
        return _stretch(sound, n_samples + max(-n_most, min(n_most, n_late)))

    def _append_silence(self, until_ns: int) -> None:
        silence = _silence(max(0, ns_to_ticks(until_ns - self._ends_ns, OPUS_CLOCK_HZ)))
        self.concealed_samples += silence.shape[1]
        if not self._is_silent:
            n_faded = min(FADE_SAMPLES, silence.shape[1])
            silence[:, :n_faded] = self._last_sample * np.linspace(1, 0, n_faded, dtype=np.float32)
            self._is_silent = True
        self._append(silence)

    def _append_sound(self, sound: Samples) -> None:
        if self._is_silent:
            n_faded = min(FADE_SAMPLES, sound.shape[1])
            sound[:, :n_faded] *= np.linspace(0, 1, n_faded, dtype=np.float32)
            self._is_silent = False
        self._append(sound)

    def _append(self, samples: Samples) -> None:
        if samples.shape[1]:
            self._last_sample = samples[:, -1:]
            self._n_counted += samples.shape[1]
            self._pending = np.concatenate((self._pending, samples), axis=1)

    def _encode_pending(self) -> list[AccessUnit]:
        assert self._encoder is not None
        units: list[AccessUnit] = []
        while self._pending.shape[1] >= AAC_FRAME_SAMPLES:
            block, self._pending = np.split(self._pending, [AAC_FRAME_SAMPLES], axis=1)
            # from_ndarray fills every plane: a frame made otherwise holds NaN, which the encoder refuses.
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
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


def _silence(n_samples: int) -> Samples:
    return np.zeros((2, n_samples), np.float32)


def _stretch(samples: Samples, n_samples: int) -> Samples:
    positions = np.linspace(0, samples.shape[1] - 1, n_samples)
    known = np.arange(samples.shape[1])
    return np.stack([np.interp(positions, known, channel) for channel in samples]).astype(np.float32)


class OpusToAac:
    """One session's sound as AAC: takes the session's units, gives AAC units to `emit` on the event loop.

    Where the avatar sends no sound, silence follows its pictures. What waits is bounded by `INBOX_NS`; what a thread
    that cannot keep up loses, the oldest first, becomes silence and is counted.

    concealed_s  sound that is silence because packets were lost, dropped, broken or never sent.
    """

    def __init__(self, emit: Callable[[AccessUnit], None], bit_rate: int) -> None:
        self._emit = emit
        self._bit_rate = bit_rate
        self._waiting: deque[AccessUnit] = deque()
        self._is_ready = asyncio.Event()
        self._is_finished = False
        self._covered_until_ns: int | None = None
        self.dropped_units = 0
        self.concealed_s = 0.0

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
            seen = (0, 0)
            while self._waiting or not self._is_finished:
                await self._is_ready.wait()
                if not self._is_finished:
                    self._is_ready.clear()
                batch, self._waiting = self._waiting, deque()
                for ready in await worker.call(transcoder.push_all, batch):
                    self._emit(ready)
                self.concealed_s = transcoder.concealed_samples / OPUS_CLOCK_HZ
                if (transcoder.broken_packets, self.dropped_units) != seen:
                    seen = transcoder.broken_packets, self.dropped_units
                    log.warning("sound_concealed", broken_packets=seen[0], dropped_units=seen[1])
            for ready in await worker.call(transcoder.flush):
                self._emit(ready)

    def _append(self, unit: AccessUnit) -> None:
        self._waiting.append(unit)
        ends_ns = unit.pts_ns + unit.duration_ns
        while ends_ns - self._waiting[0].pts_ns > INBOX_NS:
            self._waiting.popleft()
            self.dropped_units += 1
        if ends_ns - self._waiting[0].pts_ns >= BATCH_NS:
            self._is_ready.set()

    def _follow(self, until_ns: int) -> None:
        if self._covered_until_ns is None or until_ns - self._covered_until_ns > MAX_FILL_NS:
            self._covered_until_ns = until_ns
        while until_ns - self._covered_until_ns >= SILENCE_UNIT_NS:
            self._append(AccessUnit(Codec.OPUS, b"", self._covered_until_ns, SILENCE_UNIT_NS))
            self._covered_until_ns += SILENCE_UNIT_NS
