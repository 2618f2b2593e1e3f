"""A WHIP publisher that is silent but for a beep every half second: `python -m benchmarks.beeper URL` publishes again
and again until SIGTERM, then prints one JSON list: when each packet that holds a beep was handed over to be sent.

Each publication begins at another moment of the 20 ms that its packets are apart, so that together they meet the
messages of the bridge's own clock at all of them.
"""

import asyncio
import contextlib
import fractions
import json
import sys
import time

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.net.ice import limit_to_addresses
from bridge.signals import STOP_SIGNALS, on_signals

PACKET_NS = 20 * NS_PER_MS
RATE_HZ = 48_000
PACKET_SAMPLES = RATE_HZ // 50
BEEP_EVERY = 25
BEEP_HZ = 1_000
N_PHASES = 8
PUBLICATION_S = 4.0
# The bridge takes another publisher at once, when the one before has ended its publication.
PAUSE_S = 0.2


def coded_beeps() -> list[bytes]:
    """Opus of one period: silence, and a beep in the last packet of it."""
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = RATE_HZ, "mono", "s16"
    encoder.bit_rate = 64_000
    packets: list[bytes] = []
    beep = np.round(16_000 * np.sin(2 * np.pi * BEEP_HZ * np.arange(PACKET_SAMPLES) / RATE_HZ)).astype(np.int16)
    for number in range(2 * BEEP_EVERY):
        samples = beep if number % BEEP_EVERY == BEEP_EVERY - 1 else np.zeros(PACKET_SAMPLES, np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, number * PACKET_SAMPLES
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets[-BEEP_EVERY:]


class Beeps(MediaStreamTrack):
    """Coded packets as they are due. sent_ns: when each beep's was given away."""

    kind = "audio"

    def __init__(self, packets: list[bytes], phase_ns: int) -> None:
        super().__init__()
        self.sent_ns: list[int] = []
        self._packets = packets
        self._phase_ns = phase_ns
        self._began_ns = 0
        self._number = 0

    async def recv(self) -> "av.Packet":
        if not self._began_ns:
            now_ns = time.monotonic_ns()
            self._began_ns = now_ns - now_ns % PACKET_NS + PACKET_NS + self._phase_ns
        packet = av.Packet(self._packets[self._number % BEEP_EVERY])
        packet.pts, packet.time_base = self._number * PACKET_SAMPLES, fractions.Fraction(1, RATE_HZ)
        wait_ns = self._began_ns + self._number * PACKET_NS - time.monotonic_ns()
        await asyncio.sleep(max(0, wait_ns) / NS_PER_S)
        self._number += 1
        if self._number % BEEP_EVERY == 0:
            self.sent_ns.append(time.monotonic_ns())
        return packet


async def publish_once(client: httpx.AsyncClient, url: str, track: Beeps) -> None:
    pc = RTCPeerConnection(RTCConfiguration([]))
    try:
        pc.addTransceiver(track, "sendonly")
        for transceiver in pc.getTransceivers():
            limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
        await pc.setLocalDescription()
        answer = await client.post(url, content=pc.localDescription.sdp, headers={"Content-Type": "application/sdp"})
        answer.raise_for_status()
        await pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        await asyncio.sleep(PUBLICATION_S)
        (await client.delete(httpx.URL(url).join(answer.headers["location"]))).raise_for_status()
    finally:
        await pc.close()


async def publish_until_stopped(url: str) -> list[int]:
    stopped, packets = asyncio.Event(), coded_beeps()
    tracks: list[Beeps] = []
    async with httpx.AsyncClient(trust_env=False) as client:
        with on_signals(STOP_SIGNALS, stopped.set):
            print("ready", flush=True)
            while not stopped.is_set():
                phase = len(tracks) % N_PHASES
                tracks.append(Beeps(packets, phase * PACKET_NS // N_PHASES))
                await publish_once(client, url, tracks[-1])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_S):
                        await stopped.wait()
    return [sent_ns for track in tracks for sent_ns in track.sent_ns]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(publish_until_stopped(sys.argv[1]))))
