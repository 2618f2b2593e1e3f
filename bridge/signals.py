"""Signals as callbacks on the event loop."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Asks a daemon to reload; a program on a terminal gets it when the terminal is closed.
RELOAD_SIGNALS = (signal.SIGHUP,)


@contextmanager
def on_signals(numbers: Sequence[signal.Signals], callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` at every one of these signals while the context lasts."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
