"""HLS as players read it: FFmpeg of two versions, and hls.js in Chromium."""

import asyncio
import itertools
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import pytest
from playwright.async_api import async_playwright

from bridge.config import OutputConfig, StorageConfig
from bridge.errors import OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.outputs import open_output
from bridge.outputs.container import ContainerOutput, Rotation
from bridge.outputs.hls import HlsShelf
from bridge.outputs.shelf import RecordingNames
from bridge.protocols import hls
from tests.browser.chromium import FLAGS, serving
from tests.conftest import require_program, unavailable
from tests.interop.ffmpeg import VERSIONS
from tests.interop.test_container import Listener, late_sound, read_back
from tests.interop.test_slate_players import STORY, broadcast, run, seen_by_ffmpeg, with_aac
from tests.interop.test_srt import until
from tests.unit.outputs.coded_media import clicks, opus_units, pictures

pytestmark = pytest.mark.peer

STARTS_NS = 3_600 * NS_PER_S  # an hour after the session's start
NOW = datetime(2026, 11, 20, 21, 5, 9, tzinfo=UTC)
HLS_JS = Path(__file__).parents[1] / "peers/node_modules/hls.js/dist/hls.min.js"


def media(seconds: int, *, starts_ns: int = STARTS_NS, **form: object) -> list[AccessUnit]:
    """Pictures with keyframes every second, bright at 1.0 and 2.4 s, and clicks at those times."""
    video = pictures(25 * seconds, starts_ns=starts_ns, flash_at=(25, 60), keyframe_every=25, **form)  # type: ignore[arg-type]
    sound = opus_units(
        clicks(float(seconds), [time_s for time_s in (1.0, 2.4) if time_s < seconds]), starts_ns=starts_ns
    )
    return late_sound(with_aac([*video, *sound]))


def hls_output(
    directory: Path,
    *,
    window_s: float = 30.0,
    segment_s: float = 1.0,
    now: Callable[[], datetime] = lambda: NOW,
    **options: object,
) -> ContainerOutput:
    shelf = HlsShelf(directory, "leo", segment_s=segment_s, keyframe_s=segment_s, window_s=window_s)
    return ContainerOutput(shelf, Rotation(after_ns=round(segment_s / 2 * NS_PER_S)), now=now, **options)  # type: ignore[arg-type]


async def publish(output: ContainerOutput, units: Sequence[AccessUnit], listener: Listener | None = None) -> None:
    await output.run(waiting(units), listener or Listener())


def waiting(units: Sequence[AccessUnit]) -> LiveQueue:
    queue = LiveQueue(3600.0)
    for unit in units:
        queue.put(unit)
    queue.finish()
    return queue


def playlist(directory: Path) -> hls.MediaPlaylist:
    return hls.parse((directory / "leo/media.m3u8").read_text(), 30.0, 1.0)


def names(directory: Path, suffix: str) -> list[str]:
    return sorted(path.name for path in (directory / "leo").iterdir() if path.suffix == suffix)


def coded(path: Path) -> dict[str, list[tuple[float, bool]]]:
    """Times and keyframes, by kind, counted from the first picture."""
    found: dict[str, list[tuple[float, bool]]] = {"video": [], "audio": []}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.time_base is not None:
                found[packet.stream.type].append((float(packet.pts * packet.time_base), packet.is_keyframe))
    start_s = found["video"][0][0]
    return {kind: [(time_s - start_s, is_key) for time_s, is_key in times] for kind, times in found.items()}


async def test_a_stream_has_the_times_of_a_recording_beside_it(tmp_path: Path) -> None:
    units = media(5)
    await publish(hls_output(tmp_path), units)
    await publish(ContainerOutput(RecordingNames(tmp_path, "beside.mp4")), units)

    streamed, recorded = coded(tmp_path / "leo/master.m3u8"), coded(tmp_path / "beside.mp4")
    for kind in ("video", "audio"):
        times_s = [time_s for time_s, _ in streamed[kind]]
        assert len(times_s) == len(recorded[kind]) > 120
        # The MP4 file lets its first sound begin with its first picture, and last longer.
        assert times_s[1:] == pytest.approx([time_s for time_s, _ in recorded[kind][1:]], abs=0.0001)
    seen = read_back(tmp_path / "leo/master.m3u8")
    start_s = seen.picture_times_s[0]
    for found in (seen.flashes_s, seen.clicks_s):
        assert [time_s - start_s for time_s in found] == pytest.approx([1.0, 2.4], abs=0.001)


@pytest.mark.parametrize("version", VERSIONS)
async def test_ffmpeg_plays_all_of_it_across_slate_and_size(version: str, tmp_path: Path) -> None:
    # Live and slate have parameter sets of their own, of one format.
    slate = broadcast()
    wide = pictures(50, starts_ns=slate[-1].pts_ns + NS_PER_S // 25, flash_at=range(50), width_px=640, height_px=360)
    await publish(hls_output(tmp_path), late_sound([*with_aac(slate), *wide]))

    *before, (shown, n_shown) = await seen_by_ffmpeg(tmp_path / "leo/master.m3u8", version=version)
    assert before == STORY[:-1]
    assert (shown, n_shown) == ("live", STORY[-1][1] + 50)
    assert (tmp_path / "leo/media.m3u8").read_text().count("#EXT-X-DISCONTINUITY\n") == 1
    assert len(names(tmp_path, ".mp4")) == 2


async def test_segments_begin_with_keyframes_and_say_when_and_what(tmp_path: Path) -> None:
    # Looked at a little later each time.
    looks = iter([NOW + timedelta(seconds=number, milliseconds=20 * number) for number in range(5)])
    await publish(hls_output(tmp_path, now=lambda: next(looks)), media(5))

    segments = playlist(tmp_path).segments
    assert [segment.duration_s for segment in segments] == [1.0] * 5
    assert [segment.starts for segment in segments] == [NOW + timedelta(seconds=number) for number in range(5)]
    for number, segment in enumerate(segments):
        alone = tmp_path / f"alone-{number}.mp4"
        alone.write_bytes(b"".join((tmp_path / "leo" / uri).read_bytes() for uri in (segment.init_uri, segment.uri)))
        with av.open(str(alone)) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == 25 and frames[0].key_frame
        assert frames[0].time == pytest.approx(3_600 + number)
    master = (tmp_path / "leo/master.m3u8").read_text()
    attributes = r'BANDWIDTH=(\d+),CODECS="avc1\.42c0[0-9a-f]{2},mp4a\.40\.2",RESOLUTION=320x240,FRAME-RATE=25\.000'
    (peak_bps,) = re.findall(rf"#EXT-X-STREAM-INF:{attributes}\nmedia\.m3u8\n", master)
    sizes = [(tmp_path / "leo" / segment.uri).stat().st_size for segment in segments]
    assert int(peak_bps) == max(sizes) * 8


async def test_a_segment_ends_at_the_keyframe_nearest_to_its_time(tmp_path: Path) -> None:
    shelf = HlsShelf(tmp_path, "leo", segment_s=2.0, keyframe_s=1.0, window_s=30.0)
    await publish(ContainerOutput(shelf, Rotation(after_ns=1_500_000_000), now=lambda: NOW), media(5))
    assert [segment.duration_s for segment in playlist(tmp_path).segments] == [2.0, 2.0, 1.0]


async def test_the_window_bounds_what_is_on_the_disk_and_every_file_that_is_listed_is_there(tmp_path: Path) -> None:
    n_whole = 0

    def look(unit: AccessUnit) -> None:
        nonlocal n_whole
        if unit.is_keyframe and unit.codec.kind == "video" and (tmp_path / "leo/media.m3u8").exists():
            shown = playlist(tmp_path)
            n_whole += 1
            assert all((tmp_path / "leo" / segment.uri).exists() for segment in shown.segments)
            assert sum(segment.duration_s for segment in shown.segments) <= 6.0
            assert len(names(tmp_path, ".m4s")) <= 13

    await publish(hls_output(tmp_path, window_s=5.0), media(20), Listener(on_unit=look))

    assert n_whole > 15
    shown = playlist(tmp_path)
    assert (shown.next_sequence, shown.is_ended) == (20, True)
    assert len(names(tmp_path, ".mp4")) == 1
    assert not names(tmp_path, ".part")


# ------------------------------------------------------------------------------------------------------ again


def breaking(after: int) -> Callable[[Path], int]:
    """A disk that breaks at the so manieth look at its space."""
    looks = itertools.count()

    def free_bytes(directory: Path) -> int:
        if next(looks) >= after:
            raise OSError(5, "Input/output error")
        return 2**40

    return free_bytes


async def test_what_was_broken_off_goes_on_with_a_joint(tmp_path: Path) -> None:
    with pytest.raises(OutputLost):
        await publish(hls_output(tmp_path, free_bytes=breaking(4)), media(5))
    before = playlist(tmp_path)
    assert before.segments and not before.is_ended
    (tmp_path / "leo/20261120T210509Z-77.m4s.part").write_bytes(b"half a segment")
    (tmp_path / "leo/index.html").write_text("the operator's own")

    await publish(hls_output(tmp_path, now=lambda: NOW + timedelta(seconds=10)), media(2))

    after = playlist(tmp_path)
    assert list(after.segments)[: len(before.segments)] == list(before.segments)
    assert [segment.is_discontinuity for segment in after.segments] == [False] * len(before.segments) + [True, False]
    assert after.is_ended
    listed = {segment.uri for segment in after.segments}
    assert set(names(tmp_path, ".m4s")) == listed and len(listed) == len(after.segments)
    assert (tmp_path / "leo/index.html").exists() and not names(tmp_path, ".part")
    for version in VERSIONS:
        assert await seen_by_ffmpeg(tmp_path / "leo/master.m3u8", version=version)


@pytest.mark.parametrize("kind", ["has ended", "is long past", "is no playlist"])
async def test_what_nobody_watches_any_more_is_cleared_and_names_never_come_again(kind: str, tmp_path: Path) -> None:
    if kind == "is long past":
        with pytest.raises(OutputLost):
            await publish(hls_output(tmp_path, free_bytes=breaking(4)), media(5))
    else:
        await publish(hls_output(tmp_path), media(3))
    if kind == "is no playlist":
        (tmp_path / "leo/media.m3u8").write_text("#EXTM3U\n../../etc/passwd\n")
    old = {*names(tmp_path, ".m4s"), *names(tmp_path, ".mp4")}
    next_sequence = 0 if kind == "is no playlist" else playlist(tmp_path).next_sequence

    later = NOW + timedelta(seconds=60 if kind == "is long past" else 2)
    await publish(hls_output(tmp_path, now=lambda: later), media(2))

    after = playlist(tmp_path)
    assert len(after.segments) == 2
    assert not old & {*names(tmp_path, ".m4s"), *names(tmp_path, ".mp4")}
    assert after.sequence == next_sequence


async def test_an_attempt_that_is_given_up_does_not_end_the_stream(tmp_path: Path) -> None:
    """A disk that hangs, and comes back while the attempt is being closed: the next one goes on."""
    units, queue, listener = media(3), LiveQueue(3600.0), Listener()
    for unit in units:
        queue.put(unit)
    has_written = asyncio.Event()
    listener.on_unit = lambda unit: has_written.set() if unit is units[-1] else None
    attempt = asyncio.create_task(hls_output(tmp_path).run(queue, listener))
    await has_written.wait()
    attempt.cancel()
    await asyncio.wait((attempt,))
    before = playlist(tmp_path)
    assert before.segments and not before.is_ended

    later = media(2, starts_ns=STARTS_NS + 4 * NS_PER_S)
    await publish(hls_output(tmp_path, now=lambda: NOW + timedelta(seconds=4)), later)
    after = playlist(tmp_path)
    assert list(after.segments)[: len(before.segments)] == list(before.segments)
    assert after.is_ended


async def test_two_outputs_do_not_write_into_one_directory(tmp_path: Path) -> None:
    queue, listener = LiveQueue(3600.0), Listener()
    for unit in media(2):
        queue.put(unit)
    is_writing = asyncio.Event()
    listener.on_unit = lambda unit: is_writing.set()
    first = asyncio.create_task(hls_output(tmp_path).run(queue, listener))
    await is_writing.wait()
    with pytest.raises(OutputLost, match="another output writes there"):
        await publish(hls_output(tmp_path), media(1))
    queue.finish()
    await first
    assert len(playlist(tmp_path).segments) == 2


# ------------------------------------------------------------------------------------------------------ disks


async def test_a_disk_that_fills_up_is_said_and_leaves_what_plays(tmp_path: Path) -> None:
    free = itertools.chain([2**31] * 3, itertools.repeat(2**20))
    with pytest.raises(OutputRejected, match="make room or lower min_free"):
        await publish(hls_output(tmp_path, min_free_bytes=2**30, free_bytes=lambda directory: next(free)), media(5))
    assert not playlist(tmp_path).is_ended
    await run(
        require_program("ffprobe", "ffmpeg"), "-v", "error", tmp_path / "leo" / playlist(tmp_path).segments[0].init_uri
    )


async def test_a_link_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/leo").symlink_to(tmp_path)
    with pytest.raises(OutputRejected, match=r"led out of .*store by a link"):
        await publish(hls_output(tmp_path / "store"), media(1))
    assert not (tmp_path / "media.m3u8").exists()


async def test_a_check_leaves_a_stream_as_it_is(tmp_path: Path) -> None:
    await publish(hls_output(tmp_path), media(2))
    before = {path.name: path.read_bytes() for path in (tmp_path / "leo").iterdir()}
    await publish(hls_output(tmp_path), [])
    assert {path.name: path.read_bytes() for path in (tmp_path / "leo").iterdir()} == before


async def test_the_front_door_opens_streams(tmp_path: Path) -> None:
    config = OutputConfig.model_validate({"url": "hls:a/b", "keyframe_s": 1, "segment_s": 1})
    opener = open_output("web", config, StorageConfig(dir=tmp_path, min_free=0))
    output = opener()
    assert (str(output.audio_codec), output.keyframe_s) == ("aac", 1.0)
    await output.run(waiting(media(3)), Listener())
    assert len(hls.parse((tmp_path / "a/b/media.m3u8").read_text(), 30, 1).segments) == 3


# ------------------------------------------------------------------------------------------------------ live

_PAGE = """<!doctype html><video muted></video><script src="hls.js"></script><script>
async function play(source) {
  const video = document.querySelector("video"), problems = [], sizes = [], times = [];
  const hls = new Hls({ liveSyncDurationCount: 2 });
  hls.on(Hls.Events.ERROR, (_, { fatal, details, reason }) => problems.push([fatal, details, String(reason)]));
  video.onresize = () => sizes.push([video.videoWidth, video.videoHeight]);
  video.ontimeupdate = () => times.push(video.currentTime);
  hls.loadSource(source);
  hls.attachMedia(video);
  await new Promise((go) => hls.once(Hls.Events.MANIFEST_PARSED, go));
  await video.play();
  await new Promise((go) => { video.onended = video.onerror = go; });
  const { totalVideoFrames } = video.getVideoPlaybackQuality();
  return { problems, sizes, times, error: video.error && video.error.message, decoded: totalVideoFrames };
}
</script>"""


@pytest.mark.serial
async def test_hls_js_and_ffmpeg_follow_it_live_across_a_change_of_size(tmp_path: Path) -> None:
    if not HLS_JS.exists():
        unavailable("hls.js is not installed (tests/install_npm_peers.sh)")
    chromium = require_program("chromium")
    shutil.copy(HLS_JS, tmp_path / "hls.js")
    (tmp_path / "page.html").write_text(_PAGE)
    part_s, every = 2, 12
    narrow = pictures(25 * part_s, flash_at=range(500), keyframe_every=every)
    wide = pictures(25 * part_s, starts_ns=part_s * NS_PER_S, keyframe_every=every, width_px=640, height_px=360)
    units = late_sound(with_aac([*narrow, *wide, *opus_units(clicks(2.0 * part_s, [0.5, 2.5]))]))
    queue, loop = LiveQueue(2.0), asyncio.get_running_loop()
    output = hls_output(tmp_path, segment_s=0.5, now=lambda: datetime.now(UTC))

    async def feed() -> None:
        start_s = loop.time()
        for unit in units:
            await asyncio.sleep(start_s + unit.pts_ns / NS_PER_S - loop.time())
            queue.put(unit)
        queue.finish()

    async with asyncio.timeout(60), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=[*FLAGS])
        try:
            with serving(tmp_path) as origin:
                page = await browser.new_page()
                await page.goto(f"{origin}/page.html")
                publishing = asyncio.gather(output.run(queue, Listener()), feed())
                await until((tmp_path / "leo/master.m3u8").exists)
                watching = asyncio.create_task(seen_by_ffmpeg(f"{origin}/leo/master.m3u8", "-live_start_index", "0"))
                played = await page.evaluate("play('leo/master.m3u8')")
                await publishing
                seen = await watching
        finally:
            await browser.close()

    assert seen == [("live", 25 * part_s), ("slate", 25 * part_s)]
    assert played["error"] is None
    assert not [problem for problem in played["problems"] if problem[0]], played
    assert played["sizes"] == [[320, 240], [640, 360]]
    assert played["times"][0] < 1.0 and played["times"][-1] == pytest.approx(2.0 * part_s, abs=0.1)
    # The last picture need not be decoded before the end is reached.
    assert played["decoded"] >= len(narrow) + len(wide) - 5
