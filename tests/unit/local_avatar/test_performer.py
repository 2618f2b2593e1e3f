"""A performance on a clock of its own: what is delivered and when, and how sound and picture belong together."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import av
import numpy as np
import pytest

from bridge.errors import InternalError
from bridge.local_avatar.coding import H264Encoder
from bridge.local_avatar.performer import KEYFRAME_SPACING_NS, PerformanceOptions, Performer
from bridge.local_avatar.timecode import read_counter, read_stamp
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.h264 import avcc_to_annexb, parameter_sets, parse_sps

SMALL = PerformanceOptions(width_px=180, height_px=320)
BURST = np.rint(12_000 * np.sin(2 * np.pi * 300 * np.arange(24_000) / 24_000)).astype("<i2").tobytes()


class Show:
    """A performer on a clock that jumps to whatever it waits for, while `seconds` pass or until something is so.

    `crystal` is how many nanoseconds the performer's clock counts in one of ours.
    """

    def __init__(self, options: PerformanceOptions = SMALL, crystal: float = 1.0) -> None:
        self.now_ns = 1_000
        self._crystal = crystal
        self._until: Callable[[], bool] = lambda: False
        self.pictures: list[AccessUnit] = []
        self.sounds: list[AccessUnit] = []
        self.sounds_came_ns: list[int] = []
        self.at: dict[int, Callable[[], None]] = {}
        self._end_ns = 0
        self._done = asyncio.Event()
        self.performer = Performer(
            options, self.pictures.append, self._hear, now_ns=self._performers_ns, sleep=self._sleep
        )

    def _hear(self, unit: AccessUnit) -> None:
        self.sounds.append(unit)
        self.sounds_came_ns.append(self.now_ns)

    def _performers_ns(self) -> int:
        return round(self.now_ns * self._crystal)

    async def _sleep(self, duration_s: float) -> None:
        self.now_ns += max(1, round(duration_s * NS_PER_S))
        for due_ns in sorted(due_ns for due_ns in self.at if due_ns <= self.now_ns):
            self.at.pop(due_ns)()
        if self.now_ns >= self._end_ns or self._until():
            self._done.set()
            await asyncio.Event().wait()

    async def play(self, seconds: float, until: Callable[[], bool] = lambda: False) -> "Show":
        self._until = until
        self._end_ns = self.now_ns + round(seconds * NS_PER_S)
        tasks = {asyncio.create_task(self.performer.run()), done := asyncio.create_task(self._done.wait())}
        finished, unfinished = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        for task in finished:
            await task
        assert done in finished
        return self

    def decoded(self, first: int = 0, end: int | None = None) -> list[np.ndarray]:
        """Luma of every picture, or of some that are in one codec."""
        units = self.pictures[first:end]
        is_h264 = units[0].codec is Codec.H264
        decoder = av.VideoCodecContext.create(units[0].codec, "r")
        decoder.thread_count = 1
        packets = [
            av.Packet(avcc_to_annexb(unit.payload, unit.codec_config) if is_h264 else unit.payload) for unit in units
        ]
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        return [frame.to_ndarray()[: frame.height] for frame in frames]

    def heard(self) -> list[np.ndarray]:
        """Samples of every packet at 48 kHz, in -1..1."""
        decoder = av.AudioCodecContext.create("libopus", "r")
        decoder.sample_rate, decoder.layout = 48_000, "mono"
        frames = [frame for unit in self.sounds for frame in decoder.decode(av.Packet(unit.payload))]
        return [frame.to_ndarray().ravel().astype(float) / 32768 for frame in frames]


def keyframes(show: Show) -> list[int]:
    return [index for index, unit in enumerate(show.pictures) if unit.is_keyframe]


@pytest.mark.parametrize("fps", [25, 30])
async def test_pictures_and_packets_are_stamped_on_one_exact_clock(fps: int) -> None:
    show = await Show(PerformanceOptions(width_px=180, height_px=320, fps=fps)).play(1)
    assert [unit.pts_ns for unit in show.pictures] == [index * NS_PER_S // fps for index in range(fps)]
    assert [unit.pts_ns for unit in show.sounds] == [index * 20 * NS_PER_MS for index in range(50)]


@pytest.mark.parametrize("crystal", [1 + 500e-6, 1 - 500e-6])
async def test_a_fast_clock_makes_the_media_gain_on_true_time_and_skips_nothing(crystal: float) -> None:
    show = await Show(crystal=crystal).play(20)
    media_ns = show.sounds[-1].pts_ns - show.sounds[0].pts_ns
    true_ns = show.sounds_came_ns[-1] - show.sounds_came_ns[0]
    # A sleep of 20 ms is wrong by 10 us on such a clock: 1 ppm of 20 s is twice as much.
    assert media_ns / true_ns == pytest.approx(crystal, abs=1e-6)
    assert show.performer.skipped_pictures == 0
    assert [unit.pts_ns for unit in show.pictures] == [index * NS_PER_S // 25 for index in range(len(show.pictures))]


async def test_only_the_first_picture_is_a_keyframe_unless_asked() -> None:
    show = await Show().play(3)
    assert keyframes(show) == [0]
    assert all(bool(unit.codec_config) == unit.is_keyframe for unit in show.pictures)


async def test_a_request_makes_the_next_picture_a_keyframe() -> None:
    show = Show()
    show.at[NS_PER_S + 1_001] = show.performer.request_keyframe
    await show.play(2)
    (_, asked) = keyframes(show)
    assert 0 < show.pictures[asked].pts_ns - NS_PER_S <= 40 * NS_PER_MS


async def test_a_burst_of_requests_is_answered_at_a_bounded_rate() -> None:
    show = Show()
    for step in range(50):
        show.at[step * 20 * NS_PER_MS + 1_001] = show.performer.request_keyframe
    await show.play(1)
    times = [show.pictures[index].pts_ns for index in keyframes(show)]
    assert min(np.diff(times)) >= KEYFRAME_SPACING_NS
    assert len(times) == 5


async def test_the_mouth_moves_with_the_packets_that_hold_the_speech() -> None:
    show = Show(PerformanceOptions(width_px=360, height_px=640, bits_per_s=4_000_000))
    show.at[NS_PER_S + 1_000] = lambda: show.performer.speak(BURST)
    await show.play(2.8)
    loud = [unit.pts_ns for unit, sound in zip(show.sounds, show.heard(), strict=True) if np.abs(sound).max() > 0.1]
    mouths = np.array([luma[322:370, 145:215] for luma in show.decoded()]).astype(int)
    activity = np.abs(mouths - mouths[10]).mean(axis=(1, 2))
    opened = [unit.pts_ns for unit, value in zip(show.pictures, activity, strict=True) if value > 12]
    assert loud[0] - 40 * NS_PER_MS <= opened[0] <= loud[0] + 80 * NS_PER_MS
    assert loud[-1] - 80 * NS_PER_MS <= opened[-1] <= loud[-1] + 300 * NS_PER_MS


async def test_every_picture_carries_its_number_and_the_end_of_its_encoding() -> None:
    show = await Show(PerformanceOptions(width_px=360, height_px=640, timecode=True)).play(1)
    assert [read_counter(luma) for luma in show.decoded()] == list(range(25))
    assert [read_stamp(unit.payload) for unit in show.pictures] == [
        (index, unit.arrival_ns) for index, unit in enumerate(show.pictures)
    ]


async def test_flash_and_beep_come_with_the_same_stamp() -> None:
    show = await Show(PerformanceOptions(width_px=180, height_px=320, flash=True)).play(2.5)
    white = [unit.pts_ns for unit, luma in zip(show.pictures, show.decoded(), strict=True) if luma.mean() > 220]
    assert white == [NS_PER_S, 2 * NS_PER_S]
    envelope = np.abs(np.concatenate(show.heard()))
    first = int(np.argmax(envelope > envelope.max() / 2))
    # 312 samples of Opus look-ahead belong to every WebRTC sender's stream; 1 ms for the rise of the coded sine.
    assert first - 312 == pytest.approx(48_000, abs=48)


async def test_a_late_machine_skips_pictures_and_stays_on_the_clock() -> None:
    show = Show()

    def lose_time() -> None:
        show.now_ns += 130 * NS_PER_MS

    show.at[NS_PER_S + 1_000] = lose_time
    await show.play(2)
    assert show.performer.skipped_pictures == 3
    assert len(show.pictures) == 50 - 3
    assert len(show.sounds) == 100
    assert show.pictures[-1].pts_ns == NS_PER_S * 49 // 25


async def test_a_machine_that_was_stopped_skips_sound_too() -> None:
    show = Show()

    def stop() -> None:
        show.now_ns += 5 * NS_PER_S

    show.at[NS_PER_S + 1_000] = stop
    await show.play(7)
    assert len(show.sounds) < 110
    assert show.sounds[-1].pts_ns == pytest.approx(7 * NS_PER_S, abs=21 * NS_PER_MS)


async def test_a_pause_delivers_nothing_and_ends_with_a_keyframe_on_the_same_clock() -> None:
    show = Show()
    show.at[NS_PER_S + 1_001] = lambda: setattr(show.performer, "paused", True)
    show.at[2 * NS_PER_S + 1_001] = lambda: setattr(show.performer, "paused", False)
    await show.play(3)
    times = [unit.pts_ns for unit in show.pictures]
    gap = int(np.argmax(np.diff(times)))
    assert times[gap + 1] - times[gap] == pytest.approx(NS_PER_S, abs=80 * NS_PER_MS)
    assert keyframes(show) == [0, gap + 1]
    assert times[-1] == NS_PER_S * 74 // 25


async def changed(options: PerformanceOptions, to: PerformanceOptions) -> tuple[Show, int]:
    """A show that changed after a second and went on for 10 pictures, and which of them was the first changed one."""
    show = Show(options)
    show.at[NS_PER_S + 1_001] = lambda: show.performer.change(to)
    await show.play(60, until=lambda: len(keyframes(show)) > 1 and keyframes(show)[1] == len(show.pictures) - 10)
    return show, keyframes(show)[1]


CHANGES = {
    "size": replace(SMALL, width_px=200, height_px=320),
    "profile": replace(SMALL, profile="high"),
    "codec": replace(SMALL, codec=Codec.VP8),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_comes_with_a_keyframe_and_no_gap_in_pictures_or_sound(change: str) -> None:
    show, first = await changed(SMALL, CHANGES[change])
    assert first > 25
    assert keyframes(show) == [0, first]
    assert [unit.pts_ns for unit in show.pictures] == [index * NS_PER_S // 25 for index in range(first + 10)]
    assert [unit.pts_ns for unit in show.sounds] == [index * 20 * NS_PER_MS for index in range(len(show.sounds))]
    assert show.performer.skipped_pictures == 0


async def test_a_change_of_size_is_seen_in_the_decoded_pictures() -> None:
    show, first = await changed(SMALL, CHANGES["size"])
    assert {luma.shape for luma in show.decoded(0, first)} == {(320, 180)}
    assert {luma.shape for luma in show.decoded(first)} == {(320, 200)}


async def test_a_change_of_profile_leaves_the_size() -> None:
    show, first = await changed(SMALL, CHANGES["profile"])
    before, after = (parse_sps(parameter_sets(show.pictures[index].codec_config)[0][0]) for index in (0, first))
    assert (before.profile_idc, after.profile_idc) == (66, 100)
    assert (before.width_px, before.height_px) == (after.width_px, after.height_px)


async def test_a_change_of_codec_is_a_stream_of_its_own() -> None:
    show, first = await changed(replace(SMALL, codec=Codec.VP8), SMALL)
    assert [unit.codec for unit in show.pictures] == [Codec.VP8] * first + [Codec.H264] * 10
    assert len(show.decoded(0, first)) == first
    assert len(show.decoded(first)) == 10


async def test_the_face_goes_on_through_a_change_as_if_there_had_been_none() -> None:
    show, first = await changed(SMALL, CHANGES["profile"])
    undisturbed = await Show().play((first + 10) / 25)
    for one, other in zip(show.decoded(first), undisturbed.decoded()[first:], strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2


async def test_a_change_leaves_no_encoder_behind() -> None:
    gc.collect()
    show, encoders = Show(), list[weakref.ref[H264Encoder]]()

    def change() -> None:
        encoders.extend(weakref.ref(thing) for thing in gc.get_objects() if isinstance(thing, H264Encoder))
        show.performer.change(CHANGES["codec"])

    show.at[NS_PER_S + 1_001] = change
    await show.play(60, until=lambda: len(keyframes(show)) > 1)
    assert encoders
    assert not any(encoder() for encoder in encoders)


async def test_a_change_of_frame_rate_is_refused() -> None:
    with pytest.raises(InternalError, match="25"):
        Show().performer.change(replace(SMALL, fps=30))


async def test_vp8_carries_its_number_in_the_picture_alone() -> None:
    show = await Show(PerformanceOptions(width_px=360, height_px=640, timecode=True, codec=Codec.VP8)).play(1)
    assert [read_counter(luma) for luma in show.decoded()] == list(range(25))
    assert {read_stamp(unit.payload) for unit in show.pictures} == {None}
    assert keyframes(show) == [0]
    assert not any(unit.codec_config for unit in show.pictures)


async def test_it_speaks_when_told_and_stops_when_told() -> None:
    show = Show()
    show.at[500 * NS_PER_MS] = lambda: show.performer.speak(BURST)
    show.at[1100 * NS_PER_MS] = show.performer.stop_speaking
    await show.play(1.5)
    loud_s = [
        unit.pts_ns / NS_PER_S
        for unit, sound in zip(show.sounds, show.heard(), strict=True)
        if np.abs(sound).max() > 0.1
    ]
    assert 0.5 <= loud_s[0] <= 0.7
    assert 1.0 <= loud_s[-1] <= 1.2


async def test_more_than_it_can_keep_is_counted() -> None:
    performer = Show().performer
    performer.speak(bytes(2 * 24_000 * 61))
    assert performer.dropped_speech_s == 1.0


async def test_listening_changes_the_face() -> None:
    idle, attentive = Show(), Show()
    attentive.performer.attend("listening")
    await idle.play(1)
    await attentive.play(1)
    assert np.abs(idle.decoded()[-1].astype(int) - attentive.decoded()[-1]).max() > 20


async def test_it_is_speaking_from_the_first_sample_queued_to_the_last_one_said() -> None:
    show = Show()
    claims: list[bool] = []
    for at_ms in (400, 700, 1400, 1700):
        show.at[at_ms * NS_PER_MS] = lambda: claims.append(show.performer.is_speaking)
    show.at[500 * NS_PER_MS] = lambda: show.performer.speak(BURST)
    await show.play(2)
    assert claims == [False, True, True, False]
