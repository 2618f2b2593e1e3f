"""Recordings, read back by PyAV and by ffprobe."""

import asyncio
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest

from bridge.config import OutputConfig, StorageConfig
from bridge.errors import ConfigError, OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import decoder_configuration, parameter_sets
from bridge.media.live_queue import LiveQueue
from bridge.outputs import container, open_output
from bridge.outputs.audio import AacTranscoder
from bridge.outputs.container import ContainerOutput, Rotation
from bridge.outputs.recording import CONTAINERS, OPUS_SHIFT_NS
from bridge.outputs.shelf import CountedFile, RecordingNames
from tests.unit.outputs.coded_media import (
    click_times_s,
    clicks,
    opus_units,
    pictures,
    with_changing_ids,
    with_sps_id,
    without,
)

SUFFIXES = list(CONTAINERS)
NOW = datetime(2026, 11, 20, 21, 5, 9, tzinfo=UTC)
# Session time 5.000 s: the first keyframe.
STARTS_NS = 5 * NS_PER_S


def session_media(codec: Codec) -> list[AccessUnit]:
    """Four seconds of pictures, bright at 1.0 and 2.4 s; sound from a second before, with clicks at those times."""
    sound = opus_units(clicks(5.0, [2.0, 3.4]), starts_ns=STARTS_NS - NS_PER_S)
    if codec is Codec.AAC:
        transcoder = AacTranscoder(128_000)
        sound = [frame for unit in sound for frame in transcoder.push(unit)] + transcoder.flush()
    video = pictures(100, starts_ns=STARTS_NS, flash_at=(25, 60), keyframe_every=50)
    return sorted([*video, *sound], key=lambda unit: unit.pts_ns)


@dataclass
class Listener:
    published: int = 0
    written: list[AccessUnit] = field(default_factory=list)
    on_unit: Callable[[AccessUnit], None] = lambda unit: None

    def on_published(self) -> None:
        self.published += 1

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)
        self.on_unit(unit)


def output(directory: Path, template: str, **options: object) -> ContainerOutput:
    return ContainerOutput(RecordingNames(directory, template), now=lambda: NOW, **options)  # type: ignore[arg-type]


class ExistingFile(RecordingNames):
    """Writes to what is there under the name: a device, a pipe."""

    def create(self, start: datetime) -> CountedFile:
        return CountedFile(self.directory / self.template, "wb")


async def record(recording: ContainerOutput, units: list[AccessUnit], listener: Listener | None = None) -> Listener:
    """Write units as fast as the disk takes them, and end the session."""
    listener = listener or Listener()
    queue = LiveQueue(3600.0)
    for unit in units:
        queue.put(unit)
    queue.finish()
    await recording.run(queue, listener)
    return listener


@dataclass
class ReadBack:
    flashes_s: list[float]
    clicks_s: list[float]
    picture_times_s: list[float]
    first_sound_s: float


def read_back(path: Path) -> ReadBack:
    flashes, times, sound = [], [], []
    with av.open(str(path)) as media:
        assert {stream.type for stream in media.streams} == {"video", "audio"}
        for frame in media.decode():
            assert not frame.is_corrupt
            if isinstance(frame, av.VideoFrame):
                times.append(frame.time)
                if frame.to_ndarray(format="gray")[120, 160] > 180:
                    flashes.append(frame.time)
            else:
                sound.append((frame.time, frame.to_ndarray()[0]))
    first_s = sound[0][0]
    samples = np.zeros(round((sound[-1][0] - first_s) * 48_000) + 4_096, np.float32)
    for time_s, block in sound:
        start = round((time_s - first_s) * 48_000)
        samples[start : start + len(block)] = block
    return ReadBack(flashes, click_times_s(samples, first_s), times, first_s)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def ffprobe(path: Path) -> dict[str, dict[str, str]]:
    """Streams by kind, all pictures and sound decoded by another FFmpeg than ours; it must have nothing to say."""
    if not shutil.which("ffprobe"):
        pytest.skip("ffprobe is not installed: apt-get install ffmpeg")
    probe = subprocess.run(
        ["ffprobe", "-v", "warning", "-count_frames", "-show_streams", "-of", "json", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert probe.stderr == ""
    return {stream["codec_type"]: stream for stream in json.loads(probe.stdout)["streams"]}


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_picture_and_sound_lie_where_the_session_had_them(suffix: str, tmp_path: Path) -> None:
    units = session_media(CONTAINERS[suffix].audio_codec)

    listener = await record(output(tmp_path, f"out{suffix}"), units)

    found = read_back(tmp_path / f"out{suffix}")
    assert found.picture_times_s == pytest.approx([number / 25 for number in range(100)], abs=0.001)
    assert found.flashes_s == pytest.approx([1.0, 2.4], abs=0.001)
    assert found.clicks_s == pytest.approx([1.0, 2.4], abs=0.001)
    assert 0 <= found.first_sound_s < 0.03
    assert listener.published == 1
    assert sum(unit.codec is Codec.H264 for unit in listener.written) == 100


async def test_sound_that_is_copied_keeps_its_place_behind_a_loss(tmp_path: Path) -> None:
    sound = opus_units(clicks(4.0, [1.0, 2.4]), starts_ns=STARTS_NS)
    units = [*pictures(100, starts_ns=STARTS_NS, flash_at=(25, 60)), *without(sound, [70, 71, 72, 90])]
    await record(output(tmp_path, "out.mkv"), sorted(units, key=lambda unit: unit.pts_ns))

    found = read_back(tmp_path / "out.mkv")
    assert found.flashes_s == pytest.approx([1.0, 2.4], abs=0.001)
    assert found.clicks_s == pytest.approx([1.0, 2.4], abs=0.001)


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_another_ffmpeg_decodes_all_of_it_without_a_word(suffix: str, tmp_path: Path) -> None:
    units = session_media(CONTAINERS[suffix].audio_codec)
    await record(output(tmp_path, f"out{suffix}"), units)

    streams = ffprobe(tmp_path / f"out{suffix}")

    assert streams["video"]["nb_read_frames"] == "100"
    assert (streams["video"]["width"], streams["video"]["height"]) == (320, 240)
    assert streams["audio"]["codec_name"] == ("opus" if suffix == ".mkv" else "aac")
    assert streams["audio"]["sample_rate"] == "48000" and streams["audio"]["channels"] == 2
    assert int(streams["audio"]["nb_read_frames"]) > 180


async def test_the_duration_of_the_last_picture_counts(tmp_path: Path) -> None:
    await record(output(tmp_path, "out.mp4"), session_media(Codec.AAC))

    with av.open(str(tmp_path / "out.mp4")) as media:
        stream = media.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        assert stream.duration * stream.time_base == 4
        packets = [packet for packet in media.demux(video=0) if packet.size]
        assert {packet.duration * stream.time_base for packet in packets if packet.duration} == {
            stream.time_base * 3600
        }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n_before", range(40, 64, 6))  # the hold meets each part of a fragment
async def test_what_comes_after_a_hold_lies_where_the_session_had_it(
    suffix: str, n_before: int, tmp_path: Path
) -> None:
    before = pictures(n_before, starts_ns=STARTS_NS)
    after = pictures(50, starts_ns=before[-1].pts_ns + 940_000_000)
    sound = [unit for unit in session_media(CONTAINERS[suffix].audio_codec) if unit.codec.kind == "audio"]
    await record(output(tmp_path, f"held{suffix}"), sorted([*before, *after, *sound], key=lambda unit: unit.pts_ns))
    with av.open(str(tmp_path / f"held{suffix}")) as media:
        times_s = [float(packet.pts * packet.time_base) for packet in media.demux(video=0) if packet.size]
    times_s = [time_s - times_s[0] for time_s in times_s]  # MPEG-TS begins later
    wanted_s = [(picture.pts_ns - STARTS_NS) / NS_PER_S for picture in (*before, *after)]
    assert times_s == pytest.approx(wanted_s, abs=0.001)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["both", "pictures only"])
async def test_what_was_recorded_is_on_disk_within_a_second(suffix: str, kind: str, tmp_path: Path) -> None:
    sizes: list[tuple[int, int]] = []
    path = tmp_path / f"out{suffix}"
    units = session_media(CONTAINERS[suffix].audio_codec)
    if kind == "pictures only":
        units = [unit for unit in units if unit.codec is Codec.H264]

    def look(unit: AccessUnit) -> None:
        sizes.append((unit.pts_ns, path.stat().st_size))

    await record(output(tmp_path, path.name), units, Listener(on_unit=look))

    grew_ns = [pts_ns for (pts_ns, size), (_, before) in zip(sizes[1:], sizes, strict=False) if size > before]
    # Half a second more without sound: pictures wait that long for it.
    most_ns = NS_PER_S if kind == "both" else 1.5 * NS_PER_S
    edges = [STARTS_NS, *grew_ns, sizes[-1][0]]
    assert max(later - earlier for earlier, later in itertools.pairwise(edges)) <= most_ns


_RECORD_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from bridge.media.h264 import decoder_configuration, parameter_sets
from bridge.media.live_queue import LiveQueue
from tests.interop.test_container import CONTAINERS, Listener, output, session_media

async def main(path):
    queue = LiveQueue(3600.0)
    for unit in session_media(CONTAINERS[path.suffix].audio_codec):
        queue.put(unit)
    task = asyncio.create_task(output(path.parent, path.name).run(queue, Listener()))
    while queue.lag_s or not path.exists():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    print("recorded", flush=True)
    await task

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_can_be_played_after_kill_9(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    child = subprocess.Popen([sys.executable, "-c", _RECORD_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        try:
            assert "recorded\n" in child.stdout
        finally:
            child.kill()

    found = read_back(path)
    # Of four seconds at most one may be missing.
    assert len(found.picture_times_s) >= 75
    assert found.flashes_s == pytest.approx([1.0, 2.4], abs=0.001)
    assert found.clicks_s == pytest.approx([1.0, 2.4], abs=0.001)


def changed_contents(units: Iterable[AccessUnit]) -> list[AccessUnit]:
    """The pictures of one encoder, the second half of another that gives the same ids to other sets."""
    units = list(units)
    half = len(units) // 2
    other = pictures(half, starts_ns=units[half].pts_ns, flash_at=(10,), n_references=2)
    assert other[0].codec_config != units[0].codec_config
    return [*units[:half], *other]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("change", [with_changing_ids, changed_contents])
async def test_other_parameter_sets_of_the_same_format_go_on_in_the_file(
    suffix: str, change: Callable[[Iterable[AccessUnit]], list[AccessUnit]], tmp_path: Path
) -> None:
    sound = opus_units(clicks(4.0, [1.0, 2.4]), starts_ns=STARTS_NS)
    if CONTAINERS[suffix].audio_codec is Codec.AAC:
        sound = AacTranscoder(128_000).push_all(sound)
    changed = change(pictures(100, starts_ns=STARTS_NS, flash_at=(25, 60), keyframe_every=20))
    assert len({unit.codec_config for unit in changed if unit.is_keyframe}) > 1

    await record(output(tmp_path, f"out{suffix}"), sorted([*changed, *sound], key=lambda unit: unit.pts_ns))

    assert names_in(tmp_path) == [f"out{suffix}"]
    found = read_back(tmp_path / f"out{suffix}")
    assert found.picture_times_s == pytest.approx([number / 25 for number in range(100)], abs=0.001)
    assert found.flashes_s == pytest.approx([1.0, 2.4], abs=0.001)
    assert ffprobe(tmp_path / f"out{suffix}")["video"]["nb_read_frames"] == "100"
    # Players that jump begin at any keyframe, with the header alone.
    assert decoded_after_jump(tmp_path / f"out{suffix}", 2.0) >= 30


def decoded_after_jump(path: Path, to_s: float) -> int:
    with av.open(str(path)) as media:
        media.seek(round(to_s * 1_000_000))
        # In MPEG-TS, which has no index, a jump ends at any picture.
        packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, media.demux(video=0))
        frames = [frame for packet in packets for frame in packet.decode()]
        assert not any(frame.is_corrupt for frame in frames)
        return len(frames)


async def test_a_change_of_the_picture_size_begins_a_new_file(tmp_path: Path) -> None:
    first = pictures(50, starts_ns=STARTS_NS)
    second = pictures(50, starts_ns=STARTS_NS + 2 * NS_PER_S, width_px=640, height_px=360, profile="high")

    recording = output(tmp_path, "out.mp4")
    listener = await record(recording, first + second)

    sizes = []
    for name in ("out.mp4", "out-1.mp4"):
        with av.open(str(tmp_path / name)) as media:
            frames = list(media.decode(video=0))
            assert frames[0].time == 0.0
            sizes.append((len(frames), frames[0].width, frames[0].height))
    assert sizes == [(50, 320, 240), (50, 640, 360)]
    assert recording.progress().bytes_total == sum((tmp_path / name).stat().st_size for name in names_in(tmp_path))
    assert listener.published == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_pictures_closer_than_the_container_counts_are_kept(suffix: str, tmp_path: Path) -> None:
    close = [
        AccessUnit(unit.codec, unit.payload, STARTS_NS + number, 0, unit.is_keyframe, unit.codec_config)
        for number, unit in enumerate(pictures(10))
    ]
    await record(output(tmp_path, f"out{suffix}"), close)

    with av.open(str(tmp_path / f"out{suffix}")) as media:
        assert len(list(media.decode(video=0))) == 10


async def test_nothing_is_written_before_the_first_keyframe(tmp_path: Path) -> None:
    recording = output(tmp_path, "out.mp4")
    listener = await record(recording, opus_units(clicks(0.5, [])))

    assert names_in(tmp_path) == []
    assert listener.published == 0
    assert recording.progress().bytes_total == 0


async def test_progress_is_the_size_of_the_file(tmp_path: Path) -> None:
    recording = output(tmp_path, "out.ts")
    await record(recording, session_media(Codec.AAC))

    assert recording.progress().bytes_total == (tmp_path / "out.ts").stat().st_size


async def test_cancelling_ends_the_file_properly(tmp_path: Path) -> None:
    recording = output(tmp_path, "out.flv")
    queue, listener = LiveQueue(3600.0), Listener()
    for unit in session_media(Codec.AAC):
        queue.put(unit)
    written_all = asyncio.Event()
    listener.on_unit = lambda unit: written_all.set() if not queue.lag_s else None
    task = asyncio.create_task(recording.run(queue, listener))
    await written_all.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    with av.open(str(tmp_path / "out.flv")) as media:
        # FLV has its duration in the header, where only a proper close puts it.
        assert media.duration == pytest.approx(4_000_000, abs=50_000)


# ------------------------------------------------------------------------------------------------------ names


async def test_a_name_holds_the_start_in_utc_and_its_directories_are_made(tmp_path: Path) -> None:
    await record(output(tmp_path / "store", "{start:%Y/%m}/leo-{start:%Y%m%dT%H%M%SZ}.ts"), pictures(3))

    assert names_in(tmp_path / "store" / "2026" / "11") == ["leo-20261120T210509Z.ts"]


async def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out.ts").write_bytes(b"precious")
    (tmp_path / "out-1.ts").symlink_to(tmp_path / "nowhere.ts")

    await record(output(tmp_path, "out.ts"), pictures(3))

    assert (tmp_path / "out.ts").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere.ts").exists()
    assert (tmp_path / "out-2.ts").stat().st_size > 0


@pytest.mark.parametrize(
    "template, complaint",
    [
        ("/etc/out.mp4", "absolute"),
        ("../out.mp4", "no \\.\\."),
        ("a/../../out.mp4", "no \\.\\."),
        ("out.avi", "must end in .mp4, .mkv, .flv, .ts"),
        ("out-{session}.mp4", "only {start:FORMAT}"),
        ("out-{start.__class__}.mp4", "only {start:FORMAT}"),
    ],
)
def test_a_name_that_leaves_the_directory_or_is_none_is_refused(template: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        RecordingNames(tmp_path, template)


async def test_a_link_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path)

    with pytest.raises(OutputRejected, match=r"led out of .*store by a link"):
        await record(output(tmp_path / "store", "link/out.ts"), pictures(3))


def test_the_front_door_names_the_output_whose_file_it_refuses(tmp_path: Path) -> None:
    config = OutputConfig.model_validate({"url": "file:../x.mp4"})

    with pytest.raises(ConfigError, match=r"outputs\.archive: file:\.\./x\.mp4 must stay below"):
        open_output("archive", config, StorageConfig(dir=tmp_path))


async def test_the_front_door_opens_recordings(tmp_path: Path) -> None:
    config = OutputConfig.model_validate({"url": "file:out.mkv", "keyframe_s": 4})
    opener = open_output("archive", config, StorageConfig(dir=tmp_path, min_free=0))
    recording = opener()
    assert (recording.audio_codec, recording.keyframe_s) == (Codec.OPUS, 4.0)

    await recording.run(finished(pictures(3)), Listener())
    await opener().run(finished(pictures(3)), Listener())

    assert names_in(tmp_path) == ["out-1.mkv", "out.mkv"]


def finished(units: list[AccessUnit]) -> LiveQueue:
    queue = LiveQueue(60.0)
    for unit in units:
        queue.put(unit)
    queue.finish()
    return queue


# ------------------------------------------------------------------------------------------------------ rotation


def late_sound(units: Iterable[AccessUnit], by_ns: int = NS_PER_S // 10) -> list[AccessUnit]:
    """In the order in which a session hands them over: sound comes in rounds, behind its pictures."""
    return sorted(units, key=lambda unit: unit.pts_ns + (by_ns if unit.codec.kind == "audio" else 0))


def begins_ns(unit: AccessUnit) -> int:
    return unit.pts_ns - (OPUS_SHIFT_NS if unit.codec is Codec.OPUS else 0)


def payloads(paths: Iterable[Path], kind: str) -> list[bytes]:
    """What the files hold, one behind the other; parameter sets apart."""
    found = []
    for path in paths:
        with av.open(str(path)) as media:
            found += [bytes(packet) for packet in media.demux() if packet.stream.type == kind and packet.size]
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rotation", [Rotation(after_ns=NS_PER_S), Rotation(after_bytes=1)], ids=["time", "size"])
async def test_files_that_follow_one_another_hold_every_picture_and_every_sound(
    rotation: Rotation, suffix: str, tmp_path: Path
) -> None:
    units = [unit for unit in session_media(CONTAINERS[suffix].audio_codec) if unit.pts_ns >= STARTS_NS]
    # Of 4 s with keyframes every 0.8 s: by time after 1.6 s and 3.2 s.
    video = pictures(100, starts_ns=STARTS_NS, flash_at=(25, 60), keyframe_every=20)
    units = [*video, *(unit for unit in units if unit.codec.kind == "audio")]
    template = "leo-{start:%H%M%S}" + suffix

    recording = ContainerOutput(RecordingNames(tmp_path, template), rotation, now=lambda: NOW)
    listener = await record(recording, late_sound(units))

    n_files = 3 if rotation.after_ns else 5
    names = [f"leo-210509{f'-{number}' if number else ''}{suffix}" for number in range(n_files)]
    assert names_in(tmp_path) == sorted(names)
    paths = [tmp_path / name for name in names]
    assert sum(int(ffprobe(path)["video"]["nb_read_frames"]) for path in paths) == 100
    for kind in ("audio", "video"):
        written = [unit for unit in units if unit.codec.kind == kind and begins_ns(unit) >= STARTS_NS]
        if suffix == ".ts":  # has the parameter sets of every keyframe, and ADTS headers, besides
            assert len(payloads(paths, kind)) == len(written)
        else:
            assert payloads(paths, kind) == [unit.payload for unit in written]
    # FLV and Matroska write some of it again at the end.
    assert recording.progress().bytes_total >= sum(path.stat().st_size for path in paths)
    assert listener.published == 1


async def test_each_of_several_files_starts_with_its_own_sound(tmp_path: Path) -> None:
    recording = ContainerOutput(RecordingNames(tmp_path, "out.mp4"), Rotation(after_ns=NS_PER_S), now=lambda: NOW)
    await record(recording, late_sound(session_media(Codec.AAC)))

    first, second = read_back(tmp_path / "out.mp4"), read_back(tmp_path / "out-1.mp4")
    assert (first.flashes_s, second.flashes_s) == ([pytest.approx(1.0)], [pytest.approx(0.4)])
    assert (first.clicks_s, second.clicks_s) == ([pytest.approx(1.0, abs=0.001)], [pytest.approx(0.4, abs=0.001)])
    assert second.first_sound_s < 0.03


def open_files() -> set[str]:
    return {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}


async def test_a_file_does_not_wait_for_sound_that_does_not_come(tmp_path: Path) -> None:
    recording = ContainerOutput(RecordingNames(tmp_path, "out.ts"), Rotation(after_ns=NS_PER_S), now=lambda: NOW)
    queue, listener = LiveQueue(3600.0), Listener()
    for unit in pictures(76, starts_ns=STARTS_NS, keyframe_every=50):
        queue.put(unit)
    written_all = asyncio.Event()
    listener.on_unit = lambda unit: written_all.set() if not queue.lag_s else None
    task = asyncio.create_task(recording.run(queue, listener))
    await written_all.wait()

    # The second file began at 2 s, and the last picture is the one at 3 s.
    assert [str(tmp_path / name) in open_files() for name in ("out.ts", "out-1.ts")] == [False, True]
    queue.finish()
    await task


# ------------------------------------------------------------------------------------------------------ disks


async def test_a_disk_that_is_too_full_at_the_start_is_refused(tmp_path: Path) -> None:
    recording = output(tmp_path, "out.mp4", min_free_bytes=2**30, free_bytes=lambda directory: 2**20)

    with pytest.raises(OutputRejected, match=r"out\.mp4: 1 MiB are free .*storage\.min_free of 1,024 MiB; make"):
        await record(recording, pictures(3))

    assert names_in(tmp_path) == []


async def test_a_disk_that_fills_up_ends_the_recording_with_a_whole_file(tmp_path: Path) -> None:
    free = itertools.chain([2**31, 2**31], itertools.repeat(2**20))
    recording = output(tmp_path, "out.flv", min_free_bytes=2**30, free_bytes=lambda directory: next(free))

    with pytest.raises(OutputRejected, match="make room or lower min_free"):
        await record(recording, session_media(Codec.AAC))

    with av.open(str(tmp_path / "out.flv")) as media:
        assert media.duration == pytest.approx(2_000_000, abs=50_000)
        assert len(list(media.decode(video=0))) == 50


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_full_disk_is_the_operator_s_to_empty(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"out{suffix}").symlink_to("/dev/full")
    recording = ContainerOutput(ExistingFile(tmp_path, f"out{suffix}"))

    with pytest.raises(OutputRejected, match=rf"recording {tmp_path}/out{suffix}: No space left on device; make room"):
        await record(recording, session_media(CONTAINERS[suffix].audio_codec))


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_write_that_fails_half_way_ends_the_recording_and_names_the_file(suffix: str, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    recording = output(tmp_path, f"out{suffix}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OutputRejected, match=rf"out{suffix}: File too large; raise the limit"):
            await record(recording, session_media(CONTAINERS[suffix].audio_codec))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert recording.progress().bytes_total == (tmp_path / f"out{suffix}").stat().st_size == 20_000


async def test_a_place_that_is_no_directory_is_the_operator_s_to_change(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")

    with pytest.raises(OutputRejected, match=r"store/out\.mp4: .*; choose another name"):
        await record(output(tmp_path / "store", "out.mp4"), pictures(3))


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may write everywhere; so be nobody."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_a_directory_without_permission_is_the_operator_s_to_change(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)

    with (
        somebody_else(),
        pytest.raises(OutputRejected, match=r"out\.mp4: Permission denied; let this user write there"),
    ):
        await record(output(tmp_path, "out.mp4"), pictures(3))


async def test_a_disk_that_never_answers_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "CLOSE_TIMEOUT_S", 0.05)
    fifo = tmp_path / "out.ts"
    os.mkfifo(fifo)
    opening = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Pipe(ExistingFile):
        def create(self, start: datetime) -> CountedFile:
            loop.call_soon_threadsafe(opening.set)
            return super().create(start)

    # Opening a pipe for writing waits for a reader, which never comes.
    recording = ContainerOutput(Pipe(tmp_path, fifo.name))
    task = asyncio.create_task(record(recording, pictures(3)))
    await opening.wait()
    task.cancel()
    with pytest.raises(OutputLost, match=r"out\.ts: the disk did not answer for 0\.05 s"):
        await task
    # The thread wakes up, sees a reader and ends its file.
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    threads = [thread for thread in threading.enumerate() if thread.name == "recording"]
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    os.close(reader)
    assert not any(thread.is_alive() for thread in threads)


async def test_a_disk_that_breaks_is_tried_again(tmp_path: Path) -> None:
    def broken(directory: Path) -> int:
        raise OSError(5, "Input/output error")

    with pytest.raises(OutputLost, match=r"out\.mp4: Input/output error"):
        await record(output(tmp_path, "out.mp4", free_bytes=broken), pictures(3))


async def test_a_keyframe_that_cannot_be_read_is_no_reason_to_ask_the_operator_for_another_name(tmp_path: Path) -> None:
    good, changed = pictures(1), pictures(1, starts_ns=2 * NS_PER_S, width_px=640, height_px=360)
    # The picture names parameter sets that its configuration does not hold.
    sets = parameter_sets(changed[0].codec_config)
    unreadable = replace(changed[0], codec_config=decoder_configuration(with_sps_id(sets[0][0], 1), sets[1][0]))

    with pytest.raises(OutputLost, match=r"out-1\.mp4: Invalid") as caught:
        await record(output(tmp_path, "out.mp4"), [*good, unreadable])
    assert isinstance(caught.value.__cause__, av.FFmpegError)
    assert names_in(tmp_path) == ["out.mp4"]

    with av.open(str(tmp_path / "out.mp4")) as media:
        assert len(list(media.decode(video=0))) == 1
