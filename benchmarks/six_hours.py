"""Six hours of an avatar whose clock is 200 ppm fast, in two minutes: the way down in virtual time, without sockets.

RTP packets and sender reports go through the reception, its timeline, the splice, the count of sound for AAC, FLV tags
and RTMP chunks, and out of a chunk reader. All of it is the code that runs, but for the AAC encoder, which would take
ten minutes: a count of its frames takes its place. RTP timestamps wrap on both tracks, and RTMP's pass 2**24 ms.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import structlog

import bridge.outputs.aac
import bridge.programme
import bridge.reception
from benchmarks.beats import onsets, source_offset_s
from bridge.local_avatar.flash import beep_over
from bridge.media.access_unit import AccessUnit, Codec, Kind
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ
from bridge.media.opus_decoder import Samples
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs.aac import AAC_FRAME_SAMPLES, Frame
from bridge.outputs.audio import AacTranscoder
from bridge.ports import RemoteTrack
from bridge.programme import Programme
from bridge.protocols.flv import Tag, TagSequence
from bridge.protocols.rtmp_chunks import ChunkReader, ChunkWriter, Message, MessageType
from bridge.reception import Reception
from tests.unit.receive.streams import H264_TYPE, KEYFRAME, OPUS_TYPE, SLICE

HOURS = 6.0
DRIFT_PPM = 200
# A flash and a beep so often: more would only take time.
BEAT_S = 60
# As few units as senders make.
PICTURE_NS, SOUND_NS = 80 * NS_PER_MS, 60 * NS_PER_MS
BLOCK_NS = 240 * NS_PER_MS
BEEP_LEAD_NS = 600 * NS_PER_MS
# RTP timestamps wrap after two and after three hours.
ORIGINS: dict[Kind, int] = {
    "video": 2**32 - 2 * 3600 * VIDEO_CLOCK_HZ,
    "audio": 2**32 - 3 * 3600 * OPUS_CLOCK_HZ,
}
RATES_HZ: dict[Kind, int] = {"video": VIDEO_CLOCK_HZ, "audio": OPUS_CLOCK_HZ}
# How long packets travel, and what jitter adds at most; pictures take a longer way.
DELAYS_NS: dict[Kind, int] = {"audio": 20 * NS_PER_MS, "video": 55 * NS_PER_MS}
JITTER_NS = 15 * NS_PER_MS
# aiortc stamps reports with the time of a packet's sending: they scatter.
REPORT_SCATTER_NS = NS_PER_MS
REPORT_EVERY_BLOCKS = 4
NTP_NS = 3_900_000_000 * NS_PER_S
_TYPES = {"video": MessageType.VIDEO, "audio": MessageType.AUDIO, "script": MessageType.DATA_AMF0}
# Three mono CELT frames whose first bit is their silence flag (RFC 6716 §3.2.5): the sender's own silence.
QUIET = b"\xfb\x03" + 3 * b"\xff\xfe"
# How much decoded sound around a beat is kept to find the beep in.
_KEPT_FRAMES = 2 * OPUS_CLOCK_HZ // AAC_FRAME_SAMPLES


@dataclass(frozen=True, slots=True)
class Found:
    """offsets_ms: hour and offset of each beat; above 0 sound is late.

    slope_ms_per_hour  of a line through the offsets.  ppm: the drift as the bridge measures it.
    last_ms            the last RTMP timestamp.  ahead_s: how far session time is ahead of our clock at the end.
    """

    offsets_ms: Sequence[tuple[float, float]]
    slope_ms_per_hour: float
    ppm: float | None
    last_ms: int
    rtp_wraps: int
    ahead_s: float
    took_s: float


def simulate(hours: float = HOURS) -> Found:
    """Raises AssertionError when a timestamp goes back, or media gets lost."""
    began_s = time.monotonic()
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _VirtualLoop)
        clock: Any = SimpleNamespace(monotonic_ns=lambda: loop.now_ns)
        with (
            patch.object(bridge.reception, "time", clock),
            patch.object(bridge.programme, "time", clock),
            patch.object(bridge.outputs.aac, "LibavEncoder", _Uncompressed),
        ):
            line = runner.run(_play(loop, hours))
    offsets_ms = line.viewer.offsets_ms
    slope, _ = np.polyfit(*zip(*offsets_ms, strict=True), 1)
    return Found(
        offsets_ms,
        float(slope),
        line.reception.av_drift_ppm,
        line.viewer.last_ms[MessageType.VIDEO],
        line.sender.n_wraps,
        (line.viewer.last_pts_ns - loop.now_ns) / NS_PER_S,
        time.monotonic() - began_s,
    )


async def _play(loop: "_VirtualLoop", hours: float) -> "_Line":
    line = _Line(loop)
    for block in range(round(hours * 3600 * NS_PER_S / BLOCK_NS)):
        for arrival_ns, kind, thing in sorted(line.sender.block(block), key=lambda event: event[0]):
            loop.now_ns = max(loop.now_ns, arrival_ns)
            sink = line.sinks[kind]
            if isinstance(thing, SenderReport):
                sink.on_sender_report(thing)
            else:
                for packet in thing:
                    sink.on_packet(packet)
        await asyncio.sleep(0)  # timers that are due
    line.reception.close()
    assert line.programme.splice.late_units == line.programme.splice.freezes == line.reception.nudged_units == 0
    stats = [line.reception.stats(kind) for kind in RATES_HZ]
    assert not any(each.lost or each.late for each in stats if each)
    return line


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when it is told to."""

    now_ns = 0

    def time(self) -> float:
        return self.now_ns / NS_PER_S


class _Line:
    """The sender, the bridge, and who looks at what comes out."""

    def __init__(self, loop: _VirtualLoop) -> None:
        self.sender = _Sender()
        self.viewer = _Viewer()
        self.programme = Programme(
            _no_slate,
            slate_after_s=1.0,
            wants_last=False,
            origin_ns=loop.now_ns,
            emit=self.viewer.take,
            request_keyframe=lambda: self.reception.request_keyframe(),
            on_change=lambda _: None,
            log=structlog.get_logger(),
        )
        self.reception = Reception(
            loop.now_ns, lambda unit: self.programme.put(1, unit), self.programme.on_air_ns, 2 * NS_PER_S
        )
        self.programme.put_on_air(1)
        codecs: dict[Kind, dict[int, Codec]] = {"audio": {OPUS_TYPE: Codec.OPUS}, "video": {H264_TYPE: Codec.H264}}
        self.sinks = {kind: self.reception.on_track(RemoteTrack(kind, codecs[kind], self.sender)) for kind in codecs}


def _no_slate(like: bytes, group: Sequence[AccessUnit]) -> SlatePictures:
    raise AssertionError("no slate is needed")


class _Sender:
    """Captures pictures and sound at the pace of its own clock; it is the feedback of both tracks as well."""

    def __init__(self) -> None:
        self.n_wraps = 0
        self._random = random.Random(5)
        self._wants_keyframe = True
        self._sequence_numbers: dict[Kind, int] = {"audio": 60_000, "video": 60_000}
        self._last_timestamps = dict(ORIGINS)
        self._last_arrivals: dict[Kind, int] = {"audio": 0, "video": 0}
        self._beep = _beep_packets()

    def send_nack(self, sequence_numbers: Sequence[int]) -> None:
        raise AssertionError("nothing is lost here")

    def send_pli(self) -> None:
        self._wants_keyframe = True

    def block(self, number: int) -> Iterator[tuple[int, Kind, SenderReport | list[RtpPacket]]]:
        """What `BLOCK_NS` of media give, with the arrival of each."""
        media_ns = number * BLOCK_NS
        for picture_ns in range(media_ns, media_ns + BLOCK_NS, PICTURE_NS):
            payloads: Sequence[bytes] = KEYFRAME if self._wants_keyframe else (SLICE,)
            self._wants_keyframe = False
            yield self._unit("video", picture_ns, payloads)
        for sound_ns in range(media_ns, media_ns + BLOCK_NS, SOUND_NS):
            yield self._unit("audio", sound_ns, (self._sound(sound_ns),))
        if number % REPORT_EVERY_BLOCKS == 0:
            for kind in RATES_HZ:
                yield self._report(kind, media_ns)

    def _sound(self, media_ns: int) -> bytes:
        """The beep of a beat lies within the packets from 0.6 s before it on; there is none at the very start."""
        since_ns = (media_ns + BEEP_LEAD_NS) % (BEAT_S * NS_PER_S)
        index = since_ns // SOUND_NS
        return self._beep[index] if media_ns >= NS_PER_S and index < len(self._beep) else QUIET

    def _at(self, kind: Kind, media_ns: int) -> tuple[int, int]:
        """RTP timestamp of a media time, and our time at which it is captured."""
        timestamp = (ORIGINS[kind] + media_ns * RATES_HZ[kind] // NS_PER_S) & 0xFFFFFFFF
        return timestamp, media_ns * 1_000_000 // (1_000_000 + DRIFT_PPM)

    def _unit(self, kind: Kind, media_ns: int, payloads: Sequence[bytes]) -> tuple[int, Kind, list[RtpPacket]]:
        timestamp, captured_ns = self._at(kind, media_ns)
        self.n_wraps += timestamp < self._last_timestamps[kind]
        self._last_timestamps[kind] = timestamp
        arrival_ns = captured_ns + DELAYS_NS[kind] + self._random.randrange(JITTER_NS)
        arrival_ns = self._last_arrivals[kind] = max(arrival_ns, self._last_arrivals[kind])
        packets = []
        for index, payload in enumerate(payloads):
            number = self._sequence_numbers[kind]
            self._sequence_numbers[kind] = (number + 1) & 0xFFFF
            is_last = index == len(payloads) - 1
            type_id = H264_TYPE if kind == "video" else OPUS_TYPE
            packets.append(RtpPacket(7, type_id, number, timestamp, is_last, payload, arrival_ns))
        return arrival_ns, kind, packets

    def _report(self, kind: Kind, media_ns: int) -> tuple[int, Kind, SenderReport]:
        timestamp, captured_ns = self._at(kind, media_ns)
        ntp_ns = NTP_NS + captured_ns + round(self._random.gauss(0, REPORT_SCATTER_NS))
        arrival_ns = captured_ns + DELAYS_NS[kind] + self._random.randrange(JITTER_NS)
        return arrival_ns, kind, SenderReport(7, (ntp_ns << 32) // NS_PER_S, timestamp, arrival_ns)


def _beep_packets() -> list[bytes]:
    """1.2 s of sound, coded: a beep begins in the middle."""
    encoder = av.AudioCodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.layout = AVATAR_RATE_HZ, "s16", "mono"
    encoder.options = {"application": "audio", "frame_duration": str(SOUND_NS // NS_PER_MS)}
    n_samples, n_packets = AVATAR_RATE_HZ * SOUND_NS // NS_PER_S, 2 * BEEP_LEAD_NS // SOUND_NS
    pcm = np.zeros(n_packets * n_samples, np.int16)
    beep_over(pcm, AVATAR_RATE_HZ - AVATAR_RATE_HZ * BEEP_LEAD_NS // NS_PER_S)
    packets: list[bytes] = []
    for start in range(0, len(pcm), n_samples):
        frame = av.AudioFrame.from_ndarray(pcm[np.newaxis, start : start + n_samples], format="s16", layout="mono")
        frame.sample_rate, frame.pts = AVATAR_RATE_HZ, start
        packets += map(bytes, encoder.encode(frame))
    assert len(packets) == n_packets
    return packets


class _Viewer:
    """Takes what goes on air as an RTMP output does, reads it back as its server does, and finds the beats in it."""

    def __init__(self) -> None:
        self.offsets_ms: list[tuple[float, float]] = []
        self.last_ms: dict[int, int] = {}
        self.last_pts_ns = 0
        self._transcoder = AacTranscoder(128_000)
        self._sequence = TagSequence()
        self._writer, self._reader = ChunkWriter(), ChunkReader(2**20)
        self._n_pictures = 0
        self._flash_ms: int | None = None
        self._sound: deque[tuple[int, bytes]] = deque(maxlen=_KEPT_FRAMES)
        self._of_source_ms = 1000 * source_offset_s()
        self._over_the_wire(Message(MessageType.SET_CHUNK_SIZE, 0, 0, (65_536).to_bytes(4, "big")))

    def take(self, unit: AccessUnit) -> None:
        if unit.codec is Codec.OPUS:
            for frame in self._transcoder.push(unit):
                for message in self._send(frame):
                    self._hear(message)
            return
        self.last_pts_ns = unit.pts_ns
        *_, message = self._send(unit)
        if self._n_pictures and self._n_pictures * PICTURE_NS % (BEAT_S * NS_PER_S) == 0:
            self._flash_ms = message.timestamp_ms
        self._n_pictures += 1

    def _send(self, unit: AccessUnit) -> list[Message]:
        tags = self._sequence.tags(unit)
        messages = [self._over_the_wire(_message(tag)) for tag in tags]
        if messages:
            newest = messages[-1]
            assert newest.timestamp_ms > self.last_ms.get(newest.type_id, -1), "a timestamp goes back"
            self.last_ms[newest.type_id] = newest.timestamp_ms
        return messages

    def _over_the_wire(self, message: Message) -> Message:
        (received,) = self._reader.receive(self._writer.write(4, message))
        return received

    def _hear(self, message: Message) -> None:
        if message.payload[1] == 0:
            return  # the decoder's configuration
        self._sound.append((message.timestamp_ms, message.payload[2:]))
        if self._flash_ms is not None and message.timestamp_ms > self._flash_ms + 500:
            self._compare(self._flash_ms)
            self._flash_ms = None

    def _compare(self, flash_ms: int) -> None:
        samples = np.frombuffer(b"".join(frame for _, frame in self._sound), "<i2").astype(np.float64)
        (beep,) = onsets(samples, OPUS_CLOCK_HZ)
        frame, rest = divmod(beep, AAC_FRAME_SAMPLES)
        beep_ms = self._sound[int(frame)][0] + 1000 * rest / OPUS_CLOCK_HZ
        self.offsets_ms.append((flash_ms / 3_600_000, beep_ms - flash_ms - self._of_source_ms))


def _message(tag: Tag) -> Message:
    return Message(_TYPES[tag.kind], 1, tag.timestamp_ms & 0xFFFFFFFF, tag.body)


_SILENCE = bytes(2 * AAC_FRAME_SAMPLES)


class _Uncompressed:
    """In the place of libav's AAC encoder: frames of the first channel's samples, as late as AAC's."""

    codec_config = bytes.fromhex("1190")  # AudioSpecificConfig: AAC-LC, 48 kHz, stereo (ISO 14496-3 §1.6.2.1)

    def __init__(self, bit_rate: int) -> None:
        self._held = _SILENCE

    def encode(self, block: Samples | None, at: int = 0) -> list[Frame]:
        assert block is not None, "the count of sound began anew"
        frame = Frame(at - AAC_FRAME_SAMPLES, self._held)
        self._held = np.rint(32767 * block[0]).astype("<i2").tobytes() if block[0].any() else _SILENCE
        return [frame]
