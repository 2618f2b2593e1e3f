"""The life of the process: signals, sessions, HTTP, and an end within `drain_s`."""

import asyncio
import contextlib
import random
import time

import structlog
from prometheus_client import CollectorRegistry

from bridge.config import Address, Config
from bridge.errors import BridgeError
from bridge.media.clock import NS_PER_S
from bridge.net.backoff import Backoff
from bridge.net.url_policy import UrlPolicy
from bridge.ops.api import HttpServer
from bridge.ops.metrics import EventLoopLag, Metrics, SessionMetrics
from bridge.providers import ice_settings
from bridge.redact import mask
from bridge.session import Session, SessionStatus
from bridge.signals import RELOAD_SIGNALS, STOP_SIGNALS, on_signals

# A bug that strikes at once must not fill the log; one that strikes once a day is to be gone at once.
FIRST_RESTART_S, LONGEST_RESTART_S = 1.0, 60.0

log = structlog.get_logger()


async def run_daemon(config: Config) -> int:
    """The exit status: 0 after a drain, 1 when a session failed."""
    daemon = Daemon(config)
    with on_signals(STOP_SIGNALS, daemon.stop), on_signals(RELOAD_SIGNALS, daemon.refuse_reload):
        return 0 if await daemon.run() else 1


class Daemon:
    """Runs every session of a configuration, each for itself, and the HTTP side."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry)
        self._session_metrics = {
            name: self._metrics.session(name, session.avatar.service) for name, session in config.sessions.items()
        }
        self._url_policy = UrlPolicy(config.url_policy.allow)
        self._supervisors = [
            Supervisor(name, config, self._url_policy, metrics) for name, metrics in self._session_metrics.items()
        ]
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
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
            for metrics in self._session_metrics.values():
                stack.enter_context(metrics)  # a failed session stays visible as long as it is configured
            async with self._tasks as tasks:
                self._running = [tasks.create_task(s.run(), name=f"session {s.name}") for s in self._supervisors]
                serving = (
                    tasks.create_task(_serve(http), name="http"),
                    tasks.create_task(EventLoopLag(self._metrics).run(), name="event-loop-lag"),
                )
                await asyncio.wait(self._running)
                for task in serving:
                    task.cancel()
        log.info("daemon_stopped")
        return not any(supervisor.has_failed for supervisor in self._supervisors)

    def stop(self, within_s: float | None = None) -> None:
        """Drain: utterances end, outputs and avatar sessions are closed, `run` returns. Called again: abort.

        within_s  None: `drain_s` of the configuration.
        """
        if self.is_draining:
            log.warning("daemon_aborting")
            for session in self._running:
                session.cancel()
            return
        self.is_draining = True
        drain_s = self._config.drain_s if within_s is None else within_s
        log.info("daemon_draining", within_s=drain_s)
        for supervisor in self._supervisors:
            self._tasks.create_task(supervisor.drain(drain_s), name=f"drain {supervisor.name}")

    @property
    def has_crashed(self) -> bool:
        """Whether a bug has ended a session, even if it was started anew."""
        return any(supervisor.has_crashed for supervisor in self._supervisors)

    def refuse_reload(self) -> None:
        """SIGHUP: an operator who expects a reload is told, and the broadcast goes on."""
        log.warning("reload_not_supported", hint="restart the daemon to use a changed configuration")

    def session(self, name: str) -> Session | None:
        """A session that runs; None: there is none of that name, or it has ended."""
        return next((s.running for s in self._supervisors if s.name == name), None)

    def status(self) -> list[SessionStatus]:
        """Of every session, also one that has ended."""
        return [status for supervisor in self._supervisors if (status := supervisor.status()) is not None]

    def _readiness(self) -> str | None:
        if self.is_draining:
            return "draining"
        return next((reason for s in self._supervisors if (reason := s.unreadiness)), None)


async def _serve(http: HttpServer) -> None:
    try:
        await http.run()
    except Exception:
        # Whoever watches sees that nobody answers; those who watch the broadcast are not to notice.
        log.exception("http_failed")


class Supervisor:
    """Runs one session, and again after a bug of ours; what only an operator can change ends it."""

    def __init__(self, name: str, config: Config, policy: UrlPolicy, metrics: SessionMetrics) -> None:
        self.name = name
        self.has_failed = False
        self.has_crashed = False
        self.running: Session | None = None
        self._error = "a bug"
        self._config = config
        self._policy = policy
        self._metrics = metrics
        self._session: Session | None = None
        self._backoff = Backoff(FIRST_RESTART_S, LONGEST_RESTART_S, random.Random())
        self._is_draining = asyncio.Event()

    @property
    def unreadiness(self) -> str | None:
        """Why traffic should not be sent here: the session has not been on air yet, or has failed."""
        if self.has_failed:
            return f"session {self.name} has failed: {mask(self._error)}"
        if self._session is not None and (rejection := self._session.rejection):
            return f"session {self.name} shows its slate: {mask(rejection)}"
        if self._session is None or not self._session.has_been_on_air:
            return f"session {self.name} has not been on air yet"
        return None

    async def run(self) -> None:
        config, ice = self._config.sessions[self.name], ice_settings(self._config.ice)
        while not self._is_draining.is_set():
            began_ns = time.monotonic_ns()
            self._session = Session(
                self.name, config, ice=ice, storage=self._config.storage, policy=self._policy, metrics=self._metrics
            )
            try:
                await self._run(self._session)
                return
            except BridgeError as error:
                self._error = str(error)
                log.error("session_ended", session=self.name, error=self._error)
                self.has_failed = True
                return
            except Exception:
                # A bug of ours: it is shown whole, and this session alone is started anew.
                if time.monotonic_ns() - began_ns > LONGEST_RESTART_S * NS_PER_S:
                    self._backoff.reset()
                delay_s = self._backoff.next_delay_s()
                log.exception("session_crashed", session=self.name, retry_in_s=round(delay_s, 1))
                self.has_crashed = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._is_draining.wait()
                        self.has_failed = True

    async def _run(self, session: Session) -> None:
        self.running = session
        try:
            await session.run()
        finally:
            self.running = None

    def status(self) -> SessionStatus | None:
        return self._session.status() if self._session is not None else None

    async def drain(self, within_s: float) -> None:
        self._is_draining.set()
        if self._session is not None:
            await self._session.drain(within_s)
