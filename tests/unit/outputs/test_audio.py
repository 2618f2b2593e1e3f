"""Opus to AAC: sound stays where the avatar's encoder heard it."""

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.opus import SILENCE_20_MS
from bridge.media.opus_sound import MAX_FILL_NS
from bridge.outputs.aac import AAC_FRAME_SAMPLES
from bridge.outputs.audio import AacTranscoder, OpusToAac
from tests.unit.outputs.coded_media import click_times_s, clicks, decode_aac, opus_units, pictures, without

CLICKS_S = [0.3, 0.77, 1.2345, 1.8]


def transcode(units: list[AccessUnit]) -> list[AccessUnit]:
    transcoder = AacTranscoder(128_000)
    ready = [frame for unit in units for frame in transcoder.push(unit)] + transcoder.flush()
    assert all(unit.pts_ns >= 0 for unit in ready)
    assert all(later.pts_ns > earlier.pts_ns for earlier, later in itertools.pairwise(ready))
    return ready


def heard_s(units: list[AccessUnit]) -> list[float]:
    return click_times_s(*decode_aac(units))


@pytest.mark.parametrize("application", ["voip", "audio"])
@pytest.mark.parametrize("starts_s", [0.0, 7.003])
def test_a_click_is_heard_within_a_millisecond_of_where_the_sender_heard_it(application: str, starts_s: float) -> None:
    units = opus_units(clicks(2.0, CLICKS_S), starts_ns=round(starts_s * NS_PER_S), application=application)

    assert heard_s(transcode(units)) == pytest.approx([starts_s + at for at in CLICKS_S], abs=0.001)


@pytest.mark.parametrize("n_packet_samples", [480, 960, 1920, 2880])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_every_packet_length_and_both_channel_counts_are_taken(n_packet_samples: int, layout: str) -> None:
    units = opus_units(clicks(2.0, CLICKS_S), n_packet_samples=n_packet_samples, layout=layout)

    assert heard_s(transcode(units)) == pytest.approx(CLICKS_S, abs=0.001)


def test_frames_are_exact_in_length_and_carry_their_configuration() -> None:
    frames = transcode(opus_units(clicks(1.0, [0.5]), starts_ns=NS_PER_S))

    assert {frame.codec for frame in frames} == {Codec.AAC}
    # ISO 14496-3 §1.6.2.1: object type 2, frequency index 3, two channels.
    assert {frame.codec_config[:2] for frame in frames} == {b"\x11\x90"}
    assert all(b.pts_ns == a.pts_ns + a.duration_ns for a, b in itertools.pairwise(frames))
    assert frames[0].duration_ns == pytest.approx(AAC_FRAME_SAMPLES / 48_000 * NS_PER_S, abs=1)


@pytest.mark.parametrize("lost", [slice(20, 21), slice(20, 25), slice(30, 80)])
def test_lost_packets_become_silence_and_what_follows_stays_in_place(lost: slice) -> None:
    units = opus_units(clicks(2.0, [0.2, 1.9]))
    del units[lost]

    frames = transcode(units)

    assert heard_s(frames) == pytest.approx([0.2, 1.9], abs=0.001)
    assert all(b.pts_ns == a.pts_ns + a.duration_ns for a, b in itertools.pairwise(frames))


def test_a_lost_short_packet_is_filled_when_the_next_unit_says_so() -> None:
    units = without(opus_units(clicks(2.0, [0.2, 1.0]), n_packet_samples=480), [49])

    assert heard_s(transcode(units)) == pytest.approx([0.2, 1.0], abs=0.0005)


def test_a_gap_too_long_to_fill_is_left_open() -> None:
    before = opus_units(clicks(1.0, [0.5]))
    after_ns = 2 * NS_PER_S + MAX_FILL_NS
    after = opus_units(clicks(1.0, [0.5]), starts_ns=after_ns)

    frames = transcode(before + after)

    assert len(frames) < 110
    assert heard_s(frames) == pytest.approx([0.5, after_ns / NS_PER_S + 0.5], abs=0.001)


def test_surplus_sound_is_cut() -> None:
    units = opus_units(clicks(2.0, [0.2, 1.9]))
    repeated = [replace(unit, pts_ns=unit.pts_ns + 1) for unit in units[20:25]]

    assert heard_s(transcode(units[:25] + repeated + units[25:])) == pytest.approx([0.2, 1.9], abs=0.001)


def tone(duration_s: float) -> np.ndarray:
    wave = 8_000 * np.sin(2 * np.pi * 440 * np.arange(round(duration_s * 48_000)) / 48_000)
    return np.stack([wave, wave], axis=1).astype(np.int16)


def largest_step(units: list[AccessUnit]) -> float:
    """Of a 440 Hz tone of amplitude 0.244, steady part: 0.014 by itself; a crack is far above."""
    samples, _ = decode_aac(units)
    return float(np.abs(np.diff(samples[9_600:-9_600])).max())


def test_jitter_of_the_stamps_makes_no_crack() -> None:
    rng = np.random.default_rng(7)
    units = opus_units(tone(3.0), starts_ns=NS_PER_S)
    jittered = [replace(u, pts_ns=u.pts_ns + int(rng.integers(-9, 10)) * NS_PER_MS) for u in units]

    assert largest_step(transcode(jittered)) < 0.02


@pytest.mark.parametrize("slew", [-5e-3, 5e-3])
def test_a_slewing_timeline_is_followed_without_a_crack(slew: float) -> None:
    steady = opus_units(tone(4.0), starts_ns=NS_PER_S)
    slewed = [replace(u, pts_ns=u.pts_ns + round((u.pts_ns - NS_PER_S) * slew)) for u in steady]

    frames = transcode(slewed)

    assert largest_step(frames) < 0.02
    assert frames[-1].pts_ns == pytest.approx(slewed[-1].pts_ns, abs=45 * NS_PER_MS)


def test_the_position_is_right_after_slewing() -> None:
    units = opus_units(clicks(4.0, [0.5, 3.9]), starts_ns=NS_PER_S)
    slewed = [replace(u, pts_ns=u.pts_ns + round((u.pts_ns - NS_PER_S) * 5e-3)) for u in units]

    assert heard_s(transcode(slewed)) == pytest.approx([1.5 + 0.5 * 5e-3, 4.9 + 3.9 * 5e-3], abs=0.0015)


@pytest.mark.parametrize("jump_ms", [-17, -3, 3, 12, 17, 45])
def test_sound_that_has_jumped_lies_where_it_belongs_at_once(jump_ms: int) -> None:
    """The same distance that stamps wander by takes two seconds to be followed."""
    units = opus_units(clicks(2.0, [0.5, 1.1]), starts_ns=NS_PER_S)
    moved = [replace(u, pts_ns=u.pts_ns + jump_ms * NS_PER_MS) for u in units[50:]]
    moved[0] = replace(moved[0], is_discontinuity=True)

    assert heard_s(transcode([*units[:50], *moved])) == pytest.approx([1.5, 2.1 + jump_ms / 1000], abs=0.0005)


def test_sound_that_breaks_off_fades_out() -> None:
    units = opus_units(tone(2.0), starts_ns=NS_PER_S)
    del units[40:50]

    assert largest_step(transcode(units)) < 0.03


@pytest.mark.parametrize("application", ["voip", "audio"])
@pytest.mark.parametrize("shift_ms", [0, -9, 9])
def test_silence_that_stands_in_for_sound_makes_no_crack_at_its_joints(application: str, shift_ms: int) -> None:
    units = opus_units(tone(2.0), starts_ns=NS_PER_S, application=application)
    # Silence fills from where sound ended, in whole packets: the sound behind it may lie half a packet off.
    units[40:60] = [replace(unit, payload=SILENCE_20_MS, arrival_ns=0) for unit in units[40:60]]
    units[60:] = [replace(unit, pts_ns=unit.pts_ns + shift_ms * NS_PER_MS) for unit in units[60:]]

    frames = transcode(units)

    assert largest_step(frames) < 0.02
    samples, starts_s = decode_aac(frames)
    middle = round((2.0 - starts_s) * 48_000)
    assert np.abs(samples[middle - 4_800 : middle + 4_800]).max() < 0.001


def test_silence_of_a_sender_is_no_concealment() -> None:
    # What Opus encoders make of digital silence is the very packet that stands in for missing sound.
    units = opus_units(clicks(1.0, []))
    assert SILENCE_20_MS in {unit.payload for unit in units}
    transcoder = AacTranscoder(128_000)
    transcoder.push_all(units)
    assert transcoder.sound.concealed_samples == 0


@pytest.mark.parametrize("broken", [b"\xff", b"\x03", b""])
def test_a_broken_packet_becomes_silence_and_is_counted(broken: bytes) -> None:
    units = opus_units(clicks(2.0, [0.2, 1.9]))
    units[50] = replace(units[50], payload=broken)
    transcoder = AacTranscoder(128_000)

    frames = [frame for unit in units for frame in transcoder.push(unit)] + transcoder.flush()

    assert transcoder.sound.broken_packets == (1 if broken else 0)
    assert heard_s(frames) == pytest.approx([0.2, 1.9], abs=0.001)


async def test_a_session_s_sound_is_transcoded_in_order_and_to_its_end() -> None:
    frames: list[AccessUnit] = []
    sound = OpusToAac(frames.append, 128_000)
    for unit in opus_units(clicks(1.5, [0.3, 1.2])):
        sound.put(unit)
    sound.finish()

    await sound.run()

    assert heard_s(frames) == pytest.approx([0.3, 1.2], abs=0.001)


async def test_sound_waits_for_no_more_than_four_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, taken = asyncio.get_running_loop(), asyncio.Event()
    push_all = AacTranscoder.push_all

    def spy(transcoder: AacTranscoder, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        loop.call_soon_threadsafe(taken.set)
        return push_all(transcoder, units)

    monkeypatch.setattr(AacTranscoder, "push_all", spy)
    sound = OpusToAac(lambda unit: None, 128_000)
    task = asyncio.create_task(sound.run())
    for unit in opus_units(clicks(0.08, [])):
        sound.put(unit)
    async with asyncio.timeout(10):
        await taken.wait()
    sound.finish()
    await task


async def test_silence_follows_the_pictures_of_an_avatar_without_sound() -> None:
    frames: list[AccessUnit] = []
    sound = OpusToAac(frames.append, 128_000)
    for unit in pictures(50, starts_ns=NS_PER_S, width_px=64, height_px=64):
        sound.put(unit)
    sound.finish()

    await sound.run()

    assert sound.repairs.concealed_s == 0.0  # nothing was lost
    # The last picture starts at 2.96 s.
    assert frames[0].pts_ns < NS_PER_S
    assert 2.3 < frames[-1].pts_ns / NS_PER_S < 2.5


async def test_sound_that_returns_after_silence_is_in_place() -> None:
    frames: list[AccessUnit] = []
    sound = OpusToAac(frames.append, 128_000)
    first = opus_units(clicks(0.5, [0.3]))
    later = opus_units(clicks(0.5, [0.2]), starts_ns=1_400_000_000)
    for unit in sorted(first + later + pictures(47, width_px=64, height_px=64), key=lambda unit: unit.pts_ns):
        sound.put(unit)
    sound.finish()

    await sound.run()

    assert heard_s(frames) == pytest.approx([0.3, 1.6], abs=0.001)
    assert all(b.pts_ns == a.pts_ns + a.duration_ns for a, b in itertools.pairwise(frames))


async def test_a_thread_that_cannot_keep_up_loses_the_oldest_sound_and_counts_it() -> None:
    frames: list[AccessUnit] = []
    sound = OpusToAac(frames.append, 128_000)
    for unit in opus_units(clicks(3.0, [2.5])):
        sound.put(unit)
    sound.finish()

    await sound.run()

    assert sound.dropped_units == 50
    assert frames[0].pts_ns / NS_PER_S == pytest.approx(1.0, abs=0.03)
    assert heard_s(frames) == pytest.approx([2.5], abs=0.001)


async def test_the_rounds_of_all_sessions_begin_together(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, began_s = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def spy(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        began_s.append(when)
        return call_at(when, *arguments, **options)

    monkeypatch.setattr(loop, "call_at", spy)
    monkeypatch.setattr(loop, "time", lambda: 100.03)
    first, second = (OpusToAac(lambda unit: None, 128_000) for _ in range(2))
    (unit, later) = opus_units(clicks(0.08, []))[:2]
    first.put(unit)
    monkeypatch.setattr(loop, "time", lambda: 100.07)
    second.put(unit)
    first.put(later)
    assert began_s == pytest.approx([100.08, 100.08])
