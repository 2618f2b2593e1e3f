"""Every decoder there may be: the system's libopus, the one inside the package av, and what makes do without."""

import ctypes
import gc
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bridge.media.clock import OPUS_CLOCK_HZ, ns_to_ticks
from bridge.media.libopus import Libopus, LibopusDecoder, find_libopus, load_libopus, system_libopus, wheel_libopus
from bridge.media.opus import PRE_SKIP_SAMPLES, packet_duration_ns, redundancy_ns
from bridge.media.opus_decoder import LONGEST_SAMPLES, STEP_SAMPLES, BrokenPacket, OpusDecoder
from bridge.media.opus_sound import open_decoder
from bridge.media.pitch_repeat import PitchRepeatDecoder
from bridge.outputs import audio
from tests.unit.media.speech import speech
from tests.unit.outputs.coded_media import clicks, opus_units

Make = Callable[[], OpusDecoder]


def system() -> LibopusDecoder:
    try:
        return LibopusDecoder(system_libopus())
    except OSError:
        pytest.skip("the system has no libopus")


def wheel() -> LibopusDecoder:
    try:
        return LibopusDecoder(wheel_libopus())
    except OSError:
        pytest.skip("the package av brings no libopus")


every_libopus = pytest.mark.parametrize("make", [system, wheel])
every_decoder = pytest.mark.parametrize("make", [system, wheel, PitchRepeatDecoder])


def packets(**options: object) -> list[bytes]:
    return [unit.payload for unit in opus_units(speech(1.0), **options)]  # type: ignore[arg-type]


@every_decoder
@pytest.mark.parametrize("application", ["voip", "audio"])
def test_a_decoder_is_late_by_the_look_ahead_of_the_encoder_and_no_more(make: Make, application: str) -> None:
    decoder = make()
    sound = clicks(1.0, [0.5])
    heard = np.concatenate([decoder.decode(u.payload) for u in opus_units(sound, application=application)], axis=1)
    assert heard.shape == (2, 48_000)
    likeness = np.correlate(heard[0], sound[23_900:24_200, 0].astype(np.float32), "valid")
    assert int(np.argmax(likeness)) - 23_900 == pytest.approx(PRE_SKIP_SAMPLES, abs=2)


@every_decoder
@pytest.mark.parametrize("n_packet_samples", [480, 960, 2880])
def test_a_packet_gives_as_many_samples_as_it_lasts(make: Make, n_packet_samples: int) -> None:
    decoder = make()
    for packet in packets(n_packet_samples=n_packet_samples, layout="mono")[:10]:
        assert decoder.decode(packet).shape == (2, n_packet_samples)


@every_decoder
@pytest.mark.parametrize("n_samples", [STEP_SAMPLES, 960, 4_800, LONGEST_SAMPLES])
def test_what_is_made_up_is_as_long_as_asked(make: Make, n_samples: int) -> None:
    decoder = make()
    for packet in packets()[:20]:
        decoder.decode(packet)
    made_up = decoder.make_up(n_samples)
    assert made_up.shape == (2, n_samples)
    assert made_up.dtype == np.float32


@every_decoder
def test_before_the_first_packet_nothing_is_made_up_but_silence(make: Make) -> None:
    assert not make().make_up(960).any()


@every_decoder
@pytest.mark.parametrize("broken", [b"\xff", b"\x03", b"", bytes([0x4B, 7]) + bytes(9)])
def test_a_broken_packet_is_told_and_the_next_one_decoded(make: Make, broken: bytes) -> None:
    decoder = make()
    with pytest.raises(BrokenPacket):
        decoder.decode(broken)
    assert decoder.decode(packets()[0]).shape == (2, 960)


@every_decoder
def test_after_a_reset_a_decoder_is_as_new(make: Make) -> None:
    used, new = make(), make()
    coded = packets()
    for packet in coded[:25]:
        used.decode(packet)
    used.make_up(960)
    used.reset()
    assert all(np.array_equal(used.decode(packet), new.decode(packet)) for packet in coded)


@every_libopus
def test_in_band_fec_restores_what_was_lost(make: Callable[[], LibopusDecoder]) -> None:
    coded = packets(expected_loss_percent=20, bits_per_s=32_000)
    lossy, whole = make(), make()
    shares = []
    for number, packet in enumerate(coded[:-1]):
        original = whole.decode(packet)
        follows = coded[number + 1]
        if number % 5 == 4 and (n := ns_to_ticks(redundancy_ns(follows), OPUS_CLOCK_HZ)):
            restored = lossy.restore(follows, n)
            assert restored.shape == (2, 960)
            if np.square(original).mean() > 1e-4:
                shares.append(np.square(restored - original).mean() / np.square(original).mean())
        else:
            lossy.decode(packet)
    assert len(shares) >= 5
    # A coarser copy of the same sound, where silence would leave an error of 1.
    assert np.median(shares) < 0.5


@every_libopus
@pytest.mark.parametrize("n_samples", [0, -960, 100, LONGEST_SAMPLES + STEP_SAMPLES])
def test_libopus_is_never_asked_for_more_than_its_buffer_holds(
    make: Callable[[], LibopusDecoder], n_samples: int
) -> None:
    decoder = make()
    with pytest.raises(ValueError, match="not made up in one step"):
        decoder.make_up(n_samples)
    with pytest.raises(ValueError, match="not made up in one step"):
        decoder.restore(packets()[0], n_samples)
    with pytest.raises(BrokenPacket):
        decoder.restore(b"", 960)


def some_packet(rng: random.Random, coded: list[bytes]) -> bytes:
    """Anything: random bytes, or a good packet that was cut, changed, or had something put behind it."""
    if rng.random() < 0.4:
        return rng.randbytes(rng.choice((1, 2, 3, rng.randrange(1, 60), rng.randrange(1, 1_500))))
    packet = bytearray(rng.choice(coded))
    for _ in range(rng.randrange(4)):
        packet[rng.randrange(min(len(packet), 8))] = rng.randrange(256)
    if rng.random() < 0.3:
        packet = packet[: rng.randrange(1, len(packet) + 1)]
    return bytes(packet)


def exercise(decoder: OpusDecoder, n_executions: int, seed: int) -> None:
    rng = random.Random(seed)
    coded = packets(expected_loss_percent=20, bits_per_s=24_000, layout="mono") + packets(bits_per_s=16_000)
    for _ in range(n_executions):
        packet = some_packet(rng, coded)
        what = rng.random()
        try:
            if what < 0.8:
                sound = decoder.decode(packet)
                assert sound.shape[1] == ns_to_ticks(packet_duration_ns(packet), OPUS_CLOCK_HZ) > 0
            elif what < 0.9:
                sound = decoder.restore(packet, STEP_SAMPLES * rng.randint(1, LONGEST_SAMPLES // STEP_SAMPLES))
            elif what < 0.99:
                sound = decoder.make_up(STEP_SAMPLES * rng.randint(1, 8))
            else:
                decoder.reset()
                continue
        except BrokenPacket:
            continue
        assert sound.shape[0] == 2
        assert 0 < sound.shape[1] <= LONGEST_SAMPLES


@every_libopus
def test_whatever_arrives_libopus_gives_sound_or_says_that_the_packet_is_broken(
    make: Callable[[], LibopusDecoder],
) -> None:
    exercise(make(), 50_000, seed=1)


def test_the_flag_of_in_band_fec_is_read_as_libopus_reads_it() -> None:
    calls = wheel_libopus().calls
    has_fec = getattr(calls, "opus_packet_has_lbrr", None)
    if has_fec is None:
        pytest.skip("this libopus is older than 1.5")
    has_fec.argtypes, has_fec.restype = (ctypes.c_char_p, ctypes.c_int32), ctypes.c_int
    rng = random.Random(2)
    coded = packets(expected_loss_percent=20, bits_per_s=32_000)
    coded += packets(expected_loss_percent=20, bits_per_s=32_000, n_packet_samples=2880, layout="mono")
    answers = []
    for _ in range(20_000):
        packet = some_packet(rng, coded)
        answer = has_fec(packet, len(packet))
        if answer >= 0 and packet_duration_ns(packet):
            answers.append(answer)
            assert (redundancy_ns(packet) > 0) == answer, packet.hex()
    assert 2_000 < sum(answers) < len(answers) - 2_000


def test_the_system_s_libopus_comes_first_then_the_one_inside_av(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel()
    asked: list[str] = []

    def load(path: str, whose: str) -> object:
        asked.append(whose)
        raise OSError("no such library")

    monkeypatch.setattr("bridge.media.libopus.load_libopus", load)
    find_libopus.cache_clear()
    try:
        assert find_libopus() is None
        assert asked == ["system", "av"]
        assert open_decoder().name == "pitch repeat (no libopus)"
        transcoder = audio.AacTranscoder(128_000)
        assert transcoder.concealment == "pitch repeat (no libopus)"
    finally:
        find_libopus.cache_clear()


def test_a_decoder_says_which_library_it_is() -> None:
    assert wheel().name.startswith("libopus 1.")
    assert wheel().name.endswith(" (av)")
    assert open_decoder().name.startswith("libopus 1.")


def test_a_library_that_is_something_else_is_no_libopus(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is no libopus"):
        load_libopus("libc.so.6", "system")
    (tmp_path / "libopus.so.0").write_bytes(b"no library at all")
    with pytest.raises(OSError):
        load_libopus(str(tmp_path / "libopus.so.0"), "system")


@every_libopus
def test_a_decoder_that_nobody_needs_is_destroyed_once(make: Callable[[], LibopusDecoder]) -> None:
    destroyed: list[int] = []
    calls = make()._calls

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(calls, name)

        def opus_decoder_destroy(self, state: int) -> None:
            destroyed.append(state)
            calls.opus_decoder_destroy(state)

    decoder = LibopusDecoder(Libopus(Spy(), "spied", ""))  # type: ignore[arg-type]
    state = decoder._state
    decoder.decode(packets()[0])
    del decoder
    gc.collect()
    assert destroyed == [state]


def test_made_up_sound_of_the_fallback_repeats_the_pitch_and_meets_what_follows_without_a_step() -> None:
    # 150 Hz with overtones, as a held vowel: periods of 320 samples.
    at = np.arange(OPUS_CLOCK_HZ) / OPUS_CLOCK_HZ
    wave = sum(3_000 / k * np.sin(2 * np.pi * 150 * k * at) for k in (1, 2, 3))
    coded = [unit.payload for unit in opus_units(np.stack([wave, wave], axis=1).astype(np.int16))]
    decoder, whole = PitchRepeatDecoder(), PitchRepeatDecoder()
    original = np.concatenate([whole.decode(packet) for packet in coded[:30]], axis=1)
    heard = [decoder.decode(packet) for packet in coded[:25]]
    heard += [decoder.make_up(960), decoder.make_up(960)]
    heard += [decoder.decode(packet) for packet in coded[27:30]]
    sound = np.concatenate(heard, axis=1)
    lost = slice(25 * 960, 27 * 960)
    error = np.square(sound - original)[:, lost].mean() / np.square(original)[:, lost].mean()
    assert error < 0.1
    assert np.abs(np.diff(sound[0])).max() < 1.5 * np.abs(np.diff(original[0])).max()
