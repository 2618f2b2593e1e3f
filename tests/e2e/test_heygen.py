"""HeyGen and LiveAvatar against their local services: over real sockets, and no session is ever left open."""

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.beats import beats, write_tone
from bridge.errors import BridgeError, ProviderRejected, ProviderUnavailable
from bridge.local_avatar.faults import Fault
from bridge.local_avatar.livekit import API_KEY, DEV_SECRET
from bridge.net.http_server import serve_app
from bridge.protocols.heygen import Dialect
from bridge.providers.heygen import HeyGenProvider
from bridge.providers.heygen_lives import Account, HeyGenLives, LiveAvatarLives, Lives, Room
from bridge.redact import Secret
from tests.e2e import recorded
from tests.e2e.listening import LO, PATIENCE_S, Listener, failure_of, local_avatar, running, tone
from tests.e2e.processes import COMMAND, LICENSE, SMALL, SPEECH, Program, Setting, Show

# How each service is spoken to.
WAYS = (("heygen", "alpha"), ("heygen", "speak"), ("liveavatar", "speak"))
each_way = pytest.mark.parametrize(("service", "dialect"), WAYS)


def provider(service: str, url: str, dialect: Dialect = "speak", **more: Any) -> HeyGenProvider:
    account = Account(url=Secret.url(url), avatar_id="local", **({"key": Secret(LICENSE)} | more.pop("account", {})))
    lives: Lives
    if service == "heygen":
        lives = HeyGenLives(account, "HeyGen")
    else:
        lives = LiveAvatarLives(account, "LiveAvatar", **more)
    return HeyGenProvider(lives, dialect, LO)


@contextlib.asynccontextmanager
async def service_of(name: str, *faults: str) -> AsyncIterator[tuple[str, list[Any]]]:
    """Its URL, and what it logs."""
    with structlog.testing.capture_logs() as logged:
        async with local_avatar(services=(name,), faults=[Fault.parse(text) for text in faults]) as url:
            yield url, logged


def n_open(logged: list[Any]) -> int:
    """Sessions that the service counts; there was one at least."""
    counts = [entry["open_sessions"] for entry in logged if "open_sessions" in entry]
    assert counts
    return int(counts[-1])


async def loudness_reaches(listener: Listener, n_bytes: int, n_packets: int = 10) -> None:
    """Wait until the last packets of sound are that large: speech is, silence is not."""
    sound = listener.sinks["audio"]
    while max((len(packet.payload) for packet in sound.packets[-n_packets:]), default=0) < n_bytes:
        await sound.received(len(sound.packets) + 1)


@each_way
async def test_the_avatar_says_what_it_is_sent_and_its_session_is_stopped(
    service: str, dialect: Dialect, show: Show
) -> None:
    async with service_of(service) as (url, logged):
        async with asyncio.timeout(PATIENCE_S):
            listener, began_s = Listener(), time.monotonic()
            async with running(provider(service, url, dialect).run(listener)):
                await listener.sinks["video"].received(1)
                first_s = time.monotonic() - began_s
                link = await listener.ready
                await listener.sinks["audio"].received(10)
                said_s = time.monotonic()
                await link.send_audio(tone(0.5))
                await link.end_turn()
                await loudness_reaches(listener, 80, 1)
                heard_s = time.monotonic() - said_s
                done = await listener.heard("response_done")
                await listener.heard("response_started")
                assert done.sound_s == 0.5 and listener.limits_s == [600]
                # What waits is forgotten when it is interrupted.
                await link.send_audio(tone(5.0))
                await loudness_reaches(listener, 80)
                await link.interrupt()
                sound = listener.sinks["audio"]
                await sound.received(len(sound.packets) + 25)
                await sound.received(len(sound.packets) + 10)
                assert max(len(packet.payload) for packet in sound.packets[-10:]) < 80
                # Of a host whom it does not hear it takes note.
                listener.events.clear()
                await link.listen(True)
                await listener.heard("other")
                assert n_open(logged) == 1
        assert n_open(logged) == 0
    show(
        f"{service}, {dialect}: first picture {first_s:.2f} s, first voiced sound {1000 * heard_s:.0f} ms after speech"
    )


@pytest.mark.parametrize("service", ["heygen", "liveavatar"])
async def test_however_a_start_is_called_off_no_session_stays(service: str) -> None:
    """At any moment of a start: while it is asked for, while the room is joined, when it is on air; twice cancelled."""
    async with service_of(service) as (url, logged), asyncio.timeout(PATIENCE_S):
        used = provider(service, url)
        for n in itertools.count():
            # On a machine that is busy the first of them come to nothing.
            opened = [entry for entry in logged if entry["event"] == "avatar_session_opened"]
            if n >= 8 and len(opened) >= 4:
                break
            run = asyncio.create_task(used.run(Listener()))
            await asyncio.sleep(0.04 * n)
            run.cancel()
            await asyncio.sleep(0)
            if n % 3 == 0:
                run.cancel()  # the second time nobody waits for the end of it
            await asyncio.wait({run})
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "heygen-end"))
        assert n_open(logged) == 0


async def test_a_session_in_a_room_of_the_operators_is_watched_there() -> None:
    async with service_of("liveavatar") as (url, logged), asyncio.timeout(PATIENCE_S):
        listener = Listener()
        room = Room(Secret(await sockets_of(url)), "studio", API_KEY, Secret(DEV_SECRET), "bridge")
        async with running(provider("liveavatar", url, room=room, is_sandbox=True).run(listener)):
            await listener.goes_on()
            joined = [entry for entry in logged if entry["event"] == "livekit_joined"]
            assert joined[-1]["room"] == "studio" and joined[-1]["identity"].startswith("bridge-avatar-")
            assert listener.limits_s == [60]


async def test_a_room_of_the_operators_that_does_not_open_is_his_to_mend() -> None:
    async with service_of("liveavatar") as (url, _):
        room = Room(
            Secret("ws://127.0.0.1:9"), "studio", API_KEY, Secret("another secret, as long as one has to be"), "b"
        )
        error = await failure_of(provider("liveavatar", url, room=room).run(Listener()))
    assert isinstance(error, ProviderRejected) and "livekit_client_token" in str(error)


async def sockets_of(url: str) -> str:
    """Where the local LiveAvatar has its rooms."""
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:
        token = (
            await client.post(
                f"{url}/v1/sessions/token", headers={"X-API-KEY": LICENSE}, json={"mode": "LITE", "avatar_id": "a"}
            )
        ).json()["data"]
        bearer = {"Authorization": f"Bearer {token['session_token']}"}
        started = await client.post(f"{url}/v1/sessions/start", headers=bearer)
        assert started.status_code == 201
        await client.post(f"{url}/v1/sessions/stop", headers=bearer, json={"session_id": token["session_id"]})
        return str(started.json()["data"]["livekit_url"])


@pytest.mark.parametrize("service", ["heygen", "liveavatar"])
async def test_what_cannot_be_read_is_passed_over(service: str) -> None:
    faults = ("bad-json", "binary-frames", "malformed-events", "unknown-events")
    async with service_of(service, *faults) as (url, _), asyncio.timeout(PATIENCE_S):
        listener = Listener()
        async with running(provider(service, url).run(listener)):
            await listener.ready
            await listener.goes_on()
        assert {event.kind for event in listener.events} >= {"malformed", "unknown"}


@pytest.mark.parametrize("fault", ["ws-drop:1", "ws-close:1", "session-limit:1", "backend-error:1"])
async def test_a_session_that_the_service_loses_is_stopped_before_the_next(fault: str) -> None:
    async with service_of("heygen", fault) as (url, logged):
        error = await failure_of(provider("heygen", url).run(Listener()))
        assert isinstance(error, ProviderUnavailable), error
        assert n_open(logged) == 0


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("rest-status:401", ProviderRejected, "check avatar.api_key"),
        ("rest-status:402", ProviderRejected, "top up"),
        ("rest-status:429", ProviderUnavailable, "HTTP 429"),
        ("rest-status:503", ProviderUnavailable, "HTTP 503"),
        ("bad-licence", ProviderRejected, "Invalid license key"),
        ("balance", ProviderRejected, "Insufficient balance"),
        ("gpu-full", ProviderUnavailable, "Busy"),
        ("connection-limit", ProviderUnavailable, "no room"),
    ],
)
@pytest.mark.parametrize("service", ["heygen", "liveavatar"])
async def test_a_refusal_says_who_has_to_act(service: str, fault: str, kind: type[BridgeError], says: str) -> None:
    async with service_of(service, fault) as (url, _):
        error = await failure_of(provider(service, url).run(Listener()))
    assert isinstance(error, kind) and says in str(error) and "<" not in str(error)
    assert fault != "connection-limit" or error.reason == "connection_limit_exceeded"


async def test_a_token_opens_one_session_and_then_a_new_one_is_needed() -> None:
    import httpx

    async with service_of("heygen") as (url, logged), asyncio.timeout(PATIENCE_S):
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{url}/v1/streaming.create_token", headers={"X-Api-Key": LICENSE})
        account = {"key": None, "token": Secret(answer.json()["data"]["token"])}
        used = provider("heygen", url, account=account)
        listener = Listener()
        async with running(used.run(listener)):
            await listener.ready
        assert n_open(logged) == 0
        error = await failure_of(used.run(Listener()))
        assert isinstance(error, ProviderRejected) and "a new one is needed" in str(error)


class Elsewhere:
    """A REST interface whose sessions have their WebSocket on another host, and what each of the two is sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.stopped: list[str] = []
        self.has_failed = False
        self._socket_url = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        routes = [Route(path, self._answer, methods=["POST"]) for path in ("/v1/streaming.{verb}",)]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            async with serve(self._serve, "localhost", 0) as server:
                self._socket_url = f"ws://localhost:{next(iter(server.sockets)).getsockname()[1]}/session/abc?x=1"
                async with running(serve_app(Starlette(routes=routes), listening)):
                    yield f"http://127.0.0.1:{port}"

    async def _answer(self, request: Request) -> Response:
        verb = request.path_params["verb"]
        if verb == "stop":
            if not self.has_failed:
                self.has_failed = True
                return HTMLResponse("<h1>Bad Gateway</h1>", 502)
            self.stopped.append((await request.json())["session_id"])
            return Response("ok")
        room = {"url": "ws://127.0.0.1:9/", "access_token": "e30.e30.x"}
        said = {"session_id": f"session-{len(self.seen)}", "realtime_endpoint": self._socket_url} | room
        return JSONResponse({"code": 100, "data": said})

    async def _serve(self, client: ServerConnection) -> None:
        assert client.request is not None
        self.seen.append(json.dumps([client.request.path, *client.request.headers.raw_items()]))
        await client.wait_closed()


async def test_a_socket_on_another_host_is_used_as_it_is_named_and_never_gets_the_key() -> None:
    service = Elsewhere()
    async with service.listening() as url:
        used = provider("heygen", url)
        with structlog.testing.capture_logs() as logged:
            # The room is nowhere: the session ends, and its stop fails once.
            assert isinstance(await failure_of(used.run(Listener())), ProviderUnavailable)
            assert service.stopped == []
            assert isinstance(await failure_of(used.run(Listener())), ProviderUnavailable)
    assert {"event": "heygen_socket_elsewhere", "host": "localhost", "api": "127.0.0.1", "log_level": "info"} in logged
    assert json.loads(service.seen[0])[0] == "/session/abc?x=1"
    assert len(service.seen) == 2 and LICENSE not in "".join(service.seen)
    # What could not be stopped is stopped before the next one begins.
    assert service.stopped == ["session-0", "session-1"]


# ---------------------------------------------------------------------------------------------- on air


@pytest.mark.paired
async def test_on_air_sound_and_picture_are_in_step_and_sigterm_leaves_no_session(tmp_path: Path, show: Show) -> None:
    license_file = tmp_path / "service.license"
    license_file.write_text(LICENSE)
    arguments = ("--services", "heygen,liveavatar", "--listen", "127.0.0.1:0", "--license-file", license_file)
    async with Program(*COMMAND, "avatar", *arguments, *SMALL, "--flash") as services:
        url = await services.said()
        tone_file = write_tone(tmp_path / "tone.wav")
        setting, recordings = Setting(tmp_path), {}
        for service, dialect in WAYS:
            name = f"{service}-{dialect}"
            avatar = {"service": service, "url": url, "api_key_file": str(license_file), "avatar_id": "local"}
            if service == "heygen":
                avatar["dialect"] = dialect
            setting.add_avatar(name, avatar)
            recordings[name] = setting.input(tone_file, session=name).recording(session=name)
        # Somebody speaks to the viewers of a session whose avatar has nothing to say.
        setting.add_avatar("host", avatar)
        setting.hears(f"file:{SPEECH}", session="host", on_air=True, to_avatar=False).recording(session="host")
        async with setting.daemon() as daemon:
            await services.logged("avatar_listens")
            for name in recordings:
                await daemon.metric_reaches(4.5 * 25, "added_latency_seconds_count", output="archive", session=name)
            assert await daemon.stop(timeout_s=9) == 0
        opened = services.events("avatar_session_opened")
        assert len(opened) == len(WAYS) + 1
        assert sorted(end["open_sessions"] for end in services.events("avatar_session_ended"))[0] == 0
        assert all(end["reason"] == "stopped" for end in services.events("avatar_session_ended"))
    for name, recording in recordings.items():
        picture, sound = recorded.tracks(recording)
        assert picture.longest_gap_s < 0.3 and sound.longest_gap_s < 0.2, name
        offsets_ms = [1000 * beat.offset_s for beat in beats(recording) if abs(beat.offset_s) < 0.5]
        show(f"{name}: sound {max(offsets_ms, key=abs):+.1f} ms off at most")
        assert len(offsets_ms) >= 2 and max(map(abs, offsets_ms)) <= 10.0, name
