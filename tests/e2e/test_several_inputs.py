"""Several inputs of one session, as viewers hear them."""

import asyncio
import json
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ
from tests.e2e.processes import PATIENCE_S, Avatar, Daemon, Setting
from tests.e2e.recorded import SPEECH_RATE_HZ, sound
from tests.unit.dsp.voices import silence, voice

TONE_HZ = 3_000


def write(path: Path, samples: NDArray[np.int16]) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AVATAR_RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())
    return f"file:{path}"


async def all_is_said(daemon: Daemon) -> list[dict[str, object]]:
    """The inputs of the one session, once they have ended."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (session,) = json.loads(await daemon.get("/v1/sessions"))
            if session["input_is_finished"]:
                return list(session["inputs"])
            await asyncio.sleep(0.1)


async def test_a_host_is_heard_over_a_playlist_and_a_missing_input_is_missed_by_nobody(
    tmp_path: Path, avatar: Avatar
) -> None:
    tone = np.rint(4_000 * np.sin(2 * np.pi * TONE_HZ / AVATAR_RATE_HZ * np.arange(5 * AVATAR_RATE_HZ)))
    host = np.concatenate((silence(2.0), voice(), silence(1.0)))
    setting = Setting(tmp_path, avatar.url).inputs(
        {
            "host": {"url": write(tmp_path / "host.wav", host), "priority": 10},
            "playlist": {"url": write(tmp_path / "playlist.wav", tone.astype(np.int16))},
            "guest": {"url": f"file:{tmp_path}/nowhere.wav"},
        }
    )
    path = setting.recording()
    async with setting.daemon() as daemon:
        inputs = await all_is_said(daemon)
        assert await daemon.stop() == 0
    assert {input["name"]: input["state"] for input in inputs} == {
        "host": "ended",
        "playlist": "ended",
        "guest": "failed",
    }
    heard = sound(path)
    frame = SPEECH_RATE_HZ // 10
    frames = heard[: len(heard) // frame * frame].reshape(-1, frame)
    times_s = np.arange(frame) / SPEECH_RATE_HZ
    levels = np.abs(frames @ np.exp(-2j * np.pi * TONE_HZ * times_s)) / frame
    loud = np.flatnonzero(levels > 0.5 * levels.max())
    first = loud[0] + 1
    # A second of the playlist alone, two of the host above it, and the playlist again.
    alone, ducked = levels[first : first + 15], levels[first + 23 : first + 36]
    assert 20 * np.log10(np.median(ducked) / np.median(alone)) < -14
    assert loud[-1] - first > 40
