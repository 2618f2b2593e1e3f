"""The same replay for the prototype's receiver: `python -m benchmarks.offerer PORT N` offers it N sessions.

It speaks that receiver's signalling: one line of JSON each way over TCP. Prints `ready` once all are answered, and
sends until SIGTERM.
"""

import asyncio
import json
import sys

from benchmarks.media import Media, load_media
from benchmarks.replay import Reel, replay
from bridge.net.ice import IceSettings
from bridge.net.peer import SendingPeer
from bridge.signals import STOP_SIGNALS, on_signals


async def offer_until_stopped(port: int, n_sessions: int) -> None:
    media, stopped = load_media(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        answered = [asyncio.Event() for _ in range(n_sessions)]
        sessions = [tasks.create_task(_session(port, media, event)) for event in answered]
        for event in answered:
            await event.wait()
        print("ready", flush=True)
        with on_signals(STOP_SIGNALS, stopped.set):
            await stopped.wait()
        for session in sessions:
            session.cancel()


async def _session(port: int, media: Media, answered: asyncio.Event) -> None:
    reel = Reel(media.pictures)
    async with SendingPeer(IceSettings(interfaces=("lo",)), reel.ask_for_keyframe) as peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(json.dumps({"sdp": await peer.offer(), "type": "offer"}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        await peer.accept(answer["sdp"])
        answered.set()
        await replay(peer, media, reel)


if __name__ == "__main__":
    asyncio.run(offer_until_stopped(int(sys.argv[1]), int(sys.argv[2])))
