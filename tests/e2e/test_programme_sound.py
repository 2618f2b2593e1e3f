"""Viewers hear the question as well as the answer, each in its time, and the question over the slate too."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from benchmarks.beats import Sound, onsets, sound, source_offset_s
from benchmarks.stretches import Stretch, read_recording, stretches
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ
from bridge.media.opus_sound import open_decoder
from bridge.media.rtp import RtpUnwrapper
from tests.e2e.onair import SENT, matroska
from tests.e2e.processes import STREAM_KEY, Setting, Show
from tests.e2e.recorded import tracks
from tests.e2e.service import StampedAvatar
from tests.interop.nginx_rtmp import NginxRtmp
from tests.interop.whip_endpoint import WhipEndpoint
from tests.net.loopback import Sink

pytestmark = pytest.mark.serial

QUESTION_HZ = 4_000  # the avatar's own beeps have 1 kHz
CHUNK_MS = 20
# Beeps lie in other places of the avatar's second each time.
EVERY_CHUNKS = 37
# Of Opus: 20 ms of stereo CELT, as the mix is coded; the local avatar sends mono.
MIXED_TOC = 0xFC


def chunks(n_beeps: int) -> Iterator[tuple[bytes, bool]]:
    """48 kHz stereo, 20 ms each, and whether a beep of 40 ms begins with it, as in every 37th."""
    n_chunk = OPUS_CLOCK_HZ * CHUNK_MS // 1000
    tone = 16_384 * np.sin(2 * np.pi * QUESTION_HZ * np.arange(n_chunk) / OPUS_CLOCK_HZ)
    loud = np.repeat(np.rint(tone).astype("<i2"), 2).tobytes()
    for number in range((n_beeps + 1) * EVERY_CHUNKS):
        phase = number % EVERY_CHUNKS - EVERY_CHUNKS // 2
        yield (loud if phase in (0, 1) else bytes(len(loud))), phase == 0


def ask(fifo: Path, n_beeps: int) -> list[int]:
    """Play beeps as a microphone does, which gives a chunk when it is over; `time.monotonic_ns` at which each began."""
    began_ns: list[int] = []
    with closing(os.fdopen(os.open(fifo, os.O_WRONLY), "wb", buffering=0)) as pipe:
        start_ns = time.monotonic_ns()
        for number, (chunk, begins) in enumerate(chunks(n_beeps)):
            if begins:
                began_ns.append(start_ns + number * CHUNK_MS * NS_PER_MS)
            over_ns = start_ns + (number + 1) * CHUNK_MS * NS_PER_MS
            time.sleep(max(0, over_ns - time.monotonic_ns()) / NS_PER_S)
            pipe.write(chunk)
    return began_ns[:n_beeps]


def question_offset_s() -> float:
    """What the instrument says of a question as it is asked."""
    pcm = np.frombuffer(b"".join(chunk for chunk, _ in chunks(1)), "<i2")[::2].astype(np.float64)
    begins = next(number for number, (_, begins) in enumerate(chunks(1)) if begins) * CHUNK_MS / 1000
    return onsets(pcm, OPUS_CLOCK_HZ, QUESTION_HZ)[0] / OPUS_CLOCK_HZ - begins


def beeps_s(heard: Sound, beep_hz: int) -> list[float]:
    return [heard.time_s(index) for index in onsets(heard.samples, heard.rate_hz, beep_hz, apart_s=0.06)]


def errors_ms(heard: Sound, parts: list[Stretch], asked_ns: list[int]) -> tuple[list[float], list[float]]:
    """How far questions, and answers, are from where they belong by the stamps of the pictures."""
    live = [picture for part in parts if part.is_live for picture in part.pictures]
    # A picture is stamped when it is coded, some milliseconds after its time.
    begins_s = min(picture.stamp[1] / NS_PER_S - picture.time_s for picture in live if picture.stamp)
    questions_s, answers_s = beeps_s(heard, QUESTION_HZ), beeps_s(heard, 1_000)
    wanted_s = [ns / NS_PER_S - begins_s + question_offset_s() for ns in asked_ns]
    flashes_s = [flash.time_s for part in parts if part.is_live for flash in part.flashes()]
    settled_s = [
        flash_s for flash_s in flashes_s if flash_s > parts[0].start_s + 2.5 and flash_s < parts[0].end_s - 0.5
    ]
    return (
        [1000 * min((at_s - wanted for at_s in questions_s), key=abs) for wanted in wanted_s],
        [1000 * min((at_s - flash_s - source_offset_s() for at_s in answers_s), key=abs) for flash_s in settled_s],
    )


def shown(values: list[float]) -> str:
    return f"{min(values):+.1f} to {max(values):+.1f}"


def received(sink: Sink) -> Sound:
    """What a WebRTC far end hears."""
    decoder, unwrapper = open_decoder(), RtpUnwrapper()
    pieces, frames, n_samples = [], [], 0
    for packet in sorted(sink.packets, key=lambda packet: unwrapper.unwrap(packet.rtp_timestamp)):
        ticks = unwrapper.unwrap(packet.rtp_timestamp)
        piece = decoder.decode(packet.payload)[0].astype(np.float64)
        frames.append((ticks / OPUS_CLOCK_HZ, n_samples))
        pieces.append(piece)
        n_samples += len(piece)
    return Sound(np.concatenate(pieces), OPUS_CLOCK_HZ, frames)


async def test_question_and_answer_are_heard_at_their_times_and_questions_over_the_slate(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service, fifo = StampedAvatar(tmp_path, free_port), tmp_path / "question.pcm"
    os.mkfifo(fifo)
    setting = Setting(tmp_path, service.url).rtmp("live", nginx.rtmp_url)
    # Ducked by no more than the instrument bears, whose beeps the avatar repeats.
    setting.hears(f"pcm:{fifo}?rate=48000&channels=2&live=yes", on_air=True, air_duck_db=-3)
    mp4, mkv = setting.recording("mp4"), matroska(setting)
    async with WhipEndpoint().serving() as endpoint, service:
        setting.recording("studio", url=endpoint.url)
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(50, SENT, output="studio")
            asked_ns = await asyncio.to_thread(ask, fifo, 5)
            await asyncio.sleep(1.8)  # the avatar's packets come back
            await service.kill()
            await daemon.logged("on_air_slate")
            asked_over_slate_ns = await asyncio.to_thread(ask, fifo, 2)
            sink = await (await endpoint.session()).tracks.sink("audio")
            assert await daemon.stop() == 0

    for path in (await asyncio.to_thread(nginx.finished_recording, STREAM_KEY), mkv, mp4):
        parts = stretches(read_recording(path).pictures)
        assert [part.is_live for part in parts] == [True, False]
        questions, answers = errors_ms(sound(path), parts, [*asked_ns, *asked_over_slate_ns])
        questions, over_slate = questions[: len(asked_ns)], questions[len(asked_ns) :]
        show(
            f"{path.suffix}: question {shown(questions)}, answer {shown(answers)} ms from its true time, median"
            f" {median(questions) - median(answers):+.1f} from each other; over the slate {shown(over_slate)}"
        )
        # A machine that stops for longer than sound waits moves what it has stopped.
        assert abs(median(questions) - median(answers)) <= 10
        assert abs(median(questions)) <= 10 and abs(median(over_slate)) <= 10
        assert max(map(abs, answers)) <= 10
    _, coded = tracks(mkv)
    switches = [packet.payload[0] == MIXED_TOC for packet in coded.packets]
    assert not switches[0] and any(switches), "the avatar's own packets, and the mix while there is a question"
    assert not all(switches[switches.index(True) :])
    assert coded.longest_gap_s < 0.0415
    questions_s = [beeps_s(heard, QUESTION_HZ) for heard in (received(sink), sound(mkv))]
    apart_s = [np.diff(each[-12:]) for each in questions_s]
    show(
        f"WHIP: from question to question as in Matroska, within {1000 * np.abs(apart_s[0] - apart_s[1]).max():.2f} ms"
    )
    assert apart_s[0] == pytest.approx(apart_s[1], abs=0.002)
