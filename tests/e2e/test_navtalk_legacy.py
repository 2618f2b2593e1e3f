"""NavTalk's older interface against the local avatar service, over both of its WebSockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import structlog
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.local_avatar.faults import Fault
from bridge.protocols import navtalk_legacy
from bridge.providers.navtalk_legacy import LegacyOptions, NavTalkLegacyProvider
from bridge.redact import Secret
from tests.e2e import onair
from tests.e2e.listening import LO, PATIENCE_S, Listener, failure_of, local_avatar, running, tone
from tests.e2e.processes import COMMAND, SMALL, Program, Setting, Show

LEGACY = {"services": ("navtalk-legacy",)}
FAULTS = ("text-deltas", "binary-sound", "signal-close")


def provider(urls: str, history: Sequence[str] = (), **options: Any) -> NavTalkLegacyProvider:
    url, signal_url = map(Secret.url, urls.split())
    given = {"url": url, "signal_url": signal_url, "license": Secret("sk_navtalk_test"), "name": "navtalk.Leo"}
    return NavTalkLegacyProvider(LegacyOptions(**(given | options)), LO, history)


@asynccontextmanager
async def legacy_avatar(*faults: str) -> AsyncIterator[str]:
    async with local_avatar(**LEGACY, faults=[Fault.parse(text) for text in faults]) as urls:
        yield urls


@pytest.mark.parametrize("role", ["conversation", "speak"])
@pytest.mark.parametrize("user_id", ["license", "session", "literal:123"])
async def test_media_arrives_whatever_the_second_socket_knows_the_session_by(
    role: str, user_id: str, show: Show
) -> None:
    async with legacy_avatar() as urls, asyncio.timeout(PATIENCE_S):
        listener, began_s = Listener(), time.monotonic()
        async with running(provider(urls, role=role, signal_user_id=user_id).run(listener)):
            await listener.sinks["video"].received(1)
            first_s = time.monotonic() - began_s
            await listener.ready
            await listener.goes_on()
        show(f"NavTalk legacy, {role}, {user_id}: first packet of a picture after {first_s:.2f} s")


async def test_a_session_that_does_not_ask_for_its_media_gets_it_as_the_vendors_page_does() -> None:
    async with legacy_avatar() as urls, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(urls, signal_create=False).run(listener)):
            await listener.goes_on()


async def test_two_sessions_each_find_their_own_second_socket() -> None:
    async with legacy_avatar() as urls, asyncio.timeout(PATIENCE_S):
        listeners = [Listener() for _ in range(2)]
        sessions = [provider(urls, role="speak", signal_user_id="session").run(listener) for listener in listeners]
        async with running(sessions[0]), running(sessions[1]):
            await asyncio.gather(*(listener.goes_on() for listener in listeners))
            quiet, loud = (listener.sinks["audio"] for listener in listeners)
            await (await listeners[1].ready).send_audio(tone(1.0))
            while max(len(packet.payload) for packet in loud.packets[-10:]) < 80:
                await loud.received(len(loud.packets) + 1)
            assert max(len(packet.payload) for packet in quiet.packets[10:]) < 80


@pytest.mark.parametrize("fault", ["", "text-deltas", "binary-sound", "nesting:double", "spelling:upper"])
async def test_an_avatar_in_conversation_answers_a_turn_by_repeating_it(fault: str) -> None:
    async with legacy_avatar(*filter(None, [fault])) as urls, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(urls).run(listener)):
            link = await listener.ready
            await listener.sinks["audio"].received(1)
            await link.send_audio(tone(1.0) + bytes(2 * 24_000))
            done = await listener.heard("response_done")
        assert done.sound_s == pytest.approx(1.0, abs=0.5)
        assert done.type == "response.audio.done"
        assert (await listener.heard("user_transcript")).text == "(speech, 1.0 s)"
        deltas = "".join(event.text for event in listener.events if event.kind == "avatar_transcript_delta")
        assert deltas == (await listener.heard("avatar_transcript")).text == "(repeats speech, 1.0 s)"


async def test_an_avatar_reads_text_calls_a_tool_and_says_what_it_gave() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "name": "weather", "description": "", "parameters": parameters}
    async with legacy_avatar() as urls, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(urls, ["My name is Ann."], tools=(tool,)).run(listener)):
            link = await listener.ready
            await link.say("What is the weather like in Rome?")
            await listener.heard("tool_call")
            (call,) = listener.calls
            assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')
            await link.answer_tool(call.call_id, "It rains.")
            assert (await listener.heard("avatar_transcript")).text == "It rains."
            listener.events.clear()
            await link.say("What did I say?")
            assert (await listener.heard("avatar_transcript")).text == "You said: What is the weather like in Rome?"
            with pytest.raises(ProviderRejected, match="image"):
                await link.show(b"", "image/png", wants_answer=True)


@pytest.mark.parametrize("fault", ["signal-close:0.5", "ws-close:0.5", "ws-drop:0.5"])
async def test_the_end_of_either_socket_is_the_end_of_both(fault: str) -> None:
    with structlog.testing.capture_logs() as logged:
        async with legacy_avatar(fault) as urls, asyncio.timeout(PATIENCE_S):
            error = await failure_of(provider(urls).run(Listener()))
            await ended(logged)
    assert isinstance(error, ProviderUnavailable)
    assert error.reason == "disconnected"
    assert ("signalling" in str(error)) == fault.startswith("signal")


@pytest.mark.parametrize(
    ("fault", "kind", "reason", "words"),
    [
        ("bad-licence", ProviderRejected, "fail", "check the licence"),
        ("balance", ProviderRejected, "insufficient_balance", "top up the account"),
        ("points", ProviderRejected, "insufficient_balance", "top up the account"),
        ("gpu-full", ProviderUnavailable, "gpu_full", "full for now"),
        ("connection-limit", ProviderUnavailable, "disconnected", "More than 5 connections"),
    ],
)
async def test_an_end_says_who_must_act(fault: str, kind: type, reason: str, words: str) -> None:
    async with legacy_avatar(fault) as urls:
        error = await failure_of(provider(urls).run(Listener()))
        assert (type(error), error.reason) == (kind, reason)
        assert words in str(error)


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("mute-at:created", "create the conversation within 0.5 s (waiting for session.created)"),
        ("mute-at:updated", "accept the configuration within 0.5 s (waiting for session.updated)"),
        ("no-offer", "offer its media within 0.5 s (waiting for offer)"),
    ],
)
async def test_the_step_that_does_not_come_is_named(fault: str, step: str) -> None:
    async with legacy_avatar(fault) as urls:
        error = await failure_of(provider(urls, step_s=0.5).run(Listener()))
        assert isinstance(error, ProviderUnavailable)
        assert step in str(error)


async def test_sessions_that_are_called_off_leave_none_open_at_the_service() -> None:
    with structlog.testing.capture_logs() as logged:
        async with legacy_avatar() as urls, asyncio.timeout(PATIENCE_S):
            for n_packets in (0, 0, 1, 2):  # in the midst of the hand-shake, and with media
                listener = Listener()
                async with running(provider(urls).run(listener)):
                    await (listener.sinks["video"].received(n_packets) if n_packets else asyncio.sleep(0.02))
            await ended(logged)
    assert n_of(logged, "avatar_session_ended") >= 2


async def ended(logged: Sequence[Any]) -> None:
    """Wait until the service has ended all sessions that it has begun: it tells in its log alone."""
    while n_of(logged, "avatar_session_began") > n_of(logged, "avatar_session_ended"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def n_of(logged: Sequence[Any], event: str) -> int:
    return sum(line["event"] == event for line in logged)


# ---------------------------------------------------------------------------------------------- scripted services


class Service:
    """Both sockets of a service that answers `status` to one of them, or serves it so."""

    def __init__(self, *, created: str = '{"type": "session.created"}', refuse: str = "", status: int = 0) -> None:
        self.paths: list[str] = []
        self.received: asyncio.Queue[str] = asyncio.Queue()
        self._created, self._refuse, self._status = created, refuse, status

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with serve(self._serve, "127.0.0.1", 0, process_request=self._admit) as server:
            base = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield f"{base}/realtime?region=eu {base}/signal?x=1"

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        if self._status and request.path.startswith(self._refuse):
            return connection.respond(HTTPStatus(self._status), "<html>no</html>")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        if socket.request.path.startswith("/realtime"):
            await socket.send(self._created)
        async for message in socket:
            assert isinstance(message, str)
            self.received.put_nowait(message)


async def test_both_addresses_are_free_and_the_session_is_set_up_as_the_operator_says() -> None:
    service = Service()
    async with service.listening() as urls, asyncio.timeout(PATIENCE_S):
        options = {"voice": "alloy", "prompt": "Be kind.", "session": {"temperature": 0.7}, "step_s": 5.0}
        given = provider(urls, ["hello"], signal_user_id="literal:a b", **options)
        async with running(given.run(Listener())):
            messages = [await service.received.get() for _ in range(3)]
    assert sorted(service.paths) == [
        "/realtime?region=eu&characterName=navtalk.Leo&license=sk_navtalk_test",
        "/signal?x=1&userId=a%20b",
    ]
    requests = [navtalk_legacy.parse_request(message) for message in messages if "create" not in message[:16]]
    updates = [request for request in requests if isinstance(request, navtalk_legacy.SessionUpdate)]
    assert [update.session for update in updates] == [
        {"voice": "alloy", "instructions": "Be kind.", **navtalk_legacy.FORMS, "temperature": 0.7}
    ]
    assert '{"type": "create", "targetSessionId": "a b"}' in messages


async def test_an_offer_by_the_first_socket_is_an_unknown_event() -> None:
    offer = json.dumps({"type": "webrtc.signaling.offer", "data": {"sdp": "v=0"}})
    async with Service(created=offer).listening() as urls, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(urls).run(listener)):
            assert (await listener.heard("unknown")).type == "offer"


@pytest.mark.parametrize("refuse", ["/realtime", "/signal"])
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, ProviderRejected, "(HTTP 401): check avatar."),
        (402, ProviderRejected, "top up the account"),
        (429, ProviderUnavailable, "not available now (HTTP 429)"),
        (503, ProviderUnavailable, "not available now (HTTP 503)"),
    ],
)
async def test_a_refused_socket_is_named_with_who_must_act(refuse: str, status: int, kind: type, words: str) -> None:
    async with Service(refuse=refuse, status=status).listening() as urls:
        error = await failure_of(provider(urls).run(Listener()))
    assert type(error) is kind
    assert words in str(error) and refuse in str(error) and "sk_navtalk_test" not in str(error)


async def test_a_session_without_the_id_that_the_second_socket_needs_is_said_to_have_none() -> None:
    async with Service().listening() as urls:
        error = await failure_of(provider(urls, signal_user_id="session", step_s=0.2).run(Listener()))
    assert isinstance(error, ProviderUnavailable)
    assert "did not confirm the session within 0.2 s (waiting for session.session_id)" in str(error)


async def test_the_id_may_come_by_an_event_of_its_own() -> None:
    service = Service(created='{"type": "session.session_id", "session_id": "s-9"}')
    async with service.listening() as urls, asyncio.timeout(PATIENCE_S):
        async with running(provider(urls, signal_user_id="session").run(Listener())):
            assert await service.received.get() == '{"type": "create", "targetSessionId": "s-9"}'
    assert service.paths[1] == "/signal?x=1&userId=s-9"


# ---------------------------------------------------------------------------------------------- the product


@pytest.mark.paired
async def test_flash_and_beep_are_together_on_air_and_no_session_is_left_at_the_service(
    tmp_path: Path, show: Show
) -> None:
    options = ("--services", "navtalk-legacy", *SMALL, "--timecode", "--flash")
    async with Program(*COMMAND, "avatar", "--listen", "127.0.0.1:0", *options) as avatar:
        url, signal_url = (await avatar.said()).split()
        setting = Setting(tmp_path)
        setting.add_session("leo", url, service="navtalk-legacy", signal_url=signal_url)
        onair.quiet(setting, tmp_path)
        recording = onair.matroska(setting)
        async with setting.daemon() as daemon:
            await onair.n_more_pictures(daemon, 5 * 25)
            first_s = (await daemon.metrics()).total("time_to_first_frame_seconds_sum")
            assert await daemon.stop() == 0
        await avatar.logged("avatar_session_ended")
        assert len(avatar.events("avatar_session_began")) == len(avatar.events("avatar_session_ended")) == 1
    show(f"NavTalk legacy: first picture after {first_s:.2f} s")
    assert first_s < 1.5
    await onair.whole(recording, show, [True], [False, True])
