"""One input's sound on session time, where viewers hear it."""

from collections import deque

import numpy as np

from bridge.dsp.stereo import StereoConverter
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks
from bridge.media.least import Least
from bridge.media.opus_decoder import Samples
from bridge.media.opus_sound import STRETCH_DIVISOR, stretch

# How long a best arrival counts: a crystal 100 ppm off moves 0.4 ms in it.
_SPAN_NS = 2 * NS_PER_S
# What comes so much later or sooner than before has paused or was held up: where it lies is found anew.
_ANEW_NS = 100 * NS_PER_MS
# Below it nothing is done, up to the latter the sound is stretched by less than a percent until it lies right; where
# more is wrong, it is cut or a gap is left.
_DEAD_SAMPLES = OPUS_CLOCK_HZ // 1000
_JUMP_SAMPLES = OPUS_CLOCK_HZ * 40 // 1000
# Sound that sets in or breaks off does so within 5 ms instead of clicking.
_FADE_SAMPLES = OPUS_CLOCK_HZ * 5 // 1000


class AirTrack:
    """Takes blocks as they come and gives 48 kHz stereo of any session time, in order; what is missing is silence.

    A block lies so that its end is where it was heard, by the best arrivals of late: later ones were held up on the
    way. Where they are held up by more than there is time for, all of the track lies as much later, so that nothing
    of it is lost. Samples are counted from the session's beginning.

    lost_samples  that came too late, or twice in the same place.
    """

    def __init__(self, hold_ns: int, delay_ns: int = 0) -> None:
        """hold_ns: how long after its time a sample is read, at least.  delay_ns: how much later it is to lie."""
        self.lost_samples = 0
        self._hold_ns = hold_ns
        self._delay_ns = delay_ns
        self._converter = StereoConverter()
        self._behind_ns: int | None = None
        self._least, self._latest = Least(_SPAN_NS), Least(_SPAN_NS)
        self._chunks: deque[tuple[int, Samples]] = deque()  # each with where it starts, in order
        self._end = 0  # of the last one
        self._read_to = 0
        self._is_faded = True  # the last one's end

    def push(self, block: AudioBlock, came_ns: int, heard_ns: int) -> None:
        """came_ns: session time at which it has come.  heard_ns: at which its end is heard, the same if it is live."""
        behind_ns = heard_ns - block.pts_ns - round(block.duration_s * NS_PER_S)
        if self._behind_ns is None or abs(behind_ns - self._behind_ns) > _ANEW_NS:
            self._least, self._latest = Least(_SPAN_NS), Least(_SPAN_NS)
        self._behind_ns = behind_ns
        best_ns = self._least.push(behind_ns, came_ns)
        latest_ns = -self._latest.push(block.pts_ns - came_ns, came_ns)
        samples, starts_ns = self._converter.push(block)
        place_ns = starts_ns + max(best_ns, latest_ns - self._hold_ns) + self._delay_ns
        self._place(samples, ns_to_ticks(place_ns, OPUS_CLOCK_HZ))

    def read(self, start: int, n_samples: int) -> Samples | None:
        """None: all of it is silent. What comes now for a time before its end is too late."""
        end = start + n_samples
        if self._end < end + _FADE_SAMPLES:
            self._fade_out()
        self._read_to = max(self._read_to, end)
        sound: Samples | None = None
        while self._chunks and self._chunks[0][0] < end:
            at, chunk = self._chunks[0]
            piece = chunk[:, max(0, start - at) : end - at]
            if piece.shape[1]:
                sound = np.zeros((2, n_samples), np.float32) if sound is None else sound
                first = max(at, start) - start
                sound[:, first : first + piece.shape[1]] = piece
            if at + chunk.shape[1] > end:
                break
            self._chunks.popleft()
        return sound

    def _place(self, samples: Samples, wanted: int) -> None:
        late = wanted - self._end
        is_joint = self._end <= self._read_to or abs(late) > _JUMP_SAMPLES
        if is_joint:
            self._fade_out()
            free_from = max(self._end, self._read_to)
            n_late = min(max(0, free_from - wanted), samples.shape[1])
            self.lost_samples += n_late
            samples, self._end = samples[:, n_late:], max(wanted, free_from)
        elif abs(late) > _DEAD_SAMPLES:
            n_samples = samples.shape[1]
            n_most = n_samples // STRETCH_DIVISOR
            samples = stretch(samples, n_samples + max(-n_most, min(n_most, late)))
        if not samples.shape[1]:
            return
        if is_joint or self._is_faded:
            n_faded = min(_FADE_SAMPLES, samples.shape[1])
            samples[:, :n_faded] *= np.linspace(0, 1, n_faded, dtype=np.float32)
        self._chunks.append((self._end, samples))
        self._end += samples.shape[1]
        self._is_faded = False

    def _fade_out(self) -> None:
        """Nothing follows the last chunk, as far as is known."""
        if self._is_faded or not self._chunks:
            return
        self._is_faded = True
        at, chunk = self._chunks[-1]
        n_faded = min(_FADE_SAMPLES, self._end - max(at, self._read_to))
        if n_faded > 0:
            chunk[:, -n_faded:] *= np.linspace(1, 0, n_faded, dtype=np.float32)
