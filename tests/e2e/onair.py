"""What tests about continuity ask of a broadcast, and hold its recordings to."""

import asyncio
import subprocess
from pathlib import Path

from benchmarks.lipsync import write_tone
from benchmarks.stretches import Recorded, Stretch, offsets, read_recording, stretches
from tests.conftest import require_program
from tests.e2e.processes import Daemon, Setting, Show
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


async def whole(path: Path, show: Show, kinds: list[bool]) -> list[Stretch]:
    """Hold a recording to what holds for all of them, whatever has happened; its stretches."""
    found = await asyncio.to_thread(read_recording, path)
    parts = stretches(found.pictures)
    assert [part.is_live for part in parts] == kinds, path.name
    await asyncio.to_thread(assert_plays, path)
    assert_goes_on(path, found)
    offsets_ms = [1000 * offset_s for offset_s in await asyncio.to_thread(offsets, path, parts)]
    show(f"{path.name}: sound against picture: {', '.join(f'{o:+.1f}' for o in offsets_ms)} ms")
    assert all(abs(offset_ms) <= 10 for offset_ms in offsets_ms)
    return parts


def assert_goes_on(path: Path, found: Recorded) -> None:
    assert found.timestamps_back == 0, path.name
    # Opus has packets of 20 ms and AAC of 21.3 ms; FLV and Matroska count milliseconds.
    assert found.longest_silence_s <= 0.040, path.name


def assert_plays(path: Path) -> None:
    """FFmpeg, which stops at the first error, does not complain of anything."""
    # By itself it would count pictures in units of the frame rate, in which two that follow closely coincide.
    exactly = ("-fps_mode", "passthrough", "-enc_time_base:v", "1/90000")
    command = (require_program("ffmpeg"), "-v", "error", "-xerror", "-i", path, *exactly, "-f", "null", "-")
    played = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (played.returncode, played.stderr) == (0, ""), f"{path.name}: {played.stderr}"
