"""What a bad network does to RTP packets, done before they are encrypted: for tests and for the local avatar."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence

# Sees each RTP packet in the order of sending, retransmissions included, and gives what is sent in its place.
Impairment = Callable[[bytes], Sequence[bytes]]

# Links that spread packets over paths or queues deliver them a few places late; receivers start to ask again after
# three places (RFC 4653 §1 says the same of TCP).
MAX_PLACES_LATE = 3


class RandomLoss:
    """Loses each packet with probability `share`, 0 to 1, independently."""

    def __init__(self, share: float, seed: int = 0) -> None:
        self._share = share
        self._random = random.Random(seed)

    def __call__(self, packet: bytes) -> Sequence[bytes]:
        return () if self._random.random() < self._share else (packet,)


class Reordering:
    """Holds each packet back with probability `share`, 0 to 1, until 1 to `MAX_PLACES_LATE` later ones have passed."""

    def __init__(self, share: float, seed: int = 0) -> None:
        self._share = share
        self._random = random.Random(seed)
        self._held: list[tuple[int, bytes]] = []  # with the number of packets that are still to pass

    def __call__(self, packet: bytes) -> Sequence[bytes]:
        if self._random.random() < self._share:
            self._held.append((self._random.randint(1, MAX_PLACES_LATE), packet))
            return ()
        sent = [packet, *(held for places, held in self._held if places == 1)]
        self._held = [(places - 1, held) for places, held in self._held if places > 1]
        return sent


class LongerPath:
    """Sends everything `delay_s` later, in order, as a path would that is so much longer: packets and reports."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()  # with the loop's time at which each is due
        self._came = asyncio.Event()
        self._moving: asyncio.Task[None] | None = None

    def take(self, send: Callable[[], None]) -> None:
        """Call `send` later. Raises ConnectionError once it has said that the connection is gone."""
        if self._moving is None:
            self._moving = asyncio.create_task(self._move(), name="longer path")
        elif self._moving.done():
            raise ConnectionError("the connection is gone")
        self._waiting.append((asyncio.get_running_loop().time() + self._delay_s, send))
        self._came.set()

    async def close(self) -> None:
        """What is under way is lost."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)

    async def _move(self) -> None:
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            due_s, send = self._waiting.popleft()
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            try:
                send()
            except ConnectionError:
                return


def in_turn(*impairments: Impairment) -> Impairment:
    """Each one sees what the one before it lets through."""

    def impair(packet: bytes) -> Sequence[bytes]:
        packets: Sequence[bytes] = (packet,)
        for impairment in impairments:
            packets = [sent for before in packets for sent in impairment(before)]
        return packets

    return impair
