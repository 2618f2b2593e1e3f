"""The avatar's sound with inputs in it: untouched while there are none, and no click where they come and go."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.air_mix import AirMix, AirSettings
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks
from bridge.media.opus_decoder import Samples
from bridge.media.opus_sound import LOOKAHEAD_NS, open_decoder
from bridge.outputs.audio import AacTranscoder
from bridge.outputs.mixed_sound import MixedSound, Rendition
from tests.unit.media.speech import speech
from tests.unit.outputs.coded_media import click_times_s, clicks, decode_aac, opus_units

RATE_HZ = 48_000
OPUS, AAC = Rendition(Codec.OPUS, 128_000), Rendition(Codec.AAC, 128_000)
STARTS_NS = NS_PER_S
# Of the mix, which a far end hears with the noise of its coding.
WINDOW = RATE_HZ // 400


class RowMixer:
    """Mixes in one input that is given as a row from session time 0 on; remembers the mix.

    ready_until_ns  all, unless a test says otherwise.
    """

    def __init__(self, row: Samples, duck_db: float = 0.0) -> None:
        self.ready_until_ns = 1 << 62
        self.mixed: list[Samples] = []
        self.starts_ns: int | None = None
        self._row = row
        self._mix = AirMix([AirSettings(duck_db=duck_db)])
        self.look_ahead_samples = self._mix.look_ahead_samples

    def before_round(self) -> None: ...

    def mix(self, starts_ns: int, sound: Samples) -> tuple[Samples, bool]:
        self.starts_ns = starts_ns if self.starts_ns is None else self.starts_ns
        start = ns_to_ticks(starts_ns, OPUS_CLOCK_HZ)
        piece = self._row[:, start : start + sound.shape[1]]
        mixed = self._mix.push(sound, [piece if piece.shape[1] == sound.shape[1] else None], [1.0])
        self.mixed.append(mixed.samples)
        return mixed


def put(sound: Samples, at_s: float, duration_s: float = 5.0) -> Samples:
    whole = np.zeros((2, round(duration_s * RATE_HZ)), np.float32)
    start = round(at_s * RATE_HZ)
    whole[:, start : start + sound.shape[1]] = sound
    return whole


def tone(duration_s: float, amplitude: float = 0.1, hz: float = 1_700) -> Samples:
    wave = amplitude * np.sin(2 * np.pi * hz * np.arange(round(duration_s * RATE_HZ)) / RATE_HZ)
    return np.stack([wave, wave]).astype(np.float32)


def make(
    mixer: RowMixer, units: Sequence[AccessUnit], renditions: Sequence[Rendition] = (OPUS, AAC)
) -> dict[Rendition, list[AccessUnit]]:
    sound = MixedSound(mixer, lambda: renditions)
    made: dict[Rendition, list[AccessUnit]] = {rendition: [] for rendition in renditions}
    for unit in units:
        for rendition, coded in sound.push_all([unit]):
            made[rendition].append(coded)
    for rendition, coded in sound.flush():
        made[rendition].append(coded)
    for each in made.values():
        assert all(later.pts_ns > earlier.pts_ns for earlier, later in itertools.pairwise(each))
    return made


def decode_opus(units: Sequence[AccessUnit]) -> tuple[Samples, float]:
    """As a far end hears it that loses nothing, and the session time of its first sample."""
    decoder = open_decoder()
    return (
        np.concatenate([decoder.decode(unit.payload) for unit in units], axis=1),
        (units[0].pts_ns - LOOKAHEAD_NS) / NS_PER_S,
    )


def avatar(application: str = "voip", bits_per_s: int = 32_000) -> list[AccessUnit]:
    """Speech from session time 1 s to 4 s, and a second of silence."""
    samples = np.concatenate((speech(3.0), np.zeros((RATE_HZ, 2), np.int16)))
    return opus_units(samples, starts_ns=STARTS_NS, application=application, bits_per_s=bits_per_s)


def test_without_an_input_every_output_gets_what_it_got_before() -> None:
    units = avatar()
    made = make(RowMixer(np.zeros((2, 0), np.float32)), units)
    assert len(made[OPUS]) == len(units)
    assert all(a is b for a, b in zip(made[OPUS], units, strict=True))
    transcoder = AacTranscoder(128_000)
    before = [frame for unit in units for frame in transcoder.push(unit)] + transcoder.flush()
    assert [(unit.pts_ns, unit.payload) for unit in made[AAC]] == [(unit.pts_ns, unit.payload) for unit in before]


def test_an_input_is_heard_at_its_time_in_every_coding() -> None:
    at_s = [1.5, 2.2345, 3.0]
    question = (clicks(5.0, at_s).T / np.float32(32_768)).astype(np.float32)
    silent = opus_units(np.zeros((4 * RATE_HZ, 2), np.int16), starts_ns=STARTS_NS)
    made = make(RowMixer(question), silent)
    heard, starts_s = decode_opus(made[OPUS])
    assert click_times_s(heard[0], starts_s) == pytest.approx(at_s, abs=0.001)
    assert click_times_s(*decode_aac(made[AAC])) == pytest.approx(at_s, abs=0.001)


def errors(mixer: RowMixer, units: Sequence[AccessUnit]) -> NDArray[np.float64]:
    """How far a far end's sound is from the mix at most, in windows of 2.5 ms from the first packet on."""
    heard, starts_s = decode_opus(units)
    assert mixer.starts_ns is not None
    mix = np.concatenate(mixer.mixed, axis=1)[:, mixer.look_ahead_samples :]
    skipped = round((starts_s - mixer.starts_ns / NS_PER_S) * RATE_HZ)
    n_windows = min(heard.shape[1], mix.shape[1] - skipped) // WINDOW
    difference = heard[0, : n_windows * WINDOW] - mix[0, skipped : skipped + n_windows * WINDOW]
    return np.abs(difference.astype(np.float64)).reshape(n_windows, WINDOW).max(axis=1)


@pytest.mark.parametrize(("application", "bits_per_s"), [("voip", 32_000), ("audio", 32_000), ("audio", 96_000)])
def test_a_far_end_hears_no_joint_where_an_input_sets_in_while_the_avatar_speaks(
    application: str, bits_per_s: int
) -> None:
    mixer = RowMixer(put(tone(0.8), 2.013))
    units = avatar(application, bits_per_s)
    made = make(mixer, units)[OPUS]
    own = [index for index, unit in enumerate(made) if not any(unit is other for other in units)]
    found = errors(mixer, made)
    per_packet = 960 // WINDOW
    first = own[0] * per_packet
    assert found[2 : first - 4].max() < 1e-4, "before it, the avatar's own packets"
    joint, steady = found[first - 4 : first + 2 * per_packet].max(), found[first + 4 * per_packet : first + 300].max()
    heard, _ = decode_opus(made)
    steps = np.abs(np.diff(heard[0]))
    step = steps[first * WINDOW - 480 : first * WINDOW + 480].max()
    elsewhere = steps[first * WINDOW + 1_920 : first * WINDOW + 36_000].max()
    print(f"{application} {bits_per_s}: error {joint:.4f}, later {steady:.4f}; step {step:.4f}, later {elsewhere:.4f}")
    # A far decoder goes from SILK to CELT in 5 ms of concealment (RFC 6716 §4.5); CELT follows CELT without any.
    assert joint <= (steady if bits_per_s == 96_000 else 4 * steady)
    assert step <= elsewhere


@pytest.mark.parametrize(("application", "bits_per_s"), [("voip", 32_000), ("audio", 96_000)])
def test_the_avatar_s_packets_come_back_in_its_pause_and_nobody_hears_where(application: str, bits_per_s: int) -> None:
    mixer = RowMixer(put(tone(0.3), 1.5))
    units = avatar(application, bits_per_s)
    made = make(mixer, units)[OPUS]
    kept = [unit for unit in made if any(unit is other for other in units)]
    own = [unit for unit in made if not any(unit is other for other in units)]
    assert 1.46 * NS_PER_S < own[0].pts_ns <= 1.5 * NS_PER_S
    back_ns = next(unit.pts_ns for unit in kept if unit.pts_ns > own[-1].pts_ns)
    assert 2.8 < back_ns / NS_PER_S < 4.3, "a second after the input, as soon as the avatar is silent"
    assert 0.9 <= (back_ns - own[-1].pts_ns) / (20 * NS_PER_MS) <= 1.5
    found = errors(mixer, made)
    joint = made.index(next(unit for unit in kept if unit.pts_ns == back_ns)) * 960 // WINDOW
    assert found[joint - 4 : joint + 24].max() < 0.003
    assert found[joint + 200 :].max(initial=0.0) < 0.003


def test_outputs_share_one_mix_and_an_encode_for_each_bit_rate() -> None:
    mixer = RowMixer(put(tone(0.5), 1.5))
    renditions = [OPUS, Rendition(Codec.OPUS, 64_000), AAC, Rendition(Codec.AAC, 64_000), OPUS]
    made = make(mixer, avatar(), renditions)
    assert len(mixer.mixed) == pytest.approx(4.0 / 0.02, abs=3)
    assert len(made) == 4
    sizes = {rendition: sum(len(unit.payload) for unit in units) for rendition, units in made.items()}
    assert sizes[OPUS] > sizes[Rendition(Codec.OPUS, 64_000)]
    assert [unit.pts_ns for unit in made[OPUS]] == [unit.pts_ns for unit in made[Rendition(Codec.OPUS, 64_000)]]


def test_sound_waits_until_the_inputs_are_ready() -> None:
    mixer = RowMixer(np.zeros((2, 0), np.float32))
    units = avatar()
    sound = MixedSound(mixer, lambda: [OPUS])
    mixer.ready_until_ns = units[10].pts_ns
    assert len(sound.push_all(units)) in (8, 9)
    mixer.ready_until_ns = units[20].pts_ns
    assert [unit for _, unit in sound.push_all(())][-1] in (units[18], units[19])


def test_an_output_that_joins_while_an_input_is_used_hears_it_from_its_first_packet_on() -> None:
    mixer = RowMixer(put(tone(2.0), 1.5))
    wanted: list[Rendition] = []
    sound = MixedSound(mixer, lambda: wanted)
    units = avatar()
    assert sound.push_all(units[:100]) == []
    wanted.append(OPUS)
    late = [unit for _, unit in sound.push_all(units[100:])]
    heard, _ = decode_opus(late)
    assert np.abs(heard[:, 960:1_920]).max() > 0.08


def test_an_avatar_without_sound_leaves_inputs_to_be_heard() -> None:
    stand_ins = [AccessUnit(Codec.OPUS, b"", STARTS_NS + n * 100 * NS_PER_MS, 100 * NS_PER_MS) for n in range(40)]
    made = make(RowMixer(put(tone(0.5), 2.0)), stand_ins)
    heard, starts_s = decode_opus(made[OPUS])
    assert 1.89 <= starts_s < 2.0
    assert np.abs(heard[:, 9_600:19_200]).max() > 0.08
    assert len(made[AAC]) > 170


def test_a_gap_too_long_to_fill_is_left_open() -> None:
    units = avatar()
    later = [
        AccessUnit(Codec.OPUS, unit.payload, unit.pts_ns + 20 * NS_PER_S, unit.duration_ns, arrival_ns=1)
        for unit in units
    ]
    made = make(RowMixer(put(tone(0.5), 4.5)), units + later)
    assert len(made[OPUS]) == pytest.approx(2 * len(units), abs=3)
    before = sum(unit.pts_ns < 20 * NS_PER_S for unit in made[AAC])
    assert before == pytest.approx(4.0 * RATE_HZ / 1024, abs=2)


def test_positions_are_the_same_in_both_codings_after_hours() -> None:
    at_s = 4 * 3600 + 1.25
    starts_ns = 4 * 3600 * NS_PER_S
    silent = opus_units(np.zeros((2 * RATE_HZ, 2), np.int16), starts_ns=starts_ns)

    class LateMixer(RowMixer):
        def mix(self, starts_ns: int, sound: Samples) -> tuple[Samples, bool]:
            return super().mix(starts_ns - 4 * 3600 * NS_PER_S, sound)

    question = (clicks(2.0, [1.25]).T / np.float32(32_768)).astype(np.float32)
    made = make(LateMixer(question), silent)
    heard, starts_s = decode_opus(made[OPUS])
    assert click_times_s(heard[0], starts_s) == pytest.approx([at_s], abs=0.001)
    assert click_times_s(*decode_aac(made[AAC])) == pytest.approx([at_s], abs=0.001)
