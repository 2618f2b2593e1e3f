"""What a service still counts after starts that came to nothing: each session would cost money, or be in the way."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog

from bridge.errors import BridgeError
from bridge.local_avatar import heygen_session
from bridge.local_avatar.livekit import API_KEY, DEV_SECRET
from bridge.ports import AvatarProvider
from bridge.protocols.livekit_room import Choice
from bridge.protocols.livekit_token import Grant
from bridge.providers.livekit import LiveKitOptions, LiveKitProvider
from bridge.providers.livekit_entry import Entry, MintedToken
from bridge.redact import Secret
from tests.e2e import test_heygen, test_navtalk_legacy, test_navtalk_provider
from tests.e2e.listening import LO, Listener, local_avatar, running
from tests.e2e.processes import COMMAND, PATIENCE_S, Program, Setting, Show

SERVICES = ("navtalk", "navtalk-legacy", "heygen", "liveavatar", "livekit")
# What services say of a session's beginning and of its end; rooms count who is in them, sessions of HeyGen's too.
BEGAN = ("avatar_session_began", "avatar_session_opened", "avatar_participant_joined")
ENDED = ("avatar_session_ended", "avatar_participant_left")
N_STARTS = 100
LITTLE = ("--size", "64x64", "--fps", "5")


@pytest.mark.serial
async def test_of_a_hundred_starts_that_sigterm_ends_no_session_stays(tmp_path: Path, show: Show) -> None:
    """Daemons with six sessions at every service, each ended at some moment of its start."""
    secret = tmp_path / "services.secret"
    secret.write_text(DEV_SECRET)
    arguments = ("--services", ",".join(SERVICES), "--listen", "127.0.0.1:0", "--license-file", secret)
    moments, n_daemons = random.Random(8), 0
    async with Program(*COMMAND, "avatar", *arguments, *LITTLE) as services:
        await services.until(lambda: len(services.stdout) == len(SERVICES), "URLs")

        def count(*events: str) -> int:
            return sum(len(services.events(event)) for event in events)

        while count(*BEGAN[:2]) < N_STARTS:
            setting = Setting(tmp_path)
            for service, urls in zip(SERVICES, services.stdout, strict=True):
                for number in range(6):
                    name = f"{service}-{number}"
                    setting.add_avatar(name, _avatar(service, urls, secret, number))
                    setting.sessions[name]["outputs"] = {"page": {"url": "whep:"}}
            async with setting.daemon() as daemon:
                await daemon.logged("http_listening")
                await asyncio.sleep(moments.uniform(0.0, 1.5))
                assert await daemon.stop(timeout_s=10) == 0
            n_daemons += 1
            await services.until(lambda: count(*BEGAN) == count(*ENDED), "end of every session that began")
    n_sessions, n_stays = count(*BEGAN[:2]), count(BEGAN[2])
    show(
        f"{n_daemons} SIGTERMs to starting daemons: of {n_sessions} sessions and {n_stays} stays in rooms none is left"
    )


def _avatar(service: str, urls: str, secret: Path, number: int) -> dict[str, Any]:
    url, *further = urls.split()
    match service:
        case "heygen" | "liveavatar":
            return {"service": service, "url": url, "api_key_file": str(secret), "avatar_id": "local"}
        case "livekit":
            room = {"room": f"room-{number}", "api_key": API_KEY, "api_secret_file": str(secret)}
            return {"service": service, "url": url} | room
    avatar = {"service": service, "url": url, "license_file": str(secret), "name": "navtalk.Leo"}
    return avatar | ({"signal_url": further[0]} if further else {})


# ---------------------------------------------------------------------------------------------- the network cut


class Gate:
    """A relay for connections to a service. Shut, it breaks those there are, and every further one at once."""

    def __init__(self) -> None:
        self._is_shut = False
        self._passing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def before(self, url: str) -> AsyncIterator[str]:
        """The URL that leads through it."""
        there = urlsplit(url)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._passing.add(task)
            try:
                if not self._is_shut:
                    await _join(reader, writer, *await asyncio.open_connection(there.hostname, there.port))
            except OSError:
                pass  # one end has gone
            finally:
                self._passing.discard(task)
                writer.transport.abort()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            here = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield there._replace(netloc=here).geturl()
            finally:
                self.shut()
                await asyncio.gather(*self._passing, return_exceptions=True)

    def shut(self) -> None:
        self._is_shut = True
        for task in self._passing:
            task.cancel()

    def open(self) -> None:
        self._is_shut = False


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far: asyncio.StreamWriter,
) -> None:
    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError("whoever leaves leaves the other")

    try:
        async with asyncio.TaskGroup() as ways:
            ways.create_task(pass_on(reader, far))
            ways.create_task(pass_on(far_reader, writer))
    except* OSError:
        pass
    finally:
        far.transport.abort()


def _provider(service: str, urls: str) -> AvatarProvider:
    match service:
        case "navtalk":
            return test_navtalk_provider.provider(urls)
        case "navtalk-legacy":
            return test_navtalk_legacy.provider(urls)
        case "livekit":
            source = MintedToken(API_KEY, Secret(DEV_SECRET), Grant("us", "studio", "agent"))
            return LiveKitProvider(LiveKitOptions(entry=Entry(Secret.url(urls), source), choice=Choice()), LO)
    return test_heygen.provider(service, urls)


@pytest.mark.serial
@pytest.mark.parametrize("service", SERVICES)
async def test_of_starts_that_a_cut_network_ends_no_session_stays(
    service: str, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty starts of each service. The way to it, of HeyGen to its REST interface, is cut at any moment of them."""
    # What a service has begun whose answer was cut off nobody could stop: it ends as what nobody uses does.
    monkeypatch.setattr(heygen_session, "IDLE_S", 1.0)
    moments = random.Random(service)
    with structlog.testing.capture_logs() as logged:

        def count(*events: str) -> int:
            return sum(entry["event"] in events for entry in logged)

        options = {"size_px": (64, 64), "fps": 5, "services": (service,)}
        gates = Gate(), Gate()
        async with contextlib.AsyncExitStack() as stack:
            urls = await stack.enter_async_context(local_avatar(**options))
            ways = [
                await stack.enter_async_context(gate.before(url))
                for gate, url in zip(gates, urls.split(), strict=False)
            ]
            used = _provider(service, " ".join(ways))
            for _ in range(20):
                run = asyncio.create_task(used.run(Listener()))
                await asyncio.sleep(moments.uniform(0.0, 0.3))
                for gate in gates:
                    gate.shut()
                if service in ("heygen", "liveavatar"):
                    run.cancel()  # its sockets lead elsewhere, and go on
                await asyncio.wait({run})
                assert run.cancelled() or isinstance(run.exception(), BridgeError), run
                for gate in gates:
                    gate.open()
            # A last one that nothing happens to.
            listener = Listener()
            async with running(used.run(listener)):
                await listener.ready
            async with asyncio.timeout(PATIENCE_S):
                while count(*BEGAN) > count(*ENDED):  # noqa: ASYNC110  it comes of time that passes
                    await asyncio.sleep(0.02)
    n_idle = sum(entry.get("reason") == "idle" for entry in logged)
    show(f"{service}: {count(*BEGAN)} beginnings, none left; {n_idle} ended by the service's own idle timeout")
    assert count(*BEGAN) == count(*ENDED) >= 5
