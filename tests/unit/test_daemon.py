import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest
from structlog.testing import capture_logs

from bridge import daemon as daemon_module
from bridge.config import Address, AvatarConfig, Config, InputConfig, OutputConfig, SessionConfig, StorageConfig
from bridge.daemon import Daemon, run_daemon
from bridge.errors import ProviderRejected, SourceRejected
from bridge.redact import Secret

PATIENCE_S = 5.0
Behaviour = Callable[["FakeSession"], Awaitable[None]]


async def until_drained(session: "FakeSession") -> None:
    await session.drained.wait()


async def for_ever(session: "FakeSession") -> None:
    await asyncio.Event().wait()


def raising(error: Exception) -> Behaviour:
    async def run(session: "FakeSession") -> None:
        raise error

    return run


class FakeSession:
    """Does what the next behaviour under its name says, the last one again and again."""

    behaviours: dict[str, list[Behaviour]]
    made: list["FakeSession"]

    def __init__(self, name: str, config: SessionConfig, **_: Any) -> None:
        self.name = name
        self.has_been_on_air = False
        self.rejection = ""
        self.drained = asyncio.Event()
        self.drained_within_s: float | None = None
        self.was_cancelled = False
        behaviours = self.behaviours[name]
        self._behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        self.made.append(self)

    async def run(self) -> None:
        try:
            await self._behaviour(self)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise

    async def drain(self, within_s: float) -> None:
        self.drained_within_s = within_s
        self.drained.set()


class FakeHttpServer:
    """Listens nowhere; its readiness can be asked."""

    last: "FakeHttpServer"
    address = Address("127.0.0.1", 8081)

    def __init__(
        self, http: object, metrics: object, registry: object, readiness: Callable[[], str | None], **_: object
    ) -> None:
        self.readiness = readiness
        FakeHttpServer.last = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSession.behaviours, FakeSession.made = {"leo": [until_drained]}, []
    monkeypatch.setattr(daemon_module, "Session", FakeSession)
    monkeypatch.setattr(daemon_module, "HttpServer", FakeHttpServer)
    monkeypatch.setattr(daemon_module, "FIRST_RESTART_S", 0.002)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    def config(*names: str) -> Config:
        session = SessionConfig(
            avatar=AvatarConfig(license=Secret("sk_test"), name="navtalk.Leo"),
            inputs={"speech": InputConfig(url=Secret.url("file:speech.wav"))},
            outputs={"archive": OutputConfig(url=Secret.url("file:leo.mp4"))},
        )
        return Config(storage=StorageConfig(dir=tmp_path), drain_s=7.0, sessions=dict.fromkeys(names, session))

    return config


async def settle(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_a_drained_daemon_ends_with_status_0(config: Callable[..., Config]) -> None:
    running = asyncio.create_task(run_daemon(config("leo")))
    await settle()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        assert await running == 0
    assert FakeSession.made[0].drained_within_s == 7.0


async def test_a_bug_in_the_http_side_is_shown_and_leaves_the_sessions_on_air(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: FakeHttpServer) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeHttpServer, "run", crash)
    with capture_logs() as logged:
        daemon = Daemon(config("leo"))
        running = asyncio.create_task(daemon.run())
        await settle()
        assert not running.done()
        daemon.stop()
        async with asyncio.timeout(PATIENCE_S):
            assert await running
    assert not FakeSession.made[0].was_cancelled
    assert [entry["log_level"] for entry in logged if entry["event"] == "http_failed"] == ["error"]


@pytest.mark.parametrize("error", [SourceRejected("no such file"), ProviderRejected("a wrong licence")])
async def test_a_session_that_only_an_operator_can_put_right_ends_with_status_1(
    error: Exception, config: Callable[..., Config]
) -> None:
    FakeSession.behaviours["leo"] = [raising(error)]
    with capture_logs() as logged:
        async with asyncio.timeout(PATIENCE_S):
            assert await run_daemon(config("leo")) == 1
    (ended,) = [entry for entry in logged if entry["event"] == "session_ended"]
    assert (ended["session"], ended["error"], ended["log_level"]) == ("leo", str(error), "error")
    assert len(FakeSession.made) == 1


async def test_a_session_that_fails_leaves_the_others_running(config: Callable[..., Config]) -> None:
    FakeSession.behaviours = {"leo": [raising(SourceRejected("no such file"))], "mia": [until_drained]}
    daemon = Daemon(config("leo", "mia"))
    running = asyncio.create_task(daemon.run())
    await settle()
    assert not running.done()
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert await running is False


async def test_a_session_that_a_bug_ended_is_started_anew(config: Callable[..., Config]) -> None:
    started = asyncio.Event()

    async def start(session: FakeSession) -> None:
        started.set()
        await until_drained(session)

    FakeSession.behaviours["leo"] = [raising(KeyError("a bug")), start]
    daemon = Daemon(config("leo"))
    with capture_logs() as logged:
        running = asyncio.create_task(daemon.run())
        async with asyncio.timeout(PATIENCE_S):
            await started.wait()
    assert daemon.has_crashed
    assert [entry["exc_info"] for entry in logged if entry["event"] == "session_crashed"] == [True]
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert await running is True


async def test_a_bug_that_strikes_while_draining_ends_with_status_1(config: Callable[..., Config]) -> None:
    async def crash_at_the_end(session: FakeSession) -> None:
        await until_drained(session)
        raise KeyError("a bug")

    FakeSession.behaviours["leo"] = [crash_at_the_end]
    daemon = Daemon(config("leo"))
    running = asyncio.create_task(daemon.run())
    await settle()
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert await running is False
    assert len(FakeSession.made) == 1


async def test_a_second_stop_cancels_what_still_runs(config: Callable[..., Config]) -> None:
    FakeSession.behaviours["leo"] = [for_ever]
    daemon = Daemon(config("leo"))
    running = asyncio.create_task(daemon.run())
    await settle()
    daemon.stop(within_s=60.0)
    await settle()
    assert not running.done()
    assert FakeSession.made[0].drained_within_s == 60.0
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert FakeSession.made[0].was_cancelled


async def test_a_session_is_there_for_the_operator_while_it_runs(config: Callable[..., Config]) -> None:
    FakeSession.behaviours = {"leo": [raising(SourceRejected("no such file"))], "mia": [until_drained]}
    daemon = Daemon(config("leo", "mia"))
    assert daemon.session("mia") is None
    running = asyncio.create_task(daemon.run())
    await settle()
    assert daemon.session("mia") is FakeSession.made[1]
    assert daemon.session("leo") is None and daemon.session("nobody") is None
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert daemon.session("mia") is None


async def test_it_is_ready_once_every_session_has_been_on_air(config: Callable[..., Config]) -> None:
    FakeSession.behaviours = {"leo": [until_drained], "mia": [until_drained]}
    daemon = Daemon(config("leo", "mia"))
    running = asyncio.create_task(daemon.run())
    await settle()
    readiness = FakeHttpServer.last.readiness
    leo, mia = FakeSession.made
    leo.has_been_on_air = True
    assert readiness() == "session mia has not been on air yet"
    mia.has_been_on_air = True
    assert readiness() is None
    daemon.stop()
    assert readiness() == "draining"
    async with asyncio.timeout(PATIENCE_S):
        await running


async def test_it_is_not_ready_while_a_session_waits_for_its_operator(config: Callable[..., Config]) -> None:
    FakeSession.behaviours = {"leo": [until_drained]}
    daemon = Daemon(config("leo"))
    running = asyncio.create_task(daemon.run())
    await settle()
    (session,) = FakeSession.made
    session.has_been_on_air = True
    assert FakeHttpServer.last.readiness() is None
    session.rejection = "top up the account"
    assert FakeHttpServer.last.readiness() == "session leo shows its slate: top up the account"
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        await running


async def test_it_is_not_ready_with_a_session_that_has_failed(config: Callable[..., Config]) -> None:
    Secret("sk_canary_unready")
    rejected = ProviderRejected("a wrong licence, sk_canary_unready of yours")
    FakeSession.behaviours = {"leo": [raising(rejected)], "mia": [until_drained]}
    daemon = Daemon(config("leo", "mia"))
    running = asyncio.create_task(daemon.run())
    await settle()
    for session in FakeSession.made:
        session.has_been_on_air = True
    assert FakeHttpServer.last.readiness() == "session leo has failed: a wrong licence, *** of yours"
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        await running
