"""The files beside recordings."""

import errno
import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.media.clock import NS_PER_S
from bridge.media.utterance import Utterance
from bridge.outputs import transcript
from bridge.outputs.shelf import CountedFile
from bridge.outputs.transcript import Transcripts


def said(text: str, begins_s: float, ends_s: float, *, is_host: bool = False) -> Utterance:
    return Utterance(
        speaker="host" if is_host else "avatar",
        name="Host" if is_host else "leo",
        text=text,
        begins_ns=round(begins_s * NS_PER_S),
        ends_ns=round(ends_s * NS_PER_S),
    )


def lines(path: Path) -> list[tuple[float, float, str]]:
    objects = [json.loads(line) for line in path.read_text().splitlines()]
    return [(found["begins_s"], found["ends_s"], found["text"]) for found in objects]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_begins_with_the_first_words_and_times_count_from_the_recordings_start(tmp_path: Path) -> None:
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 5 * NS_PER_S)
    assert not names_in(tmp_path)
    transcripts.write([said("Hello & welcome.", 6.5, 8.25), said("Hi.", 9, 9.5, is_host=True)])
    assert names_in(tmp_path) == ["leo.jsonl", "leo.vtt"]
    assert (tmp_path / "leo.vtt").read_text() == (
        "WEBVTT\n\n00:00:01.500 --> 00:00:03.250\n<v leo>Hello &amp; welcome.\n\n"
        "00:00:04.000 --> 00:00:04.500\n<v Host>Hi.\n\n"
    )
    first = json.loads((tmp_path / "leo.jsonl").read_text().splitlines()[0])
    assert first == {"begins_s": 1.5, "ends_s": 3.25, "speaker": "avatar", "name": "leo", "text": "Hello & welcome."}


def test_words_stand_in_every_file_in_which_they_sound(tmp_path: Path) -> None:
    transcripts = Transcripts()
    for number in range(3):
        transcripts.begin(tmp_path / f"{number}.mp4", number * 10 * NS_PER_S)
    transcripts.write([said("over the border", 8, 12), said("told late", 3, 4), said("now", 25, 26)])
    assert lines(tmp_path / "0.jsonl") == [(8.0, 10.0, "over the border"), (3.0, 4.0, "told late")]
    assert lines(tmp_path / "1.jsonl") == [(0.0, 2.0, "over the border")]
    assert lines(tmp_path / "2.jsonl") == [(5.0, 6.0, "now")]


def test_what_was_before_the_recording_is_left_out(tmp_path: Path) -> None:
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 5 * NS_PER_S)
    transcripts.write([said("before", 1, 5), said("x", 4, 6)])
    assert lines(tmp_path / "leo.jsonl") == [(0.0, 1.0, "x")]


def test_cues_stand_in_the_order_of_time_however_late_they_are_told(tmp_path: Path) -> None:
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 0)
    texts = ["c", "d", "a", "b", "e"]
    transcripts.write(said(text, ord(text) - 96, ord(text) - 95.5) for text in texts)
    found = (tmp_path / "leo.vtt").read_text()
    assert [line[-1] for line in found.splitlines() if line.startswith("<v")] == ["a", "b", "c", "d", "e"]
    assert found.count("-->") == 5


@pytest.mark.parametrize(("taken", "expected"), [([".vtt"], "leo.mkv.vtt"), ([".vtt", ".mkv.vtt"], "")])
def test_a_file_that_is_there_is_kept(tmp_path: Path, taken: list[str], expected: str) -> None:
    for suffix in taken:
        (tmp_path / f"leo{suffix}").write_text("mine")
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mkv", 0)
    transcripts.write([said("x", 1, 2), said("y", 2, 3)])
    assert all((tmp_path / f"leo{suffix}").read_text() == "mine" for suffix in taken)
    assert transcripts.n_failed == (0 if expected else 2)
    assert not expected or (tmp_path / expected).read_text().count("-->") == 2


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """room: bytes that files may still grow by."""
    found = {"room": 1 << 20}

    class LittleFile(CountedFile):
        def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
            owned = max(0, os.fstat(self.fileno()).st_size - self.tell())
            taken = bytes(data)[: owned + found["room"]]
            found["room"] -= max(0, len(taken) - owned)
            super().write(taken)
            if len(taken) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(taken)

    monkeypatch.setattr(transcript, "CountedFile", LittleFile)
    return found


def test_a_full_disk_is_told_once_and_leaves_whole_files(tmp_path: Path, disk: dict[str, int]) -> None:
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 0)
    transcripts.write([said("kept", 1, 2)])
    whole = (tmp_path / "leo.vtt").read_bytes(), (tmp_path / "leo.jsonl").read_bytes()
    with capture_logs() as logged:
        for room in (0, 10):
            disk["room"] = room
            transcripts.write([said("lost", 2, 3)])
    assert ((tmp_path / "leo.vtt").read_bytes(), (tmp_path / "leo.jsonl").read_bytes()) == whole
    assert transcripts.n_failed == 2
    assert [(event["event"], event["error"]) for event in logged] == [("transcript_failed", "No space left on device")]
    assert logged[0]["path"] == str(tmp_path / "leo.jsonl")
    disk["room"] = 1 << 20
    transcripts.write([said("there is room again", 3, 4)])
    assert "room again" in (tmp_path / "leo.vtt").read_text()


def test_a_full_disk_does_not_tear_a_cue_out_that_was_there(tmp_path: Path, disk: dict[str, int]) -> None:
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 0)
    transcripts.write([said("later", 5, 6)])
    before = (tmp_path / "leo.vtt").read_bytes()
    disk["room"] = len((tmp_path / "leo.jsonl").read_bytes()) + 20
    transcripts.write([said("early", 1, 2)])
    assert (tmp_path / "leo.vtt").read_bytes() == before
    assert transcripts.n_failed == 1


def test_a_file_without_room_for_its_first_words_does_not_appear(tmp_path: Path, disk: dict[str, int]) -> None:
    disk["room"] = 0
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 0)
    transcripts.write([said("x", 1, 2)])
    assert (names_in(tmp_path), transcripts.n_failed) == ([], 1)


def test_a_transcript_that_was_moved_away_does_not_come_back_as_a_torso(tmp_path: Path) -> None:
    transcripts = Transcripts()
    transcripts.begin(tmp_path / "leo.mp4", 0)
    transcripts.write([said("x", 1, 2)])
    for name in names_in(tmp_path):
        (tmp_path / name).unlink()
    transcripts.write([said("y", 2, 3)])
    assert (names_in(tmp_path), transcripts.n_failed) == ([], 1)
