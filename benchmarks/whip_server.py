"""A WHIP server that looks at pictures: `python -m benchmarks.whip_server` prints its URL.

At SIGTERM it prints one JSON list of pictures, as `benchmarks.tap` does: when the last packet of each was read, and the
picture's stamp if it has one.
"""

import asyncio
import json

from bridge.local_avatar.timecode import read_stamp
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.ports import RemoteTrack, TrackSink
from bridge.signals import STOP_SIGNALS, on_signals
from tests.interop.whip_endpoint import WhipEndpoint


class Pictures:
    """The video of one publisher, as `Connection.pictures` of `benchmarks.tap`."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int | None]] = []
        self._stamp_ns: int | None = None

    def on_packet(self, packet: RtpPacket) -> None:
        if stamp := read_stamp(packet.payload):
            self._stamp_ns = stamp[1]
        if packet.marker:
            self.seen.append((packet.arrival_ns, self._stamp_ns))
            self._stamp_ns = None

    def on_sender_report(self, report: SenderReport) -> None: ...


class Sound:
    def on_packet(self, packet: RtpPacket) -> None: ...

    def on_sender_report(self, report: SenderReport) -> None: ...


async def serve_until_stopped() -> list[tuple[int, int | None]]:
    pictures, stopped = Pictures(), asyncio.Event()

    def on_track(track: RemoteTrack) -> TrackSink:
        return pictures if track.kind == "video" else Sound()

    endpoint = WhipEndpoint(on_track)
    async with endpoint.serving():
        print(endpoint.url, flush=True)
        with on_signals(STOP_SIGNALS, stopped.set):
            await stopped.wait()
    return pictures.seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve_until_stopped())))
