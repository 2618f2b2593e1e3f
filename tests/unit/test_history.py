import asyncio
import json
import stat
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.errors import ConfigError
from bridge.history import MAX_FILE_BYTES, MAX_ITEM_CHARACTERS, MAX_REPLAYED, MAX_REPLAYED_CHARACTERS, History


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def saved(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_saved_history_is_loaded_as_it_was(path: Path) -> None:
    history = History(path)
    history.add("user", "Grüße, \n wie geht's?")
    history.add("assistant", "well")
    history.add("user", "good")
    history.save()
    loaded = History(path)
    loaded.load()
    assert loaded.users == ["Grüße, \n wie geht's?", "good"]
    assert [json.loads(line)["role"] for line in path.read_text().splitlines()] == ["user", "assistant", "user"]


def test_only_its_owner_may_read_the_file(path: Path) -> None:
    history = History(path)
    history.add("user", "a secret")
    history.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_a_file_it_is_kept_in_memory() -> None:
    history = History()
    history.load()
    history.add("user", "hello")
    history.save()
    assert history.users == ["hello"]


def test_a_file_that_is_not_there_yet_is_an_empty_history(path: Path) -> None:
    history = History(path)
    history.load()
    assert history.users == []


def test_white_space_is_nothing_said() -> None:
    history = History()
    history.add("user", " \n")
    assert history.users == []


def test_the_newest_user_items_are_replayed_and_the_list_stays_the_same() -> None:
    history = History()
    users = history.users
    for index in range(MAX_REPLAYED + 5):
        history.add("user", str(index))
        history.add("assistant", "yes")
    assert history.users is users
    assert users == [str(index) for index in range(5, MAX_REPLAYED + 5)]


def test_long_items_are_cut_and_leave_room_for_few() -> None:
    history = History()
    for letter in "abc":
        history.add("user", letter * 2 * MAX_ITEM_CHARACTERS)
    assert sum(map(len, history.users)) == MAX_REPLAYED_CHARACTERS
    assert [text[0] for text in history.users] == ["b", "c"]


def test_the_file_is_bounded_and_loses_its_oldest(path: Path) -> None:
    history = History(path)
    for index in range(60):
        history.add("user", f"{index} " + "x" * 7_000)
    history.save()
    assert path.stat().st_size <= MAX_FILE_BYTES
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1])["content"].startswith("59 ")
    assert len(lines) > 30


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        '{"role": "user"}',
        '{"role": "system", "content": "x"}',
        '{"role": "user", "content": 5}',
        "[" * 9999,
    ],
)
def test_a_line_that_is_none_is_named(line: str, path: Path) -> None:
    path.write_text('{"role": "user", "content": "x"}\n' + line + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        History(path).load()


def test_blank_lines_are_none(path: Path) -> None:
    path.write_text('\n{"role": "user", "content": "x"}\n\n \r\n{"role": "user", "content": "y"}\n\n')
    history = History(path)
    history.load()
    assert history.users == ["x", "y"]


@pytest.mark.parametrize(("n_more", "n_read"), [(0, 256), (1, 255), (1023, 255), (1024, 255)])
def test_of_a_file_that_is_too_long_the_last_whole_lines_are_read(n_more: int, n_read: int, path: Path) -> None:
    lines = [f'{{"role": "user", "content": "{number}"}}'.ljust(1023) + "\n" for number in range(300)]
    path.write_text("".join(lines) + " " * n_more)
    history = History(path)
    history.load()
    history.add("user", "x")
    history.save()
    assert MAX_FILE_BYTES == 256 * 1024
    contents = [json.loads(line)["content"] for line in path.read_text().splitlines()]
    assert contents == [*map(str, range(300 - n_read, 300)), "x"]


def test_a_line_that_is_none_is_named_in_a_file_that_is_too_long_too(path: Path) -> None:
    path.write_text("x" * MAX_FILE_BYTES + "\n" + "Dear diary\n")
    with pytest.raises(ConfigError, match="line 1 of those in the last 262144 bytes"):
        History(path).load()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"history_file .*Is a directory"):
        History(tmp_path).load()


def test_a_disk_that_refuses_is_logged_and_nothing_is_left_behind(tmp_path: Path) -> None:
    history = History(tmp_path / "missing" / "history.jsonl")
    history.add("user", "hello")
    with capture_logs() as logged:
        history.save()
    assert [entry["event"] for entry in logged] == ["history_not_saved"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "missing").mkdir()
    history.save()
    assert "hello" in saved(tmp_path / "missing" / "history.jsonl")


async def test_without_a_file_there_is_nothing_to_keep_up_to_date() -> None:
    before = threading.active_count()
    running = asyncio.create_task(History().run())
    await asyncio.sleep(0)
    assert running.done() and threading.active_count() == before


async def test_running_saves_after_each_turn_and_at_the_end(path: Path) -> None:
    history = History(path)
    running = asyncio.create_task(history.run())
    history.add("user", "hello")
    await asyncio.sleep(0)
    assert not saved(path)
    history.add("assistant", "good day")
    async with asyncio.timeout(5.0):
        while not saved(path):  # noqa: ASYNC110  a file announces nothing
            await asyncio.sleep(0.001)
    history.add("user", "bye")
    running.cancel()
    await asyncio.wait((running,))
    assert "bye" in saved(path)
