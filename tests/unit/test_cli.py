import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import bridge.daemon
import bridge.demo
import bridge.local_avatar.server
from bridge import __main__, __version__, cli
from bridge.config import Config
from bridge.demo import DemoOptions
from bridge.errors import ConfigError, InternalError, OutputRejected, ProviderUnavailable
from bridge.local_avatar.faults import Fault
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.media.access_unit import Codec
from bridge.redact import Secret

CONFIG = """\
sessions:
  leo:
    avatar: {name: navtalk.Leo, license_env: NAVTALK_KEY}
    inputs: {question: {url: "file:question.wav"}}
    outputs: {archive: {url: "file:leo.mp4"}}
"""

Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command line in this process: exit status, standard output, standard error."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run_line(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["avatar-bridge", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        shown = capsys.readouterr()
        return exited.value.code or 0, shown.out, shown.err  # type: ignore[return-value]

    yield run_line
    logging.captureWarnings(False)
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NAVTALK_KEY", "sk_canary_123")
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG)
    return str(path)


def answering(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, answer: int | Exception) -> list[Any]:
    """Replaces what a command hands over to; returns the list of what it was given."""
    given: list[Any] = []

    async def stand_in(argument: Any, *more: Any) -> int:
        given.append(argument)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(owner, name, stand_in)
    return given


def test_the_version_and_the_commands_are_told(run: Run) -> None:
    assert run("--version") == (0, f"avatar-bridge {__version__}\n", "")
    status, text, _ = run("--help")
    assert status == 0 and all(re.search(rf"^  {name}\b", text, re.M) for name in ("run", "check", "demo", "avatar"))


@pytest.mark.parametrize(
    "line",
    [("nonsense",), ("run",), ("check", "a", "b"), ("demo", "--seconds", "0"), ("demo", "--service", "simli"), ()],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(run: Run, line: tuple[str, ...]) -> None:
    assert run(*line)[0] == 2


def test_check_prints_the_effective_configuration_without_secrets(run: Run, config_file: str) -> None:
    status, text, _ = run("check", config_file)
    assert status == 0 and "drain_s: 20.0" in text and "canary" not in text


def test_a_wrong_configuration_is_status_2_and_one_line_for_each_mistake(run: Run, config_file: str) -> None:
    Path(config_file).write_text(CONFIG.replace("name:", "nmae:").replace("file:leo.mp4", "file:leo.avi"))
    for command in ("check", "run"):
        status, _, errors = run(command, config_file)
        assert status == 2
        assert [line.startswith(f"avatar-bridge: {config_file}:") for line in errors.splitlines()] == [True, True]


def test_run_hands_the_configuration_to_the_daemon_and_its_status_back(
    run: Run, config_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = answering(monkeypatch, bridge.daemon, "run_daemon", 1)
    assert run("run", config_file)[0] == 1
    assert isinstance(given[0], Config) and "leo" in given[0].sessions


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("127.0.0.1:8080 is in use"), 2),
        (ProviderUnavailable("no answer"), 1),
        (ExceptionGroup("", [OutputRejected("refused"), ExceptionGroup("", [InternalError("bug")])]), 1),
        (ExceptionGroup("", [OutputRejected("refused"), ConfigError("wrong")]), 2),
    ],
    ids=["configuration", "running", "group", "group with configuration"],
)
def test_an_error_of_ours_is_one_line_and_no_traceback(
    run: Run, config_file: str, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    answering(monkeypatch, bridge.daemon, "run_daemon", error)
    given_status, _, errors = run("run", config_file)
    assert given_status == status
    assert errors and all(line.startswith("avatar-bridge: ") for line in errors.splitlines())


def test_a_secret_in_an_error_is_masked(run: Run, config_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, bridge.daemon, "run_daemon", ProviderUnavailable("wss://h/p?license=sk_canary_123 closed"))
    assert "canary" not in run("run", config_file)[2]


def test_a_bug_keeps_its_traceback(
    config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, bridge.daemon, "run_daemon", ExceptionGroup("", [ValueError("bug")]))
    monkeypatch.setattr(sys, "argv", ["avatar-bridge", "run", config_file])
    monkeypatch.setattr(cli, "_configure_logging", lambda config: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ValueError: bug" in shown


def test_demo_hands_over_checked_options(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[DemoOptions] = answering(monkeypatch, bridge.demo, "run_demo", 0)
    (tmp_path / "url").write_text("rtmp://live.example/app/a-canary-key\n")
    line = f"--input file:a.wav --output file:b.mkv --output @{tmp_path}/url --record out.mp4 --seconds 12"
    assert run("demo", *line.split())[0] == 0
    [options] = given
    assert options.input and options.input.url.reveal() == "file:a.wav"
    assert [output.address.reveal() for output in options.outputs] == [
        "file:b.mkv",
        "rtmp://live.example/app/a-canary-key",
    ]
    assert (options.record, options.seconds) == (Path("out.mp4"), 12.0)
    assert run("demo")[0] == 0
    assert given[1] == DemoOptions()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--input", "jack:x"), "--input: jack: is no input of this version"),
        (("--output", "twitch"), "--output: must be a URL"),
        (("--output", "@/nowhere"), "--output: cannot read /nowhere"),
        (("--record", "out.avi"), "--record: file:out.avi must end in .mp4"),
    ],
)
def test_a_wrong_option_is_named(run: Run, line: tuple[str, ...], message: str) -> None:
    status, _, errors = run("demo", *line)
    assert status == 2 and message in errors


def test_avatar_hands_over_its_options_and_prints_its_url(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[LocalAvatarOptions] = []

    class StandIn:
        def __init__(self, options: LocalAvatarOptions, on_listening: Callable[[str], None]) -> None:
            given.append(options)
            self._on_listening = on_listening

        async def run(self) -> None:
            self._on_listening("ws://here")
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    monkeypatch.setattr(bridge.local_avatar.server, "LocalAvatar", StandIn)
    (tmp_path / "key").write_text("only-this-one\n")
    line = (
        "--listen [::1]:0 --size 640x480 --fps 30 --profile high --codec vp8 --flash "
        f"--license-file {tmp_path}/key --fault no-offer --fault loss:1"
    )
    assert run("avatar", *line.split())[:2] == (0, "ws://here\n")
    [options] = given
    assert (options.listen_host, options.listen_port, options.size_px, options.fps) == ("::1", 0, (640, 480), 30)
    assert (options.profile, options.flash, options.timecode) == ("high", True, False)
    assert options.license == Secret("only-this-one")
    assert options.codec is Codec.VP8
    assert options.faults == (Fault("no-offer"), Fault("loss", 1.0))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--listen", "8080"), "--listen: must be HOST:PORT"),
        (("--size", "721x1280"), "--size 721x1280: must be WIDTHxHEIGHT"),
        (("--fault", "explode"), "--fault explode: there is no such fault, only these:\navatar-bridge:   no-offer "),
        (("--license-file", "/nowhere"), "--license-file: cannot read /nowhere"),
    ],
)
def test_a_wrong_option_of_the_local_service_is_named(run: Run, line: tuple[str, ...], message: str) -> None:
    status, _, errors = run("avatar", *line)
    assert status == 2 and message in errors


def test_the_schema_is_printed_as_json(run: Run) -> None:
    assert json.loads(run("schema")[1])["title"] == "avatar-bridge configuration"


def test_help_loads_neither_webrtc_nor_numpy() -> None:
    program = "import bridge.cli, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"numpy", "scipy", "av", "aiortc", "fastapi", "uvicorn"}.isdisjoint(loaded.stdout.split())


def test_python_m_bridge_is_the_same_command() -> None:
    line = [sys.executable, "-m", "bridge", "--version"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True)
    assert shown.stdout == f"avatar-bridge {__version__}\n"


LOADING = """
import os, signal, sys

class Slow:
    def find_spec(self, name, *_):
        if name == "bridge.cli":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Slow())
sys.argv[0] = "avatar-bridge"
from bridge.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("command", "status"), [*((name, 0) for name in __main__.LASTING), ("check", -signal.SIGTERM), ("--version", -15)]
)
def test_what_goes_on_until_it_is_told_to_end_may_be_told_to_while_it_is_loaded(command: str, status: int) -> None:
    # A check that was cut off has found nothing out, and must not look as if all were well.
    ended = subprocess.run([sys.executable, "-c", LOADING, command], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")
