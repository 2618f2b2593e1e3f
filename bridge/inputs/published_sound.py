"""What a publisher's packets sound like: coded units in, blocks out, and what was lost between them made up."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bridge.media import g711
from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.audio import AudioBlock
from bridge.media.clock import G711_RATE_HZ, NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.opus_sound import FADED_NS, HELD_NS, LOOKAHEAD_NS, OpusSound, open_decoder
from bridge.media.pitch_repeat import PitchRepeat

# What is still made up: as long as the jitter buffer waits for a packet at most. Made-up sound is silent by then.
MAX_FILL_NS = 120 * NS_PER_MS


class PublishedSound:
    """One publisher's sound, in the order of its packets. Called on the event loop: 20 ms of Opus decode in 50 µs.

    Nothing is made of what a silent sender does not send (DTX), nor of a longer loss: it would come too late.

    concealed_s  made up.
    """

    def __init__(self) -> None:
        self._opus: _OpusRow | None = None
        self._g711: _G711Row | None = None
        self._origin_ns: int | None = None

    @property
    def concealed_s(self) -> float:
        opus_s = self._opus.sound.concealed_samples / OPUS_CLOCK_HZ if self._opus else 0.0
        return opus_s + (self._g711.concealed_samples / G711_RATE_HZ if self._g711 else 0.0)

    def push(self, unit: ReceivedUnit) -> AudioBlock:
        """48 kHz stereo of Opus, 8 kHz mono of G.711. Source time is that of arrival, at the sender's pace."""
        unit = replace(unit, lost_ns=min(unit.lost_ns, MAX_FILL_NS))
        rate_hz = unit.codec.rtp_clock_hz
        if unit.codec is Codec.OPUS:
            self._opus = self._opus or _OpusRow()
            samples = self._opus.push(unit)
        else:
            self._g711 = self._g711 or _G711Row()
            samples = self._g711.push(unit)
        ends_ns = ticks_to_ns(unit.rtp_ticks, rate_hz) + unit.duration_ns
        if self._origin_ns is None:
            self._origin_ns = unit.arrival_ns - ends_ns
        return AudioBlock(samples, rate_hz, self._origin_ns + ends_ns - ticks_to_ns(len(samples), rate_hz))


class _OpusRow:
    """Opus on a count of its own, in which only losses are gaps."""

    def __init__(self) -> None:
        self.sound = OpusSound(open_decoder())
        self._has_begun = False

    def push(self, unit: ReceivedUnit) -> NDArray[np.float32]:
        if not self._has_begun:
            self._has_begun = True
            self.sound.begin(unit.at(LOOKAHEAD_NS))
            unit = replace(unit, lost_ns=0)
        samples = self.sound.push(unit.at(self.sound.ends_ns + LOOKAHEAD_NS + unit.lost_ns))
        return np.ascontiguousarray(samples.T)


class _G711Row:
    def __init__(self) -> None:
        self.concealed_samples = 0
        self._repeat = PitchRepeat(G711_RATE_HZ, n_channels=1)

    def push(self, unit: ReceivedUnit) -> NDArray[np.float32]:
        sound = np.multiply(g711.decode(unit.codec, unit.payload), np.float32(1 / 32768), dtype=np.float32)[None]
        n_lost = ns_to_ticks(unit.lost_ns, G711_RATE_HZ)
        if not n_lost:
            return self._repeat.follow(sound).T
        self.concealed_samples += n_lost
        at_ns = np.arange(n_lost) * (NS_PER_S // G711_RATE_HZ)
        made_up = self._repeat.make_up(n_lost) * np.interp(at_ns, (HELD_NS, FADED_NS), (1, 0)).astype(np.float32)
        return np.concatenate((made_up, self._repeat.follow(sound)), axis=1).T
