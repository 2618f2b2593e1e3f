"""A participant of a room by LiveKit's own client (package `livekit`, with libwebrtc): what it sees and hears.

python -m tests.interop.livekit_participant URL ROLE…, with a token in LIVEKIT_TOKEN. Each role is done in turn, and
one line of JSON says what came of it.

  watch      receive the avatar for two seconds
  publish    publish a tone of 440 Hz until the avatar says it
  drive      send speech over a byte stream, wait for the end of its playback; then once more, and interrupt it
  work       be an avatar worker: wait for a byte stream of speech until it ends, and for a call of lk.clear_buffer
"""

import asyncio
import json
import os
import sys
from collections import Counter
from typing import Any

import numpy as np
from livekit import rtc

RATE_HZ = 48_000
PATIENCE_S = 15.0
AUDIO_TOPIC = "lk.audio_stream"


def tell(role: str, **facts: Any) -> None:
    print(json.dumps({"role": role} | facts), flush=True)


class Participant:
    """What has come of the avatar so far."""

    def __init__(self, room: rtc.Room) -> None:
        self.room = room
        self.pictures: Counter[str] = Counter()
        self.brightness: list[float] = []
        self.sound: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self.playbacks: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.streams: asyncio.Queue[rtc.ByteStreamReader] = asyncio.Queue()
        self.cleared = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        room.on("track_subscribed", self._on_track)

    def ready(self) -> None:
        """Once it is connected."""
        local = self.room.local_participant
        local.register_rpc_method("lk.playback_finished", self._on_playback_finished)
        local.register_rpc_method("lk.playback_started", lambda call: "ok")
        local.register_rpc_method("lk.clear_buffer", self._on_clear)
        self.room.register_byte_stream_handler(AUDIO_TOPIC, lambda reader, identity: self.streams.put_nowait(reader))

    def _on_playback_finished(self, call: rtc.RpcInvocationData) -> str:
        self.playbacks.put_nowait(json.loads(call.payload))
        return "ok"

    def _on_clear(self, call: rtc.RpcInvocationData) -> str:
        self.cleared.set()
        return "ok"

    def _on_track(self, track: rtc.Track, publication: Any, participant: Any) -> None:
        follow = self._see(track) if track.kind == rtc.TrackKind.KIND_VIDEO else self._hear(track)
        task = asyncio.create_task(follow)
        self._tasks.add(task)

    async def _see(self, track: rtc.Track) -> None:
        async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.I420):
            frame = event.frame
            self.pictures[f"{frame.width}x{frame.height}"] += 1
            luma = np.frombuffer(frame.data, np.uint8)[: frame.width * frame.height]
            self.brightness.append(float(luma.std()))

    async def _hear(self, track: rtc.Track) -> None:
        async for event in rtc.AudioStream(track, sample_rate=RATE_HZ, num_channels=1):
            self.sound.append(np.frombuffer(event.frame.data, np.int16).copy())

    def heard(self) -> dict[str, float]:
        """Level and strongest frequency of what has been heard since this was asked the last time."""
        samples = np.concatenate([np.zeros(RATE_HZ // 10), *self.sound]).astype(np.float64)
        self.sound.clear()
        rms = float(np.sqrt(np.mean(np.square(samples))))
        spectrum = np.abs(np.fft.rfft(samples))
        return {
            "dbfs": round(20 * np.log10(max(rms, 1e-3) / 32768), 1),
            "hz": round(float(np.argmax(spectrum)) * RATE_HZ / len(samples), 1),
            "s": round(len(samples) / RATE_HZ, 2),
        }


def tone(seconds: float, rate_hz: int = RATE_HZ) -> bytes:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return bytes((8000 * np.sin(2 * np.pi * 440 * t)).astype("<i2").tobytes())


async def watch(me: Participant) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while not (me.pictures and me.sound):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    me.heard()
    before = sum(me.pictures.values())
    await asyncio.sleep(2.0)
    return {
        "pictures": sum(me.pictures.values()) - before,
        "sizes": sorted(me.pictures),
        "contrast": round(float(np.mean(me.brightness)), 1),
        "heard": me.heard(),
    }


async def publish(me: Participant) -> dict[str, Any]:
    source = rtc.AudioSource(RATE_HZ, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    publication = await me.room.local_participant.publish_track(track, options)
    pcm, step = tone(PATIENCE_S), 2 * RATE_HZ // 100

    async def speak() -> None:
        for start in range(0, len(pcm), step):
            await source.capture_frame(rtc.AudioFrame(pcm[start : start + step], RATE_HZ, 1, RATE_HZ // 100))

    speaking = asyncio.create_task(speak())
    heard = me.heard()
    async with asyncio.timeout(PATIENCE_S):
        while heard["dbfs"] < -30:
            await asyncio.sleep(0.5)
            heard = me.heard()
    speaking.cancel()
    await me.room.local_participant.unpublish_track(publication.sid)
    return {"heard": heard}


async def drive(me: Participant) -> dict[str, Any]:
    avatar = next(iter(me.room.remote_participants.values())).identity
    facts: dict[str, Any] = {}
    me.heard()
    async with asyncio.timeout(PATIENCE_S):
        await _send(me, avatar, 1.0)
        facts["finished"] = await me.playbacks.get()
        facts["heard"] = me.heard()
        writer = await _send(me, avatar, 10.0, close=False)
        await asyncio.sleep(0.5)
        answer = await me.room.local_participant.perform_rpc(
            destination_identity=avatar, method="lk.clear_buffer", payload=""
        )
        facts["cleared"] = answer
        await writer.aclose()
        facts["interrupted"] = await me.playbacks.get()
        # What is on its way, and in buffers, is heard to its end.
        while (heard := me.heard())["dbfs"] > -60 or heard["s"] < 0.2:  # noqa: ASYNC110
            await asyncio.sleep(0.3)
    return facts


async def _send(me: Participant, avatar: str, seconds: float, *, close: bool = True) -> rtc.ByteStreamWriter:
    writer = await me.room.local_participant.stream_bytes(
        name="AUDIO_test",
        topic=AUDIO_TOPIC,
        destination_identities=[avatar],
        attributes={"sample_rate": "16000", "num_channels": "1"},
    )
    await writer.write(tone(seconds, 16_000))
    if close:
        await writer.aclose()
    return writer


async def work(me: Participant) -> dict[str, Any]:
    """The caller is told what a worker tells, and is expected to interrupt."""
    source = rtc.AudioSource(RATE_HZ, 1)
    track = rtc.LocalAudioTrack.create_audio_track("voice", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    await me.room.local_participant.publish_track(track, options)
    tell("work", is_ready=True)
    async with asyncio.timeout(3 * PATIENCE_S):
        reader = await me.streams.get()
        content = bytearray()
        async for data in reader:
            content += data
        finished = {"playback_position": 1.0, "interrupted": False, "synchronized_transcript": None}
        answer = await me.room.local_participant.perform_rpc(
            destination_identity=next(
                iter(p.identity for p in me.room.remote_participants.values() if p.identity != "local-avatar")
            ),
            method="lk.playback_finished",
            payload=json.dumps(finished),
        )
    samples = np.frombuffer(bytes(content), "<i2").astype(np.float64)
    return {
        "attributes": dict(reader.info.attributes or {}),
        "topic": reader.info.topic,
        "s": len(samples) / int((reader.info.attributes or {})["sample_rate"]),
        "dbfs": round(20 * np.log10(np.sqrt(np.mean(samples**2)) / 32768), 1),
        "answer": answer,
    }


async def main() -> None:
    url, roles = sys.argv[1], sys.argv[2:]
    token = os.environ["LIVEKIT_TOKEN"]
    room = rtc.Room()
    me = Participant(room)
    await room.connect(url, token, rtc.RoomOptions(auto_subscribe=True))
    me.ready()
    tell("join", identity=room.local_participant.identity, others=sorted(room.remote_participants))
    for role in roles:
        tell(role, **await {"watch": watch, "publish": publish, "drive": drive, "work": work}[role](me))
    await room.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
