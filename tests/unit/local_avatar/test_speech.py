"""Text becomes speech of an even level, whatever becomes of the synthesiser."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from bridge.local_avatar import speech
from bridge.local_avatar.babble import babble
from bridge.local_avatar.speech import MAX_CHARACTERS, levelled, speak_text
from bridge.local_avatar.visemes import WINDOW_SAMPLES, MouthTracker

SENTENCE = "Hello, how are you today? I can see the picture very well."
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture
def no_espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing in it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, script: str) -> None:
    program = folder / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def levels_dbfs(pcm16: bytes) -> tuple[float, float]:
    """RMS of what is not silence, and peak."""
    samples = np.frombuffer(pcm16, "<i2") / 32768
    power = np.square(samples[: len(samples) // 480 * 480].reshape(-1, 480)).mean(axis=1)
    return float(10 * np.log10(power[power > 1e-5].mean())), float(20 * np.log10(np.abs(samples).max()))


def babbled(text: str) -> bytes:
    return levelled(babble(text)).tobytes()


@needs_espeak
async def test_espeak_speaks_at_24_khz() -> None:
    pcm16 = await speak_text(SENTENCE)
    assert 2.5 < len(pcm16) / 48_000 < 6
    # Speech holds most of its power below 1 kHz: at another rate the first formants lay elsewhere.
    power = np.abs(np.fft.rfft(np.frombuffer(pcm16, "<i2").astype(float))) ** 2
    below = power[: round(1000 / 12_000 * len(power))].sum() / power.sum()
    assert below > 0.6
    assert pcm16 != babbled(SENTENCE)


@needs_espeak
async def test_what_espeak_says_moves_the_mouth() -> None:
    pcm, tracker = np.frombuffer(await speak_text(SENTENCE), "<i2"), MouthTracker(0.04)
    opened = [tracker.follow(pcm[at : at + WINDOW_SAMPLES]).openness for at in range(0, len(pcm) - 960, 960)]
    assert max(opened) > 0.6


@pytest.mark.parametrize("installed", [pytest.param(True, marks=needs_espeak), False])
async def test_speech_has_the_level_of_services(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setenv("PATH", str(tmp_path))
    rms_dbfs, peak_dbfs = levels_dbfs(await speak_text(SENTENCE))
    assert -22.5 < rms_dbfs < -19.5
    assert peak_dbfs < -3


async def test_without_espeak_it_babbles(no_espeak: Path) -> None:
    assert await speak_text(SENTENCE) == babbled(SENTENCE)


@pytest.mark.parametrize(
    "script",
    [
        "exit 3",
        "echo this is no WAV",
        "printf 'RIFF$...WAVEfmt '",
        "kill -s SEGV $$",
        "exec /nowhere/at/all",
    ],
)
async def test_an_espeak_that_fails_is_replaced_by_babble(no_espeak: Path, script: str) -> None:
    install(no_espeak, script)
    assert await speak_text("Hello") == babbled("Hello")


async def test_a_program_that_is_none_is_replaced_by_babble(no_espeak: Path) -> None:
    (no_espeak / "espeak-ng").write_bytes(b"\x7fELF nonsense")
    (no_espeak / "espeak-ng").chmod(0o755)
    assert await speak_text("Hello") == babbled("Hello")


async def test_an_espeak_that_hangs_is_ended_and_replaced_by_babble(
    no_espeak: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(no_espeak, "while :; do read -r line || exec /bin/sleep 1000; done")
    monkeypatch.setattr(speech, "DEADLINE_S", 0.0)
    processes = spied(monkeypatch)
    assert await speak_text("Hello") == babbled("Hello")
    assert (await processes.get()).returncode == -9


async def test_a_cancelled_one_leaves_no_process(no_espeak: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(no_espeak, "exec /bin/sleep 1000")
    processes = spied(monkeypatch)
    task = asyncio.create_task(speak_text("Hello"))
    process = await processes.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process.returncode == -9


async def test_espeak_is_given_bounded_text_without_control_characters(no_espeak: Path) -> None:
    install(no_espeak, f"/bin/cat > {no_espeak}/heard; exit 1")
    await speak_text("\x1b[31mred\x07\u202e \ud800" + "a" * MAX_CHARACTERS)
    heard = (no_espeak / "heard").read_text()
    assert heard.startswith("[31mred")
    assert heard.isprintable()
    assert MAX_CHARACTERS - 5 < len(heard) <= MAX_CHARACTERS


async def test_espeak_is_given_the_text_on_its_standard_input_only(no_espeak: Path) -> None:
    install(no_espeak, f'echo "$@" > {no_espeak}/arguments; exit 1')
    await speak_text("--help")
    assert "--help" not in (no_espeak / "arguments").read_text()


async def test_an_endless_espeak_is_cut(no_espeak: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(no_espeak, "exec /bin/cat /dev/zero")
    processes = spied(monkeypatch)
    assert await speak_text("Hello") == babbled("Hello")
    assert (await processes.get()).returncode == -9


@pytest.mark.parametrize("text", ["", " \n", "\x00\x1b"])
async def test_nothing_to_say_is_no_sound(text: str) -> None:
    assert await speak_text(text) == b""


def test_levelling_leaves_silence_silent() -> None:
    assert not levelled(np.zeros(4800, np.int16)).any()
    assert not len(levelled(np.zeros(0, np.int16)))


def test_levelling_keeps_peaks_below_their_limit() -> None:
    clicks = np.zeros(24_000, np.int16)
    clicks[::2400] = 3000
    assert np.abs(levelled(clicks).astype(int)).max() < 32768 * 10 ** (-3 / 20)


def spied(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[asyncio.subprocess.Process]":
    """The processes that are started from now on."""
    processes: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
    create = asyncio.create_subprocess_exec

    async def spy(*arguments: str, **options: int) -> asyncio.subprocess.Process:
        process = await create(*arguments, **options)
        processes.put_nowait(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    return processes
