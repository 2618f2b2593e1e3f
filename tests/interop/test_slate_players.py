"""A broadcast that goes live → slate → live, in the hands of real players: every picture is decoded, as what it was.

A slate has parameter sets of its own, and so has every connection to the avatar. RTMP sends a new sequence header;
files carry the sets in band, before the keyframe.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import is_same_format, parameter_sets, sequence_set_id
from bridge.media.live_queue import LiveQueue
from bridge.media.opus import SILENCE_20_MS
from bridge.outputs.audio import AacTranscoder
from bridge.outputs.container import ContainerOutput
from bridge.outputs.recording import CONTAINERS
from bridge.outputs.rtmp import RtmpOutput
from bridge.outputs.shelf import RecordingNames
from bridge.outputs.slate import SlateMaker
from tests.browser.chromium import FLAGS, serving
from tests.conftest import require_file, require_program
from tests.interop.ffmpeg import VERSIONS, ffmpeg
from tests.interop.nginx_rtmp import NGINX, RTMP_MODULE, NginxRtmp
from tests.unit.outputs.coded_media import clicks, opus_units, pictures

pytestmark = pytest.mark.peer

STARTS_NS = 5 * NS_PER_S
PART_S, FPS = 2, 25
PART = PART_S * FPS  # pictures
# What is shown, as players see it: live is bright, the card is dark.
STORY = [("live", PART), ("slate", PART), ("live", PART)]
TIMEOUT_S = 60.0
KEY = "slate"


def broadcast(profile: str = "baseline") -> list[AccessUnit]:
    """Two seconds each of live, slate and live again, with Opus."""
    # With many references frame numbers take more bits (H.264 §7.4.3): a slate decoded with the wrong set is garbage.
    size = {"width_px": 320, "height_px": 576, "n_references": 16}
    live = pictures(2 * PART, flash_at=range(2 * PART), keyframe_every=PART, profile=profile, **size)
    slate = SlateMaker("card", keyframe_s=1.0).make(live[0], ())
    stand_in = [
        AccessUnit(Codec.H264, payload, 0, is_keyframe=False)
        if number not in slate.keyframes
        else AccessUnit(Codec.H264, payload, 0, codec_config=slate.codec_config)
        for number, payload in enumerate(slate.payloads[:PART])
    ]
    shown = [*live[:PART], *stand_in, *live[PART:]]
    video = [replace(unit, pts_ns=STARTS_NS + number * NS_PER_S // FPS) for number, unit in enumerate(shown)]
    sound = opus_units(clicks(3 * PART_S, [0.5, 4.5]), starts_ns=STARTS_NS)
    packets_per_part = PART_S * 50
    for number in range(packets_per_part, 2 * packets_per_part):
        sound[number] = replace(sound[number], payload=SILENCE_20_MS)
    return sorted([*video, *sound], key=lambda unit: unit.pts_ns)


def with_aac(units: Sequence[AccessUnit]) -> list[AccessUnit]:
    transcoder = AacTranscoder(128_000)
    sound = transcoder.push_all(unit for unit in units if unit.codec is Codec.OPUS) + transcoder.flush()
    return sorted([*(unit for unit in units if unit.codec is Codec.H264), *sound], key=lambda unit: unit.pts_ns)


def waiting(units: Sequence[AccessUnit]) -> LiveQueue:
    queue = LiveQueue(3600.0)
    for unit in units:
        queue.put(unit)
    return queue


class Listener:
    def __init__(self) -> None:
        self.published = asyncio.Event()

    def on_published(self) -> None:
        self.published.set()

    def on_written(self, unit: AccessUnit) -> None:
        pass


async def record(directory: Path, suffix: str, units: Sequence[AccessUnit]) -> Path:
    """All of it in one file, by the recording output."""
    takes_aac = CONTAINERS[suffix].audio_codec is Codec.AAC
    queue = waiting(with_aac(units) if takes_aac else units)
    queue.finish()
    await ContainerOutput(RecordingNames(directory, f"out{suffix}")).run(queue, Listener())
    assert [name for name in os.listdir(directory) if name.startswith("out")] == [f"out{suffix}"]
    return directory / f"out{suffix}"


async def run(*command: str | Path) -> bytes:
    """The output of a program that has nothing to complain about."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, complaints.decode()) == (0, "")
    return output


async def seen_by_ffmpeg(source: str | Path, *options: str, version: str = "distribution") -> list[tuple[str, int]]:
    """What FFmpeg shows of it, picture by picture; sound is decoded too, and any error ends it."""
    show = ("-map", "0:v", "-vf", "scale=1:1:flags=area", "-f", "rawvideo", "-pix_fmt", "gray", "-fps_mode")
    hear = ("-map", "0:a", "-f", "null", "-")
    shown = await run(
        ffmpeg(version), "-v", "error", "-xerror", *options, "-i", source, *show, "passthrough", "pipe:1", *hear
    )
    return story(shown)


def story(brightness: Sequence[int]) -> list[tuple[str, int]]:
    names = ("live" if value > 160 else "slate" if value < 90 else f"broken ({value})" for value in brightness)
    return [(name, len(list(group))) for name, group in groupby(names)]


async def assert_times_increase(path: Path) -> None:
    ffprobe = require_program("ffprobe", "ffmpeg")
    for kind in "va":
        entries = ("-select_streams", kind, "-show_entries", "packet=dts_time", "-of", "json")
        probed = json.loads(await run(ffprobe, "-v", "error", *entries, path))
        times_s = [float(packet["dts_time"]) for packet in probed["packets"]]
        assert len(times_s) > PART and all(a < b for a, b in pairwise(times_s))


async def test_without_its_parameter_sets_the_slate_could_not_be_played(tmp_path: Path) -> None:
    units = broadcast()
    live, slate = dict.fromkeys(unit.codec_config for unit in units if unit.codec_config)
    assert is_same_format(live, slate)
    # Under one id: whoever keeps those of live decodes the slate with them.
    assert {sequence_set_id(parameter_sets(config)[0][0]) for config in (live, slate)} == {0}

    path = await record(tmp_path, ".mp4", [replace(u, codec_config=live) if u.codec_config else u for u in units])

    with pytest.raises(AssertionError, match="h264"):
        await seen_by_ffmpeg(path)


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_ffmpeg_plays_a_recording_across_the_joints(
    version: str, suffix: str, profile: str, tmp_path: Path
) -> None:
    units = broadcast(profile)
    profiles = {unit.codec_config[1] for unit in units if unit.codec is Codec.H264 and unit.codec_config}
    assert profiles == {{"baseline": 66, "main": 77, "high": 100}[profile]}
    path = await record(tmp_path, suffix, units)

    assert await seen_by_ffmpeg(path, version=version) == STORY
    await assert_times_increase(path)


# ---------------------------------------------------------------------------------------------- RTMP and HLS


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[NginxRtmp]:
    require_program(NGINX, "nginx")
    require_file(str(RTMP_MODULE), "libnginx-mod-rtmp")
    with NginxRtmp(tmp_path / "nginx", hls=True) as server:
        yield server


async def test_what_an_rtmp_server_records_and_cuts_into_hls_plays_across_the_joints(nginx: NginxRtmp) -> None:
    queue = waiting(with_aac(broadcast()))
    queue.finish()
    await RtmpOutput(f"{nginx.rtmp_url}/{KEY}").run(queue, Listener())

    recording = await asyncio.to_thread(nginx.finished_recording, KEY)
    for version in VERSIONS:
        assert await seen_by_ffmpeg(recording, version=version) == STORY
    await assert_times_increase(recording)

    playlist = nginx.hls_playlist(KEY)
    # The module never says that a stream is over; the last segment is written all the same.
    ended = playlist.with_name("ended.m3u8")
    ended.write_text(playlist.read_text() + "#EXT-X-ENDLIST\n")
    assert len(list(playlist.parent.glob("*.ts"))) >= 3 * PART_S // 2
    for version in VERSIONS:
        assert await seen_by_ffmpeg(ended, version=version) == STORY
    await assert_times_increase(ended)


async def test_a_viewer_of_an_rtmp_server_sees_the_slate_come_and_go(nginx: NginxRtmp) -> None:
    units, queue, listener = with_aac(broadcast()), waiting([]), Listener()
    publishing = asyncio.create_task(RtmpOutput(f"{nginx.rtmp_url}/{KEY}").run(queue, listener))
    async with asyncio.timeout(TIMEOUT_S):
        await listener.published.wait()
        watching = asyncio.create_task(seen_by_ffmpeg(f"{nginx.rtmp_url}/{KEY}", "-t", str(3 * PART_S - 0.5)))
        await asyncio.to_thread(nginx.await_viewer, KEY)
        for unit in units:
            queue.put(unit)
        queue.finish()
        await publishing
        seen = await watching

    assert seen[:2] == STORY[:2]
    assert [name for name, _ in seen[2:]] == ["live"]


# ---------------------------------------------------------------------------------------------- browsers

_PAGE = """<!doctype html><video muted></video><script>
async function play(file, mime) {
  const video = document.querySelector("video"), canvas = new OffscreenCanvas(1, 1), shown = [];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const look = (_, { mediaTime }) => {
    context.drawImage(video, 0, 0, 1, 1);
    shown.push([mediaTime, context.getImageData(0, 0, 1, 1).data[1]]);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  if (mime) {
    const source = new MediaSource();
    video.src = URL.createObjectURL(source);
    await new Promise((go) => source.addEventListener("sourceopen", go, { once: true }));
    const buffer = source.addSourceBuffer(mime);
    buffer.appendBuffer(await (await fetch(file)).arrayBuffer());
    await new Promise((go) => buffer.addEventListener("updateend", go, { once: true }));
    source.endOfStream();
  } else {
    video.src = file;
  }
  await video.play();
  await new Promise((go) => { video.onended = video.onerror = go; });
  const { totalVideoFrames, droppedVideoFrames } = video.getVideoPlaybackQuality();
  return { shown, error: video.error && video.error.message, end: video.currentTime,
           decoded: totalVideoFrames, dropped: droppedVideoFrames };
}
</script>"""


@pytest.mark.parametrize("way", ["as a file", "by media source extensions"])
async def test_chromium_decodes_every_picture_of_an_mp4_across_the_joints(way: str, tmp_path: Path) -> None:
    path = await record(tmp_path, ".mp4", broadcast())
    (tmp_path / "page.html").write_text(_PAGE)
    mime = None if way == "as a file" else 'video/mp4; codecs="avc1.42c01f,mp4a.40.2"'
    executable = require_program("chromium")
    with serving(tmp_path) as origin:
        async with asyncio.timeout(TIMEOUT_S), async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=executable, args=[*FLAGS])
            try:
                page = await browser.new_page()
                await page.goto(f"{origin}/page.html")
                played = await page.evaluate("([file, mime]) => play(file, mime)", [path.name, mime])
            finally:
                await browser.close()

    assert played["error"] is None
    assert played["decoded"] == 3 * PART
    assert played["end"] == pytest.approx(3 * PART_S, abs=0.1)
    # A busy machine shows fewer than it decodes; what it shows is right.
    for time_s, brightness in played["shown"]:
        is_slate = PART_S <= time_s + 0.001 < 2 * PART_S
        assert story([brightness]) == [("slate" if is_slate else "live", 1)], (time_s, brightness)
    assert {round(time_s / PART_S - 0.5) for time_s, _ in played["shown"]} == {0, 1, 2}
