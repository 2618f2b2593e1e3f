"""How long the avatar's first voiced sound takes behind speech, role speak, without what the service itself takes.

Speech comes live into an input, goes up to each local service, and its voice comes back over WebRTC. What passes
between a service's first sound of an utterance and its first packet with a voice in it is taken off: the real one has
another. The services are processes of their own, on the same clock; what lies between is the bridge's own way up (voice
detection, mixing, messages of the service's liking), two ways over loopback, and reception.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from statistics import median

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import Child, ending_properly, python
from benchmarks.report import Figure, Findings
from benchmarks.speech_service import LOUD, VOICED_BYTES
from bridge.config import IceConfig
from bridge.demo import avatar_at
from bridge.desk import Desk
from bridge.feed import Feed
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.ports import AvatarEvent, AvatarLink, RemoteTrack, ToolCall
from bridge.providers import ice_settings, open_provider
from bridge.samples import SPEECH
from bridge.uplink import Uplink

SERVICES = ("navtalk", "navtalk-legacy", "livekit", "heygen", "liveavatar")
# Services with a rhythm of their own get their first piece when 400 ms of speech are there.
IN_PIECES = ("heygen", "liveavatar")
N_UTTERANCES = 12
BLOCK_SAMPLES = AVATAR_RATE_HZ // 50
SPOKEN_BLOCKS, PAUSE_BLOCKS = 50, 50
# The first one meets a service that has just begun to perform.
WARM_UP_BLOCKS = 150
PATIENCE_S = 30.0

TITLE = "speech: from live speech to the avatar's first voiced sound, without the local service's own delay"
BOUNDS = {f"{service}_live_p50_ms": 480.0 if service in IN_PIECES else 80.0 for service in SERVICES} | {
    f"{service}_buffered_p50_ms": 120.0 for service in IN_PIECES
}


def measure() -> Findings:
    figures: dict[str, Figure] = {}
    for service in SERVICES:
        for way, talk in (("live", _talk_live), ("buffered", _talk_buffered)):
            if way == "live" or service in IN_PIECES:
                waits_ms = _measure(service, talk)
                figures[f"{service}_{way}_p50_ms"] = median(waits_ms)
                figures[f"{service}_{way}_max_ms"] = max(waits_ms)
    return Findings(
        title=TITLE,
        figures=figures,
        at_most=BOUNDS,
        notes=[f"{N_UTTERANCES} utterances each, that begin at as many moments of a message of 20 ms."],
    )


Talk = Callable[["Listener"], Awaitable[list[int]]]


def _measure(service: str, talk: Talk) -> list[float]:
    with Child(python("benchmarks.speech_service", service)) as child:
        said_ns, heard_ns = asyncio.run(_converse(service, child.first_line().split(), talk))
        noted = json.loads(child.finish())
    waits_ms = waits(said_ns, noted, heard_ns)
    if len(waits_ms) < N_UTTERANCES // 2:
        raise RuntimeError(f"{service} was heard to say {len(waits_ms)} of {N_UTTERANCES} utterances")
    return waits_ms


def waits(said_ns: Sequence[int], noted: Sequence[tuple[int, int]], heard_ns: Sequence[int]) -> list[float]:
    """For each utterance the milliseconds from its saying to its hearing, without those at the service.

    noted  when the service had each one's first sound, and when it sent its own.
    What is not heard before the next one is left out.
    """
    found = []
    end_ns = max(said_ns, default=0) + NS_PER_S * (SPOKEN_BLOCKS + PAUSE_BLOCKS) // 50
    for at_ns, next_ns in pairwise([*said_ns, end_ns]):
        at_service = next(((came, sent) for came, sent in noted if at_ns <= came and sent < next_ns), None)
        if at_service is None:
            continue
        came_ns, sent_ns = at_service
        back_ns = next((heard for heard in heard_ns if sent_ns <= heard < next_ns), None)
        if back_ns is not None:
            found.append((came_ns - at_ns + back_ns - sent_ns) / NS_PER_MS)
    return found


async def _converse(service: str, urls: Sequence[str], talk: Talk) -> tuple[list[int], list[int]]:
    provider = open_provider(avatar_at(service, urls), ice_settings(IceConfig(interfaces=("lo",))))
    listener = Listener()
    running = asyncio.create_task(provider.run(listener))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await listener.link
        return await talk(listener), listener.voiced_ns
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _talk_live(listener: "Listener") -> list[int]:
    """As a live input does, through all that one passes."""
    talker = Talker()
    uplink = Uplink(Desk([Feed(talker)]))
    uplink.attach(await listener.link)
    uplink.media_ready.set()
    speaking = asyncio.create_task(uplink.run())
    try:
        await talker.is_done.wait()
    finally:
        speaking.cancel()
        await asyncio.wait({speaking})
    return talker.said_ns


async def _talk_buffered(listener: "Listener") -> list[int]:
    """As a file is sent: all of an utterance at once."""
    link, voice, said_ns = await listener.link, speech(), list[int]()
    await asyncio.sleep(WARM_UP_BLOCKS / 50)
    for number in range(N_UTTERANCES):
        said_ns.append(time.monotonic_ns())
        await link.send_audio(voice.astype("<i2").tobytes())
        await link.end_turn()
        await asyncio.sleep((SPOKEN_BLOCKS + PAUSE_BLOCKS) / 50 + number / 50 / N_UTTERANCES)
    return said_ns


class Talker:
    """A live source: the same second of speech again and again, its blocks given away when they are over.

    said_ns  when the first block of each utterance was.
    """

    name = "talker"
    is_live = True

    def __init__(self) -> None:
        self.said_ns: list[int] = []
        self.is_done = asyncio.Event()

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        voice, silence = speech(), np.zeros(BLOCK_SAMPLES, np.int16)
        blocks = [*np.split(voice, SPOKEN_BLOCKS), *PAUSE_BLOCKS * [silence]]
        due_ns = time.monotonic_ns()
        for number in range(WARM_UP_BLOCKS + N_UTTERANCES * len(blocks)):
            index = (number - WARM_UP_BLOCKS) % len(blocks) if number >= WARM_UP_BLOCKS else -1
            # Each utterance begins at another moment of the bridge's own clock.
            due_ns += NS_PER_S // 50 + (NS_PER_S // 50 // N_UTTERANCES if index == 0 else 0)
            await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
            if index == 0:
                self.said_ns.append(time.monotonic_ns())
            await emit(AudioBlock(blocks[index][:, None], AVATAR_RATE_HZ, number * NS_PER_S // 50))
        self.is_done.set()
        await asyncio.Event().wait()


def speech() -> NDArray[np.int16]:
    """A second of the shipped sample, from where its voice sets in."""
    with av.open(str(SPEECH)) as container:
        resampler = av.AudioResampler("s16", "mono", AVATAR_RATE_HZ)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    begins = int(np.argmax(np.abs(samples.astype(int)) > LOUD))
    return samples[begins : begins + SPOKEN_BLOCKS * BLOCK_SAMPLES]


class Listener:
    """A session's side. voiced_ns: when packets with a voice in them came behind ten without."""

    def __init__(self) -> None:
        self.link: asyncio.Future[AvatarLink] = asyncio.get_running_loop().create_future()
        self.voiced_ns: list[int] = []
        self._n_silent = 0

    def on_track(self, track: RemoteTrack) -> "Sink":
        return Sink(self._hear if track.kind == "audio" else lambda packet: None)

    def _hear(self, packet: RtpPacket) -> None:
        if len(packet.payload) < VOICED_BYTES:
            self._n_silent += 1
            return
        if self._n_silent >= 10:
            self.voiced_ns.append(packet.arrival_ns)
        self._n_silent = 0

    def on_ready(self, link: AvatarLink) -> None:
        if not self.link.done():
            self.link.set_result(link)

    def on_limit(self, left_s: float) -> None: ...

    def on_event(self, event: AvatarEvent) -> None: ...

    def on_tool_call(self, call: ToolCall) -> None: ...


class Sink:
    """One track."""

    def __init__(self, hear: Callable[[RtpPacket], None]) -> None:
        self.on_packet = hear

    def on_sender_report(self, report: SenderReport) -> None: ...


if __name__ == "__main__":
    with ending_properly():
        measure().show()
