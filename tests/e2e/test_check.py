"""`avatar-bridge check --connect` names the step that a service does not take, for each service and each step."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from livekit.protocol import models, rtc
from websockets.asyncio.server import ServerConnection, serve

from bridge import check
from bridge.config import Config
from bridge.local_avatar import server
from bridge.local_avatar.faults import STEPS, Fault
from bridge.local_avatar.livekit import DEV_SECRET
from bridge.protocols.livekit_token import Grant, mint
from bridge.providers import livekit_room
from bridge.redact import Secret
from tests.e2e.listening import PATIENCE_S, local_avatar
from tests.e2e.processes import LICENSE
from tests.fuzz.test_fuzz_sdp import OFFER
from tests.unit.inputs.web import Request, web
from tests.unit.providers.livekit_server import AVATAR, RoomServer, joined

SERVICES = ("navtalk", "navtalk-legacy", "heygen", "liveavatar", "livekit")
REST = ("heygen", "liveavatar")
JOIN_FAILURE = models.DisconnectReason.JOIN_FAILURE
PERMISSION = models.ParticipantPermission(can_subscribe=False, can_publish_data=True)
BLIND = rtc.SignalResponse(join=rtc.JoinResponse(participant=models.ParticipantInfo(permission=PERMISSION)))


def avatar_at(service: str, *urls: str) -> dict[str, Any]:
    """The configuration of an avatar of a service with these addresses."""
    avatar: dict[str, Any] = {"service": service, "url": urls[0]}
    match service:
        case "navtalk":
            avatar |= {"name": "navtalk.Leo", "license": Secret(LICENSE)}
        case "navtalk-legacy":
            avatar |= {"name": "navtalk.Leo", "license": Secret(LICENSE), "signal_url": urls[-1]}
        case "livekit":
            avatar |= {"api_key": "devkey", "api_secret": Secret(DEV_SECRET), "room": "studio"}
        case _:
            avatar |= {"avatar_id": "local", "api_key": Secret(LICENSE)}
    return avatar


async def finding(avatar: Mapping[str, Any]) -> str:
    """The line that `check --connect` prints about an avatar."""
    session = {"avatar": avatar, "inputs": {"hum": {"url": "silence:"}}, "outputs": {"show": {"url": "whep:"}}}
    config = Config.model_validate({"ice": {"interfaces": ["lo"]}, "sessions": {"leo": session}})
    lines: list[str] = []
    async with asyncio.timeout(3 * PATIENCE_S):
        await check.check_connections(config, lines.append)
    (line,) = (line for line in lines if "leo.avatar:" in line)
    assert LICENSE not in line
    return line


async def finding_about(service: str, *faults: str) -> str:
    """The same about the avatar of a local service that misbehaves."""
    parsed = [Fault.parse(text) for text in faults]
    async with local_avatar(services=(service,), faults=parsed) as urls:
        return await finding(avatar_at(service, *urls.split()))


# ---------------------------------------------------------------------------------------------- the door


@pytest.mark.parametrize("service", SERVICES)
async def test_an_avatar_that_is_well_says_what_was_agreed_on(service: str) -> None:
    line = await finding_about(service)
    assert line.startswith("ok      leo.avatar: H.264 baseline"), line
    assert "180x320, opus, media host " in line


@pytest.mark.parametrize("service", SERVICES)
async def test_nobody_is_there(service: str) -> None:
    scheme = "http" if service in REST else "ws"
    line = await finding(avatar_at(service, f"{scheme}://127.0.0.1:1"))
    assert line.startswith("FAILED") and "cannot be reached: " in line and "127.0.0.1:1" in line


@pytest.mark.parametrize("service", SERVICES)
async def test_somebody_else_is_there(service: str) -> None:
    async def answer(request: Request) -> None:
        await request.say("HTTP/1.1 404 Not Found", body=b"<html>Nothing here</html>")

    async with web(answer) as site:
        url = site.url("") if service in REST else site.url("").replace("http", "ws")
        line = await finding(avatar_at(service, url))
    assert ("HTTP 404): check avatar" in line) and "<html>" not in line, line


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("bad-licence", ("licence", "api_key", "token", "key")),
        ("balance", ("top up", "quota exceeded")),
        ("gpu-full", ("full for now", "not available now (HTTP 503")),
        ("connection-limit", ("connections", "no room for one more session", "not available now (HTTP 429)")),
        ("backend-error", ("fault of its own", "The backend does not answer", "not available now (HTTP 500")),
    ],
)
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_lets_nobody_in_is_said_to(service: str, fault: str, words: tuple[str, ...]) -> None:
    line = await finding_about(service, fault)
    assert line.startswith("FAILED") and any(each in line for each in words), line


# ---------------------------------------------------------------------------------------------- NavTalk's hand-shake


@pytest.mark.parametrize("step", STEPS)
async def test_a_service_that_closes_in_the_hand_shake_is_said_to_have_at_which_step(step: str) -> None:
    awaited = {"success": "conversation.connected.success", "updated": "realtime.session.updated"}
    line = await finding_about("navtalk", f"close-at:{step}")
    assert f"ended the session while {awaited.get(step, 'realtime.session.created')} was awaited" in line


# What each service does not do, and what is said of it. They take ten seconds each, and are waited for side by side.
SILENT = {
    ("navtalk", "slow-accept:30"): "did not open the WebSocket within 10 s",
    ("navtalk", "mute-at:success"): "did not confirm the session within 10 s (waiting for conversation.connected.suc",
    (
        "navtalk",
        "mute-at:created",
    ): "did not create the conversation within 10 s (waiting for realtime.session.created)",
    ("navtalk", "mute-at:updated"): "did not accept the configuration within 10 s (waiting for realtime.session.upd",
    ("navtalk", "no-offer"): "did not offer its media within 10 s (waiting for webrtc.signaling.offer)",
    ("navtalk-legacy", "slow-accept:30"): "did not open the WebSocket within 10 s",
    ("navtalk-legacy", "mute-at:created"): "did not create the conversation within 10 s (waiting for session.created)",
    ("navtalk-legacy", "mute-at:updated"): "did not accept the configuration within 10 s (waiting for session.updated)",
    ("navtalk-legacy", "no-offer"): "did not offer its media within 10 s (waiting for offer)",
    ("livekit", "slow-accept:30"): "did not open the WebSocket within 10 s",
    ("livekit", "late-avatar:60"): "there is no avatar in it for 2 s",
    ("heygen", "late-avatar:60"): "the room of HeyGen at http://127.0.0.1",
    ("liveavatar", "late-avatar:60"): "the room of LiveAvatar at http://127.0.0.1",
}


async def test_the_step_that_a_service_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit_room, "AVATAR_S", 2.0)
    async with asyncio.TaskGroup() as tasks:
        findings = {case: tasks.create_task(finding_about(*case)) for case in SILENT}
    wrong = {case: task.result() for case, task in findings.items() if SILENT[case] not in task.result()}
    assert not wrong


# ---------------------------------------------------------------------------------------------- rooms


async def finding_in_room(*said: rtc.SignalResponse | str) -> str:
    """About the avatar of a room whose server says this, and then nothing."""
    async with RoomServer(*said).serving() as server:
        return await finding(avatar_at("livekit", server.url))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (rtc.SignalResponse(pong=1), "answers with pong, not with a join"),
        ("hello", "a text frame, where LiveKit's signalling is binary"),
        (rtc.SignalResponse(leave=rtc.LeaveRequest(reason=JOIN_FAILURE)), "ended the session: join_failure"),
        (BLIND, "the token does not grant canSubscribe"),
    ],
    ids=["no join", "no message", "sent away", "no permission"],
)
async def test_a_room_that_does_not_let_us_in_says_why(said: rtc.SignalResponse | str, words: str) -> None:
    line = await finding_in_room(said)
    assert line.startswith("FAILED") and words in line, line


@contextlib.asynccontextmanager
async def unreachable_avatar() -> AsyncIterator[str]:
    """A NavTalk that offers media at an address where nobody is."""
    events: list[dict[str, Any]] = [
        {"type": "conversation.connected.success", "data": {"sessionId": "s"}},
        {"type": "realtime.session.created"},
        {"type": "realtime.session.updated"},
        {"type": "webrtc.signaling.offer", "data": {"sdp": {"type": "offer", "sdp": OFFER}}},
    ]

    async def tell(client: ServerConnection) -> None:
        for event in events:
            await client.send(json.dumps(event))
        await client.wait_closed()

    async with serve(tell, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


async def test_the_step_that_a_room_or_its_media_do_not_take_is_named() -> None:
    async with unreachable_avatar() as url, asyncio.TaskGroup() as tasks:
        mute = tasks.create_task(finding_in_room())
        without_data = tasks.create_task(finding_in_room(joined(AVATAR)))
        without_way = tasks.create_task(finding(avatar_at("navtalk", url)))
    assert "has said nothing for 10 s" in mute.result()
    assert "opened no data channel within 10 s" in without_data.result()
    assert f"{url}: no media connection after 10 s: ICE has not reached the far end" in without_way.result()


# ---------------------------------------------------------------------------------------------- HeyGen's sessions


@dataclass
class Streaming:
    """HeyGen's REST interface and a WebSocket for commands; `said` is what it says of a new session."""

    said: dict[str, Any]
    start: str = "HTTP/1.1 200 OK"
    stopped: int = 0

    async def answer(self, request: Request) -> None:
        verb = request.path.rpartition(".")[2]
        self.stopped += verb == "stop"
        status = self.start if verb == "start" else "HTTP/1.1 200 OK"
        await request.say(status, body=json.dumps({"code": 100, "data": self.said}).encode())


@contextlib.asynccontextmanager
async def commands() -> AsyncIterator[str]:
    """A WebSocket that takes everything and says nothing."""

    async def take(client: ServerConnection) -> None:
        await client.wait_closed()

    async with serve(take, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


NOWHERE = "ws://127.0.0.1:1/"
OTHERS_TOKEN = mint(Grant("me", "studio"), "otherkey", "a secret of another server, and long enough", time.time())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "the answer holds no session_id"),
        ({"session_id": "s"}, "names no WebSocket for the session's sound"),
        ({"session_id": "s", "realtime_endpoint": "COMMANDS"}, "names no LiveKit room"),
        (
            {"session_id": "s", "realtime_endpoint": NOWHERE, "url": NOWHERE, "access_token": OTHERS_TOKEN},
            "the WebSocket of HeyGen at http://127.0.0.1",
        ),
        (
            {"session_id": "s", "realtime_endpoint": "COMMANDS", "url": NOWHERE, "access_token": OTHERS_TOKEN},
            "the room of HeyGen at http://127.0.0.1",
        ),
        (
            {"session_id": "s", "realtime_endpoint": "COMMANDS", "url": "ROOM", "access_token": "none"},
            "its answer.token is of no use",
        ),
        (
            {"session_id": "s", "realtime_endpoint": "COMMANDS", "url": "ROOM", "access_token": OTHERS_TOKEN},
            "refused the WebSocket (HTTP 401): check its answer.token",
        ),
    ],
    ids=["no session", "no WebSocket", "no room", "WebSocket away", "room away", "no token", "token refused"],
)
async def test_a_session_that_lacks_something_is_said_to_lack_what(said: dict[str, str], words: str) -> None:
    async with commands() as commands_url, local_avatar(services=("livekit",)) as room_url:
        places = {"COMMANDS": commands_url, "ROOM": room_url}
        service = Streaming({name: places.get(value, value) for name, value in said.items()})
        async with web(service.answer) as site:
            line = await finding(avatar_at("heygen", site.url("")))
    assert line.startswith("FAILED") and words in line, line
    assert service.stopped == ("session_id" in said)


async def test_a_session_that_does_not_start_is_said_to_not() -> None:
    service = Streaming({"session_id": "s", "realtime_endpoint": NOWHERE}, start="HTTP/1.1 500 Oh no")
    async with web(service.answer) as site:
        line = await finding(avatar_at("heygen", site.url("")))
    assert "FAILED" in line and "not available now (HTTP 500" in line
    assert service.stopped == 1


# ---------------------------------------------------------------------------------------------- media


@pytest.mark.parametrize(
    ("service", "fault", "words"),
    [
        *((service, "loss:100", "sends no picture and no sound within 4 s") for service in SERVICES),
        ("livekit", "no-offer", "no media connection came up within 4 s"),
        ("heygen", "no-offer", "no media connection came up within 4 s"),
    ],
)
async def test_media_that_do_not_come_are_told_from_a_connection_that_does_not(
    service: str, fault: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "AVATAR_S", 4.0)
    line = await finding_about(service, fault)
    assert line.startswith("FAILED") and words in line, line


def test_every_service_is_checked_here() -> None:
    assert {*SERVICES, "navtalk-clips"} == set(map(str, server.SERVICES))
