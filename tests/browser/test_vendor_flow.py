"""One visit of a browser that follows the vendor's documents, to the local avatar at its default size: 20 s.

The visitor greets, hears the answer, and types a question that names a tool. Every test looks at the same visit.
"""

import asyncio
import base64
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.browser.chromium import avatar_service, record_microphone, vendor_flow

# The visit plays in real time, and two programs that code 720x1280 share the machine with nobody else.
pytestmark = [pytest.mark.peer, pytest.mark.serial]

PLAYED_S = 20.0
FPS = 25
# "The API sends events in a specific sequence" (WebSocket Connection, step 4), nine of them.
DOCUMENTED = (
    "conversation.connected.success",
    "realtime.session.created",
    "realtime.session.updated",
    "realtime.input_audio_buffer.speech_started",
    "realtime.input_audio_buffer.speech_stopped",
    "realtime.conversation.item.input_audio_transcription.completed",
    "realtime.response.audio_transcript.delta",
    "realtime.response.audio_transcript.done",
    "realtime.response.audio.done",
)
TRANSCRIPT_DONE = "realtime.response.audio_transcript.done"
AUDIO_DONE = "realtime.response.audio.done"
TOOL_CALL = "realtime.response.function_call_arguments.done"
TOOL = {
    "type": "function",
    "name": "opening_hours",
    "description": "When the shop is open.",
    "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": []},
}
TOOL_OUTPUT = "We open at nine."
HISTORY = [
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hello Ada."},
    {"role": "user", "content": "I like trains."},
]
# Of the page's samples of a picture, rows and columns: the mouth, and what it moves.
MOUTH = (slice(31, 38), slice(13, 22))
# Of full scale: what is below is silence, what is above is speech; between the two lies the end of a syllable.
SILENT_RMS = 0.001
SPEAKING_RMS = 0.05

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Visit:
    """What browser and service had to say afterwards.

    before, after  inbound-rtp statistics by kind: after the first second of pictures, and PLAYED_S later.
    tracks         kinds of media in the stream that the page plays.
    sound          RMS of what was heard beside each picture of the first answer.
    pictures       those pictures, each 64 rows of 36.
    """

    events: list[dict[str, Any]]
    sent: list[str]
    problems: list[str]
    size_px: list[int]
    tracks: list[str]
    tool_arguments: Any
    before: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]
    sound: npt.NDArray[np.float64]
    pictures: Pictures
    service_log: dict[str, Any]

    def data(self, type_name: str) -> list[Mapping[str, Any]]:
        return [event["data"] for event in self.events if event["type"] == type_name]

    def grown(self, kind: str, name: str) -> float:
        return float(self.after[kind][name] - self.before[kind][name])


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return asyncio.run(_visit(tmp_path_factory.mktemp("visit")), debug=True)


async def _visit(directory: Path) -> Visit:
    microphone = record_microphone(directory / "greeting.wav", silence_s=2.0, speech_s=1.6, end_s=4.0)
    async with avatar_service(directory) as (avatar, url), vendor_flow(microphone) as flow:
        await flow.start(url, tools=[TOOL], history=HISTORY, toolOutput=TOOL_OUTPUT)
        await flow.pictures(FPS)
        before = await flow.media()
        played = asyncio.create_task(asyncio.sleep(PLAYED_S))
        seen = await flow.look("flow.watch(argument)", 7.0)
        await flow.event(AUDIO_DONE)
        await flow.look("flow.sendText(argument)", "Tell me the opening_hours of Sunday, please.")
        await flow.event(AUDIO_DONE, 2)
        await played
        after = await flow.media()
        await flow.page.screenshot(path=directory / "afterwards.png")
        names = ["events", "sent", "problems", "toolArguments"]
        events, sent, problems, tool_arguments = await flow.look("argument.map((name) => flow[name])", names)
        tracks = await flow.look("avatar.srcObject.getTracks().map(({ kind }) => kind).sort()")
        size_px = await flow.look("[avatar.videoWidth, avatar.videoHeight]")
        await flow.look("flow.close()")
        service_log = await avatar.logged("avatar_session_ended")
        assert await avatar.stop() == 0
        assert not [line for line in avatar.stderr if "Traceback" in line or '"level": "error"' in line]
    luma = [np.frombuffer(base64.b64decode(picture["luma"]), np.uint8) for picture in seen]
    return Visit(
        events=events,
        sent=sent,
        problems=problems,
        size_px=size_px,
        tracks=tracks,
        tool_arguments=tool_arguments,
        before=before,
        after=after,
        sound=np.array([picture["sound"] for picture in seen]),
        pictures=np.array(luma).reshape(-1, 64, 36),
        service_log=service_log,
    )


def test_the_page_meets_no_problem(visit: Visit) -> None:
    assert visit.problems == []


def test_the_service_can_read_everything_that_the_page_sends(visit: Visit) -> None:
    assert visit.service_log["unreadable_frames"] == 0


def test_events_come_in_the_documented_order(visit: Visit) -> None:
    first_turn = itertools.takewhile(lambda event: event["type"] != TOOL_CALL, visit.events)
    types = [event["type"] for event in first_turn if event["type"] in DOCUMENTED]
    assert tuple(kind for kind, _ in itertools.groupby(types)) == DOCUMENTED


def test_events_about_an_answer_hold_its_words_where_the_page_looks_for_them(visit: Visit) -> None:
    whole = visit.data(TRANSCRIPT_DONE)[0]
    pieces = [data for data in visit.data("realtime.response.audio_transcript.delta") if data["id"] == whole["id"]]
    assert whole["content"] == "".join(data["content"] for data in pieces) != ""


def test_the_picture_is_720_by_1280_and_h264(visit: Visit) -> None:
    video = visit.after["video"]
    assert visit.size_px == [video["frameWidth"], video["frameHeight"]] == [720, 1280]
    assert video["mimeType"] == "video/H264"


def test_the_page_shows_a_picture_with_contrast(visit: Visit) -> None:
    assert visit.pictures.std(axis=(1, 2)).min() > 20.0


def test_sound_and_picture_come_in_one_stream_since_the_page_plays_no_second_one(visit: Visit) -> None:
    assert visit.tracks == ["audio", "video"]


def test_the_avatar_is_heard_while_it_speaks_and_silent_before(visit: Visit) -> None:
    assert visit.grown("audio", "totalAudioEnergy") > 0.01
    first_heard = int(np.argmax(visit.sound > SPEAKING_RMS))
    assert first_heard >= FPS  # the page watches from the first second to the answer to what it says in the third
    assert visit.sound[:first_heard].max(initial=0.0) < SPEAKING_RMS
    assert (visit.sound > SPEAKING_RMS).sum() > FPS / 2


def test_the_mouth_moves_while_the_avatar_is_heard_and_rests_while_it_is_silent(visit: Visit) -> None:
    mouth = visit.pictures[(slice(None), *MOUTH)].astype(np.int64)
    moved = np.abs(np.diff(mouth, axis=0)).mean(axis=(1, 2))
    # Somebody who listens nods and smiles, and a mouth opens before it is heard: single pictures prove nothing.
    resting = np.median(moved[visit.sound[1:] < SILENT_RMS])
    speaking = np.median(moved[visit.sound[1:] > SPEAKING_RMS])
    print(f"\nMouth: {resting:.2f} from picture to picture at rest, {speaking:.2f} in speech")
    assert speaking > 3 * resting + 1.0


def test_a_tool_is_called_and_its_output_is_spoken(visit: Visit) -> None:
    (call,) = visit.data(TOOL_CALL)
    assert call["function_name"] == TOOL["name"]
    assert isinstance(visit.tool_arguments, dict)
    assert TOOL_OUTPUT in visit.data(TRANSCRIPT_DONE)[-1]["content"]


def test_the_history_of_the_user_reaches_the_service(visit: Visit) -> None:
    assert visit.service_log["history_items"] == 2


def test_twenty_seconds_are_played_at_the_rate_of_the_avatar_without_a_freeze(visit: Visit) -> None:
    elapsed_s = visit.grown("video", "timestamp") / 1000
    fps = visit.grown("video", "framesDecoded") / elapsed_s
    names = ("freezeCount", "totalFreezesDuration", "framesDropped", "packetsLost", "pliCount")
    figures = {name: visit.grown("video", name) for name in names}
    print(f"\nChromium: {fps:.2f} of {FPS} fps over {elapsed_s:.1f} s; {figures}")
    assert elapsed_s >= PLAYED_S
    assert fps >= FPS - 1
    assert figures["freezeCount"] == figures["packetsLost"] == 0
