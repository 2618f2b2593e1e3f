"""The life of one session: run, and run again after a bug of ours; its events, and the webhooks that tell of them."""

import asyncio
import contextlib
import random
import time

import structlog

from bridge.config import Config, EventWebhookConfig
from bridge.config_origin import StrangeParts
from bridge.errors import BridgeError
from bridge.events import EventLog
from bridge.media.clock import NS_PER_S
from bridge.net.backoff import Backoff
from bridge.net.url_policy import UrlPolicy
from bridge.ops.metrics import SessionMetrics
from bridge.ops.webhooks import EventWebhook, Webhook
from bridge.providers import ice_settings
from bridge.redact import mask
from bridge.session import Session
from bridge.status import SessionStatus
from bridge.trend import Trend

# A bug that strikes at once must not fill the log; one that strikes once a day is to be gone at once.
FIRST_RESTART_S, LONGEST_RESTART_S = 1.0, 60.0
# What webhooks may take to be told of the end.
LAST_WORDS_S = 2.0

log = structlog.get_logger()


class Supervisor:
    """Runs one session, and again after a bug of ours; what only an operator can change ends it."""

    def __init__(
        self, name: str, config: Config, policy: UrlPolicy, metrics: SessionMetrics, strange: StrangeParts
    ) -> None:
        self.name = name
        self.has_failed = False
        self.has_crashed = False
        self.running: Session | None = None
        self.events = EventLog()
        self.trend = Trend()
        self._error = "a bug"
        self.config = config
        self.strange = strange
        self.has_begun = asyncio.Event()
        self.metrics = metrics
        self._policy = policy
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

    @property
    def summary(self) -> str:
        """Its state, and what its viewers see, in a word each."""
        if self.running is None:
            return "failed" if self.has_failed else "not running"
        return f"{self.running.state.value}, {self.running.on_air.value} on air"

    async def serve(self) -> None:
        """Run, and tell whoever wants to know what happens."""
        async with asyncio.TaskGroup() as tasks:
            webhooks = [
                tasks.create_task(self._tell(webhook), name="webhook")
                for webhook in self.config.sessions[self.name].webhooks
            ]
            await self.run()
            self.has_begun.set()
            self.events.close()
            if webhooks:
                await asyncio.wait(webhooks, timeout=LAST_WORDS_S)
            for webhook in webhooks:
                webhook.cancel()

    async def _tell(self, config: EventWebhookConfig) -> None:
        policy = self._policy if self.strange.webhooks else None
        try:
            await EventWebhook(self.name, config, self.events, Webhook(config, policy=policy)).run()
        except Exception:
            # Whoever waits to be told hears nothing more; those who watch the broadcasts are not to notice.
            log.exception("webhook_crashed", session=self.name)

    async def run(self) -> None:
        while not self._is_draining.is_set():
            began_ns = time.monotonic_ns()
            try:
                await self._run(self._open())
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

    def _open(self) -> Session:
        """Raises ConfigError."""
        try:
            self._session = Session(
                self.name,
                self.config.sessions[self.name],
                ice=ice_settings(self.config.ice),
                storage=self.config.storage,
                policy=self._policy,
                metrics=self.metrics,
                events=self.events,
                trend=self.trend,
                strange=self.strange,
            )
            return self._session
        finally:
            self.has_begun.set()

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
        if self.running is not None:
            await self.running.drain(within_s)
