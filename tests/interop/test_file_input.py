"""Files as other programs write them, through source and chain to what an avatar service gets."""

import asyncio
import subprocess
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.dsp.chain import SpeechChain
from bridge.dsp.levels import measure
from bridge.errors import SourceRejected
from bridge.inputs.file import FileSource
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.samples import SPEECH
from tests.conftest import require_program

DURATION_S = 2.0
# As loud on both sides as it was in the middle; -ac 2 alone would take 3 dB off.
STEREO = "-af pan=stereo|c0=c0|c1=c0"
FORMATS = {
    "44.1 kHz stereo MP3": ("q.mp3", f"-ar 44100 {STEREO}"),
    "AAC in MP4": ("q.m4a", f"-ar 48000 {STEREO}"),
    "Opus": ("q.opus", ""),
    "Vorbis": ("q.ogg", STEREO),
    "24-bit WAV at 96 kHz": ("q.wav", "-ar 96000 -c:a pcm_s24le"),
    "8-bit WAV at 8 kHz": ("q.wav", "-ar 8000 -c:a pcm_u8"),
    "float WAV": ("q.wav", "-ar 22050 -c:a pcm_f32le"),
    "double in Matroska": ("q.mkv", "-ar 32000 -c:a pcm_f64le"),
    "A-law": ("q.wav", "-ar 8000 -c:a pcm_alaw"),
    "5.1 FLAC": ("q.flac", "-ar 48000 -af pan=5.1|FC=c0"),
    "24-bit FLAC at 192 kHz": ("q.flac", "-ar 192000 -sample_fmt s32"),
}


async def convert(path: Path) -> np.ndarray:
    chain, pcm = SpeechChain(), []

    async def emit(block: AudioBlock) -> None:
        pcm.append(chain.push(block))

    async with asyncio.timeout(20):
        await FileSource("question", path).run(emit)
    return np.concatenate((*pcm, chain.flush()))


def write_tone(path: Path, options: str) -> None:
    command = [require_program("ffmpeg"), "-v", "error", "-f", "lavfi"]
    command += ["-i", f"aevalsrc=0.25*sin(2*PI*997*t):s=48000:d={DURATION_S}", *options.split(), str(path)]
    subprocess.run(command, check=True, timeout=60)


def level_by_ffmpeg(path: Path, name: str) -> float:
    """What FFmpeg itself decodes of the middle: a lossy coder may change the level of a tone by half a decibel."""
    # BS.775, scaled by the sum of the gains 0.707, 0.707, 1, 0.5 and 0.5.
    pan = "pan=mono|c0=0.2929*FC" if "5.1" in name else "pan=mono|c0=c0"
    command = [require_program("ffmpeg"), "-v", "error", "-i", str(path)]
    # All of it: after a seek, MP3 begins without the bits that earlier frames hold, and other than it should.
    command += ["-af", pan, "-ar", str(AVATAR_RATE_HZ), "-f", "s16le", "-"]
    pcm16 = subprocess.run(command, check=True, timeout=60, capture_output=True).stdout
    return measure(middle_of(np.frombuffer(pcm16, "<i2"))).rms_dbfs


def middle_of(pcm: np.ndarray) -> np.ndarray:
    return pcm[AVATAR_RATE_HZ // 2 : -AVATAR_RATE_HZ // 2]


@pytest.mark.peer
@pytest.mark.parametrize("name", FORMATS)
async def test_what_ffmpeg_writes_arrives_as_the_same_tone(name: str, tmp_path: Path) -> None:
    file_name, options = FORMATS[name]
    path = tmp_path / file_name
    write_tone(path, options)

    with capture_logs() as logs:
        pcm = await convert(path)

    # Codecs that pad keep up to two of their frames.
    assert len(pcm) / AVATAR_RATE_HZ == pytest.approx(DURATION_S, abs=0.05)
    middle = middle_of(pcm)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * AVATAR_RATE_HZ / len(middle) == pytest.approx(997, abs=1)
    assert measure(middle).rms_dbfs == pytest.approx(level_by_ffmpeg(path, name), abs=0.02)
    assert logs == []


async def test_shipped_sample_is_clear_speech_of_ten_to_twelve_seconds() -> None:
    with capture_logs() as logs:
        pcm = await convert(SPEECH)
    assert 10 <= len(pcm) / AVATAR_RATE_HZ <= 12
    level = measure(pcm)
    assert -4 < level.peak_dbfs < -2
    assert -30 < level.rms_dbfs < -15
    assert not np.abs(pcm[-AVATAR_RATE_HZ // 3 :]).max() > 300
    assert logs == []
    assert SPEECH.stat().st_size < 400_000


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.ts\n",
    "call.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", LISTS)
async def test_list_in_a_file_reaches_no_network(name: str, tmp_path: Path) -> None:
    """FFmpeg lets what it opened as a file open nothing but files; this pins it."""
    connected = asyncio.Event()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    async with await asyncio.start_server(on_connection, "127.0.0.1", 0) as server:
        path = tmp_path / name
        path.write_text(LISTS[name].format(port=server.sockets[0].getsockname()[1]))
        with pytest.raises(SourceRejected, match=name):
            await convert(path)
    assert not connected.is_set()
