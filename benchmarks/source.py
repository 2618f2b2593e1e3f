"""The avatar that costs nothing to measure: a NavTalk v2 service that replays pre-encoded media to each client.

`python -m benchmarks.source [upright] [talking]` prints its URL and serves until SIGTERM. Each picture carries a stamp,
taken as it is handed to the sender: in place of the moment when a live encoder would have been done. One that talks
sends the words, too.
"""

import asyncio
import sys
from collections.abc import Callable

from websockets.asyncio.server import ServerConnection, serve

from benchmarks.media import Media, load_media
from benchmarks.replay import Reel, replay
from bridge.net.ice import IceSettings
from bridge.net.peer import SendingPeer
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_request
from bridge.signals import STOP_SIGNALS, on_signals

_PATH = "/wss/v2/realtime-chat"
# Of speech, at 150 words a minute.
_WORD_S = 0.4


async def serve_until_stopped(
    on_sound: Callable[[bytes], None] = lambda pcm16: None, *, is_upright: bool = False, is_talking: bool = False
) -> None:
    """`on_sound` is told what the bridge sends."""
    media = load_media(is_upright=is_upright)
    stopped = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        await _Session(socket, media, on_sound, is_talking=is_talking).run()

    async with serve(handle, "127.0.0.1", 0, compression=None, close_timeout=1.0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"ws://127.0.0.1:{port}{_PATH}", flush=True)
        with on_signals(STOP_SIGNALS, stopped.set):
            await stopped.wait()


class _Session:
    """One client, from greeting to farewell. Keyframes come every two seconds, and when they are asked for."""

    def __init__(
        self, socket: ServerConnection, media: Media, on_sound: Callable[[bytes], None], *, is_talking: bool
    ) -> None:
        self._on_sound = on_sound
        self._is_talking = is_talking
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
            sending = [tasks.create_task(replay(self._peer, self._media, self._reel))]
            if self._is_talking:
                sending.append(tasks.create_task(self._talk()))
            async for frame in self._socket:
                await self._hear(parse_request(str(frame)))
            for task in sending:
                task.cancel()

    async def _talk(self) -> None:
        while True:
            await self._socket.send(dump(navtalk.AvatarTranscriptDelta("word ", "response")))
            await asyncio.sleep(_WORD_S)

    async def _hear(self, request: navtalk.Request) -> None:
        match request:
            case navtalk.Answer(sdp):
                await self._peer.accept(sdp)
            case navtalk.AudioAppend(pcm16):
                self._on_sound(pcm16)
            case navtalk.Candidate(candidate, sdp_mid, sdp_mline_index):
                await self._peer.add_candidate(candidate, sdp_mid, sdp_mline_index)


if __name__ == "__main__":
    asyncio.run(serve_until_stopped(is_upright="upright" in sys.argv[1:], is_talking="talking" in sys.argv[1:]))
