"""One session of the local NavTalk service: whom it serves, in which order it speaks, how it takes turns."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection

from bridge.local_avatar.faults import Fault
from bridge.local_avatar.navtalk import NavTalkSession
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.net.ice import IceSettings
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event
from bridge.redact import Secret


class FakeSocket:
    """A client's end as two lists: what it sends, what it got. Leaves when it has sent all."""

    def __init__(self, path: str, sends: Sequence[str | bytes]) -> None:
        self.request = SimpleNamespace(path=path)
        self.sends = sends
        self.got: list[navtalk.Event] = []
        self.is_closed = False

    async def send(self, text: str) -> None:
        self.got.append(parse_event(text))

    async def close(self) -> None:
        self.is_closed = True

    async def __aiter__(self) -> Any:
        for _ in range(10):  # the greeting has its turns of the loop first
            await asyncio.sleep(0)
        for frame in self.sends:
            yield frame


class FakePeer:
    def __init__(self, *_: object, **__: object) -> None:
        self.took: list[object] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def offer(self) -> str:
        return "a=rtpmap:97 H264/90000"

    async def accept(self, sdp: str) -> None:
        self.took.append(sdp)

    async def add_candidate(self, *candidate: object) -> None:
        self.took.append(candidate)

    async def connected(self) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


class FakePerformer:
    made: "FakePerformer"

    def __init__(self, *_: object) -> None:
        self.did: list[str] = []
        self.said = b""
        self.paused = False
        self.skipped_pictures = 0
        self.dropped_speech_s = 0.0
        FakePerformer.made = self

    def speak(self, pcm16: bytes) -> None:
        self.did.append("speak")
        self.said += pcm16

    def stop_speaking(self) -> None:
        self.did.append("stop_speaking")

    def attend(self, mood: str) -> None:
        self.did.append(mood)

    async def run(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def no_media(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.local_avatar.navtalk.SendingPeer", FakePeer)
    monkeypatch.setattr("bridge.local_avatar.navtalk.Performer", FakePerformer)


async def serve(query: str, sends: Sequence[str | bytes] = (), **options: Any) -> tuple[FakeSocket, NavTalkSession]:
    socket = FakeSocket(f"/wss/v2/realtime-chat?{query}", sends)
    session = NavTalkSession(cast(ServerConnection, socket), LocalAvatarOptions(**options), IceSettings())
    await session.run()
    return socket, session


def audio(pcm16: bytes) -> list[str]:
    size = 2 * navtalk.BUFFERED_SAMPLES
    return [dump(navtalk.AudioAppend(pcm16[start : start + size])) for start in range(0, len(pcm16), size)]


def speech(seconds: float) -> bytes:
    n = np.arange(round(seconds * 24_000))
    return np.rint(8000 * np.sin(2 * np.pi * 220 * n / 24_000)).astype("<i2").tobytes()


PAUSE = bytes(2 * 24_000)
LEO = "license=x&name=navtalk.Leo"


async def test_the_greeting_follows_the_documents() -> None:
    socket, _ = await serve(LEO)
    assert [type(event) for event in socket.got] == [
        navtalk.Connected,
        navtalk.Offer,
        navtalk.SessionCreated,
        navtalk.SessionUpdated,
    ]
    assert socket.is_closed


@pytest.mark.parametrize(
    "query", ["", "name=navtalk.Leo", "license=&name=navtalk.Leo", "license=wrong&name=navtalk.Leo"]
)
async def test_a_client_without_the_licence_is_refused(query: str) -> None:
    socket, _ = await serve(query, license=Secret("right"))
    assert socket.got == [navtalk.Ended(navtalk.End.FAIL, "Invalid license key")]
    assert socket.is_closed


@pytest.mark.parametrize("query", ["license=x", "license=x&name=Leo", "license=x&avatarId=a&name=navtalk.Leo"])
async def test_an_unknown_avatar_is_refused(query: str) -> None:
    socket, _ = await serve(query)
    assert isinstance(socket.got[0], navtalk.Ended)
    assert "Avatar not found" in socket.got[0].message


@pytest.mark.parametrize("query", ["audioBack=true", "model=transparency"])
async def test_a_mirror_says_what_it_is_sent_and_no_silence(query: str) -> None:
    await serve(f"{LEO}&{query}", audio(PAUSE + speech(0.5) + PAUSE + PAUSE))
    said_s = len(FakePerformer.made.said) / 48_000
    assert 0.5 < said_s < 1.2


async def test_a_turn_is_answered_by_repeating_it() -> None:
    socket, _ = await serve(LEO, audio(speech(1.0) + PAUSE))
    assert FakePerformer.made.did == ["stop_speaking", "listening", "idle", "speak"]
    sounds = [event.pcm16 for event in socket.got if isinstance(event, navtalk.AvatarAudio)]
    assert b"".join(sounds) == FakePerformer.made.said
    assert navtalk.UserTranscript("(speech, 1.0 s)") in socket.got


async def test_somebody_who_speaks_again_interrupts_the_answer() -> None:
    await serve(LEO, audio(speech(1.0) + PAUSE + speech(0.3)))
    assert FakePerformer.made.did[-2:] == ["stop_speaking", "listening"]


async def test_a_client_may_interrupt_by_clearing() -> None:
    await serve(LEO, [dump(navtalk.AudioClear())])
    assert FakePerformer.made.did == ["stop_speaking"]


async def test_unreadable_frames_are_survived_and_counted() -> None:
    frames = ["[object Object]", b"\0", '{"type": "realtime.input_audio_buffer.append", "data": {"audio": "A"}}', "{}"]
    _, session = await serve(LEO, [*frames, *audio(speech(1.0) + PAUSE)])
    assert session.unreadable_frames == 3
    assert FakePerformer.made.did[-1] == "speak"


async def test_the_fault_vp8_only_renames_the_codec() -> None:
    socket, _ = await serve(LEO, faults=[Fault("vp8-only")])
    assert navtalk.Offer("a=rtpmap:97 VP9/90000") in socket.got


async def test_a_service_that_falls_mute_says_nothing_more() -> None:
    socket, _ = await serve(LEO, faults=[Fault("mute-at", choice="created")])
    assert [type(event) for event in socket.got] == [navtalk.Connected, navtalk.Offer]


async def test_a_media_stall_pauses_the_performance_and_keeps_the_session() -> None:
    socket, _ = await serve(LEO, faults=[Fault("media-stall", value=0.0)])
    assert FakePerformer.made.paused
    assert isinstance(socket.got[-1], navtalk.SessionUpdated)
