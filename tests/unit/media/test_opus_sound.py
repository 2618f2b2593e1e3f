"""What is heard where packets did not come."""

import functools
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.opus import SILENCE_20_MS, redundancy_ns
from bridge.media.opus_decoder import OpusDecoder, Samples
from bridge.media.opus_sound import HEARD_SAMPLES, OpusSound, open_decoder
from bridge.media.pitch_repeat import PitchRepeatDecoder
from tests.unit.media.speech import speech
from tests.unit.outputs.coded_media import opus_units, without

Make = Callable[[], OpusDecoder]
PACKET = 960
# What a browser sends, SILK and hybrid, with in-band FEC and without; and CELT.
CODINGS: dict[str, dict[str, object]] = {
    "voice": {"application": "voip", "bits_per_s": 32_000},
    "fec": {"application": "voip", "bits_per_s": 32_000, "expected_loss_percent": 20},
    "music": {"application": "audio", "bits_per_s": 64_000},
}
every_decoder = pytest.mark.parametrize("make", [open_decoder, PitchRepeatDecoder])


@functools.cache
def coded(coding: str, duration_s: float) -> Sequence[AccessUnit]:
    return tuple(opus_units(speech(duration_s), layout="mono", **CODINGS[coding]))  # type: ignore[arg-type]


class Silent:
    """A decoder that makes up silence, as one without concealment would be heard."""

    name = "silent"
    can_restore = False

    def __init__(self, decoder: OpusDecoder) -> None:
        self._decoder = decoder
        self.decode = decoder.decode
        self.reset = decoder.reset

    def restore(self, packet: bytes, n_samples: int) -> Samples:
        return self.make_up(n_samples)

    def make_up(self, n_samples: int) -> Samples:
        return np.zeros((2, n_samples), np.float32)


def heard(units: Sequence[AccessUnit], make: Make = open_decoder) -> tuple[NDArray[np.float32], OpusSound]:
    """One channel; as long as what was sent, and a packet's number tells where it lies."""
    sound = OpusSound(make())
    sound.begin(units[0])
    samples = np.concatenate([*(sound.push(unit) for unit in units), sound.rest()], axis=1)
    return samples[0], sound


def lost_packets(n_packets: int, share: float, burst: int, seed: int) -> set[int]:
    rng = random.Random(seed)
    starts = [number for number in range(5, n_packets - 5 - burst) if rng.random() < share / burst]
    return {start + i for start in starts for i in range(burst)}


def packet(samples: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    return samples[number * PACKET : (number + 1) * PACKET]


def snr_db(samples: NDArray[np.float32], original: NDArray[np.float32], numbers: Collection[int]) -> float:
    """Of these packets, each in its place."""
    noise = sum(np.square(packet(samples, n) - packet(original, n)).sum() for n in numbers)
    return float(10 * np.log10(sum(np.square(packet(original, n)).sum() for n in numbers) / noise))


def spectral_distance_db(
    samples: NDArray[np.float32], original: NDArray[np.float32], numbers: Collection[int]
) -> float:
    """How far apart the third-octave levels are on average: what the ear goes by, which does not hear phase. Of the
    packets that are loud enough to be heard."""
    edges = np.unique((125 * 2 ** (np.arange(20) / 3) / 50).astype(int))
    distances = []
    for number in numbers:
        levels = []
        for sound in (samples, original):
            power = np.square(np.abs(np.fft.rfft(packet(sound, number) * np.hanning(PACKET))))
            levels.append(10 * np.log10(np.add.reduceat(power, edges)[:-1] + 1e-3))
        if np.square(packet(original, number)).mean() > 1e-4:
            distances.append(np.abs(levels[0] - levels[1]).mean())
    return float(np.mean(distances))


def largest_step(samples: NDArray[np.float32]) -> float:
    return float(np.abs(np.diff(samples)).max())


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_in_band_fec_brings_most_lost_packets_back(share: float) -> None:
    units = coded("fec", 6.0)
    original, _ = heard(units)
    lost = lost_packets(len(units), share, burst=1, seed=1)
    samples, sound = heard(without(units, lost))

    assert len(samples) == len(original)
    # Of lost packets that follow each other only the last one can be; silence, and what holds none, has no FEC.
    assert sound.restored_samples > 0.6 * len(lost) * PACKET
    assert sound.restored_samples + sound.concealed_samples == len(lost) * PACKET
    # Silence would be at 0 dB.
    assert snr_db(samples, original, [number for number in lost if number + 1 not in lost]) > 6
    assert snr_db(samples, original, lost) > 4
    assert largest_step(samples) <= 1.02 * largest_step(original)


@every_decoder
@pytest.mark.parametrize("coding", ["voice", "music"])
@pytest.mark.parametrize(("share", "burst"), [(0.05, 1), (0.2, 3)])
def test_what_is_made_up_is_nearer_to_what_was_said_than_silence(
    make: Make, coding: str, share: float, burst: int
) -> None:
    units = coded(coding, 6.0)
    original, _ = heard(units, make)
    lost = lost_packets(len(units), share, burst, seed=2)
    samples, sound = heard(without(units, lost), make)
    silent, _ = heard(without(units, lost), lambda: Silent(make()))

    assert len(samples) == len(silent) == len(original)
    assert sound.concealed_samples == len(lost) * PACKET
    made_up_db = spectral_distance_db(samples, original, lost)
    assert made_up_db < 0.6 * spectral_distance_db(silent, original, lost)
    # Decoders without the packet before overshoot a little by themselves, in CELT, with any concealment.
    assert largest_step(samples) <= 1.6 * largest_step(original)
    assert largest_step(samples) <= largest_step(silent)


@every_decoder
def test_a_long_loss_fades_to_silence_and_sets_in_again_without_a_step(make: Make) -> None:
    units = coded("voice", 4.0)
    original, _ = heard(units, make)
    lost = range(40, 90)
    samples, sound = heard(without(units, lost), make)

    assert len(samples) == len(original)
    gap = samples[40 * PACKET : 90 * PACKET]
    assert not gap[HEARD_SAMPLES:].any()
    loudness = [np.square(packet(gap, number)).mean() for number in range(5)]
    assert loudness[0] > 0.3 * np.square(packet(original, 39)).mean()
    assert loudness[4] < 0.1 * loudness[0]
    assert largest_step(samples) <= 1.02 * largest_step(original)
    assert sound.concealed_samples == len(lost) * PACKET


def test_the_last_lost_packet_of_a_long_loss_is_restored_too() -> None:
    units = coded("fec", 4.0)
    original, _ = heard(units)
    number = next(n for n in range(60, 100) if redundancy_ns(units[n].payload) and packet(original, n - 1).std() > 0.05)
    lost = range(40, number)
    samples, sound = heard(without(units, lost))

    assert sound.restored_samples == PACKET
    assert snr_db(samples, original, [number - 1]) > 3
    assert not packet(samples, number - 2).any()


def standing_in(units: Sequence[AccessUnit]) -> list[AccessUnit]:
    return [AccessUnit(Codec.OPUS, SILENCE_20_MS, unit.pts_ns, unit.duration_ns) for unit in units]


def test_silence_that_stands_in_for_a_loss_changes_nothing_of_what_is_heard() -> None:
    units = coded("fec", 4.0)
    lost = range(40, 60)
    open_gap = without(units, lost)
    filled = [*open_gap[:40], *standing_in(units[40:60]), *open_gap[40:]]

    (samples, sound), (expected, alike) = heard(filled), heard(open_gap)
    assert np.array_equal(samples, expected)
    assert sound.concealed_samples == alike.concealed_samples == len(lost) * PACKET - sound.restored_samples
    assert sound.restored_samples == alike.restored_samples == PACKET


def test_silence_that_stands_in_for_what_was_never_sent_is_no_loss() -> None:
    units = coded("voice", 4.0)
    samples, sound = heard([*units[:40], *standing_in(units[40:60]), *units[60:]])
    assert len(samples) == len(units) * PACKET
    assert (sound.concealed_samples, sound.restored_samples) == (0, 0)
    assert not samples[46 * PACKET : 60 * PACKET].any()


def test_a_sender_that_sends_nothing_while_it_is_silent_has_lost_nothing() -> None:
    units = coded("voice", 4.0)
    samples, sound = heard([*units[:40], *units[60:]])
    assert len(samples) == len(units) * PACKET
    assert (sound.concealed_samples, sound.restored_samples) == (0, 0)


def test_silence_at_the_end_is_as_long_as_it_was_to_be() -> None:
    units = coded("voice", 1.0)
    samples, _ = heard([*units[:30], *standing_in(units[30:])])
    assert len(samples) == len(units) * PACKET


@pytest.mark.parametrize("off_ms", [-9, 9, 17])
def test_a_loss_is_made_up_by_what_was_lost_however_stamps_jitter(off_ms: int) -> None:
    units = coded("voice", 1.0)
    stamped = [replace(u, pts_ns=u.pts_ns + (off_ms * NS_PER_MS if n == 30 else 0)) for n, u in enumerate(units)]
    sound = OpusSound(open_decoder())
    sound.begin(units[0])
    counts = [sound.push(unit).shape[1] for unit in without(stamped, {29})]
    # Stretched by one sample in 128 at most.
    assert counts[29] == pytest.approx(2 * PACKET, abs=PACKET // 128)


def test_what_was_lost_before_the_sound_began_is_not_missing() -> None:
    units = coded("voice", 1.0)
    samples, sound = heard([replace(units[0], lost_ns=60 * NS_PER_MS), *units[1:]])
    assert len(samples) == len(units) * PACKET
    assert sound.concealed_samples == 0


@every_decoder
def test_whatever_packets_hold_the_count_of_samples_is_right(make: Make) -> None:
    rng = random.Random(3)
    units = list(coded("fec", 4.0))
    for number in range(5, len(units) - 5):
        if rng.random() < 0.2:
            noise = rng.randbytes(rng.randrange(40))
            units[number] = replace(units[number], payload=bytes([units[number].payload[0] & 0xFC]) + noise)
    samples, sound = heard(without(units, lost_packets(len(units), 0.1, 2, seed=4)), make)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert abs(sound.ends_ns - (units[-1].pts_ns + units[-1].duration_ns - 6_500_000)) <= NS_PER_MS
