"""Opus units on session time to one row of samples that never leaves it: what did not come is made up, then silent."""

import numpy as np

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.libopus import LibopusDecoder, find_libopus
from bridge.media.opus import PRE_SKIP_SAMPLES, SILENCE_20_MS, redundancy_ns
from bridge.media.opus_decoder import N_CHANNELS, STEP_SAMPLES, BrokenPacket, OpusDecoder, Samples
from bridge.media.pitch_repeat import PitchRepeatDecoder

LOOKAHEAD_NS = ticks_to_ns(PRE_SKIP_SAMPLES, OPUS_CLOCK_HZ)
# Where session time and the count of samples differ by more than this, sound is missing or too much, and is made up
# or cut at once: just less than one of the 20 ms packets that WebRTC senders make, so that a missing one is always
# seen, and stamps may jitter by half a packet. Where a unit itself says how much was lost before it, that much is.
GAP_NS = 18 * NS_PER_MS
# Differences between this and GAP_NS are stamps that wander: the sound follows by stretching, without a crack. Below it
# nothing is done; ITU-R BT.1359 puts the threshold of detection at 45 ms. Behind a jump of the track they are made up
# or cut as well, for stretching would leave the sound behind for two seconds.
DEAD_ZONE_NS = NS_PER_MS
# One sample in 128 is 7.8 ms a second, more than the 5 ms a second a timeline slews, and 13 cents of pitch.
STRETCH_DIVISOR = 128
# A longer gap is left open: the count starts anew behind it.
MAX_FILL_NS = 10 * NS_PER_S
# Made-up sound is kept as it is for one packet, and gone after five: a phone of speech lasts some 80 ms on average, so
# that what goes on for longer is no longer what was said but a hum.
HELD_NS, FADED_NS = 20 * NS_PER_MS, 100 * NS_PER_MS
HELD_SAMPLES = ns_to_ticks(HELD_NS, OPUS_CLOCK_HZ)
HEARD_SAMPLES = ns_to_ticks(FADED_NS, OPUS_CLOCK_HZ)
# Sound that sets in after that fades in over 5 ms instead of clicking.
FADE_SAMPLES = OPUS_CLOCK_HZ * 5 // 1000

_GAIN = np.interp(np.arange(HEARD_SAMPLES + 1), (HELD_SAMPLES, HEARD_SAMPLES), (1, 0)).astype(np.float32)


class OpusSound:
    """Makes a row of samples of one session's Opus units; `push` gives those that follow what it gave before.

    The count of samples keeps to session time: what is missing up to `MAX_FILL_NS` is restored from the packet behind
    it (in-band FEC), else made up by the decoder and faded, else silent; surplus is cut; differences up to `GAP_NS` are
    slewed. The codec's delay is taken off: a packet is stamped with what its encoder heard and decodes
    `PRE_SKIP_SAMPLES` late. Silence that stands in for sound that did not come is treated as what it stands for, and
    only made once the next unit shows that nothing better comes.

    concealed_samples  of lost and broken packets: made up or silent.  restored_samples: of lost ones, by in-band FEC.
    broken_packets     could not be decoded.
    """

    def __init__(self, decoder: OpusDecoder) -> None:
        self._decoder = decoder
        self._anchor_ns = 0  # session time of the first sample
        self._n_samples = 0  # since then
        self._n_made_up = HEARD_SAMPLES  # since the last sample that was decoded; from HEARD_SAMPLES on it is silence
        self._owed_until_ns: int | None = None  # where the silence ends that stands in
        self.broken_packets = 0
        self.concealed_samples = 0
        self.restored_samples = 0

    @property
    def ends_ns(self) -> int:
        """Session time of the next sample."""
        return self._anchor_ns + ticks_to_ns(self._n_samples, OPUS_CLOCK_HZ)

    def is_out_of_reach(self, unit: AccessUnit) -> bool:
        """Whether the gap before a unit is too long to fill."""
        return unit.pts_ns - LOOKAHEAD_NS - self.ends_ns > MAX_FILL_NS

    def begin(self, unit: AccessUnit) -> int:
        """Count anew from this unit, which is pushed next; the session time of its first sample."""
        self._decoder.reset()
        self._anchor_ns = unit.pts_ns - LOOKAHEAD_NS
        self._n_samples = 0
        self._n_made_up = HEARD_SAMPLES
        self._owed_until_ns = None
        return self._anchor_ns

    def push(self, unit: AccessUnit) -> Samples:
        starts_ns = unit.pts_ns - LOOKAHEAD_NS
        if self._n_samples:
            self.concealed_samples += ns_to_ticks(unit.lost_ns, OPUS_CLOCK_HZ)
        if is_stand_in(unit):
            parts = [self._make_up(ns_to_ticks(starts_ns - self.ends_ns, OPUS_CLOCK_HZ))]
            self._owed_until_ns = starts_ns + unit.duration_ns
        else:
            n_missing = self._n_missing_before(unit, starts_ns)
            parts = [
                *self._fill(n_missing, unit),
                self._decode(unit, starts_ns - ticks_to_ns(n_missing, OPUS_CLOCK_HZ)),
            ]
            self._owed_until_ns = None
        return self._count(parts)

    def rest(self) -> Samples:
        """What is still owed when nothing more comes."""
        until_ns, self._owed_until_ns = self._owed_until_ns, None
        if until_ns is None:
            return _silence(0)
        return self._count([self._make_up(ns_to_ticks(until_ns - self.ends_ns, OPUS_CLOCK_HZ))])

    def _count(self, parts: list[Samples]) -> Samples:
        samples = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        self._n_samples += samples.shape[1]
        return samples

    def _n_missing_before(self, unit: AccessUnit, starts_ns: int) -> int:
        missing_ns = starts_ns - self.ends_ns
        if self._owed_until_ns is not None or _has_moved(unit):
            return max(0, ns_to_ticks(missing_ns, OPUS_CLOCK_HZ))
        if unit.lost_ns and abs(missing_ns - unit.lost_ns) <= GAP_NS:
            return ns_to_ticks(unit.lost_ns, OPUS_CLOCK_HZ)
        return ns_to_ticks(missing_ns, OPUS_CLOCK_HZ) if missing_ns > GAP_NS else 0

    def _fill(self, n_missing: int, unit: AccessUnit) -> list[Samples]:
        """What is missing before a unit: its end may stand in the unit itself."""
        if not n_missing:
            return []
        n_restored = ns_to_ticks(redundancy_ns(unit.payload), OPUS_CLOCK_HZ) if unit.lost_ns else 0
        if not self._decoder.can_restore or not 0 < n_restored <= n_missing:
            return [self._make_up(n_missing)]
        made_up = self._make_up(n_missing - n_restored)
        try:
            restored = self._fade_in(self._decoder.restore(unit.payload, n_restored))
        except BrokenPacket:
            restored = self._make_up(n_restored)
        else:
            self.restored_samples += n_restored
            self.concealed_samples -= n_restored
        return [made_up, restored]

    def _decode(self, unit: AccessUnit, starts_ns: int) -> Samples:
        """A unit's samples, of which the first lies at `starts_ns` while the count is at `ends_ns`."""
        try:
            sound = self._decoder.decode(unit.payload)
        except BrokenPacket:
            n_samples = ns_to_ticks(unit.duration_ns, OPUS_CLOCK_HZ)
            self.broken_packets += 1
            self.concealed_samples += n_samples
            return self._make_up(n_samples)
        late_ns = starts_ns - self.ends_ns
        if late_ns < -GAP_NS or (late_ns < 0 and _has_moved(unit)):
            return self._fade_in(sound[:, -ns_to_ticks(late_ns, OPUS_CLOCK_HZ) :])
        return self._fade_in(_fit(sound, late_ns))

    def _make_up(self, n_samples: int) -> Samples:
        n_samples = max(0, n_samples)
        n_heard = min(n_samples, HEARD_SAMPLES - self._n_made_up)
        if not n_heard:
            return _silence(n_samples)
        sound = self._decoder.make_up(-(-n_heard // STEP_SAMPLES) * STEP_SAMPLES)
        if sound.shape[1] != n_heard:
            sound = stretch(sound, n_heard)
        sound = sound * _GAIN[self._n_made_up : self._n_made_up + n_heard]
        self._n_made_up += n_heard
        return np.concatenate((sound, _silence(n_samples - n_heard)), axis=1)

    def _fade_in(self, sound: Samples) -> Samples:
        if self._n_made_up:
            n_faded = min(FADE_SAMPLES, sound.shape[1])
            sound[:, :n_faded] *= np.linspace(_GAIN[self._n_made_up], 1, n_faded, dtype=np.float32)
            self._n_made_up = 0
        return sound


def open_decoder() -> OpusDecoder:
    """libopus, else what makes do without."""
    libopus = find_libopus()
    return PitchRepeatDecoder() if libopus is None else LibopusDecoder(libopus)


def is_stand_in(unit: AccessUnit) -> bool:
    """Whether a unit was put there for want of sound: it did not arrive."""
    return not unit.payload or (unit.payload == SILENCE_20_MS and not unit.arrival_ns)


def _has_moved(unit: AccessUnit) -> bool:
    """Whether a unit is no continuation, and not for a loss."""
    return unit.is_discontinuity and not unit.lost_ns


def _fit(sound: Samples, late_ns: int) -> Samples:
    """Bring session time and the count of samples closer by a unit that lies `late_ns` behind the count."""
    if abs(late_ns) <= DEAD_ZONE_NS:
        return sound
    n_samples, n_late = sound.shape[1], ns_to_ticks(late_ns, OPUS_CLOCK_HZ)
    n_most = n_samples // STRETCH_DIVISOR
    return stretch(sound, n_samples + max(-n_most, min(n_most, n_late)))


def stretch(samples: Samples, n_samples: int) -> Samples:
    """The same sound in another number of samples."""
    positions = np.linspace(0, samples.shape[1] - 1, n_samples)
    known = np.arange(samples.shape[1])
    return np.stack([np.interp(positions, known, channel) for channel in samples]).astype(np.float32)


def _silence(n_samples: int) -> Samples:
    return np.zeros((N_CHANNELS, n_samples), np.float32)
