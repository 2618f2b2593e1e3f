"""The NavTalk provider against services that are scripted: what it sends, and every way to fail."""

import asyncio
import json
import logging
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import pytest
import structlog
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bridge.errors import BridgeError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.net.ice import IceServer, IceSettings
from bridge.ports import AvatarEvent, AvatarLink, RemoteTrack, ToolCall, TrackSink
from bridge.protocols import navtalk
from bridge.protocols.navtalk import End, Ended
from bridge.protocols.navtalk_json import dump
from bridge.providers.navtalk import NavTalkProvider
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.providers.websocket import MAX_MESSAGE_BYTES
from bridge.redact import Secret

CANARY = "sk_navtalk_canary/7f3a=9"
PATIENCE_S = 10.0

CONNECTED = dump(navtalk.Connected("s-1", (navtalk.IceServer(("stun:from-service",)),)))
CREATED = dump(navtalk.SessionCreated())
UPDATED = dump(navtalk.SessionUpdated())
OFFER = dump(navtalk.Offer("v=0 first"))
HAND_SHAKE = [CONNECTED, CREATED, UPDATED, OFFER]


class FakePeer:
    """Stands in for WebRTC: answers at once, keeps what it was given."""

    made: list["FakePeer"]

    def __init__(
        self, ice: IceSettings, on_track: Callable[[RemoteTrack], TrackSink], *, first_media_s: float | None
    ) -> None:
        self.datagrams_rejected = Counter[str]()
        self.path = ""
        self.candidates: list[str] = []
        self.ice_servers: Sequence[IceServer] = ()
        self.is_closed = False
        self.made.append(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_closed = True

    async def answer(self, offer_sdp: str, ice_servers: Sequence[IceServer]) -> str:
        self.ice_servers = ice_servers
        return f"answer to {offer_sdp}"

    async def add_candidate(self, candidate: str, sdp_mid: str | None, sdp_mline_index: int | None) -> None:
        self.candidates.append(candidate)

    def continues(self, offer_sdp: str) -> bool:
        return False

    async def run(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def peers(monkeypatch: pytest.MonkeyPatch) -> list[FakePeer]:
    FakePeer.made = []
    monkeypatch.setattr("bridge.providers.navtalk_media.ReceivingPeer", FakePeer)
    return FakePeer.made


@dataclass
class Service:
    """Sends its script, then does `then`; keeps what clients send, and the code they close with."""

    script: Sequence[str | bytes] = ()
    then: Callable[[ServerConnection], Awaitable[None]] | None = None
    status: int | None = None
    url: str = ""
    paths: list[str] = field(default_factory=list)
    received: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    close_code: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)

    async def serve(self, socket: ServerConnection) -> None:
        try:
            for message in self.script:
                await socket.send(message)
            if self.then is not None:
                await self.then(socket)
            while True:
                self.received.put_nowait(json.loads(await socket.recv()))
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                self.close_code.put_nowait(closed.rcvd.code)

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        return None if self.status is None else connection.respond(HTTPStatus(self.status), f"no {request.path}")


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    async with serve(service.serve, "127.0.0.1", 0, process_request=service.refuse, close_timeout=1.0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        service.url = f"ws://127.0.0.1:{port}/wss/v2/realtime-chat"
        yield service


class Listener:
    def __init__(self) -> None:
        self.ready: asyncio.Future[AvatarLink] = asyncio.get_running_loop().create_future()
        self.events: list[AvatarEvent] = []

    def on_track(self, track: RemoteTrack) -> TrackSink:
        raise AssertionError("no media here")

    def on_ready(self, link: AvatarLink) -> None:
        self.ready.set_result(link)

    def on_limit(self, left_s: float) -> None:
        raise AssertionError("no limit here")

    def on_event(self, event: AvatarEvent) -> None:
        self.events.append(event)

    def on_tool_call(self, call: ToolCall) -> None:
        raise AssertionError("no tools here")


def provider(url: str, history: Sequence[str] = (), **options: Any) -> NavTalkProvider:
    given = {"url": Secret.url(url), "license": Secret(CANARY), "name": "navtalk.Leo"} | options
    return NavTalkProvider(NavTalkOptions(**given), IceSettings(interfaces=("lo",)), history)


@asynccontextmanager
async def session(service: Service, history: Sequence[str] = (), **options: Any) -> AsyncIterator[Listener]:
    """A provider at work; it is cancelled when the block ends."""
    listener = Listener()
    task = asyncio.create_task(provider(service.url, history, **options).run(listener))
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])


async def failure(service: Service, **options: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await provider(service.url, **options).run(Listener())
    return caught.value


def closing(code: int, reason: str = "") -> Callable[[ServerConnection], Awaitable[None]]:
    async def then(socket: ServerConnection) -> None:
        await socket.close(code, reason)

    return then


async def aborting(socket: ServerConnection) -> None:
    socket.transport.abort()


# ---------------------------------------------------------------------------------------------- what is sent


async def test_only_what_is_configured_is_sent_when_the_socket_opens() -> None:
    async with running(Service()) as service, session(service, prompt="Be kind."):
        assert await service.received.get() == {
            "type": "realtime.input_config",
            "data": {"content": '{"prompt": "Be kind."}'},
        }


async def test_without_settings_nothing_is_sent_before_the_answer() -> None:
    async with running(Service(HAND_SHAKE)) as service, session(service):
        assert (await service.received.get())["type"] == "webrtc.signaling.answer"


async def test_history_goes_out_once_the_session_is_created() -> None:
    async with running(Service([CONNECTED, CREATED])) as service, session(service, ["first", "second"]):
        texts = [(await service.received.get())["item"]["content"][0]["text"] for _ in range(2)]
        assert texts == ["first", "second"]


async def test_history_is_read_anew_by_every_session() -> None:
    history: list[str] = []
    async with running(Service([CONNECTED, CREATED])) as service:
        history.append("said meanwhile")
        async with session(service, history):
            assert (await service.received.get())["item"]["content"][0]["text"] == "said meanwhile"


async def test_in_conversation_audio_waits_for_the_session_to_be_updated() -> None:
    async with running(Service([CONNECTED, CREATED, OFFER])) as service, session(service) as listener:
        await service.received.get()
        assert not listener.ready.done()
    async with running(Service([CONNECTED, CREATED, OFFER, UPDATED])) as service, session(service) as listener:
        await listener.ready


async def test_an_avatar_that_speaks_takes_audio_once_it_is_connected() -> None:
    async with running(Service([CONNECTED])) as service, session(service, role="speak") as listener:
        await listener.ready


async def test_audio_goes_out_in_messages_of_at_most_64_ms() -> None:
    async with running(Service(HAND_SHAKE)) as service, session(service) as listener:
        link = await listener.ready
        await service.received.get()
        await link.send_audio(bytes(2 * 4000))
        lengths = [len((await service.received.get())["data"]["audio"]) for _ in range(3)]
        assert lengths == [4096, 4096, 2476]


async def test_in_the_transparency_mode_audio_is_flat() -> None:
    options = {"role": "speak", "query": {"model": "transparency"}}
    async with running(Service([CONNECTED])) as service, session(service, **options) as listener:
        await (await listener.ready).send_audio(b"\0\0")
        assert await service.received.get() == {"type": "input_audio_buffer.append", "audio": "AAA="}


async def test_the_service_gets_the_licence_as_it_is() -> None:
    async with running(Service([CONNECTED])) as service, session(service, role="speak") as listener:
        await listener.ready
        assert dict(parse_qsl(urlsplit(service.paths[0]).query))["license"] == CANARY


async def test_a_cancelled_session_is_closed_with_code_1000() -> None:
    async with running(Service(HAND_SHAKE)) as service:
        async with session(service) as listener:
            await listener.ready
        assert await service.close_code.get() == 1000


async def test_a_cancelled_session_is_closed_properly_though_messages_wait_to_be_read() -> None:
    async def go_on(socket: ServerConnection) -> None:
        while True:
            await socket.send(dump(navtalk.AvatarAudio(bytes(4096))))

    async with running(Service(HAND_SHAKE, go_on)) as service:
        async with session(service) as listener:
            await listener.ready
        assert await service.close_code.get() == 1000


async def test_audio_after_the_end_is_refused() -> None:
    async with running(Service(HAND_SHAKE)) as service:
        async with session(service) as listener:
            link = await listener.ready
        with pytest.raises(ProviderUnavailable):
            await link.send_audio(b"\0\0")


# ---------------------------------------------------------------------------------------------- signalling


async def test_candidates_that_come_before_the_offer_reach_its_peer(peers: list[FakePeer]) -> None:
    script = [dump(navtalk.Candidate("early", "0", 0)), CONNECTED, OFFER, dump(navtalk.Candidate("late", "0", 0))]
    async with running(Service([*script, CREATED, UPDATED])) as service, session(service) as listener:
        await listener.ready
        assert peers[0].candidates == ["early", "late"]


async def test_an_offer_before_success_is_answered_with_the_ice_servers_of_success(peers: list[FakePeer]) -> None:
    async with running(Service([OFFER, CONNECTED])) as service, session(service):
        assert (await service.received.get())["data"]["sdp"] == {"type": "answer", "sdp": "answer to v=0 first"}
        assert [server.urls for server in peers[0].ice_servers] == [("stun:from-service",)]


async def test_a_configured_list_replaces_the_ice_servers_of_the_service(peers: list[FakePeer]) -> None:
    async with running(Service(HAND_SHAKE)) as service, session(service, ice_servers=()):
        await service.received.get()
        assert list(peers[0].ice_servers) == []


async def test_a_repeated_offer_gets_a_new_peer_and_ends_the_old_one(peers: list[FakePeer]) -> None:
    async def offer_again(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(dump(navtalk.Offer("v=0 second")))

    async with running(Service([CONNECTED, OFFER], offer_again)) as service, session(service):
        assert (await service.received.get())["data"]["sdp"]["sdp"] == "answer to v=0 second"
        assert [peer.is_closed for peer in peers] == [True, False]


async def test_frames_without_meaning_are_survived_and_reported() -> None:
    noise = ["[object Object]", b"\x00", '{"type": "realtime.rate_limits"}']
    async with running(Service([*noise, *HAND_SHAKE])) as service, session(service) as listener:
        await listener.ready
        assert [event.kind for event in listener.events[:3]] == ["unknown"] * 3
        assert [event.type for event in listener.events[:3]] == ["unknown", "binary", "realtime.rate_limits"]


# ---------------------------------------------------------------------------------------------- ends


STEPS = [
    "conversation.connected.success",
    "realtime.session.created",
    "realtime.session.updated",
    "webrtc.signaling.offer",
]


@pytest.mark.parametrize("n_steps", range(4))
@pytest.mark.parametrize("then", [closing(1000), closing(1011, "bug"), aborting], ids=["1000", "1011", "reset"])
async def test_a_service_that_closes_within_the_hand_shake_is_unavailable(n_steps: int, then: Any) -> None:
    async with running(Service(HAND_SHAKE[:n_steps], then)) as service:
        error = await failure(service)
        assert isinstance(error, ProviderUnavailable)
        assert f"while {STEPS[n_steps]} was awaited" in str(error)


@pytest.mark.parametrize("n_steps", range(4))
async def test_a_service_that_falls_mute_within_the_hand_shake_is_unavailable(n_steps: int) -> None:
    async with running(Service(HAND_SHAKE[:n_steps])) as service:
        error = await failure(service, step_s=0.5)
        assert isinstance(error, ProviderUnavailable)
        assert f"within 0.5 s (waiting for {STEPS[n_steps]})" in str(error)


@pytest.mark.parametrize(
    ("script", "then"),
    [
        ([dump(Ended(End.FAIL, "Invalid license key"))], None),
        ([*HAND_SHAKE, dump(Ended(End.INSUFFICIENT_BALANCE))], closing(1000)),
        (HAND_SHAKE, closing(1000, "Insufficient points")),
        (HAND_SHAKE, closing(1011, "Insufficient points")),
    ],
)
async def test_what_only_the_operator_can_change_is_rejected(script: list[str], then: Any) -> None:
    async with running(Service(script, then)) as service:
        error = await failure(service)
        assert isinstance(error, ProviderRejected)
        assert "check the licence" in str(error) or "top up the account" in str(error)


@pytest.mark.parametrize("end", [End.FAIL, End.GPU_FULL])
async def test_an_end_at_once_is_read_although_our_configuration_cannot_be_sent_any_more(end: End) -> None:
    async with running(Service([dump(Ended(end, "no"))], closing(1000))) as service:
        error = await failure(service, prompt="Be kind." * 10_000)
        assert error.reason == end.value


@pytest.mark.parametrize("end", [End.GPU_FULL, End.CONNECTION_LIMIT_EXCEEDED, End.BACKEND_ERROR, End.CLOSE])
async def test_what_passes_by_itself_is_unavailable(end: End) -> None:
    async with running(Service([dump(Ended(end, "later"))])) as service:
        error = await failure(service)
        assert isinstance(error, ProviderUnavailable)
        assert "later" in str(error)


async def test_events_may_come_in_any_order() -> None:
    script = [dump(navtalk.AvatarAudioDone()), UPDATED, OFFER, UPDATED, CREATED, CONNECTED, CONNECTED, CREATED]
    async with running(Service(script)) as service, session(service) as listener:
        await (await listener.ready).send_audio(b"\0\0")
        types = {(await service.received.get())["type"] for _ in range(2)}
        assert types == {"webrtc.signaling.answer", "realtime.input_audio_buffer.append"}


async def test_a_minute_of_sound_in_one_message_is_taken() -> None:
    minute = {"type": navtalk.AvatarAudio.TYPE, "data": {"delta": "AAAA" * (60 * 16_000)}}
    async with running(Service([json.dumps(minute), *HAND_SHAKE])) as service, session(service) as listener:
        await listener.ready
        assert navtalk.AvatarAudio.TYPE in [event.type for event in listener.events]


async def test_a_message_beyond_the_limit_breaks_the_protocol() -> None:
    async with running(Service(["x" * (MAX_MESSAGE_BYTES + 1)])) as service:
        assert isinstance(await failure(service), RemoteProtocolError)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, ProviderRejected), (404, ProviderRejected), (503, ProviderUnavailable)]
)
async def test_an_http_status_says_who_must_act(status: int, kind: type[BridgeError]) -> None:
    async with running(Service(status=status)) as service:
        error = await failure(service)
        assert type(error) is kind
        assert f"HTTP {status}" in str(error)


async def test_a_service_that_is_down_is_unavailable(free_port: int) -> None:
    error = await failure(Service(url=f"ws://127.0.0.1:{free_port}/wss/v2/realtime-chat"))
    assert isinstance(error, ProviderUnavailable)
    assert f"127.0.0.1:{free_port}" in str(error)


@pytest.mark.parametrize("url", ["ws://h:99999/x", "ws://a..b/x", f"ws://{'a' * 64}/x", "ws://[::1/x", "http://h/x"])
async def test_a_malformed_url_is_rejected_and_named(url: str) -> None:
    error = await failure(Service(url=url))
    assert isinstance(error, ProviderRejected)
    assert "avatar.url" in str(error)


async def test_a_colon_in_a_user_name_is_rejected_as_a_malformed_url_is() -> None:
    async with running(Service()) as service:
        service.url = service.url.replace("//", "//us%3Aer:word@")
        error = await failure(service)
        assert isinstance(error, ProviderRejected)
        assert "avatar.url" in str(error)


async def test_a_plain_port_in_place_of_a_tls_one_is_named() -> None:
    async with running(Service()) as service:
        service.url = service.url.replace("ws:", "wss:")
        error = await failure(service)
        assert isinstance(error, ProviderUnavailable)
        assert "does the port take TLS?" in str(error)


async def test_a_port_that_speaks_something_else_than_tls_is_named() -> None:
    async with raw_server(b"220 mail.example ESMTP\r\n") as service:
        service.url = service.url.replace("ws:", "wss:")
        error = await failure(service)
        assert isinstance(error, ProviderUnavailable)
        assert "TLS failed (WRONG_VERSION_NUMBER)" in str(error)


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[Service]:
    """Answers any request with these bytes and keeps the connection open until the client leaves."""

    async def serve_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve_raw, "127.0.0.1", 0)
    async with server:
        yield Service(url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/wss/v2/realtime-chat")


async def test_a_service_that_does_not_speak_http_is_unavailable() -> None:
    async with raw_server(b"SSH-2.0-OpenSSH\r\n\r\n") as service:
        assert isinstance(await failure(service, step_s=1.0), ProviderUnavailable)


async def test_a_service_that_never_answers_the_opening_is_unavailable() -> None:
    async with raw_server(b"") as service:
        error = await failure(service, step_s=0.1)
        assert isinstance(error, ProviderUnavailable)
        assert "did not open the WebSocket within 0.1 s" in str(error)


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.providers.navtalk_socket.SEND_TIMEOUT_S", 0.2)
    monkeypatch.setattr("bridge.providers.websocket.CLOSE_TIMEOUT_S", 0.2)


@asynccontextmanager
async def service_that_stops_reading() -> AsyncIterator[Service]:
    """Reads nothing after its hand-shake; it lets go when the block ends."""
    is_over = asyncio.Event()

    async def read_no_more(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await is_over.wait()
        socket.transport.abort()

    async with running(Service(HAND_SHAKE, read_no_more)) as service:
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield service
        finally:
            is_over.set()


async def flood(link: AvatarLink) -> None:
    while True:
        await link.send_audio(bytes(2 * 24_000))


async def test_a_service_that_has_stopped_reading_is_unavailable(short_deadlines: None) -> None:
    async with service_that_stops_reading() as service:
        listener = Listener()
        serving = asyncio.create_task(provider(service.url).run(listener))
        with pytest.raises(ProviderUnavailable, match="has stopped reading"):
            await flood(await listener.ready)
        with pytest.raises(ProviderUnavailable, match="has stopped reading"):
            await serving


async def test_a_session_is_cancelled_though_the_service_has_stopped_reading(
    short_deadlines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.providers.navtalk_socket.SEND_TIMEOUT_S", 0.2 + PATIENCE_S)
    async with service_that_stops_reading() as service:
        listener = Listener()
        serving = asyncio.create_task(provider(service.url).run(listener))
        flooding = asyncio.create_task(flood(await listener.ready))
        await asyncio.wait([flooding], timeout=0.5)  # the buffers of the kernel and the library are full by then
        serving.cancel()
        await asyncio.wait([serving])
        flooding.cancel()
        await asyncio.wait([flooding])
        assert serving.cancelled()


# ---------------------------------------------------------------------------------------------- the licence


async def test_neither_errors_nor_logs_show_the_licence(caplog: pytest.LogCaptureFixture, free_port: int) -> None:
    for name in ("", "websockets.client", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    caplog.set_level(logging.CRITICAL, "websockets.server")  # the far end's log, not ours
    services = [
        Service([dump(Ended(End.FAIL, f"Invalid license key {CANARY}"))]),
        Service([dump(navtalk.Warned(f"{CANARY} expires soon")), CONNECTED], closing(1000, CANARY)),
        Service(HAND_SHAKE, aborting),
        Service(["[" + json.dumps(CANARY)]),
        Service([json.dumps({"type": CANARY})], closing(1011)),
        Service(status=401),
        Service(status=302),
    ]
    shown: list[str] = []
    with structlog.testing.capture_logs() as logged:
        for service in services:
            async with running(service):
                shown += traceback.format_exception(await failure(service, step_s=0.2))
        shown += traceback.format_exception(
            await failure(Service(url=f"ws://127.0.0.1:{free_port}/wss/v2/realtime-chat"))
        )
    text = "\n".join([*shown, caplog.text, *map(str, logged)])
    assert "NavTalk at ws://127.0.0.1" in text
    assert "canary" not in text
    assert "7f3a" not in text
