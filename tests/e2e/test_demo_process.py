"""The first thing that a newcomer runs."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from tests.e2e import recorded
from tests.e2e.processes import COMMAND, SPEECH, Program, Show, descendants, exists
from tests.unit.inputs.web import Request, web


@pytest.mark.parametrize("place", ["relative", "absolute"])
async def test_the_demo_records_what_was_asked_for_and_leaves_nothing_behind(place: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    recording = here / "clip.mp4" if place == "relative" else tmp_path / "elsewhere" / "clip.mp4"
    recording.parent.mkdir(exist_ok=True)
    recording.write_text("an older one, to be replaced")
    named = recording.name if place == "relative" else recording
    async with Program(*COMMAND, "demo", "--seconds", "4", "--record", named, cwd=here) as demo:
        await demo.logged("recording_started")
        started = descendants(demo.pid)
        assert await demo.exit_status() == 0

    assert started
    assert not [pid for pid in started if exists(pid)]
    assert [path for path in (*here.iterdir(), *recording.parent.iterdir()) if path != recording] == []
    assert demo.stdout[0].split() == ["avatar-bridge", "demo"]
    rows = {cells[1].strip(): cells[2].strip() for line in demo.stdout if len(cells := line.split("│")) == 4}
    assert set(rows) == {"pictures", "first picture after", "speech sent", "A/V offset", "added latency", "record"}
    assert rows["pictures"].endswith("lost packets 0")
    # A frame around the rows, and nothing else.
    assert len(demo.stdout) == 1 + 1 + len(rows) + 1

    picture, sound = recorded.tracks(recording)
    assert recorded.n_pictures(recording) == len(picture.packets)
    for track in (picture, sound):
        assert 3.5 < track.end_s - track.start_s < 5.0
    assert recorded.likeness(recorded.sound(recording), recorded.sound(SPEECH)[: 2 * recorded.SPEECH_RATE_HZ]) > 0.8


# Where four tests share the machine the service has no time to draw as many pictures as the demo shows elsewhere.
@pytest.mark.paired
@pytest.mark.parametrize("service", ["navtalk-legacy", "heygen", "liveavatar", "livekit"])
async def test_the_demo_of_each_service_shows_an_avatar_that_says_what_it_is_sent(
    service: str, tmp_path: Path, show: Show
) -> None:
    arguments = ("--service", service, "--seconds", "4", "--record", "clip.mp4")
    async with Program(*COMMAND, "demo", *arguments, cwd=tmp_path) as demo:
        assert await demo.exit_status() == 0, demo.everything()
    rows = {cells[1].strip(): cells[2].strip() for line in demo.stdout if len(cells := line.split("│")) == 4}
    n_received, n_lost = map(int, re.findall(r"\d+", rows["pictures"]))
    assert n_lost == 0
    recording = tmp_path / "clip.mp4"
    picture, sound = recorded.tracks(recording)
    assert recorded.n_pictures(recording) == len(picture.packets) > 75
    assert len(picture.packets) >= n_received - 5, "more is missing than what came while the recording was closed"
    for track in (picture, sound):
        assert 3.5 < track.end_s - track.start_s < 5.0
    alike = recorded.likeness(recorded.sound(recording), recorded.sound(SPEECH)[: 2 * recorded.SPEECH_RATE_HZ])
    show(f"demo of {service}: first picture {rows['first picture after']}, A/V {rows['A/V offset']}, sound {alike:.2f}")
    assert alike > 0.8


async def test_the_demo_hears_a_station(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        # A burst, as stations give; then it is slow.
        body = SPEECH.read_bytes()
        await request.say("ICY 200 OK", "icy-name: Rauschen", body=body[:100_000], is_whole=False)
        await asyncio.Event().wait()

    async with web(answer) as site:
        arguments = ("--seconds", "3", "--record", "clip.mp4", "--input", site.url("/;"))
        async with Program(*COMMAND, "demo", *arguments, cwd=tmp_path) as demo:
            assert await demo.exit_status() == 0, demo.everything()
    heard = recorded.sound(tmp_path / "clip.mp4")
    assert recorded.likeness(heard, recorded.sound(SPEECH)[: 2 * recorded.SPEECH_RATE_HZ]) > 0.8


async def test_the_demo_on_a_terminal_ends_well_with_control_c(tmp_path: Path) -> None:
    async with Program(*COMMAND, "demo", "--record", "clip.mp4", cwd=tmp_path, own_group=True) as demo:
        await demo.logged("recording_started")
        started = descendants(demo.pid)
        # A terminal sends it to everybody: the demo, and the service that it has started.
        os.killpg(demo.pid, signal.SIGINT)
        status = await demo.exit_status()
    assert status == 0, demo.everything()
    assert not [pid for pid in started if exists(pid)]
    assert demo.stdout
