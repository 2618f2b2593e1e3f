"""LiveKit's own client, with libwebrtc inside, in the local room: alone, beside the bridge, and as a worker that the
bridge drives. It gathers no candidates on loopback, so all of them live in a network namespace.
"""

import importlib.util
import json
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.protocols.livekit_token import Grant, mint
from tests.e2e import recorded
from tests.e2e.processes import SPEECH, Program
from tests.e2e.rooms import API_SECRET, avatar_of, room_program, studio
from tests.net.namespace import Namespace, why_unavailable

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
    pytest.mark.skipif(importlib.util.find_spec("livekit.rtc") is None, reason="the package livekit is not installed"),
]
SPEECH_S = 1.5


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as namespace:
        # Who talks to itself over its own address does so over loopback.
        subprocess.run(namespace.command("ip", "link", "set", "lo", "up"), check=True, timeout=10)
        yield namespace


def participant(
    namespace: Namespace, url: str, room: str, identity: str, *roles: str, kind: str = "standard"
) -> Program:
    grant = Grant(identity, room, kind, expires_s=int(time.time()) + 60)
    token = mint(grant, "devkey", API_SECRET, time.time())
    command = namespace.command(sys.executable, "-m", "tests.interop.livekit_participant", url, *roles)
    return Program(*command, environ={"LIVEKIT_TOKEN": token})


def told(program: Program, role: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in program.stdout if line.startswith("{")]
    return next(line for line in reversed(lines) if line["role"] == role)


async def test_livekits_own_client_watches_publishes_drives_and_is_driven(namespace: Namespace, tmp_path: Path) -> None:
    speech = tmp_path / "speech.wav"
    write_start(speech)
    async with room_program(tmp_path, within=namespace.command(), listen=f"{namespace.far}:0") as room:
        url = await room.said()
        setting = studio(tmp_path, url)
        setting.ice([])
        recording = setting.recording()
        setting.add_avatar("driven", avatar_of(tmp_path, url) | {"room": "workshop", "participant": "worker"})
        setting.input(speech, session="driven").recording(session="driven")
        async with (
            setting.daemon(*namespace.command()) as daemon,
            participant(namespace, url, "solo", "host", "watch", "publish", "drive") as host,
            participant(namespace, url, "workshop", "worker", "work", kind="agent") as worker,
        ):
            await daemon.logged("session_live", session="leo")
            async with participant(namespace, url, "studio", "viewer", "watch") as viewer:
                for program in (viewer, host, worker):
                    assert await program.exit_status(timeout_s=40) == 0, program.everything()
            assert await daemon.stop(timeout_s=7) == 0
        # Of each of the three rooms the last one has left.
        await room.logged("avatar_participant_left", 3, participants=0)

    # Beside the bridge: both see the face, and hear what the bridge gives it to say.
    assert told(viewer, "join")["others"] == ["avatar-bridge", "local-avatar"]
    seen = told(viewer, "watch")
    assert seen["pictures"] > 25 and seen["sizes"] == ["180x320"] and seen["contrast"] > 20
    assert seen["heard"]["dbfs"] > -40
    assert recorded.n_pictures(recording) > 50
    spoken = recorded.sound(SPEECH)[: recorded.SPEECH_RATE_HZ]
    assert recorded.likeness(recorded.sound(recording), spoken, latest_s=2.0) > 0.8

    # Alone: the avatar says what it is told, by a microphone or over a stream, until it is interrupted.
    assert told(host, "watch")["heard"]["dbfs"] < -60
    assert told(host, "publish")["heard"]["hz"] == pytest.approx(440, abs=5)
    driven = told(host, "drive")
    assert driven["finished"]["playback_position"] == pytest.approx(1.0, abs=0.05)
    assert driven["finished"]["interrupted"] is False
    assert driven["heard"]["hz"] == pytest.approx(440, abs=5)
    assert driven["cleared"] == "ok" and driven["interrupted"]["interrupted"] is True

    # As a worker: one stream for the whole stretch of speech, and the answer to what it tells.
    took = told(worker, "work")
    assert took["topic"] == "lk.audio_stream" and took["attributes"] == {"sample_rate": "24000", "num_channels": "1"}
    assert SPEECH_S <= took["s"] < SPEECH_S + 1.5 and took["dbfs"] > -40
    assert took["answer"] == "ok"


def write_start(path: Path) -> None:
    """The beginning of the shipped sample."""
    samples = recorded.sound(SPEECH)[: round(SPEECH_S * recorded.SPEECH_RATE_HZ)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(recorded.SPEECH_RATE_HZ)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
