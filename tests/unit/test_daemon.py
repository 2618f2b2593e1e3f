import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
from structlog.testing import capture_logs

from bridge import daemon as daemon_module
from bridge import supervisor as supervisor_module
from bridge.config import (
    Address,
    Config,
    EventWebhookConfig,
    InputConfig,
    LiveKitConfig,
    NavTalkConfig,
    OutputConfig,
    OverlayConfig,
    SessionConfig,
    StorageConfig,
)
from bridge.config_origin import Definition, StrangeParts
from bridge.daemon import Daemon, run_daemon
from bridge.errors import ConfigError, ProviderRejected, SourceRejected
from bridge.redact import Secret
from bridge.reload import OutputChanges
from bridge.status import SessionState
from bridge.timeline.splice import OnAir

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

    def __init__(self, name: str, config: SessionConfig, *, strange: StrangeParts, **_: Any) -> None:
        self.name = name
        self.strange = strange
        self.has_been_on_air = False
        self.rejection = ""
        self.state, self.on_air, self.on_air_ns = SessionState.LIVE, OnAir.SLATE, 1
        self.drained = asyncio.Event()
        self.drained_within_s: float | None = None
        self.was_cancelled = False
        self.config = config
        self.changed: list[OutputChanges] = []
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

    async def change_outputs(self, changes: OutputChanges, strange: StrangeParts) -> None:
        self.changed.append(changes)
        self.strange = strange


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
    monkeypatch.setattr(supervisor_module, "Session", FakeSession)
    monkeypatch.setattr(daemon_module, "HttpServer", FakeHttpServer)
    monkeypatch.setattr(supervisor_module, "FIRST_RESTART_S", 0.002)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    def config(*names: str) -> Config:
        session = SessionConfig(
            avatar=NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo"),
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


async def test_what_was_imported_is_no_business_of_garbage_collections_while_it_runs(
    config: Callable[..., Config],
) -> None:
    n_left_alone: list[int] = []

    async def count(session: FakeSession) -> None:
        n_left_alone.append(gc.get_freeze_count())

    FakeSession.behaviours["leo"] = [count]
    n_before = len(gc.get_objects())
    assert await run_daemon(config("leo")) == 0
    assert n_left_alone[0] > 0.9 * n_before
    assert not gc.get_freeze_count()


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


async def test_a_bug_in_a_webhook_is_shown_and_leaves_the_session_on_air(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("bridge.ops.webhooks.EventWebhook.run", crash)
    webhooks = (EventWebhookConfig(url=Secret.url("https://events.example.com/leo")),)
    with capture_logs() as logged:
        daemon = Daemon(with_another(config("leo"), webhooks=webhooks))
        running = asyncio.create_task(daemon.run())
        await settle()
        assert not running.done()
        daemon.stop()
        async with asyncio.timeout(PATIENCE_S):
            assert await running
    assert not FakeSession.made[0].was_cancelled
    assert [entry["session"] for entry in logged if entry["event"] == "webhook_crashed"] == ["leo"]


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


async def test_the_first_signal_goes_on_with_a_drain_that_the_api_began(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeSession.behaviours["leo"] = [for_ever]
    running = asyncio.create_task((daemon := Daemon(config("leo"))).run())
    await settle()
    daemon.stop()
    daemon.on_stop_signal()
    daemon.on_stop_signal()  # timeout(1) sends each signal twice
    await settle()
    assert not running.done()
    monkeypatch.setattr(daemon_module, "SAME_SIGNAL_NS", 0)
    daemon.on_stop_signal()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert FakeSession.made[0].was_cancelled


async def test_a_service_manager_hears_how_it_goes(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "4000000")
        FakeSession.behaviours["mia"] = [until_drained]
        daemon = Daemon(config("leo", "mia"))
        running = asyncio.create_task(daemon.run())
        await settle()
        assert manager.recv(4096) == b"READY=1"
        assert manager.recv(4096) == b"WATCHDOG=1\nSTATUS=leo: live, slate on air, mia: live, slate on air"
        daemon.stop()
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=14000000"
        async with asyncio.timeout(PATIENCE_S):
            await running


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


@contextlib.asynccontextmanager
async def reloading(before: Config, read: Callable[[], Config]) -> AsyncIterator[Daemon]:
    """A daemon that runs, and is drained at the end."""
    daemon = Daemon(before, read)
    running = asyncio.create_task(daemon.run())
    await settle()
    async with asyncio.timeout(PATIENCE_S):
        yield daemon
        assert not running.done()
        daemon.stop()
        await running


def with_another(before: Config, **keys: Any) -> Config:
    """The same, but for keys of its session."""
    return before.model_copy(update={"sessions": {"leo": before.sessions["leo"].model_copy(update=keys)}})


async def test_a_reload_changes_outputs_of_a_session_that_goes_on(config: Callable[..., Config]) -> None:
    before = config("leo")
    outputs = {"another": OutputConfig(url=Secret.url("file:another.mp4"))}
    async with reloading(before, lambda: with_another(before, outputs=outputs)) as daemon:
        found = await daemon.reload()
        assert found.restarted == {}
        (leo,) = FakeSession.made
        assert leo.changed == [OutputChanges(frozenset({"archive"}), outputs)]
        assert (await daemon.reload()).are_none
        assert not leo.drained.is_set()


async def test_a_reload_ends_a_session_before_it_begins_anew_and_the_daemon_goes_on(
    config: Callable[..., Config],
) -> None:
    before = config("leo")
    inputs = {"speech": InputConfig(url=Secret.url("file:another.wav"))}
    async with reloading(before, lambda: with_another(before, inputs=inputs)) as daemon:
        FakeSession.behaviours["leo"] = [until_drained]
        assert (await daemon.reload()).restarted == {"leo": ("inputs",)}
        await settle()
        first, second = FakeSession.made
        assert first.drained_within_s == 7.0
        assert not second.drained.is_set()
        assert second.config.inputs == inputs


async def test_a_session_that_has_failed_begins_anew_where_the_file_says_something_new_of_its_outputs(
    config: Callable[..., Config],
) -> None:
    FakeSession.behaviours = {"leo": [raising(ConfigError("no such logo")), until_drained], "mia": [until_drained]}
    before, after = config("leo", "mia"), config("leo", "mia")
    after.sessions.update(with_another(after, outputs={"archive": OutputConfig(url=Secret.url("file:b.mp4"))}).sessions)
    async with reloading(before, lambda: after) as daemon:
        assert daemon.session("leo") is None
        found = await daemon.reload()
        assert (found.restarted, found.outputs) == ({"leo": ("outputs",)}, {})
        await settle()
        failed, _, anew = FakeSession.made
        assert daemon.session("leo") is anew
        assert not failed.drained.is_set(), "what has ended has nothing to finish"


async def test_sessions_come_and_go_with_a_reload(config: Callable[..., Config]) -> None:
    FakeSession.behaviours["mia"] = [until_drained]
    async with reloading(config("leo"), lambda: config("mia")) as daemon:
        await daemon.reload()
        await settle()
        assert [session.name for session in FakeSession.made] == ["leo", "mia"]
        assert daemon.session("leo") is None
        assert daemon.session("mia") is FakeSession.made[1]


async def test_a_broken_file_leaves_everything_as_it_was(config: Callable[..., Config]) -> None:
    def read() -> Config:
        raise ConfigError("bridge.yaml:3: sessions: unknown key")

    with capture_logs() as logged:
        async with reloading(config("leo"), read) as daemon:
            daemon.on_reload_signal()
            with pytest.raises(ConfigError, match="unknown key"):
                await daemon.reload()
            (leo,) = FakeSession.made
            assert not leo.drained.is_set()
    assert [entry["error"] for entry in logged if entry["event"] == "reload_refused"] == [
        "bridge.yaml:3: sessions: unknown key"
    ]


def with_no_logo(tmp_path: Path) -> OutputConfig:
    overlay = OverlayConfig(logo_file=tmp_path / "there_is_none.png")
    return OutputConfig(url=Secret.url("file:leo.mp4"), overlay=overlay)


async def test_a_file_whose_output_cannot_be_opened_leaves_everything_as_it_was(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    FakeSession.behaviours["mia"] = [until_drained]
    broken, mended = config("leo", "mia"), config("leo", "mia")
    leo = with_another(broken, outputs={"archive": with_no_logo(tmp_path)}).sessions["leo"]
    broken.sessions["leo"] = leo
    files = [broken, mended]
    async with reloading(config("leo"), lambda: files.pop(0)) as daemon:
        with pytest.raises(ConfigError, match="there_is_none"):
            await daemon.reload()
        assert not FakeSession.made[0].changed and not daemon.is_overridden("leo")
        assert (await daemon.reload()).begun == {"mia"}
        assert daemon.session("mia") is not None


# ---------------------------------------------------------------------------------------------- calls of the API

STRANGE = StrangeParts(True, frozenset({"speech"}), frozenset({"archive"}), True)


def into(definition: Definition | None) -> Callable[[Definition | None], Awaitable[Definition | None]]:
    async def change(now: Definition | None) -> Definition | None:
        return definition

    return change


def with_output(now: Definition | None, name: str) -> Definition:
    assert now is not None
    outputs = now.config.outputs | {name: OutputConfig(url=Secret.url(f"file:{name}.mp4"))}
    return Definition(now.config.model_copy(update={"outputs": outputs}), StrangeParts(outputs=frozenset({name})))


async def test_a_call_begins_a_session_and_ends_it(config: Callable[..., Config]) -> None:
    FakeSession.behaviours["mia"] = [until_drained]
    async with reloading(config("leo"), lambda: config("leo")) as daemon:
        await daemon.change_session("mia", into(Definition(config("mia").sessions["mia"], STRANGE)))
        mia = FakeSession.made[-1]
        assert daemon.session("mia") is mia and mia.strange == STRANGE
        assert daemon.is_overridden("mia") and not daemon.is_overridden("leo")
        # The file has never heard of it.
        assert (await daemon.reload()).are_none
        assert daemon.session("mia") is mia
        await daemon.change_session("mia", into(None))
        assert mia.drained_within_s == 7.0
        assert daemon.session("mia") is None and daemon.definition("mia") is None
        assert not FakeSession.made[0].drained.is_set()


async def test_a_call_that_changes_outputs_leaves_the_session_running(config: Callable[..., Config]) -> None:
    async with reloading(config("leo"), lambda: config("leo")) as daemon:
        now = daemon.definition("leo")
        await daemon.change_session("leo", into(with_output(now, "more")))
        (leo,) = FakeSession.made
        assert [set(changed.put) for changed in leo.changed] == [{"more"}]
        assert leo.strange.outputs == {"more"}
        assert daemon.is_overridden("leo")
        # The file says what it said: what the call has made of it stays.
        assert (await daemon.reload()).are_none
        await daemon.change_session("leo", into(now))
        assert [set(changed.removed) for changed in leo.changed[1:]] == [{"more"}]
        assert not daemon.is_overridden("leo")


async def test_what_the_file_says_anew_replaces_what_calls_have_made(config: Callable[..., Config]) -> None:
    before = config("leo")
    archive = {"archive": OutputConfig(url=Secret.url("file:another.mp4"))}
    async with reloading(before, lambda: with_another(before, outputs=archive)) as daemon:
        await daemon.change_session("leo", into(with_output(daemon.definition("leo"), "more")))
        await daemon.reload()
        assert not daemon.is_overridden("leo")
        assert daemon.definition("leo") == Definition(before.sessions["leo"].model_copy(update={"outputs": archive}))
        (leo,) = FakeSession.made
        assert leo.changed[-1] == OutputChanges(frozenset({"more"}), archive)


async def test_a_call_whose_output_cannot_be_opened_changes_nothing(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    async with reloading(config("leo"), lambda: config("leo")) as daemon:
        now = daemon.definition("leo")
        assert now is not None
        outputs = {"archive": with_no_logo(tmp_path)}
        with pytest.raises(ConfigError, match="there_is_none"):
            await daemon.change_session("leo", into(Definition(now.config.model_copy(update={"outputs": outputs}))))
        assert daemon.definition("leo") == now
        assert not FakeSession.made[0].changed


async def test_calls_wait_for_each_other(config: Callable[..., Config]) -> None:
    async with reloading(config("leo"), lambda: config("leo")) as daemon:
        may_end = asyncio.Event()

        async def slowly(now: Definition | None) -> Definition:
            await may_end.wait()
            return with_output(now, "slow")

        async def quickly(now: Definition | None) -> Definition:
            return with_output(now, "quick")

        calls = [asyncio.create_task(daemon.change_session("leo", change)) for change in (slowly, quickly)]
        await settle()
        # Who asked has gone; what was begun is done all the same.
        calls[0].cancel()
        may_end.set()
        await calls[1]
        now = daemon.definition("leo")
        assert now is not None and set(now.config.outputs) == {"archive", "slow", "quick"}


async def test_what_cannot_be_opened_changes_nothing(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_provider(*_: object, **__: object) -> NoReturn:
        raise ConfigError("avatar.service: livekit needs more")

    monkeypatch.setattr("bridge.session.open_provider", open_provider)
    async with reloading(config("leo"), lambda: config("leo")) as daemon:
        livekit = LiveKitConfig(service="livekit", url=Secret.url("wss://studio.lan"), token=Secret("t"))
        leo = config("leo").sessions["leo"].model_copy(update={"avatar": livekit})
        with pytest.raises(ConfigError, match="livekit needs more"):
            await daemon.change_session("leo", into(Definition(leo, STRANGE)))
        (leo_runs,) = FakeSession.made
        assert daemon.session("leo") is leo_runs and not daemon.is_overridden("leo")


async def test_a_session_that_has_failed_begins_anew_with_any_call(config: Callable[..., Config]) -> None:
    FakeSession.behaviours = {"leo": [raising(SourceRejected("no such file")), until_drained], "mia": [until_drained]}
    daemon = Daemon(config("leo", "mia"))
    running = asyncio.create_task(daemon.run())
    await settle()
    assert daemon.session("leo") is None
    await daemon.change_session("leo", into(daemon.definition("leo")))
    assert daemon.session("leo") is FakeSession.made[-1]
    daemon.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert await running


async def test_a_daemon_without_sessions_waits_for_one(config: Callable[..., Config]) -> None:
    async with reloading(config("leo"), lambda: config("leo")) as daemon:
        leo = daemon.definition("leo")
        await daemon.change_session("leo", into(None))
        await settle()
        await daemon.change_session("leo", into(leo))
        assert daemon.session("leo") is FakeSession.made[-1] and len(FakeSession.made) == 2
        await daemon.change_session("leo", into(None))


async def test_there_is_room_for_as_many_sessions_as_configured(config: Callable[..., Config]) -> None:
    assert Daemon(config("leo").model_copy(update={"max_sessions": 2})).has_room
    assert not Daemon(config("leo", "mia").model_copy(update={"max_sessions": 2})).has_room
