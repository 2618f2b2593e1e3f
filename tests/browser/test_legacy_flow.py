"""One visit of a browser that follows the vendor's page on the older interface, to the local avatar: 8 s."""

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.browser.chromium import avatar_service, record_microphone, vendor_flow

# As of the newer interface: the visit plays in real time, and two programs that code pictures have the machine.
pytestmark = [pytest.mark.peer, pytest.mark.serial]

FPS = 25
# Step 4's table, and what the vendor's application shows in between.
DOCUMENTED = (
    "session.created",
    "session.updated",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "conversation.item.input_audio_transcription.completed",
    "response.audio_transcript.delta",
    "response.audio_transcript.done",
    "response.audio.delta",
    "response.audio.done",
)


@dataclass(frozen=True)
class Visit:
    """What browser and service had to say afterwards; `sound`: RMS of what was heard beside each picture."""

    events: list[dict[str, Any]]
    problems: list[str]
    words: list[str]
    n_sound_bytes: int
    media: dict[str, dict[str, Any]]
    sound: npt.NDArray[np.float64]
    service_log: dict[str, Any]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return asyncio.run(_visit(tmp_path_factory.mktemp("visit")), debug=True)


async def _visit(directory: Path) -> Visit:
    microphone = record_microphone(directory / "greeting.wav", silence_s=1.5, speech_s=1.5, end_s=3.5)
    async with (
        avatar_service(directory, "--services", "navtalk-legacy", "--size", "360x640") as (avatar, urls),
        vendor_flow(microphone) as flow,
    ):
        url, signal_url = urls.split()
        await flow.start(url, flow="LegacyFlow", signalUrl=signal_url)
        await flow.pictures(FPS)
        seen = await flow.look("flow.watch(argument)", 6.0)
        await flow.event("response.audio.done")
        media = await flow.media()
        names = ["events", "problems", "words", "nSoundBytes"]
        events, problems, words, n_sound_bytes = await flow.look("argument.map((name) => flow[name])", names)
        await flow.look("flow.close()")
        service_log = await avatar.logged("avatar_session_ended")
        assert await avatar.stop() == 0
        assert not [line for line in avatar.stderr if "Traceback" in line or '"level": "error"' in line]
    sound = np.array([picture["sound"] for picture in seen])
    return Visit(events, problems, words, n_sound_bytes, media, sound, service_log)


def test_the_page_meets_no_problem(visit: Visit) -> None:
    assert visit.problems == []


def test_the_service_can_read_everything_that_the_page_sends(visit: Visit) -> None:
    assert visit.service_log["unreadable_frames"] == visit.service_log["binary_frames"] == 0


def test_events_come_in_the_documented_order(visit: Visit) -> None:
    types = [event["type"] for event in visit.events if event["type"] in DOCUMENTED]
    assert tuple(kind for kind, _ in itertools.groupby(types)) == DOCUMENTED


def test_words_and_sound_stand_where_the_page_looks_for_them(visit: Visit) -> None:
    (whole,) = [
        event["data"]["transcript"] for event in visit.events if event["type"] == "response.audio_transcript.done"
    ]
    assert "".join(visit.words) == whole != ""
    assert visit.n_sound_bytes > 24_000


def test_the_page_shows_and_plays_the_avatar(visit: Visit) -> None:
    video = visit.media["video"]
    assert (video["frameWidth"], video["frameHeight"], video["mimeType"]) == (360, 640, "video/H264")
    assert video["freezeCount"] == video["packetsLost"] == 0
    assert visit.sound[:10].max() < 0.01
    assert (visit.sound > 0.05).sum() > FPS / 2
