"""Text as speech: by espeak-ng where it is installed, else as babble of the same length."""

import asyncio
import io
import math
import shutil
import unicodedata
import wave
from asyncio.subprocess import DEVNULL, PIPE

import av
import numpy as np
import structlog

from bridge.errors import SourceError, SourceLost, SourceRejected
from bridge.local_avatar.babble import babble
from bridge.local_avatar.voice import MAX_QUEUED_SAMPLES, Pcm
from bridge.media.clock import AVATAR_RATE_HZ

__all__ = ["babble", "speak_text"]

log = structlog.get_logger()

# A minute and more, read aloud at 13 to 16 characters a second: the voice keeps no more than that.
MAX_CHARACTERS = 1000
# espeak-ng needs some 10 ms for a second of speech; this long only a machine in trouble takes.
DEADLINE_S = 10.0
_PROGRAM = "espeak-ng"
# Words a minute. Below the default of 175: the mouth of the face follows.
_ARGUMENTS = ("--stdin", "--stdout", "-b", "1", "-v", "en-us+f3", "-s", "160")
# What the voice keeps, in WAV of up to 48 kHz.
_MAX_WAV_BYTES = 2 * 2 * MAX_QUEUED_SAMPLES
# Speech as services deliver it, with room for the codec to overshoot.
_RMS = 10 ** (-20 / 20)
_PEAK = 10 ** (-3.5 / 20)
_SILENCE = 10 ** (-50 / 20)
_WINDOW_SAMPLES = AVATAR_RATE_HZ // 50


async def speak_text(text: str) -> bytes:
    """English speech, PCM16 little-endian, 24 kHz, mono, about -20 dBFS; empty for a text with nothing to say.

    Control characters and what comes after `MAX_CHARACTERS` are left out.
    """
    text = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text)
    text = text[:MAX_CHARACTERS].strip()
    program = shutil.which(_PROGRAM)
    if program is not None and text:
        try:
            wav = await _synthesise(program, text)
            return await asyncio.to_thread(lambda: levelled(_read(wav)).tobytes())
        except SourceError as error:
            log.warning("speech_synthesis_failed", error=str(error))
    return await asyncio.to_thread(lambda: levelled(babble(text)).tobytes())


def levelled(pcm: Pcm) -> Pcm:
    """The same speech at -20 dBFS (RMS of what is not silence) or as near as peaks below -3.5 dBFS allow."""
    samples = pcm / 32768
    whole = samples[: len(samples) - len(samples) % _WINDOW_SAMPLES].reshape(-1, _WINDOW_SAMPLES)
    power = np.square(whole).mean(axis=1)
    loud = power[power > _SILENCE**2 * power.max(initial=0.0)]
    if not loud.any():
        return pcm
    gain = min(_RMS / math.sqrt(loud.mean()), _PEAK / np.abs(samples).max())
    result: Pcm = np.rint(samples * gain * 32768).astype("<i2")
    return result


async def _synthesise(program: str, text: str) -> bytes:
    """The WAV of a text. Raises SourceRejected and SourceLost."""
    try:
        process = await asyncio.create_subprocess_exec(program, *_ARGUMENTS, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    except OSError as error:
        raise SourceRejected(f"{program} does not start: {error.strerror}") from None
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            stdin.write(text.encode())
            stdin.close()
            try:
                wav = await stdout.readexactly(_MAX_WAV_BYTES)
            except asyncio.IncompleteReadError as all_there_was:
                wav = all_there_was.partial
                if status := await process.wait():
                    raise SourceLost(f"{program} ended with status {status}") from None
    except TimeoutError:
        raise SourceLost(f"{program} has not finished within {DEADLINE_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
        # What is left in the pipe, 64 KiB at most: Python 3.11 and 3.12 wait for its end too (python/cpython#119710).
        await stdout.read()
        await process.wait()
    return wav


def _read(wav: bytes) -> Pcm:
    """The sound of a WAV of 16 bits, mono, at 24 kHz. Raises SourceLost."""
    try:
        # The header of a WAV that was piped promises the longest one there is.
        with wave.open(io.BytesIO(wav)) as sound:
            rate_hz, shape = sound.getframerate(), (sound.getnchannels(), sound.getsampwidth())
            data = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise SourceLost(f"{_PROGRAM} made no WAV: {error}") from None
    if shape != (1, 2) or not rate_hz:
        raise SourceLost(f"{_PROGRAM} made a WAV of {shape[0]} channels and {8 * shape[1]} bits")
    samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    if not len(samples):
        return samples
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], "s16", "mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler("s16", "mono", AVATAR_RATE_HZ)
    parts = [part.to_ndarray()[0] for given in (frame, None) for part in resampler.resample(given)]
    return np.concatenate(parts)
