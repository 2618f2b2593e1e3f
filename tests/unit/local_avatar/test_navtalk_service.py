"""One session of the local NavTalk service: whom it serves, in which order it speaks, how it ends."""

import json
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.local_avatar.navtalk import MAX_SHOWN_CHARACTERS
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump
from bridge.redact import Secret
from tests.unit.local_avatar.scripted import (
    LEO,
    LONG,
    PAUSE,
    FakePerformer,
    audio,
    no_media,  # noqa: F401  a fixture of this module
    serve,
    speech,
)

GREETING = [navtalk.Connected, navtalk.Offer, navtalk.SessionCreated, navtalk.SessionUpdated]


async def test_the_greeting_follows_the_documents() -> None:
    socket, _ = await serve()
    assert socket.got_types() == GREETING
    assert socket.closed == (1000, "")


@pytest.mark.parametrize(
    "query", ["", "name=navtalk.Leo", "license=&name=navtalk.Leo", "license=wrong&name=navtalk.Leo"]
)
async def test_a_client_without_the_licence_is_refused(query: str) -> None:
    socket, _ = await serve(query, license=Secret("right"))
    assert socket.got == [navtalk.Ended(navtalk.End.FAIL, "Invalid license key")]
    assert socket.closed == (1000, "")


@pytest.mark.parametrize("query", ["license=x", "license=x&name=Leo", "license=x&avatarId=a&name=navtalk.Leo"])
async def test_an_unknown_avatar_is_refused(query: str) -> None:
    socket, _ = await serve(query)
    assert isinstance(socket.got[0], navtalk.Ended)
    assert "Avatar not found" in socket.got[0].message


async def test_of_two_avatars_with_one_name_the_newest_is_chosen_with_a_warning() -> None:
    socket, _ = await serve("license=x&name=navtalk.Ava")
    warning = socket.got[1]
    assert isinstance(warning, navtalk.Warned)
    assert warning.avatar_id == "local-ava-2"
    assert socket.got_types() == [navtalk.Connected, navtalk.Warned, *GREETING[1:]]


async def test_an_avatar_id_goes_before_the_name_and_needs_no_warning() -> None:
    socket, _ = await serve("license=x&name=navtalk.Ava&avatarId=local-ava-1")
    assert socket.got_types() == GREETING


# ---------------------------------------------------------------------------------------------- what it survives


async def test_unreadable_frames_are_survived_and_counted() -> None:
    frames = ["[object Object]", b"\0", '{"type": "realtime.input_audio_buffer.append", "data": {"audio": "A"}}', "{}"]
    _, session = await serve(LEO, [*frames, *audio(speech(1.0) + PAUSE), dump(navtalk.AudioClear())])
    assert (session.unreadable_frames, session.binary_frames) == (3, 1)
    assert "speak" in FakePerformer.made.did


async def test_a_request_that_cannot_be_read_is_answered_with_an_error() -> None:
    socket, _ = await serve(LEO, ['{"type": "webrtc.signaling.answer", "data": {}}'])
    assert isinstance(socket.got[-1], navtalk.Failed)


async def test_the_microphone_of_the_vendors_page_comes_in_bursts_and_is_understood() -> None:
    pcm16 = speech(1.024) + PAUSE
    # 8192 samples are five messages of 3072 bytes and one of 1024.
    bursts = [pcm16[start : start + 16384] for start in range(0, len(pcm16), 16384)]
    socket, _ = await serve(LEO, [message for burst in bursts for message in audio(burst)])
    assert navtalk.UserTranscript("(speech, 1.0 s)") in socket.got


async def test_the_end_of_a_session_is_logged_with_its_counts() -> None:
    tool = {"type": "function", "name": "get_time", "parameters": {}}
    sends = [
        "[object Object]",
        b"\0",
        dump(navtalk.ToolList((tool,))),
        dump(navtalk.HistoryItem("Hello")),
        dump(navtalk.TextInput("get time")),
        dump(navtalk.AudioClear()),
    ]
    with capture_logs() as logs:
        await serve(LEO, sends)
    [ended] = [entry for entry in logs if entry["event"] == "avatar_session_ended"]
    assert ended["reason"] == "the client has left"
    counts = {name: ended[name] for name in ("unreadable_frames", "binary_frames", "history_items", "tools", "clears")}
    assert set(counts.values()) == {1}
    assert (ended["texts"], ended["tool_calls"], ended["answers"]) == (1, 1, 0)


def ends_in(logs: list[Any]) -> list[str]:
    return [entry["reason"] for entry in logs if entry["event"] == "avatar_session_ended"]


@pytest.mark.parametrize(
    "fault",
    ["balance:0.001", "points:0.001", "session-limit:0.001", "ws-drop:0.001", "ws-close:0.001", "close-at:created"],
)
async def test_an_end_that_a_fault_has_made_is_logged_as_such(fault: str) -> None:
    with capture_logs() as logs:
        await serve(LEO, LONG, fault)
    assert ends_in(logs) == [f"fault {fault.partition(':')[0]}"]


async def test_what_a_client_sends_is_shown_to_nobody_unmasked_or_whole() -> None:
    secret = Secret("sk_navtalk_of_another_client")
    # Cut before it is masked, the first half of the secret would be shown; and names may hold underscores at will.
    types = [188 * "x" + secret.reveal(), "webrtc.signaling.offer" + 1000 * "_"]
    with capture_logs() as logs:
        socket, _ = await serve(LEO, [json.dumps({"type": type_name}) for type_name in types])
    assert not [entry for entry in logs if "sk_navtalk" in str(entry)]
    [refused] = [event.message for event in socket.got if isinstance(event, navtalk.Failed)]
    assert len(refused) == MAX_SHOWN_CHARACTERS


# ---------------------------------------------------------------------------------------------- faults


async def test_a_fault_of_the_url_is_one_of_this_session() -> None:
    socket, _ = await serve(f"{LEO}&fault=no-offer&fault=close-at:updated")
    assert socket.got_types() == [navtalk.Connected, navtalk.SessionCreated]


@pytest.mark.parametrize("text", ["explode", "loss:lots"])
async def test_a_wrong_fault_in_the_url_is_refused_by_name(text: str) -> None:
    socket, _ = await serve(f"{LEO}&fault={text}")
    [ended] = socket.got
    assert isinstance(ended, navtalk.Ended)
    assert ended.end is navtalk.End.FAIL
    assert ended.message.startswith(f"fault={text}: ")
    assert "\n" not in ended.message


ENDS = {
    "bad-licence": navtalk.End.FAIL,
    "balance": navtalk.End.INSUFFICIENT_BALANCE,
    "gpu-full": navtalk.End.GPU_FULL,
    "connection-limit": navtalk.End.CONNECTION_LIMIT_EXCEEDED,
    "backend-error": navtalk.End.BACKEND_ERROR,
}


@pytest.mark.parametrize(("fault", "end"), ENDS.items())
async def test_a_session_that_is_refused_by_fault_is_told_why_and_closed(fault: str, end: navtalk.End) -> None:
    socket, _ = await serve(LEO, [], fault)
    [ended] = socket.got
    assert isinstance(ended, navtalk.Ended)
    assert ended.end is end
    assert socket.closed == (1000, "")


async def test_a_session_may_end_by_fault_in_its_midst() -> None:
    socket, _ = await serve(LEO, LONG, "balance:0.001")
    assert socket.got_types() == [*GREETING, navtalk.Ended]


async def test_a_session_with_a_limit_says_when_it_ends_and_ends_then() -> None:
    began_s = time.time()
    socket, _ = await serve(LEO, LONG, "session-limit:0.05")
    assert socket.got_types() == [*GREETING, navtalk.Ended]
    [created] = [event for event in socket.got if isinstance(event, navtalk.SessionCreated)]
    assert created.expires_at_s is not None
    assert began_s + 0.05 <= created.expires_at_s <= time.time() + 0.001
    assert socket.got[-1] == navtalk.Ended(navtalk.End.CLOSE, "The session has reached its maximum duration")


async def test_a_session_without_a_limit_says_nothing_of_an_end() -> None:
    socket, _ = await serve(LEO, [])
    [created] = [event for event in socket.got if isinstance(event, navtalk.SessionCreated)]
    assert created.expires_at_s is None


async def test_points_that_are_used_up_close_the_socket_without_an_event() -> None:
    socket, _ = await serve(LEO, [], "points")
    assert socket.got == []
    assert socket.closed == (1000, "Insufficient points")


@pytest.mark.parametrize("role_query", ["", "&audioBack=true"])
async def test_somebody_barges_in_whatever_the_role(role_query: str) -> None:
    socket, _ = await serve(f"{LEO}{role_query}", LONG, "barge-in:0", "ws-close:0.001")
    assert navtalk.SpeechStarted in socket.got_types()


async def test_a_service_that_closes_properly_in_the_midst_says_1011() -> None:
    socket, _ = await serve(LEO, LONG, "ws-close:0.001")
    assert socket.closed == (1011, "internal error")


async def test_a_service_that_drops_resets_the_connection() -> None:
    socket, _ = await serve(LEO, LONG, "ws-drop:0.001")
    assert socket.was_reset


@pytest.mark.parametrize(("step", "n_events"), [("success", 0), ("offer", 1), ("created", 2), ("updated", 3)])
async def test_a_service_that_closes_at_a_step_has_taken_those_before(step: str, n_events: int) -> None:
    socket, _ = await serve(LEO, LONG, f"close-at:{step}")
    assert socket.got_types() == GREETING[:n_events]
    assert socket.closed == (1000, "")


async def test_a_service_that_falls_mute_says_nothing_more_whatever_it_hears() -> None:
    socket, _ = await serve(LEO, audio(speech(1.0) + PAUSE), "mute-at:created")
    assert socket.got_types() == [navtalk.Connected, navtalk.Offer]


async def test_no_offer_is_the_greeting_without_it() -> None:
    socket, _ = await serve(LEO, [], "no-offer")
    assert navtalk.Offer not in socket.got_types()
    assert navtalk.SessionUpdated in socket.got_types()


async def test_a_late_offer_follows_the_greeting() -> None:
    socket, _ = await serve(LEO, LONG, "late-offer:0.001", "ws-close:0.05")
    assert socket.got_types() == [navtalk.Connected, navtalk.SessionCreated, navtalk.SessionUpdated, navtalk.Offer]


@pytest.mark.parametrize("fault", ["bad-json", "unknown-events", "binary-frames", "malformed-events"])
async def test_noise_stands_between_the_events_of_the_greeting(fault: str) -> None:
    socket, _ = await serve(LEO, [], fault)
    assert [kind for kind in socket.got_types() if kind is not navtalk.Unknown] == GREETING
    assert len(socket.texts) == 2 * len(GREETING)


async def test_noise_goes_on_in_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.local_avatar.navtalk.NOISE_INTERVAL_S", 0.0)
    socket, _ = await serve(LEO, [], "binary-frames")
    assert len(socket.texts) > 3 * len(GREETING)


async def test_the_spelling_is_that_of_the_fault() -> None:
    socket, _ = await serve(LEO, [], "nesting:flat", "spelling:snake", "sdp-string")
    assert socket.got_types() == GREETING
    connected, offer = (json.loads(text) for text in socket.texts[:2])
    assert "session_id" in connected
    assert offer["sdp"] == "offer 0 with candidates"


@pytest.mark.parametrize("form", ["string", "list", "snake"])
async def test_ice_servers_are_named_when_their_form_is_asked_for(form: str) -> None:
    socket, _ = await serve(LEO, [], f"ice-servers:{form}")
    [connected] = [event for event in socket.got if isinstance(event, navtalk.Connected)]
    assert connected.ice_servers == (navtalk.IceServer(("stun:127.0.0.1:3478",)),)
