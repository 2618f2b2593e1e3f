"""The avatar's ears in a LiveKit room: speech over byte streams, calls, and microphones."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Protocol

import av
import structlog
from av.audio.resampler import AudioResampler
from livekit.protocol import models

from bridge.errors import ProviderUnavailable
from bridge.local_avatar.turns import SilenceGate
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.net.livekit_rpc import RpcEndpoint
from bridge.protocols.livekit_data import (
    AUDIO_TOPIC,
    CLEAR_BUFFER,
    OK,
    PLAYBACK_FINISHED,
    PLAYBACK_STARTED,
    REJECTED,
    IncomingStream,
    StreamData,
    StreamReader,
    read_audio_attributes,
)

# Whether somebody still speaks is counted in packets of sound; nobody tells when the last one is said.
LOOK_S = 0.02

log = structlog.get_logger()


class Speaking(Protocol):
    """The avatar, as one who feeds it sees it."""

    speaker: str

    def speak(self, pcm16: bytes) -> None: ...

    def stop_speaking(self) -> None: ...


class Worker:
    """What the avatar does with the data of one participant, as a worker of LiveKit's agents would."""

    def __init__(
        self,
        identity: str,
        stage: Speaking,
        is_speaking: Callable[[], bool],
        send: Callable[[models.DataPacket], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._identity, self._stage, self._is_speaking, self._tasks = identity, stage, is_speaking, tasks
        self._rpc = RpcEndpoint(send, {CLEAR_BUFFER: self._clear})
        self._reader = StreamReader()
        self._speech: _Speech | None = None

    def take(self, packet: models.DataPacket) -> None:
        """Raises RemoteProtocolError for speech that does not say what it is."""
        self._rpc.take(packet)
        for piece in self._reader.take(packet):
            if piece.stream.topic == AUDIO_TOPIC:
                self._hear(piece)

    def _hear(self, piece: StreamData) -> None:
        if not self._stage.speaker:
            self._stage.speaker = self._identity
        if self._stage.speaker != self._identity:
            return
        if self._speech is None or self._speech.stream is not piece.stream:
            if piece.is_end:
                return  # of a stream that was cleared
            self._speech = _Speech(piece.stream)
        if piece.content:
            if not self._speech.n_samples:
                self._tasks.create_task(self._tell(PLAYBACK_STARTED, ""), name="livekit-started")
            self._stage.speak(self._speech.take(piece.content))
        if piece.is_end:
            ended, self._speech = self._speech, None
            self._tasks.create_task(self._finish(ended), name="livekit-finished")

    async def _finish(self, speech: "_Speech") -> None:
        while self._is_speaking():  # noqa: ASYNC110  it comes of sound that is taken
            await asyncio.sleep(LOOK_S)
        if not speech.is_cleared:
            await self._finished(speech, interrupted=False)

    async def _finished(self, speech: "_Speech", *, interrupted: bool) -> None:
        position_s = min(speech.n_samples / AVATAR_RATE_HZ, time.monotonic() - speech.began_s)
        payload = {"playback_position": position_s, "interrupted": interrupted, "synchronized_transcript": None}
        await self._tell(PLAYBACK_FINISHED, json.dumps(payload))

    def _clear(self, caller: str, payload: str) -> str:
        if self._stage.speaker not in ("", caller):
            return REJECTED
        self._stage.stop_speaking()
        if self._speech is not None:
            self._speech.is_cleared = True
            self._tasks.create_task(self._finished(self._speech, interrupted=True), name="livekit-finished")
        return OK

    async def _tell(self, method: str, payload: str) -> None:
        try:
            await self._rpc.call(self._identity, method, payload)
        except ProviderUnavailable as error:
            log.info("avatar_call_failed", error=str(error))


class _Speech:
    """One stretch of speech, brought to 24 kHz mono. Raises RemoteProtocolError."""

    def __init__(self, stream: IncomingStream) -> None:
        self.stream = stream
        self.is_cleared = False
        self.n_samples = 0
        self.began_s = time.monotonic()
        self._rate_hz, self._channels = read_audio_attributes(stream.attributes)
        self._rest = b""
        self._resampler = AudioResampler("s16", "mono", AVATAR_RATE_HZ)

    def take(self, content: bytes) -> bytes:
        if self.is_cleared:
            return b""
        data = self._rest + content
        whole = len(data) - len(data) % (2 * self._channels)
        self._rest = data[whole:]
        if not whole:
            return b""
        pcm16 = data[:whole]
        if (self._rate_hz, self._channels) != (AVATAR_RATE_HZ, 1):
            layout = av.AudioLayout("mono" if self._channels == 1 else f"{self._channels}c")
            frame = av.AudioFrame("s16", layout, whole // (2 * self._channels))
            frame.sample_rate = self._rate_hz
            frame.planes[0].update(pcm16)
            pcm16 = b"".join(bytes(out.planes[0])[: 2 * out.samples] for out in self._resampler.resample(frame))
        self.n_samples += len(pcm16) // 2
        return pcm16


class Microphone:
    """A published track of sound: the avatar says what it hears, as a mirror does."""

    def __init__(self, speak: Callable[[bytes], None]) -> None:
        self._speak = speak
        self._decoder = av.AudioCodecContext.create("opus", "r")
        self._resampler = AudioResampler("s16", "mono", AVATAR_RATE_HZ)
        self._gate = SilenceGate()

    def on_packet(self, packet: RtpPacket) -> None:
        if not packet.payload:
            return
        try:
            decoded = self._decoder.decode(av.Packet(packet.payload))
        except av.error.InvalidDataError:
            return
        for sound in (out for frame in decoded for out in self._resampler.resample(frame)):
            pcm16 = bytes(sound.planes[0])[: 2 * sound.samples]
            if self._gate.passes(pcm16):
                self._speak(pcm16)

    def on_sender_report(self, report: SenderReport) -> None:
        """Nothing is put in step with it."""
