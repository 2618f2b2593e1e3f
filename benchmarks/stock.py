"""The peer: what a Python user writes without the bridge. Stock aiortc, decoded, x264 ultrafast, AAC, PyAV to RTMP.

`python -m benchmarks.stock WEBSOCKET_URL [RTMP_URL]` runs until SIGTERM, then prints one JSON list: for each picture
when `track.recv()` returned it, and its stamp if it has one. Without an RTMP URL nothing is encoded.
"""

import asyncio
import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import av
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.media import BITRATE, FPS, GOP_S, HEIGHT_PX, WIDTH_PX
from bridge.local_avatar.timecode import read_stamp
from bridge.net.ice import limit_to_addresses
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event
from bridge.signals import STOP_SIGNALS, on_signals


class Transcoder:
    """Owned by one thread: whatever touches libav runs there. Threads of x264 are capped, as the bridge's are."""

    def __init__(self, url: str) -> None:
        self._container = av.open(url, "w", format="flv")
        self._video = self._container.add_stream("libx264", rate=FPS)
        self._video.width, self._video.height, self._video.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        self._video.bit_rate = BITRATE
        self._video.thread_count = 1
        self._video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(GOP_S * FPS)}
        self._audio = self._container.add_stream("aac", rate=48_000)
        self._audio.layout = "stereo"
        self._audio.bit_rate = 128_000

    def show(self, picture: av.VideoFrame) -> None:
        picture.pict_type = PictureType.NONE
        self._container.mux(self._video.encode(picture))

    def say(self, sound: av.AudioFrame) -> None:
        self._container.mux(self._audio.encode(sound))

    def close(self) -> None:
        self._container.close()


class Client:
    """One session: the tracks of a NavTalk service, transcoded to RTMP if there is somebody to do so.

    pictures: when each was there, and its stamp.
    """

    def __init__(self, transcoder: Transcoder | None, thread: ThreadPoolExecutor) -> None:
        self.pictures: list[tuple[int, int | None]] = []
        self._transcoder = transcoder
        self._thread = thread
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peer.on("track", self._on_track)
        self._tracks: list[asyncio.Task[None]] = []

    async def run(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                match parse_event(str(text)):
                    case navtalk.Offer(sdp):
                        await socket.send(dump(navtalk.Answer(await self._answer(sdp))))
        finally:
            for track in self._tracks:
                track.cancel()
            await asyncio.gather(*self._tracks, return_exceptions=True)
            await self._peer.close()

    async def _answer(self, sdp: str) -> str:
        await self._peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        # aioice has no setting for loopback: the one thing that is borrowed from the bridge.
        for transceiver in self._peer.getTransceivers():
            limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        return self._peer.localDescription.sdp

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._tracks.append(asyncio.create_task(self._take(track)))

    async def _take(self, track: MediaStreamTrack) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                now_ns = time.monotonic_ns()
                if isinstance(frame, av.VideoFrame):
                    # FFmpeg's decoder keeps the stamp beside the picture: reading it costs next to nothing.
                    message = frame.side_data.get(SideDataType.SEI_UNREGISTERED)
                    stamp = read_stamp(bytes(message)) if message is not None else None
                    self.pictures.append((now_ns, stamp[1] if stamp else None))
                    if self._transcoder is not None:
                        await loop.run_in_executor(self._thread, self._transcoder.show, frame)
                elif self._transcoder is not None:
                    await loop.run_in_executor(self._thread, self._transcoder.say, frame)


async def run_until_stopped(websocket_url: str, rtmp_url: str | None = None) -> list[tuple[int, int | None]]:
    stopped = asyncio.Event()
    with ThreadPoolExecutor(1) as thread, on_signals(STOP_SIGNALS, stopped.set):
        transcoder = thread.submit(Transcoder, rtmp_url).result() if rtmp_url is not None else None
        client = Client(transcoder, thread)
        async with connect(websocket_url, compression=None) as socket:
            running = asyncio.create_task(client.run(socket))
            stopping = asyncio.create_task(stopped.wait())
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (running, stopping):
                task.cancel()
            await asyncio.gather(running, stopping, return_exceptions=True)
        if transcoder is not None:
            thread.submit(transcoder.close).result()
    return client.pictures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run_until_stopped(*sys.argv[1:]))))
