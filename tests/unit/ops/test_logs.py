import asyncio
import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from bridge import redact
from bridge.ops import logs
from bridge.ops.logs import RepeatedWarnings, configure_logging
from bridge.redact import Secret

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield io.StringIO()
    logging.captureWarnings(False)
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    configure_logging(stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_an_event_is_one_json_object_on_one_line(lines: Lines) -> None:
    structlog.get_logger().bind(session="leo").info("output_publishing", codec="h264", bytes=5)
    [line] = lines()
    assert list(line)[:4] == ["timestamp", "level", "event", "session"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "output_publishing", "level": "info", "session": "leo", "codec": "h264", "bytes": 5}


def test_on_a_terminal_an_event_is_text_with_colours(stream: io.StringIO) -> None:
    terminal = Terminal()
    configure_logging(stream=terminal)
    structlog.get_logger().warning("output_lost", output="twitch")
    assert "output_lost" in terminal.getvalue() and "\x1b[" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_events_below_the_level_are_left_out(stream: io.StringIO) -> None:
    configure_logging(level="warning", format="json", stream=stream)
    structlog.get_logger().info("hidden")
    structlog.get_logger().warning("shown")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["shown"]


def test_secrets_are_masked_in_every_kind_of_value_and_in_tracebacks(lines: Lines, stream: io.StringIO) -> None:
    canary = "c4n4ry-%/ü\"'x"
    secret = Secret(canary)
    log = structlog.get_logger()
    log.info(f"event {canary}", plain=canary, wrapped=secret, nested={"a": [canary, {canary: 1}]}, obj=OSError(canary))
    log.info("url", url=f"wss://host/path?license={secret.reveal()}&name=navtalk.Leo")
    log.info("unknown_url", error=ValueError("no answer from rtmp://host/app/never-seen-before"))
    logging.getLogger("some.library").error("connecting with %s", canary)
    try:
        raise RuntimeError(f"failed with {canary}")
    except RuntimeError:
        log.exception("broken")
    assert "c4n4ry" not in stream.getvalue() and "never-seen-before" not in stream.getvalue()
    assert lines()[1]["url"].endswith("&name=navtalk.Leo")
    assert "RuntimeError: failed with ***" in lines()[-1]["exception"]


def test_a_secret_that_is_a_word_of_the_program_does_not_hide_what_has_happened(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redact, "_kept", set())  # other tests need these words
    monkeypatch.setattr(redact, "_pattern", None)
    for word in ("session", "warning", "draining", "resource"):
        Secret(word)
    structlog.get_logger().warning("session_draining", resource="the session of a guest")
    logging.getLogger("some.library").error("resource")
    event, said = lines()
    assert (event["event"], event["level"]) == ("session_draining", "warning")
    assert event["resource"] == "the *** of a guest"
    assert said["event"] == "***"


def test_libraries_take_the_same_way_out_and_are_quiet_below_warning(lines: Lines) -> None:
    for name in ("aiortc.rtcrtpreceiver", "aioice.ice", "websockets.client", "uvicorn.error", "never.heard.of"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble with %s", name)
    assert [line["logger"] for line in lines() if line["event"].startswith("trouble")] == [
        "aiortc.rtcrtpreceiver",
        "aioice.ice",
        "websockets.client",
        "uvicorn.error",
        "never.heard.of",
    ]
    assert not [line for line in lines() if line["event"] == "chatter"]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("message, args", [("%d %s", ("canary",)), ("%d", ("canary",)), ("%s", (Unspeakable(),))])
def test_a_record_that_cannot_be_read_is_reported_without_what_was_in_it(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str], message: str, args: tuple[object, ...]
) -> None:
    configure_logging(stream=stream)  # here, so that pytest's own handler does not see the record
    logging.getLogger("some.library").error(message, *args)
    [line] = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert (line["event"], line["logger"]) == ("log_record_unreadable", "some.library")
    assert line["origin"].startswith("test_logs.py:")
    shown = stream.getvalue() + "".join(capsys.readouterr())
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("level", "name"), [(35, "warning"), (49, "error"), (60, "critical"), (1000, "critical"), (30, "warning")]
)
def test_a_level_that_is_none_of_the_usual_counts_as_the_one_below(lines: Lines, level: int, name: str) -> None:
    logging.getLogger("some.library").log(level, "trouble")
    assert [line["level"] for line in lines()] == [name]


def test_python_warnings_are_logged(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert "old ways" in lines()[0]["event"]


def test_libav_is_silent_by_default() -> None:
    import av.logging

    assert av.logging.get_level() is None


def test_a_log_that_nobody_can_take_disturbs_nobody(stream: io.StringIO) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    configure_logging(stream=Full())
    structlog.get_logger().info("still_running")


class Folding:
    """`RepeatedWarnings` with a clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.written: list[tuple[str, int | None]] = []
        self.processor = RepeatedWarnings(
            lambda event: self.written.append((event["event"], event.get("repeated"))), lambda: self.now_s
        )

    def log(self, event: str, level: str = "warning", **fields: Any) -> None:
        with pytest.raises(structlog.DropEvent):
            self.processor(None, level, {"event": event, "level": level, **fields})


def test_a_repeated_warning_is_written_once_and_summed_up_when_its_second_is_over() -> None:
    folding = Folding()
    for _ in range(18):
        folding.log("units_dropped", session="leo", output="twitch")
    assert folding.written == [("units_dropped", None)]
    folding.now_s = logs.REPEAT_WINDOW_S
    folding.processor.write_overdue()
    assert folding.written[1:] == [("units_dropped", 17)]


def test_a_storm_of_warnings_makes_one_line_a_second() -> None:
    folding = Folding()
    for step in range(100):
        folding.now_s = step / 10
        folding.log("packet_invalid")
    assert len(folding.written) == 10


def test_warnings_of_different_outputs_and_other_levels_are_not_folded() -> None:
    folding = Folding()
    folding.log("output_lost", output="a")
    folding.log("output_lost", output="b")
    folding.log("output_lost", level="error")
    folding.log("output_lost", level="error")
    assert len(folding.written) == 4


def test_a_warning_after_a_quiet_second_is_written_at_once() -> None:
    folding = Folding()
    folding.log("output_lost")
    folding.now_s = 5.0
    folding.log("output_lost")
    assert folding.written == [("output_lost", None), ("output_lost", None)]


async def test_the_loop_closes_windows_without_another_event(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "REPEAT_WINDOW_S", 0.0)
    for _ in range(3):
        structlog.get_logger().warning("input_stalled")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(line.get("repeated", 1) for line in lines()) == 3


def test_threads_may_log_at_the_same_time(lines: Lines) -> None:
    def work() -> None:
        for _ in range(200):
            structlog.get_logger().warning("from_a_thread")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines()[0]["event"] == "from_a_thread" and len(lines()) < 10
