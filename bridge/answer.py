"""When an avatar has finished speaking."""

import asyncio
import time

from bridge.media.clock import NS_PER_S

# An answer of unknown length is taken to be read aloud at this pace: English runs at 12 to 16 characters a second.
CHARACTERS_PER_S = 13.0


class Answer:
    """The avatar's answer to what it heard, as far as it is known: when it began, and how long it is.

    A service says when it has generated an answer; it plays for as long as it sounds.
    """

    def __init__(self) -> None:
        self._is_generated = asyncio.Event()
        self._is_generated.set()
        self._started_ns = 0
        self._lasts_s = 0.0

    def expect(self) -> None:
        """The service has heard a turn: an answer is to come."""
        self._is_generated.clear()
        self._started_ns, self._lasts_s = 0, 0.0

    def start(self, now_ns: int) -> None:
        """It begins to be generated, or goes on; what had sounded to its end was another one."""
        if self.is_over(now_ns) and self._started_ns:
            self._started_ns, self._lasts_s = 0, 0.0
        self._started_ns = self._started_ns or now_ns

    def lasts(self, duration_s: float) -> None:
        self._lasts_s = max(self._lasts_s, duration_s)

    def reads(self, text: str) -> None:
        """Its words, where its length is not known."""
        self.lasts(len(text) / CHARACTERS_PER_S)

    def done(self) -> None:
        """Nothing will be added to it."""
        self._is_generated.set()

    def cut(self) -> None:
        """The avatar is gone, and with it what it had not said."""
        self._lasts_s = 0.0
        self._is_generated.set()

    def is_over(self, now_ns: int) -> bool:
        """Whether it has sounded to its end, or there was none."""
        return self._is_generated.is_set() and self._left_s(now_ns) <= 0

    async def played(self) -> None:
        """Wait until it has sounded to its end."""
        await self._is_generated.wait()
        await asyncio.sleep(max(0.0, self._left_s(time.monotonic_ns())))

    def _left_s(self, now_ns: int) -> float:
        return self._lasts_s - (now_ns - self._started_ns) / NS_PER_S
