import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge import demo as demo_module
from bridge.config import Address, Config, InputConfig, OutputConfig
from bridge.demo import DemoOptions, _local_service, run_demo
from bridge.errors import ProviderUnavailable
from bridge.outputs.status import OutputState, OutputStatus
from bridge.redact import Secret
from bridge.samples import SPEECH
from bridge.status import MediaStatus, SessionState, SessionStatus
from bridge.timeline.splice import OnAir

URL = "ws://127.0.0.1:9/wss/v2/realtime-chat"
PATIENCE_S = 5.0


def status(*, n_pictures: int, input_is_finished: bool = False, error: str = "") -> SessionStatus:
    media = {field: None for field in MediaStatus.__dataclass_fields__}
    media |= {"fps": 25.0, "video_bps": 1e6, "n_pictures": n_pictures, "n_lost_packets": 0}
    output = {field: None for field in OutputStatus.__dataclass_fields__}
    output |= {
        "name": "record",
        "protocol": "file",
        "bytes_total": 1,
        "last_error": "",
        "accepted": int(n_pictures > 0),
    }
    output |= {"state": OutputState.CLOSED}
    return SessionStatus(
        name="demo",
        state=SessionState.LIVE,
        error=error,
        on_air=OnAir.LIVE,
        capabilities=frozenset(),
        media=MediaStatus(**media),  # type: ignore[arg-type]
        spoken_s=1.0,
        input_is_finished=input_is_finished,
        outputs=(OutputStatus(**output),),  # type: ignore[arg-type]
    )


class FakeDaemon:
    """A daemon with one session, whose status and end a test decides."""

    last: "FakeDaemon"
    now: SessionStatus
    succeeds = True
    has_crashed = False
    ends_by_itself = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stopped_within_s: list[float | None] = []
        self.is_draining = False
        self.http_address = Address("127.0.0.1", 8081)
        self._stopped = asyncio.Event()
        FakeDaemon.last = self

    async def run(self) -> bool:
        if not self.ends_by_itself:
            await self._stopped.wait()
        return self.succeeds

    def stop(self, within_s: float | None = None) -> None:
        self.stopped_within_s.append(within_s)
        self.is_draining = True
        self._stopped.set()

    def status(self) -> list[SessionStatus]:
        return [self.now]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("succeeds", True), ("has_crashed", False), ("ends_by_itself", False)):
        monkeypatch.setattr(FakeDaemon, name, value)
    monkeypatch.setattr(FakeDaemon, "now", status(n_pictures=25), raising=False)
    monkeypatch.setattr(demo_module, "Daemon", FakeDaemon)
    monkeypatch.setattr(demo_module, "configure_logging", lambda *_: None)
    monkeypatch.setattr(demo_module, "LOOK_EVERY_S", 0.001)
    use_service(monkeypatch, asyncio.Event().wait)


def use_service(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    @contextlib.asynccontextmanager
    async def service(name: str) -> AsyncIterator[tuple[list[str], "asyncio.Task[Any]"]]:
        task = asyncio.ensure_future(run())
        try:
            yield [URL], task
        finally:
            task.cancel()

    monkeypatch.setattr(demo_module, "_local_service", service)


async def exit_status(**options: Any) -> int:
    async with asyncio.timeout(PATIENCE_S):
        return await run_demo(DemoOptions(**options))


async def test_it_ends_after_the_seconds_that_were_asked_for_with_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert await exit_status(seconds=0.01) == 0
    assert FakeDaemon.last.stopped_within_s == [0.0]
    assert "25, lost packets 0" in capsys.readouterr().out


async def test_it_ends_with_its_input_after_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDaemon, "now", status(n_pictures=25, input_is_finished=True))
    assert await exit_status() == 0
    assert FakeDaemon.last.stopped_within_s == [None]


@pytest.mark.parametrize(
    "trouble", [{"succeeds": False, "ends_by_itself": True}, {"has_crashed": True}, {"now": status(n_pictures=0)}]
)
async def test_a_session_that_failed_crashed_or_showed_nothing_is_status_1(
    trouble: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in trouble.items():
        monkeypatch.setattr(FakeDaemon, name, value)
    if FakeDaemon.now.media.n_pictures == 0:
        monkeypatch.setattr(FakeDaemon, "ends_by_itself", True)
    assert await exit_status(seconds=0.01) == 1


async def test_control_c_ends_it_at_once() -> None:
    running = asyncio.create_task(exit_status())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 0
    assert FakeDaemon.last.stopped_within_s == [0.0]


async def test_the_last_error_stands_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeDaemon, "now", status(n_pictures=25, error="the avatar was away"))
    await exit_status(seconds=0.01)
    assert "the avatar was away" in capsys.readouterr().out


async def test_a_local_service_that_ends_by_itself_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end() -> int:
        return 1

    use_service(monkeypatch, end)
    with pytest.raises(ProviderUnavailable, match="ended by itself"):
        await exit_status()


# ---------------------------------------------------------------------------------------------- the configuration


async def test_without_options_the_sample_is_spoken_into_a_recording_on_loopback() -> None:
    await exit_status(seconds=0.01)
    config = FakeDaemon.last.config
    (session,) = config.sessions.values()
    assert config.ice.interfaces == ("lo",)
    assert config.http.listen == ("127.0.0.1", 0)
    assert session.avatar.url.reveal() == URL
    assert session.avatar.role == "speak"
    assert [source.url.reveal() for source in session.inputs.values()] == [f"file:{SPEECH}"]
    (recording,) = session.outputs.values()
    assert config.storage.dir == Path.cwd() / "recordings"
    assert recording.address.reveal().startswith("file:demo-{start:")


async def test_paths_of_options_are_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_text("an older one")
    await exit_status(
        seconds=0.01,
        input=InputConfig(url=Secret.url("file:question.wav"), gain_db=3.0),
        outputs=(
            OutputConfig(url=Secret.url("file:deep/below/copy.mkv")),
            OutputConfig(url=Secret.url("rtmp://127.0.0.1/live/some_stream_key")),
        ),
        record=Path("clip.mp4"),
    )
    config = FakeDaemon.last.config
    (session,) = config.sessions.values()
    (source,) = session.inputs.values()
    assert (source.url.reveal(), source.gain_db) == (f"file:{tmp_path}/question.wav", 3.0)
    assert config.storage.dir == tmp_path
    assert {name: output.address.reveal() for name, output in session.outputs.items()} == {
        "output-1": "file:deep/below/copy.mkv",
        "output-2": "rtmp://127.0.0.1/live/some_stream_key",
        "record": "file:clip.mp4",
    }
    assert not (tmp_path / "clip.mp4").exists()


async def test_a_service_that_neither_ends_nor_falls_silent_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "service"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho ws://127.0.0.1:1/\nexec cat /dev/zero\n")
    program.chmod(0o755)
    monkeypatch.setattr(demo_module.sys, "executable", str(program))
    monkeypatch.setattr(demo_module, "SERVICE_STOP_S", 0.1)
    async with asyncio.timeout(PATIENCE_S), _local_service("navtalk") as (urls, has_ended):
        assert urls == ["ws://127.0.0.1:1/"]
    assert has_ended.result() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("url", "entrance"),
    [
        ("whip:", "http://127.0.0.1:8081/v1/sessions/demo/whip/speech"),
        ("ws:?rate=8000", "ws://127.0.0.1:8081/v1/sessions/demo/pcm/speech"),
    ],
)
async def test_it_says_where_sound_is_to_be_sent(capsys: pytest.CaptureFixture[str], url: str, entrance: str) -> None:
    assert await exit_status(seconds=0.01, input=InputConfig(url=Secret.url(url))) == 0
    assert f"send sound to {entrance}\n" in capsys.readouterr().err
