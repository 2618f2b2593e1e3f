"""A client of the local avatar service by script, and stand-ins for the media that its session would start."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.faults import Fault
from bridge.local_avatar.navtalk import NavTalkSession
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.net.ice import IceSettings
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event

LEO = "license=x&name=navtalk.Leo"
PAUSE = bytes(2 * 24_000)
Script = Sequence[str | bytes | None]
# A client that stays until the service ends the session.
LONG: Script = (None,)


class FakeSocket:
    """A client's end as two lists: what it sends, what it got. It leaves when it has sent all, or is closed.

    At a None in `sends` it stays, for what `say` sends. `texts` are the frames as they came; `closed`: code and reason,
    once it is.
    """

    local_address = ("127.0.0.1", 8811)

    def __init__(self, path: str, sends: Script) -> None:
        self.request = SimpleNamespace(path=path)
        self.transport = SimpleNamespace(abort=self._abort)
        self.sends = sends
        self.got: list[navtalk.Event] = []
        self.texts: list[str | bytes] = []
        self.closed: tuple[int, str] | None = None
        self.was_reset = False
        self._gone = asyncio.Event()
        self._said: asyncio.Queue[str | None] = asyncio.Queue()
        self._has_sent_all = asyncio.Event()
        self._came = asyncio.Condition()

    async def say(self, *texts: str) -> None:
        """Send these too, and wait until all that follows has happened."""
        for text in texts:
            self._said.put_nowait(text)
        await self._said.join()
        await settle()

    async def sent_all(self) -> None:
        """Wait until the script is through, and all that follows has happened."""
        await self._has_sent_all.wait()
        await settle()

    async def got_one(self, kind: type[navtalk.Event]) -> None:
        """Wait for an event of this type."""
        async with self._came:
            await self._came.wait_for(lambda: kind in self.got_types())

    async def send(self, frame: str | bytes) -> None:
        self.texts.append(frame)
        if isinstance(frame, str):
            try:
                self.got.append(parse_event(frame))
            except RemoteProtocolError:
                return  # the service was asked for such frames
            async with self._came:
                self._came.notify_all()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = self.closed or (code, reason)
        self._leave()

    def _abort(self) -> None:
        self.was_reset = True
        self._leave()

    def _leave(self) -> None:
        self._gone.set()
        self._said.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        for frame in self.sends:
            for _ in range(10):
                await asyncio.sleep(0)
            if self._gone.is_set():
                return
            if frame is not None:
                yield frame
                continue
            self._has_sent_all.set()
            while (said := await self._said.get()) is not None:
                yield said
                self._said.task_done()
            return
        await settle()

    def got_types(self) -> list[type[navtalk.Event]]:
        return [type(event) for event in self.got]


async def settle() -> None:
    """Give every task that can go on its turns of the loop."""
    for _ in range(100):
        await asyncio.sleep(0)


class FakePeer:
    """Is connected once it has accepted an answer, or answered; `lose` ends it.

    Descriptions that say `about` and its number, which counts all of a session, continue it.
    """

    made: "list[FakePeer]"

    def __init__(self, _: IceSettings, ask_for_keyframe: Callable[[], None], **options: Any) -> None:
        self.ask_for_keyframe = ask_for_keyframe
        self.options = options
        self.took: list[object] = []
        self.did: list[Any] = []
        self.is_open = False
        self.is_stable = True
        self._up, self._lost = asyncio.Event(), asyncio.Event()
        FakePeer.made.append(self)

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False

    @property
    def is_connected(self) -> bool:
        return self._up.is_set() and not self._lost.is_set()

    def continues(self, sdp: str) -> bool:
        return f"about {FakePeer.made.index(self)}" in sdp

    async def offer(self, *, candidates: bool = True) -> str:
        self.is_stable = False
        return f"offer {FakePeer.made.index(self)}" + (" with candidates" if candidates else "")

    def candidates(self) -> list[tuple[str, str, int]]:
        return [("candidate:1 1 udp 1 127.0.0.1 9 typ host", "0", 0)]

    async def renegotiate(self) -> str:
        self.is_stable = False
        return "further offer"

    async def answer(self, sdp: str) -> str:
        if "H264" not in sdp:
            raise RemoteProtocolError("the offer takes no H264 video")
        self._up.set()
        return "answer"

    async def accept(self, sdp: str) -> None:
        self.took.append(sdp)
        self.is_stable = True
        self._up.set()

    async def add_candidate(self, *candidate: object) -> None:
        self.took.append(candidate)

    async def connected(self) -> None:
        await self._up.wait()

    async def run(self) -> None:
        await self._lost.wait()
        raise ProviderUnavailable("the far end closed the media connection")

    def lose(self) -> None:
        self._lost.set()
        self._up.set()

    def restart_stream(self, kind: str) -> None:
        self.did.append(("restart", kind))

    def shift_timestamps(self, kind: str, ticks: int) -> None:
        self.did.append(("shift", kind, ticks))

    def send_video(self, nals: Sequence[bytes], pts_ns: int, captured_ns: int | None) -> None:
        self.did.append(("video", list(nals), pts_ns))

    def send_vp8(self, frame: bytes, pts_ns: int, captured_ns: int | None) -> None:
        self.did.append(("vp8", frame, pts_ns))

    def send_audio(self, packet: bytes, pts_ns: int) -> None:
        self.did.append(("audio", packet, pts_ns))


class FakePerformer:
    made: "FakePerformer"

    def __init__(
        self, options: Any = None, on_picture: Any = None, on_sound: Any = None, *, now_ns: Any = None
    ) -> None:
        self.options, self.now_ns = options, now_ns
        self.show, self.say = on_picture, on_sound
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

    def request_keyframe(self) -> None:
        self.did.append("keyframe")

    def change(self, options: Any) -> None:
        self.options = options

    async def run(self) -> None:
        self.did.append("run")
        await asyncio.Event().wait()


async def spell(text: str) -> bytes:
    """In the place of speech: two bytes for each character."""
    return text.encode("utf-16-le")


@pytest.fixture(autouse=True)
def no_media(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions get these stand-ins, and think no longer than it takes; for modules that import this name."""
    FakePeer.made = []
    monkeypatch.setattr("bridge.local_avatar.transmission.SendingPeer", FakePeer)
    monkeypatch.setattr("bridge.local_avatar.transmission.Performer", FakePerformer)
    monkeypatch.setattr("bridge.local_avatar.transmission.HANDOVER_S", 0.0)
    monkeypatch.setattr("bridge.local_avatar.conversation.speak_text", spell)
    monkeypatch.setattr("bridge.local_avatar.conversation.THOUGHT_S", 0.0)


async def serve(
    query: str = LEO, sends: Script = (), *faults: str, **options: Any
) -> tuple[FakeSocket, NavTalkSession]:
    """One whole session."""
    socket = FakeSocket(f"/wss/v2/realtime-chat?{query}", sends)
    settings = LocalAvatarOptions(faults=[Fault.parse(text) for text in faults], **options)
    session = NavTalkSession(cast(ServerConnection, socket), settings, IceSettings(), stun_port=3478)
    await session.run()
    return socket, session


@asynccontextmanager
async def serving(sends: Script = (), *faults: str, **options: Any) -> AsyncIterator[FakeSocket]:
    """A session whose client has sent all that and stays until the end of the block."""
    socket = FakeSocket(f"/wss/v2/realtime-chat?{LEO}", (*sends, None))
    settings = LocalAvatarOptions(faults=[Fault.parse(text) for text in faults], **options)
    session = NavTalkSession(cast(ServerConnection, socket), settings, IceSettings(), stun_port=3478)
    running = asyncio.create_task(session.run())
    await socket.sent_all()
    try:
        yield socket
    finally:
        await socket.close()
        await running


def audio(pcm16: bytes) -> list[str]:
    size = 2 * navtalk.BUFFERED_SAMPLES
    return [dump(navtalk.AudioAppend(pcm16[start : start + size])) for start in range(0, len(pcm16), size)]


def speech(seconds: float) -> bytes:
    n = np.arange(round(seconds * 24_000))
    return np.rint(8000 * np.sin(2 * np.pi * 220 * n / 24_000)).astype("<i2").tobytes()
