"""What systemd is told of the daemon: that it is ready, how it is doing, that it is alive, that it stops."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

# The status line and the timelines; of a watchdog's time a quarter, so that two looks may fail.
LOOK_EVERY_S = 1.0
LOOKS_PER_WATCHDOG = 4

log = structlog.get_logger()


class Notifier:
    """The socket of the service manager (sd_notify(3)); `is_there` says whether anybody started us who listens.

    watchdog_s  within which systemd wants to hear from us, again and again; None: it does not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # The name of an abstract socket begins with a NUL, which no variable can hold.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s: float | None = None
        # WATCHDOG_PID: of whom it is expected, where a wrapper has started us.
        if "WATCHDOG_USEC" in environ and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self.watchdog_s = int(environ["WATCHDOG_USEC"]) / 1e6

    @property
    def is_there(self) -> bool:
        return bool(self._address)

    def tell(self, **fields: str | int) -> None:
        """Send these assignments; never waits. A manager that does not listen is no reason to end a broadcast."""
        if not self.is_there:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            try:
                sending.sendto(message.encode(), self._address)
            except OSError as error:
                log.warning("systemd_not_told", error=error.strerror)

    def ready(self) -> None:
        """The configuration is up; also after a reload."""
        self.tell(READY=1)

    def reloading(self) -> None:
        """From now on until it is ready."""
        self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, within_s: float) -> None:
        """From now on it stops, within this time, however short TimeoutStopSec= is."""
        self.tell(STOPPING=1, STATUS="draining", EXTEND_TIMEOUT_USEC=round(within_s * 1e6))


class Watchdog:
    """Tells that the daemon is alive while the event loop runs this, and every session's timeline advances.

    timelines  session time of what went on air last, by session; only of those that are to advance.
    status     one line for people.
    """

    def __init__(
        self, notifier: Notifier, timelines: Callable[[], Mapping[str, int]], status: Callable[[], str]
    ) -> None:
        self._notifier = notifier
        self._timelines = timelines
        self._status = status
        self._seen: Mapping[str, int] = {}
        self._stuck: list[str] = []
        self._told = ""

    @property
    def interval_s(self) -> float:
        watchdog_s = self._notifier.watchdog_s
        return LOOK_EVERY_S if watchdog_s is None else min(LOOK_EVERY_S, watchdog_s / LOOKS_PER_WATCHDOG)

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(self.interval_s)

    def look(self) -> None:
        """Tell what there is to tell."""
        timelines = self._timelines()
        stuck = [name for name, on_air_ns in timelines.items() if self._seen.get(name) == on_air_ns]
        self._seen = timelines
        if stuck and not self._stuck and self._notifier.watchdog_s is not None:
            log.error("watchdog_not_fed", sessions=stuck, restart_in_s=self._notifier.watchdog_s)
        self._stuck = stuck
        fields: dict[str, str | int] = {}
        if not stuck and self._notifier.watchdog_s is not None:
            fields["WATCHDOG"] = 1
        if (status := self._status()) != self._told:
            fields["STATUS"] = self._told = status
        if fields:
            self._notifier.tell(**fields)
