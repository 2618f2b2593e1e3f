"""The NavTalk provider against the local avatar service, over real sockets on loopback."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from websockets.asyncio.client import connect

from bridge.errors import ConfigError, ProviderRejected, ProviderUnavailable
from bridge.local_avatar.faults import FAULTS, Fault
from bridge.local_avatar.navtalk import NavTalkSession
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import LocalAvatar
from bridge.local_avatar.transmission import Transmission
from bridge.media.access_unit import Codec
from bridge.net.peer import ReceivingPeer
from bridge.protocols import navtalk
from bridge.providers.navtalk import NavTalkProvider
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.redact import Secret
from tests.e2e.listening import LO, PATIENCE_S, Listener, failure_of, local_avatar, running, tone


def provider(url: str, history: Sequence[str] = (), **options: Any) -> NavTalkProvider:
    given = {"url": Secret.url(url), "license": Secret("sk_navtalk_test"), "name": "navtalk.Leo"} | options
    return NavTalkProvider(NavTalkOptions(**given), LO, history)


@pytest.mark.parametrize("role", ["conversation", "speak"])
async def test_media_arrives(role: str) -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url, role=role).run(listener)):
            await listener.ready
            await listener.sinks["video"].received(20)
            await listener.sinks["audio"].received(20)


async def test_an_avatar_that_speaks_says_what_it_is_sent() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url, role="speak").run(listener)):
            link = await listener.ready
            sounds = listener.sinks["audio"]
            await sounds.received(10)
            quiet_bytes = max(len(packet.payload) for packet in sounds.packets[5:])
            await link.send_audio(tone(1.0))
            while not any(len(packet.payload) > 2 * quiet_bytes for packet in sounds.packets):
                await sounds.received(len(sounds.packets) + 1)


async def test_an_avatar_in_conversation_answers_a_turn_by_repeating_it() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)):
            link = await listener.ready
            await listener.sinks["audio"].received(1)
            await link.send_audio(tone(1.0) + bytes(2 * 24_000))
            await listener.heard("response_done")
        kinds = [event.kind for event in listener.events if event.kind != "other"]
        assert list(dict.fromkeys(kinds)) == [
            "speech_started",
            "speech_stopped",
            "user_transcript",
            "response_started",
            "avatar_transcript_delta",
            "avatar_transcript",
            "response_done",
        ]
        assert (await listener.heard("response_done")).sound_s == pytest.approx(1.0, abs=0.5)
        assert (await listener.heard("user_transcript")).text == "(speech, 1.0 s)"
        deltas = "".join(event.text for event in listener.events if event.kind == "avatar_transcript_delta")
        assert deltas == (await listener.heard("avatar_transcript")).text == "(repeats speech, 1.0 s)"


async def test_two_sessions_are_served_at_once() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        first, second = Listener(), Listener()
        async with (
            running(provider(url).run(first)),
            running(provider(url, name=None, avatar_id="local-mia").run(second)),
        ):
            await asyncio.gather(first.sinks["video"].received(5), second.sinks["video"].received(5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "navtalk.Nobody"}, "Avatar not found: this service has navtalk.Leo"),
        ({"avatar_id": "nobody"}, "no such avatarId"),
        ({"license": Secret("sk_wrong_one")}, "Invalid license key"),
    ],
)
async def test_what_the_operator_got_wrong_is_rejected(options: dict[str, Any], words: str) -> None:
    async with local_avatar(license=Secret("sk_navtalk_test")) as url:
        error = await failure_of(provider(url, **options).run(Listener()))
        assert isinstance(error, ProviderRejected)
        assert words in str(error)


async def test_pictures_come_as_vp8_where_that_is_all_there_is() -> None:
    async with local_avatar(faults=[Fault("vp8-only")]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)):
            await listener.goes_on()
            assert set(listener.tracks["video"].codecs.values()) == {Codec.VP8}


async def test_a_dropped_websocket_is_a_loss() -> None:
    async with local_avatar(faults=[Fault("ws-drop", 0.5)]) as url:
        error = await failure_of(provider(url).run(Listener()))
        assert isinstance(error, ProviderUnavailable)
        assert error.reason == "disconnected"


@pytest.mark.parametrize(
    "fault",
    ["trickle-only", "early-candidates", "sdp-string", "nesting:double", "spelling:upper", "ice-servers:string"],
)
async def test_media_arrives_however_the_service_spells_its_signalling(fault: str) -> None:
    async with local_avatar(faults=[Fault.parse(fault)]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)):
            await listener.goes_on()


async def test_a_session_survives_all_that_it_cannot_read() -> None:
    noise = ("bad-json", "unknown-events", "binary-frames", "malformed-events")
    async with local_avatar(faults=[Fault(name) for name in noise]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)) as serving:
            await asyncio.gather(listener.heard("unknown"), listener.heard("malformed"), listener.goes_on())
            assert not serving.done()


# ---------------------------------------------------------------------------------------------- handover, recovery


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[ReceivingPeer]:
    """The peers that answered an offer, in the order of the answers."""
    answered: list[ReceivingPeer] = []
    answer = ReceivingPeer.answer

    async def note(peer: ReceivingPeer, *args: Any) -> str:
        sdp = await answer(peer, *args)
        answered.append(peer)
        return sdp

    monkeypatch.setattr(ReceivingPeer, "answer", note)
    return answered


async def test_media_goes_on_over_the_connection_that_a_second_offer_brings(answers: list[ReceivingPeer]) -> None:
    async with local_avatar(faults=[Fault("duplicate-offers", 0.5)]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)) as serving:
            await listener.saw_tracks(4)
            await listener.goes_on()
            assert not serving.done()
    first, second = answers
    assert first is not second


async def test_a_further_offer_on_the_same_connection_is_answered_on_it(answers: list[ReceivingPeer]) -> None:
    async with local_avatar(faults=[Fault("renegotiate", 0.5)]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)) as serving:
            while len(answers) < 2:
                await listener.goes_on()
            await listener.goes_on()
            assert not serving.done()
        assert listener.n_tracks == 2
    first, second = answers
    assert first is second


async def test_a_media_connection_that_the_service_closes_is_replaced_by_an_offer_of_ours() -> None:
    with structlog.testing.capture_logs() as logged:
        async with local_avatar(faults=[Fault("media-close", 0.5)]) as url, asyncio.timeout(PATIENCE_S):
            listener = Listener()
            async with running(provider(url).run(listener)) as serving:
                await listener.saw_tracks(4)
                await listener.goes_on()
                assert not serving.done()
    assert len([line for line in logged if line["event"] == "avatar_media_lost" and "recovery" in line]) == 1


async def test_a_second_offer_that_cannot_be_used_leaves_the_first_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def offer_without_fingerprint(transmission: Transmission) -> None:
        offer = await transmission._open().offer()
        await transmission._send(navtalk.Offer(offer.replace("a=fingerprint:", "a=thumbprint:")))

    monkeypatch.setattr(Transmission, "_renegotiate", offer_without_fingerprint)
    async with local_avatar(faults=[Fault("renegotiate", 0.5)]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)) as serving:
            warning = await listener.heard("warning")
            assert "no DTLS fingerprint" in warning.text
            await listener.goes_on()
            assert not serving.done()
        assert listener.n_tracks == 2


# ---------------------------------------------------------------------------------------------- text and tools


@pytest.mark.parametrize("alias", ["", *FAULTS["alias"].choices])
async def test_an_avatar_reads_text_calls_a_tool_and_says_what_it_gave(alias: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "name": "weather", "description": "", "parameters": parameters}
    faults = [Fault("alias", choice=alias)] if alias else []
    async with local_avatar(faults=faults) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url, tools=(tool,)).run(listener)):
            link = await listener.ready
            await listener.goes_on()
            await link.say("What is the weather like in Rome?")
            await listener.heard("tool_call")
            (call,) = listener.calls
            assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')
            await link.answer_tool(call.call_id, "It rains.")
            assert (await listener.heard("avatar_transcript")).text == "It rains."
            await listener.heard("response_done")


async def test_what_users_said_before_is_known_in_the_next_session() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url, history=["My name is Ann."]).run(listener)):
            await listener.goes_on()
            await (await listener.ready).say("What did I say?")
            assert (await listener.heard("avatar_transcript")).text == "You said: My name is Ann."


# ---------------------------------------------------------------------------------------------- hand-shake


STEPS = {
    "success": "conversation.connected.success",
    "offer": "realtime.session.created",
    "created": "realtime.session.created",
    "updated": "realtime.session.updated",
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_service_that_closes_in_the_hand_shake_is_unavailable(step: str) -> None:
    async with local_avatar(faults=[Fault("close-at", choice=step)]) as url:
        error = await failure_of(provider(url).run(Listener()))
        assert isinstance(error, ProviderUnavailable)
        assert f"while {STEPS[step]} was awaited" in str(error)


@pytest.mark.parametrize("step", STEPS)
async def test_a_service_that_falls_mute_in_the_hand_shake_is_unavailable(step: str) -> None:
    async with local_avatar(faults=[Fault("mute-at", choice=step)]) as url:
        error = await failure_of(provider(url, step_s=0.5).run(Listener()))
        assert isinstance(error, ProviderUnavailable)
        assert f"within 0.5 s (waiting for {STEPS[step]})" in str(error)


async def keyframes(listener: Listener, n_packets: int) -> int:
    """Timestamps of IDR pictures seen within so many packets."""
    await listener.sinks["video"].received(n_packets)
    stamps = Counter(p.rtp_timestamp for p in listener.sinks["video"].packets if holds_idr(p.payload))
    return len(stamps)


def holds_idr(payload: bytes) -> bool:
    nal_type = payload[0] & 31
    return nal_type == 5 or (nal_type == 28 and payload[1] & 0x80 != 0 and payload[1] & 31 == 5)


async def pli_until(listener: Listener, n_packets: int) -> None:
    sink = listener.sinks["video"]
    while len(sink.packets) < n_packets:
        listener.tracks["video"].feedback.send_pli()
        await sink.received(len(sink.packets) + 10)


async def test_keyframes_come_when_asked_for() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)):
            await listener.sinks["video"].received(1)
            await pli_until(listener, 60)
            assert await keyframes(listener, 60) >= 2


async def test_a_service_that_ignores_pli_makes_no_keyframe_but_the_first() -> None:
    async with local_avatar(faults=[Fault("ignore-pli")]) as url, asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(url).run(listener)):
            await listener.sinks["video"].received(1)
            await pli_until(listener, 60)
            assert await keyframes(listener, 60) <= 1


async def test_a_cancelled_session_leaves_the_service_ready_for_the_next() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            listener = Listener()
            async with running(provider(url).run(listener)):
                await listener.sinks["video"].received(2)


async def test_a_bug_in_one_session_of_the_service_is_shown_whole_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def strike(session: NavTalkSession) -> None:
        if session.role == "speak":
            raise ZeroDivisionError
        await serve(session)

    serve = NavTalkSession._serve
    monkeypatch.setattr(NavTalkSession, "_serve", strike)
    with structlog.testing.capture_logs() as logged:
        async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
            listener = Listener()
            async with running(provider(url).run(listener)):
                assert isinstance(await failure_of(provider(url, role="speak").run(Listener())), ProviderUnavailable)
                await listener.sinks["video"].received(5)
    assert [line for line in logged if line["event"] == "avatar_session_crashed"]


async def test_a_taken_port_is_named(free_port: int) -> None:
    async with local_avatar(listen_port=free_port):
        error = await failure_of(LocalAvatar(LocalAvatarOptions(listen_port=free_port)).run())
        assert isinstance(error, ConfigError)
        assert f"127.0.0.1:{free_port}" in str(error)
        assert "in use" in str(error)


async def test_frames_that_are_not_json_are_survived() -> None:
    async with local_avatar() as url, asyncio.timeout(PATIENCE_S):
        async with connect(f"{url}?license=x&name=navtalk.Leo") as socket:
            await socket.send("[object Object]")
            await socket.send(b"\x00\x01")
            await socket.send('{"type": "realtime.input_audio_buffer.append", "data": {"audio": "A"}}')
            while "session.updated" not in await socket.recv():
                pass
            await socket.send("[object Object]")
            pong = await socket.ping()
            await pong
