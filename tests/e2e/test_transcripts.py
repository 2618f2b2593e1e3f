"""What is written beside recordings is what is heard in them, then."""

import asyncio
import itertools
import json
import wave
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ
from tests.conftest import require_program
from tests.e2e import recorded
from tests.e2e.processes import Avatar, Daemon, Setting, Show, is_root
from tests.unit.dsp.voices import silence, voice

# Sound and words that a busy machine delays are found where they are then: the bounds are tenths of seconds.
pytestmark = pytest.mark.paired

N_TURNS = 3
# A turn of a second, and time for its answer of a second, 0.8 s after it.
TURN = np.concatenate((voice()[:AVATAR_RATE_HZ], silence(4.0)))


def conversation(directory: Path, url: str, **keys: object) -> Setting:
    with wave.open(str(directory / "turns.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AVATAR_RATE_HZ)
        file.writeframes(TURN.astype("<i2").tobytes())
    setting = Setting(directory)
    setting.add_session("leo", url, role="conversation", **keys)
    return setting.input(directory / "turns.wav", loop=True)


async def turns(daemon: Daemon, n_turns: int) -> None:
    """Wait until so many answers have been generated, and the last one has sounded to its end."""
    await daemon.metric_reaches(n_turns, "provider_events_total", type="response_done")
    before = (await daemon.metrics()).total("added_latency_seconds_count", output="archive")
    await daemon.metric_reaches(before + 75, "added_latency_seconds_count", output="archive")


def cues(path: Path) -> list[tuple[float, float, str]]:
    """As FFmpeg's demuxer of WebVTT reads them."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        base = container.streams.subtitles[0].time_base
    return [(float(p.pts * base), float((p.pts + p.duration) * base), bytes(p).decode()) for p in packets]


def voiced_s(samples: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Stretches of sound, with silence of half a second and more between them."""
    window = recorded.SPEECH_RATE_HZ // 50
    levels = [recorded.rms_dbfs(samples[at : at + window]) for at in range(0, len(samples) - window, window)]
    loud_s = [index / 50 for index, level in enumerate(levels) if level > -50]
    edges = [0, *(i + 1 for i in range(len(loud_s) - 1) if loud_s[i + 1] - loud_s[i] > 0.5), len(loud_s)]
    return [(loud_s[a], loud_s[b - 1] + 0.02) for a, b in itertools.pairwise(edges) if b > a]


def objects(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_what_the_avatar_says_is_written_where_it_is_heard(avatar: Avatar, tmp_path: Path, show: Show) -> None:
    setting = conversation(tmp_path, avatar.url)
    recording = setting.recording("archive", url="file:leo.mkv").with_name("leo.mkv")
    async with setting.daemon() as daemon:
        await turns(daemon, N_TURNS)
        assert await daemon.stop() == 0
    found = cues(recording.with_suffix(".vtt"))
    answers = [cue for cue in found if cue[2].startswith("<v leo>")]
    heard = voiced_s(await asyncio.to_thread(recorded.sound, recording))
    assert len(answers) >= N_TURNS
    errors_ms = [
        1000 * (told_s - heard_s)
        for cue, stretch in zip(answers, heard, strict=True)
        for told_s, heard_s in zip(cue[:2], stretch, strict=True)
    ]
    show(f"cues against the sound of {len(answers)} answers: {min(errors_ms):+.0f} to {max(errors_ms):+.0f} ms")
    assert max(map(abs, errors_ms)) <= 100
    # A host is not heard in this recording: each turn ends before its answer, and began after the answer before it.
    hosts = [cue for cue in found if cue[2].startswith("<v Host>(speech, ")]
    assert len(hosts) >= N_TURNS
    for (begins_s, ends_s, _), (answer_s, *_) in zip(hosts, answers, strict=False):
        assert 0.6 <= ends_s - begins_s <= 1.6
        assert 0.1 <= answer_s - ends_s <= 2.0
    lines = objects(recording.with_suffix(".jsonl"))
    assert [line["speaker"] for line in lines][:4] == ["host", "avatar", "host", "avatar"]
    assert {line["name"] for line in lines} == {"Host", "leo"}
    assert "(repeats speech" in str(lines[1]["text"])


async def test_what_viewers_hear_of_a_host_is_written_where_it_is_heard(
    avatar: Avatar, tmp_path: Path, show: Show
) -> None:
    setting = conversation(tmp_path, avatar.url)
    # Between an answer and the next one.
    setting.input(tmp_path / "turns.wav", loop=True, on_air=True, air_delay_ms=4000)
    recording = setting.recording("archive", url="file:leo.mkv").with_name("leo.mkv")
    async with setting.daemon() as daemon:
        await turns(daemon, N_TURNS)
        assert await daemon.stop() == 0
    hosts = [cue for cue in cues(recording.with_suffix(".vtt")) if cue[2].startswith("<v Host>(speech, ")]
    heard = voiced_s(await asyncio.to_thread(recorded.sound, recording))
    assert len(hosts) >= N_TURNS - 1
    errors_ms = []
    for begins_s, ends_s, _ in hosts:
        nearest = min(heard, key=lambda stretch: abs(stretch[0] - begins_s))
        errors_ms += [1000 * (begins_s - nearest[0]), 1000 * (ends_s - nearest[1])]
    show(f"cues against the sound of {len(hosts)} turns: {min(errors_ms):+.0f} to {max(errors_ms):+.0f} ms")
    assert max(map(abs, errors_ms)) <= 100


def known(spans: list[tuple[float, float]], others: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without those of up to 0.2 s that the others lack."""
    return [span for span in spans if span[1] - span[0] > 0.2 or pytest.approx(span, abs=0.2) in others]


async def test_every_part_of_a_recording_has_the_words_that_sound_in_it(avatar: Avatar, tmp_path: Path) -> None:
    setting = conversation(tmp_path, avatar.url)
    # Answers are as long as a part, so that most of them sound in two.
    setting.recording("archive", url="file:leo-{start:%M%S}.mp4", rotate_s=1, keyframe_s=0.5)
    async with setting.daemon() as daemon:
        await turns(daemon, N_TURNS)
        assert await daemon.stop() == 0
    parts = sorted((tmp_path / "recordings").glob("*.mp4"), key=lambda path: path.stat().st_mtime_ns)
    n_with_words = 0
    for part in parts:
        vtt = part.with_suffix(".vtt")
        told = [cue[:2] for cue in cues(vtt) if cue[2].startswith("<v leo>")] if vtt.exists() else []
        heard = voiced_s(await asyncio.to_thread(recorded.sound, part))
        # A part may end between two words, where it is silent: of what only just begins with it nothing is heard.
        told, heard = known(told, heard), known(heard, told)
        assert told == [pytest.approx(stretch, abs=0.2) for stretch in heard], part.name
        n_with_words += bool(told)
    assert n_with_words > N_TURNS


async def test_a_recording_that_begins_anew_has_times_of_its_own(avatar: Avatar, tmp_path: Path) -> None:
    setting = conversation(tmp_path, avatar.url)
    setting.recording("archive", url="file:leo.mkv")
    async with setting.daemon() as daemon:
        await turns(daemon, 1)
        address = (await daemon.logged("http_listening"))["address"]
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"http://{address}/v1/sessions/leo/outputs/archive/restart")
            assert answer.status_code == 204, answer.text
        await turns(daemon, 3)
        assert await daemon.stop() == 0
    for name in ("leo", "leo-1"):
        recording = tmp_path / "recordings" / f"{name}.mkv"
        heard = voiced_s(await asyncio.to_thread(recorded.sound, recording))
        answers = [cue for cue in cues(recording.with_suffix(".vtt")) if cue[2].startswith("<v leo>")]
        assert answers
        assert [cue[0] for cue in answers] == pytest.approx([begins_s for begins_s, _ in heard], abs=0.1), name


@pytest.mark.skipif(not is_root(), reason="only root can mount a file system")
async def test_a_disk_without_room_for_words_costs_the_words_alone(avatar: Avatar, tmp_path: Path) -> None:
    setting = conversation(tmp_path, avatar.url)
    setting.recording("archive", url="file:on-disk/leo.mkv")
    folder = tmp_path / "recordings" / "on-disk"
    folder.mkdir(parents=True)
    # Two inodes, the root's and the recording's: there is room for its bytes, and for no other file.
    mount = f'mount -t tmpfs -o nr_inodes=2 none "{folder}" && exec "$@"'
    within = (require_program("unshare", "util-linux"), "--mount", "sh", "-c", mount, "sh")
    async with setting.daemon(*within) as daemon:
        await daemon.metric_reaches(2, "transcript_errors_total", output="archive")
        written = (await daemon.metrics()).total("added_latency_seconds_count", output="archive")
        await daemon.metric_reaches(written + 25, "added_latency_seconds_count", output="archive")
        (failed,) = daemon.events("transcript_failed")
        assert failed["error"] == "No space left on device"
        assert failed["path"] == str(folder / "leo.jsonl")
        assert (await daemon.metrics()).total("output_state", output="archive", state="publishing") == 1
        assert await daemon.stop() == 0
