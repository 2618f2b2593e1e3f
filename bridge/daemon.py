"""The life of the process: signals, sessions, HTTP, and an end within `drain_s`."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

import structlog
from prometheus_client import CollectorRegistry

from bridge.config import Address, Config
from bridge.config_origin import NONE_STRANGE, Definition, StrangeParts
from bridge.errors import ConfigError
from bridge.media.clock import NS_PER_MS
from bridge.net.url_policy import UrlPolicy
from bridge.ops.api import HttpServer
from bridge.ops.metrics import EventLoopLag, Metrics
from bridge.ops.systemd import Notifier, Watchdog
from bridge.providers import ice_settings
from bridge.reload import Changes, after_reload, changes
from bridge.session import Session, check_parts
from bridge.signals import RELOAD_SIGNALS, STOP_SIGNALS, on_signals
from bridge.status import SessionStatus
from bridge.supervisor import LAST_WORDS_S, Supervisor

# timeout(1) sends its signal to the program and to the program's group: that is one. No hand is as quick.
SAME_SIGNAL_NS = 100 * NS_PER_MS
# What a session may take, when it is drained and its webhooks have had their last words, to be gone; and after that
# the process, which closes its HTTP connections (`ops.api.CLOSE_TIMEOUT_S` and one more).
END_S = 5.0

log = structlog.get_logger()

# Makes of a session's definition another one; None: there is no session.
Change = Callable[[Definition | None], Awaitable[Definition | None]]


async def run_daemon(config: Config, read: Callable[[], Config] | None = None) -> int:
    """The exit status: 0 after a drain, 1 when a session failed. `read` as in `Daemon`."""
    daemon = Daemon(config, read)
    with on_signals(STOP_SIGNALS, daemon.on_stop_signal), on_signals(RELOAD_SIGNALS, daemon.on_reload_signal):
        return 0 if await daemon.run() else 1


class Daemon:
    """Runs every session of a configuration, each for itself, and the HTTP side.

    Sessions come, go and change by a reload of the file or by calls of the API, one change at a time.

    read  reads the configuration anew; None: there is no file that could have changed. Raises ConfigError.
    """

    def __init__(self, config: Config, read: Callable[[], Config] | None = None) -> None:
        self._config = config  # as it is now, calls of the API included
        self._filed = config.sessions  # as the file has it
        self._strange: Mapping[str, StrangeParts] = {}
        self._read = read
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry)
        self._metrics.capacity_sessions.set_function(lambda: self._config.max_sessions)
        self._url_policy = UrlPolicy(config.url_policy.allow)
        self._supervisors = {name: self._supervisor(name) for name in config.sessions}
        self._tasks = asyncio.TaskGroup()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._series: dict[str, contextlib.ExitStack] = {}  # of metrics: visible as long as a session is configured
        self._reload: asyncio.Task[Changes] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._stirred = asyncio.Event()
        self._notifier = Notifier()
        self._signalled_ns: int | None = None
        self.is_draining = False
        self.http_address: Address | None = None  # once it listens

    async def run(self) -> bool:
        """Run until drained, or until the last session has failed. Returns whether no session has failed.

        Raises ConfigError when a port cannot be listened on.
        """
        with contextlib.ExitStack() as stack:
            http = stack.enter_context(
                HttpServer(
                    self._config.http,
                    self._config.metrics,
                    self._registry,
                    self._readiness,
                    daemon=self,
                    storage_dir=self._config.storage.dir,
                    policy=self._url_policy,
                    secrets=self._config.secrets,
                )
            )
            self.http_address = http.address
            stack.callback(self._close_series)
            # A full collection of garbage holds up the media of every session while it looks through all that lives,
            # 90 ms with what was imported by now and 25 without, and waits until there is a quarter as much garbage.
            gc.freeze()
            stack.callback(gc.unfreeze)
            async with self._tasks as tasks:
                for name in self._supervisors:
                    self._begin(name)
                serving = (
                    tasks.create_task(_serve(http), name="http"),
                    tasks.create_task(EventLoopLag(self._metrics).run(), name="event-loop-lag"),
                    *self._supervised(),
                )
                await self._until_over()
                for task in serving:
                    task.cancel()
        log.info("daemon_stopped")
        return not any(supervisor.has_failed for supervisor in self._supervisors.values())

    async def _until_over(self) -> None:
        """Until the last session has ended, and nobody begins another one.

        Where calls have removed them all, others may bring one.
        """
        while True:
            self._stirred.clear()
            # A reload may begin sessions when the last one of before has ended.
            if working := [t for t in (*self._running.values(), *self._calls, self._reload) if t and not t.done()]:
                await asyncio.wait(working)
            elif self._supervisors or self.is_draining:
                return
            else:
                await self._stirred.wait()

    def stop(self, within_s: float | None = None) -> None:
        """Drain: utterances end, outputs and avatar sessions are closed, `run` returns. Called again: abort.

        within_s  None: `drain_s` of the configuration.
        """
        if self.is_draining:
            log.warning("daemon_aborting")
            for session in self._running.values():
                session.cancel()
            return
        self.is_draining = True
        self._stirred.set()
        drain_s = self._config.drain_s if within_s is None else within_s
        log.info("daemon_draining", within_s=drain_s)
        self._notifier.stopping(drain_s + LAST_WORDS_S + END_S)
        for supervisor in self._supervisors.values():
            self._tasks.create_task(supervisor.drain(drain_s), name=f"drain {supervisor.name}")

    def on_stop_signal(self) -> None:
        """Drain; the second one aborts. Where the API has begun to drain already, the first one changes nothing."""
        now_ns, before_ns = time.monotonic_ns(), self._signalled_ns
        if before_ns is not None and now_ns - before_ns < SAME_SIGNAL_NS:
            return
        self._signalled_ns = now_ns
        if before_ns is not None or not self.is_draining:
            self.stop()

    @property
    def has_crashed(self) -> bool:
        """Whether a bug has ended a session, even if it was started anew."""
        return any(supervisor.has_crashed for supervisor in self._supervisors.values())

    # ------------------------------------------------------------------------------------------ reload

    def on_reload_signal(self) -> None:
        """Reload; what is wrong with the file is logged, and the broadcast goes on."""
        self._reload_once().add_done_callback(lambda reload: reload.cancelled() or reload.exception())

    async def reload(self) -> Changes:
        """Read the configuration anew and apply what differs; what does not is not touched. Returns what differed.

        Raises ConfigError: the file is wrong, and nothing has been changed.
        """
        return await asyncio.shield(self._reload_once())

    def _reload_once(self) -> asyncio.Task[Changes]:
        """Whoever asks while one is under way gets that one."""
        if self._reload is None or self._reload.done():
            self._reload = asyncio.create_task(self._read_and_apply(), name="reload")
            self._stirred.set()
        return self._reload

    async def _read_and_apply(self) -> Changes:
        async with self._changing:
            self._notifier.reloading()
            try:
                return await self._read_differences()
            finally:
                self._notifier.ready()

    async def _read_differences(self) -> Changes:
        try:
            if self._read is None or self.is_draining:
                raise ConfigError("there is nothing to reload: the daemon ends, or has no configuration file")
            old, new = self._config, await asyncio.to_thread(self._read)
            sessions = after_reload(old.sessions, self._filed, new.sessions)
            found = self._reviving(changes(old, new.model_copy(update={"sessions": sessions})))
            strange = {
                name: strange for name, strange in self._strange.items() if sessions.get(name) == old.sessions.get(name)
            }
            for name in sorted(found.begun | found.restarted.keys() | found.outputs.keys()):
                await self._check(Definition(sessions[name], strange.get(name, NONE_STRANGE)))
        except ConfigError as error:
            log.error("reload_refused", error=str(error))
            raise
        # What cannot be applied stays as it is, and is told again the next time.
        self._filed, self._strange = new.sessions, strange
        kept = {key: getattr(old, key) for key in found.pending}
        self._config = new.model_copy(update={"sessions": sessions} | kept)
        log.info(
            "reloaded",
            ended=sorted(found.ended),
            begun=sorted(found.begun),
            restarted={name: list(keys) for name, keys in found.restarted.items()},
            outputs={name: sorted({*c.removed, *c.put}) for name, c in found.outputs.items()},
        )
        if found.pending:
            log.warning("restart_needed", keys=list(found.pending))
        await self._apply(found)
        return found

    async def change_session(self, name: str, change: Change) -> None:
        """Make what `change` makes of a session; the file stays as it is. Done to the end once it has begun.

        Raises what `change` raises, and ConfigError for what cannot be opened; nothing has been changed then.
        """
        call = asyncio.create_task(self._change(name, change), name=f"change {name}")
        self._calls.add(call)
        self._stirred.set()
        call.add_done_callback(self._calls.discard)
        await asyncio.shield(call)

    async def _change(self, name: str, change: Change) -> None:
        async with self._changing:
            now, old = self.definition(name), self._config
            then = await change(now)
            sessions, strange = dict(old.sessions), dict(self._strange)
            sessions.pop(name, None)
            strange.pop(name, None)
            if then is not None:
                await self._check(then)
                sessions[name], strange[name] = then.config, then.strange
            self._config, self._strange = old.model_copy(update={"sessions": sessions}), strange
            found = changes(old, self._config)
            if then is not None and now is not None and self._supervisors[name].has_failed:
                found = replace(found, restarted={name: ("sessions",)})
            log.info("session_changed", session=name, is_removed=then is None, restarted=name in found.restarted)
            await self._apply(found)

    def _reviving(self, found: Changes) -> Changes:
        """A session that has failed has no outputs that could be changed: it begins anew."""
        failed = {name for name in found.outputs if self._supervisors[name].has_failed}
        return replace(
            found,
            restarted={**found.restarted, **dict.fromkeys(failed, ("outputs",))},
            outputs={name: output for name, output in found.outputs.items() if name not in failed},
        )

    async def _check(self, definition: Definition) -> None:
        """What cannot be opened is to be told while nothing has been changed. Raises ConfigError."""
        await check_parts(definition, ice_settings(self._config.ice), self._config.storage, self._url_policy)

    async def _apply(self, found: Changes) -> None:
        for name, output_changes in found.outputs.items():
            self._supervisors[name].config = self._config
            self._supervisors[name].strange = self._strange_of(name)
            if (session := self._supervisors[name].running) is not None:
                await session.change_outputs(output_changes, self._strange_of(name))
        # One publisher, ever: a session begins anew when it has ended.
        async with asyncio.TaskGroup() as ending:
            for name in found.ended | found.restarted.keys():
                ending.create_task(self._end(name), name=f"end {name}")
        for name in sorted(found.begun | found.restarted.keys()):
            if not self.is_draining:
                self._supervisors[name] = self._supervisor(name)
                self._begin(name)
                # Whoever looks next is to see it.
                await self._supervisors[name].has_begun.wait()

    def _supervisor(self, name: str) -> Supervisor:
        metrics = self._metrics.session(name, self._config.sessions[name].avatar.service)
        return Supervisor(name, self._config, self._url_policy, metrics, self._strange_of(name))

    def _strange_of(self, name: str) -> StrangeParts:
        return self._strange.get(name, NONE_STRANGE)

    def _begin(self, name: str) -> None:
        supervisor = self._supervisors[name]
        self._series[name] = contextlib.ExitStack()
        self._series[name].enter_context(supervisor.metrics)
        self._running[name] = self._tasks.create_task(supervisor.serve(), name=f"session {name}")

    async def _end(self, name: str) -> None:
        running = self._running[name]
        await self._supervisors[name].drain(self._config.drain_s)
        await asyncio.wait((running,), timeout=LAST_WORDS_S + END_S)
        running.cancel()
        await asyncio.wait((running,))
        del self._running[name], self._supervisors[name]
        self._series.pop(name).close()

    def _close_series(self) -> None:
        for series in self._series.values():
            series.close()

    # ------------------------------------------------------------------------------------------ looking

    def definition(self, name: str) -> Definition | None:
        """What a session is made of; None: there is none of that name."""
        config = self._config.sessions.get(name)
        return None if config is None else Definition(config, self._strange_of(name))

    def is_overridden(self, name: str) -> bool:
        """Whether calls have made something else of a session than the file says."""
        return self._config.sessions.get(name) != self._filed.get(name)

    @property
    def has_room(self) -> bool:
        """For one more session."""
        return len(self._config.sessions) < self._config.max_sessions

    def session(self, name: str) -> Session | None:
        """A session that runs; None: there is none of that name, or it has ended."""
        supervisor = self._supervisors.get(name)
        return supervisor.running if supervisor is not None else None

    def status(self) -> list[SessionStatus]:
        """Of every session, also one that has ended."""
        return [status for s in self._supervisors.values() if (status := s.status()) is not None]

    def status_of(self, name: str) -> SessionStatus | None:
        """Of one session; None: there is none of that name."""
        supervisor = self._supervisors.get(name)
        return supervisor.status() if supervisor is not None else None

    def _supervised(self) -> Iterator[asyncio.Task[None]]:
        """What a service manager hears of us from now on, if there is one."""
        if self._notifier.is_there:
            self._notifier.ready()
            watchdog = Watchdog(self._notifier, self._timelines, self._summary)
            yield self._tasks.create_task(watchdog.run(), name="watchdog")

    def _timelines(self) -> dict[str, int]:
        """What went on air last, of the sessions that have begun; at the end they stop one after the other."""
        if self.is_draining:
            return {}
        return {
            s.name: on_air_ns
            for s in self._supervisors.values()
            if s.running is not None and (on_air_ns := s.running.on_air_ns) is not None
        }

    def _summary(self) -> str:
        return (
            "draining" if self.is_draining else ", ".join(f"{s.name}: {s.summary}" for s in self._supervisors.values())
        )

    def _readiness(self) -> str | None:
        if self.is_draining:
            return "draining"
        return next((reason for s in self._supervisors.values() if (reason := s.unreadiness)), None)


async def _serve(http: HttpServer) -> None:
    try:
        await http.run()
    except Exception:
        # Whoever watches sees that nobody answers; those who watch the broadcast are not to notice.
        log.exception("http_failed")
