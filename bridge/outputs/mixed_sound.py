"""One session's sound with the inputs that viewers hear mixed in, in every coding that its outputs take."""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.opus_decoder import N_CHANNELS, Samples
from bridge.media.opus_encoder import FRAME_SAMPLES
from bridge.media.opus_sound import OpusSound, open_decoder
from bridge.outputs.aac import AacEncoder
from bridge.outputs.opus_switch import Mark, OpusSwitch

# The avatar is silent below this: TTS is, between its words, and a far decoder has nothing to remember.
_QUIET = 10.0 ** (-60 / 20)


class Mixer(Protocol):
    """What is mixed in, for whoever has the avatar's sound. Decides in no time, in any one thread at a time.

    look_ahead_samples  how far the mix that it gives lies behind what it is given.
    ready_until_ns      session time up to which all that is to be mixed in has come.
    """

    @property
    def look_ahead_samples(self) -> int: ...

    @property
    def ready_until_ns(self) -> int: ...

    def before_round(self) -> None:
        """On the event loop: the thread is about to be called."""

    def mix(self, starts_ns: int, sound: Samples) -> tuple[Samples, bool]:
        """The mix, as long as the avatar's sound from `starts_ns` on, and whether anything is mixed in there."""


class Rendition(NamedTuple):
    """How an output takes sound; those who take the same share one encoder."""

    codec: Codec
    bit_rate: int


Coded = tuple[Rendition, AccessUnit]


class MixedSound:
    """Opus packets on session time in, coded sound of every wanted rendition on session time out. Blocks.

    The avatar's sound is decoded once, mixed once as soon as the mixer is ready, and encoded once a rendition. Without
    anything mixed in AAC is what `AacTranscoder` makes, and Opus the avatar's own packets.
    """

    def __init__(self, mixer: Mixer, wanted: Callable[[], Collection[Rendition]]) -> None:
        """`wanted` may change from call to call."""
        decoder = open_decoder()
        self.concealment = decoder.name
        self.sound = OpusSound(decoder)
        self._mixer = mixer
        self._wanted = wanted
        self._anchor_ns: int | None = None
        self._dry: Samples = np.zeros((N_CHANNELS, 0), np.float32)  # not mixed yet
        self._n_mixed = 0  # of the avatar's samples since the anchor
        self._aac: dict[int, AacEncoder] = {}  # by bit rate
        self._opus = OpusSwitch()
        self._arrival_ns = 0

    def push_all(self, units: Iterable[AccessUnit]) -> list[Coded]:
        made: list[Coded] = []
        for unit in units:
            if self._anchor_ns is None or self.sound.is_out_of_reach(unit):
                made += self.flush()
                self._anchor_ns = self.sound.begin(unit)
            self._arrival_ns = unit.arrival_ns
            self._dry = np.concatenate((self._dry, self.sound.push(unit)), axis=1)
            self._opus.put(unit)
        return made + self._mix(self._mixer.ready_until_ns)

    def flush(self) -> list[Coded]:
        """What waits, ready or not; the next packet starts a new count."""
        if self._anchor_ns is None:
            return []
        rest = np.zeros((N_CHANNELS, self._mixer.look_ahead_samples), np.float32)
        self._dry = np.concatenate((self._dry, self.sound.rest(), rest), axis=1)
        made = self._mix(None)
        for bit_rate, encoder in self._aac.items():
            made += ((Rendition(Codec.AAC, bit_rate), frame) for frame in encoder.flush(self._arrival_ns))
        made += self._of_opus(self._opus.flush(self._bit_rates(Codec.OPUS)))
        self._anchor_ns, self._n_mixed = None, 0
        self._aac, self._opus = {}, OpusSwitch()
        return made

    def _mix(self, until_ns: int | None) -> list[Coded]:
        """None: all there is, be it no whole frame."""
        if self._anchor_ns is None:
            return []
        made: list[Coded] = []
        for_aac, for_opus = self._bit_rates(Codec.AAC), self._bit_rates(Codec.OPUS)
        self._aac = {bit_rate: encoder for bit_rate, encoder in self._aac.items() if bit_rate in for_aac}
        while self._dry.shape[1] >= (1 if until_ns is None else FRAME_SAMPLES):
            sound = self._dry[:, :FRAME_SAMPLES]
            n_ended = self._n_mixed + sound.shape[1]
            if until_ns is not None and self._anchor_ns + ticks_to_ns(n_ended, OPUS_CLOCK_HZ) > until_ns:
                break
            mixed, is_used = self._mixer.mix(self._anchor_ns + ticks_to_ns(self._n_mixed, OPUS_CLOCK_HZ), sound)
            starts = self._n_mixed - self._mixer.look_ahead_samples
            if starts < 0:
                mixed = mixed[:, -starts:]  # lies before the first sample
            self._dry, self._n_mixed = self._dry[:, FRAME_SAMPLES:], n_ended
            for bit_rate in for_aac:
                if bit_rate not in self._aac:
                    anchor_ns = self._anchor_ns + ticks_to_ns(max(0, starts), OPUS_CLOCK_HZ)
                    self._aac[bit_rate] = AacEncoder(bit_rate, anchor_ns)
                frames = self._aac[bit_rate].push(mixed, self._arrival_ns)
                made += ((Rendition(Codec.AAC, bit_rate), frame) for frame in frames)
            ends = ns_to_ticks(self._anchor_ns, OPUS_CLOCK_HZ) + n_ended
            mark = Mark(ends, is_used, float(np.abs(sound).max()) < _QUIET)
            made += self._of_opus(self._opus.push(mixed, ends - self._mixer.look_ahead_samples, mark, for_opus))
        return made

    def _bit_rates(self, codec: Codec) -> list[int]:
        return sorted({rendition.bit_rate for rendition in self._wanted() if rendition.codec is codec})

    def _of_opus(self, made: Iterable[tuple[int, AccessUnit]]) -> list[Coded]:
        return [(Rendition(Codec.OPUS, bit_rate), unit) for bit_rate, unit in made]
