"""Pre-encoded media to one peer, each unit as it is due. Each picture carries a stamp, taken as it is handed over."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.media import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_PACKET, Media
from bridge.local_avatar.timecode import insert_stamp
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import NAL_IDR, NAL_SLICE, nal_type, split_avcc
from bridge.net.peer import SendingPeer

# libwebrtc makes at most one keyframe in 300 ms because of requests (encoder_rtcp_feedback.cc): in pictures of 30 a
# second.
MIN_KEYFRAME_SPACING = 9


class Reel:
    """Which recorded picture is shown next: one after the other, and at a request the next keyframe.

    A request soon after a keyframe waits, as with libwebrtc's encoders.
    """

    def __init__(self, pictures: Sequence[Sequence[bytes]]) -> None:
        self._keyframes = [i for i, nals in enumerate(pictures) if any(nal_type(nal) == NAL_IDR for nal in nals)]
        self._n_pictures = len(pictures)
        self._position = -1
        self._since_keyframe = 0
        self._is_asked = False

    def ask_for_keyframe(self) -> None:
        self._is_asked = True

    def next(self) -> int:
        """The index of the picture to show now."""
        position = (self._position + 1) % self._n_pictures
        self._since_keyframe += 1
        if self._is_asked and self._since_keyframe >= MIN_KEYFRAME_SPACING:
            position = next((i for i in self._keyframes if i >= position), self._keyframes[0])
        if position in self._keyframes:
            self._is_asked, self._since_keyframe = False, 0
        self._position = position
        return position


async def replay(peer: SendingPeer, media: Media, reel: Reel) -> None:
    """Send for ever, from when the peer is connected. Keyframes come every two seconds, and when they are asked for."""

    async def show(number: int, pts_ns: int) -> None:
        nals = media.pictures[reel.next()]
        first_slice = next(i for i, nal in enumerate(nals) if nal_type(nal) in (NAL_SLICE, NAL_IDR))
        (stamp,) = split_avcc(insert_stamp(b"", number, time.monotonic_ns()))
        peer.send_video([*nals[:first_slice], stamp, *nals[first_slice:]], pts_ns)

    async def say(number: int, pts_ns: int) -> None:
        peer.send_audio(media.packets[number % len(media.packets)], pts_ns)

    await peer.connected()
    began_ns = time.monotonic_ns()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_pace(show, began_ns, FPS, 1))
        tasks.create_task(_pace(say, began_ns, SAMPLE_RATE_HZ, SAMPLES_PER_PACKET))


async def _pace(send: Callable[[int, int], Awaitable[None]], began_ns: int, rate_hz: int, ticks: int) -> None:
    """Call with number and time as each unit is due, for ever."""
    number = 0
    while True:
        pts_ns = number * ticks * NS_PER_S // rate_hz
        wait_ns = began_ns + pts_ns - time.monotonic_ns()
        if wait_ns > 0:
            await asyncio.sleep(wait_ns / NS_PER_S)
        await send(number, pts_ns)
        number += 1
