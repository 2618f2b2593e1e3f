"""What tests about continuity ask of a broadcast, and hold its recordings to."""

import asyncio
import subprocess
from pathlib import Path

from benchmarks.beats import write_tone
from benchmarks.stretches import Recorded, Stretch, offsets, read_recording, stretches
from bridge.media.clock import NS_PER_S
from tests.e2e.processes import Daemon, Setting, Show
from tests.interop.ffmpeg import VERSIONS, ffmpeg
from tests.interop.nginx_rtmp import NginxRtmp

# Counts the live pictures that have been sent.
SENT = "added_latency_seconds_count"


def quiet(setting: Setting, directory: Path, session: str = "leo") -> Setting:
    """With an input that says nothing for long: speech has tones like a beep."""
    return setting.input(write_tone(directory / "tone.wav"), session=session)


def matroska(setting: Setting, session: str = "leo") -> Path:
    """Record, in a container that keeps Opus as it is, and the file's path."""
    return setting.recording("mkv", session=session, url=f"file:{session}.mkv").with_name(f"{session}.mkv")


async def n_more_pictures(daemon: Daemon, n_pictures: int, **labels: str) -> None:
    """Wait until so many more live ones have been sent to an output."""
    before = (await daemon.metrics()).total(SENT, **labels)
    await daemon.metric_reaches(before + n_pictures, SENT, **labels)


def publications(nginx: NginxRtmp) -> int:
    return len([fields for fields in nginx.requests if fields["call"] == "publish"])


def session_time_s(live: Stretch, monotonic_ns: int) -> float:
    """When it was in the recording, by the stamps of a live stretch of it."""
    first = live.pictures[0]
    assert first.stamp is not None
    return first.time_s + (monotonic_ns - first.stamp[1]) / 1e9


async def whole(path: Path, show: Show, *shows: list[bool], anew_s: float | None = None) -> list[Stretch]:
    """Hold a recording to what holds for all of them, whatever has happened; its stretches.

    shows   what it may show: live or not, in turn.
    anew_s  when streams began anew within the first stretch, since its beginning: until they are in step again, sound
            and picture are not compared.
    """
    found = await asyncio.to_thread(read_recording, path)
    parts = stretches(found.pictures)
    assert [part.is_live for part in parts] in shows, f"{path.name}: {', '.join(map(str, parts))}"
    await asyncio.to_thread(assert_plays, path)
    # Where streams begin anew packets may be taken for lost, of which up to three are left to the decoder.
    assert_goes_on(path, found, 1 if anew_s is None else 3)
    interruptions_ns = []
    if anew_s is not None and (stamp := parts[0].pictures[0].stamp):
        interruptions_ns.append(stamp[1] + round(anew_s * NS_PER_S))
    offsets_ms = [1000 * offset_s for offset_s in await asyncio.to_thread(offsets, path, parts, interruptions_ns)]
    show(f"{path.name}: sound against picture: {', '.join(f'{o:+.1f}' for o in offsets_ms)} ms")
    assert all(abs(offset_ms) <= 10 for offset_ms in offsets_ms)
    return parts


def assert_goes_on(path: Path, found: Recorded, n_missing: int) -> None:
    """At most so many packets of sound in a row are missing, 20 ms each; Matroska counts milliseconds."""
    assert found.timestamps_back == 0, path.name
    longest_s = 0.020 * (n_missing + 1) + 0.0015
    assert found.longest_silence_s <= longest_s, f"{path.name}: {found.longest_silence_s:.3f} s without sound"


def assert_plays(path: Path) -> None:
    """FFmpeg, which stops at the first error, does not complain of anything."""
    # By itself it would count pictures in units of the frame rate, in which two that follow closely coincide.
    exactly = ("-fps_mode", "passthrough", "-enc_time_base:v", "1/90000")
    for version in VERSIONS:
        command = (ffmpeg(version), "-v", "error", "-xerror", "-i", path, *exactly, "-f", "null", "-")
        played = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (played.returncode, played.stderr) == (0, ""), f"{path.name}, FFmpeg {version}: {played.stderr}"
