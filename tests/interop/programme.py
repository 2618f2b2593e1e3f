"""A programme without end, as a session gives it to its outputs, in real time."""

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.live_queue import LiveQueue
from tests.interop import rtmp_media

SILENCE = b"\xf8\xff\xfe"  # 20 ms, as libopus codes it


def programme() -> Iterator[AccessUnit]:
    """Pictures at 25 Hz with a keyframe each second, and silence, for ever."""
    pictures = [unit for unit in rtmp_media.units(2.0) if unit.codec is Codec.H264]
    for index in itertools.count():
        pts_ns = index * 40 * NS_PER_MS
        yield dataclasses.replace(pictures[index % len(pictures)], pts_ns=pts_ns)
        for sound_ns in (pts_ns, pts_ns + 20 * NS_PER_MS):
            yield AccessUnit(Codec.OPUS, SILENCE, sound_ns, 20 * NS_PER_MS)


async def play(units: LiveQueue) -> None:
    """Put the programme into a queue as fast as it is watched."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for unit in programme():
        await asyncio.sleep(began_s + unit.pts_ns / NS_PER_S - loop.time())
        units.put(unit)


class Listener:
    """Counts what an output says."""

    def __init__(self) -> None:
        self.n_keyframe_requests = 0
        self.written: list[AccessUnit] = []

    def on_published(self) -> None: ...

    def on_replaced(self, reason: str) -> None: ...

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)

    def on_keyframe_request(self) -> None:
        self.n_keyframe_requests += 1
