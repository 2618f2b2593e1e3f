"""The avatar that costs nothing to measure: a NavTalk v2 service that replays pre-encoded media to each client.

`python -m benchmarks.source` prints its URL and serves until SIGTERM. Each picture carries a stamp, taken as it is
handed to the sender: in place of the moment when a live encoder would have been done.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from websockets.asyncio.server import ServerConnection, serve

from benchmarks.media import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_PACKET, Media, load_media
from bridge.local_avatar.timecode import insert_stamp
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import NAL_IDR, NAL_SLICE, nal_type, split_avcc
from bridge.net.ice import IceSettings
from bridge.net.peer import SendingPeer
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_request
from bridge.signals import STOP_SIGNALS, on_signals

_PATH = "/wss/v2/realtime-chat"
# libwebrtc makes at most one keyframe in 300 ms because of requests (encoder_rtcp_feedback.cc): in pictures of 30 a
# second.
MIN_KEYFRAME_SPACING = 9


async def serve_until_stopped() -> None:
    media = load_media()
    stopped = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        await _Session(socket, media).run()

    async with serve(handle, "127.0.0.1", 0, compression=None, close_timeout=1.0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"ws://127.0.0.1:{port}{_PATH}", flush=True)
        with on_signals(STOP_SIGNALS, stopped.set):
            await stopped.wait()


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


class _Session:
    """One client, from greeting to farewell. Keyframes come every two seconds, and when they are asked for."""

    def __init__(self, socket: ServerConnection, media: Media) -> None:
        self._socket = socket
        self._media = media
        self._reel = Reel(media.pictures)
        self._peer = SendingPeer(IceSettings(interfaces=("lo",)), self._reel.ask_for_keyframe)

    async def run(self) -> None:
        async with self._peer, asyncio.TaskGroup() as tasks:
            offer = navtalk.Offer(await self._peer.offer())
            greeting = (navtalk.Connected("replay"), offer, navtalk.SessionCreated(), navtalk.SessionUpdated())
            for message in greeting:
                await self._socket.send(dump(message))
            replaying = tasks.create_task(self._replay())
            async for frame in self._socket:
                await self._hear(parse_request(str(frame)))
            replaying.cancel()

    async def _hear(self, request: navtalk.Request) -> None:
        match request:
            case navtalk.Answer(sdp):
                await self._peer.accept(sdp)
            case navtalk.Candidate(candidate, sdp_mid, sdp_mline_index):
                await self._peer.add_candidate(candidate, sdp_mid, sdp_mline_index)

    async def _replay(self) -> None:
        await self._peer.connected()
        began_ns = time.monotonic_ns()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pace(self._show, began_ns, FPS, 1))
            tasks.create_task(_pace(self._say, began_ns, SAMPLE_RATE_HZ, SAMPLES_PER_PACKET))

    async def _show(self, number: int, pts_ns: int) -> None:
        nals = self._media.pictures[self._reel.next()]
        first_slice = next(i for i, nal in enumerate(nals) if nal_type(nal) in (NAL_SLICE, NAL_IDR))
        (stamp,) = split_avcc(insert_stamp(b"", number, time.monotonic_ns()))
        await self._peer.send_video([*nals[:first_slice], stamp, *nals[first_slice:]], pts_ns)

    async def _say(self, number: int, pts_ns: int) -> None:
        await self._peer.send_audio(self._media.packets[number % len(self._media.packets)], pts_ns)


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


if __name__ == "__main__":
    asyncio.run(serve_until_stopped())
