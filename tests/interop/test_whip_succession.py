"""What happens on WHIP when a server stops hearing us: another session, before the first one ends where that can be."""

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import OutputLost
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.net import peer_connection, sending_peer
from bridge.net.peer import SendingPeer
from bridge.outputs import whip_succession
from bridge.outputs.runner import OutputRunner
from bridge.outputs.status import OutputState
from bridge.outputs.whip_succession import Room
from tests.interop.whip_endpoint import Behaviour, Session, WhipEndpoint
from tests.interop.whip_publication import PICTURES, Publication, output_to, published, sound
from tests.net.loopback import PATIENCE_S
from tests.net.test_peer_leaks import open_files

TEST_S = 30.0


@pytest.fixture
async def endpoint() -> AsyncIterator[WhipEndpoint]:
    async with asyncio.timeout(TEST_S), WhipEndpoint().serving() as serving:
        yield serving


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that count as those of a server that does not hear us: nobody asks `net.hearing`."""
    sessions: list[Session] = []

    def is_silent(peer: SendingPeer) -> bool:
        names = [f"a=ice-ufrag:{connection.local_username}\r\n" for connection in peer._connections]
        return any(name in session.offer for session in sessions for name in names)

    monkeypatch.setattr(SendingPeer, "is_silent", property(is_silent))
    monkeypatch.setattr(sending_peer, "LOOK_S", 0.01)
    monkeypatch.setattr(whip_succession, "AGAIN_S", 0.1)
    return sessions


def programme() -> AsyncIterator[AccessUnit]:
    """Pictures with a keyframe each half second and sound, without end; nobody has to ask for keyframes."""
    half = [unit for unit in PICTURES if unit.pts_ns < NS_PER_S // 2]

    async def play() -> AsyncIterator[AccessUnit]:
        began_s = asyncio.get_running_loop().time()
        for n in itertools.count():
            pts_ns = n * 40 * NS_PER_MS
            await asyncio.sleep(began_s + pts_ns / NS_PER_S - asyncio.get_running_loop().time())
            yield replace(half[n % len(half)], pts_ns=pts_ns)
            yield sound(n * 40)
            yield sound(n * 40 + 20)

    return play()


@contextlib.asynccontextmanager
async def feeding(units: LiveQueue) -> AsyncIterator[None]:
    async def feed() -> None:
        async for unit in programme():
            units.put(unit)

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110  endpoints and outputs announce little
            await asyncio.sleep(0.01)


async def session_number(endpoint: WhipEndpoint, number: int) -> Session:
    """The session that the endpoint made as the `number`th, once it is there."""
    path = f"/session/canary-session-{number}"
    await until(lambda: path in endpoint.sessions)
    return endpoint.sessions[path]


async def on_air(endpoint: WhipEndpoint, number: int) -> Session:
    """The same, once it gets pictures."""
    session = await session_number(endpoint, number)
    await (await session.tracks.sink("video")).arrived(1)
    return session


async def ended(endpoint: WhipEndpoint, count: int) -> None:
    await until(lambda: len(endpoint.ended) >= count)


def one_place(endpoint: WhipEndpoint, status: int) -> Behaviour:
    """As most servers: one publisher per URL."""

    async def behave(request: Request, body: bytes) -> Response | None:
        return Response(status_code=status) if request.method == "POST" and endpoint.sessions else None

    return behave


# ---------------------------------------------------------------------------------------------- make before break


async def test_a_server_that_falls_silent_has_another_session_within_twelve_seconds(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication, feeding(publication.units):
        first = await on_air(endpoint, 0)
        clock = asyncio.get_running_loop()
        first.fall_silent()
        began_s = clock.time()
        await on_air(endpoint, 1)
        assert clock.time() - began_s < 12.0  # 6 to ask, 3 without an answer, and 2 at most for a keyframe


async def test_the_second_session_begins_at_a_keyframe_and_nothing_is_lost_or_sent_twice_between_the_two(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    async with published(endpoint) as publication, feeding(publication.units):
        first = await on_air(endpoint, 0)
        before_bytes = publication.output.progress().bytes_total
        silent.append(first)
        second = await on_air(endpoint, 1)
        assert publication.output.progress().bytes_total > before_bytes
        await ended(endpoint, 1)
        assert endpoint.ended == [first]
        video, audio = await second.tracks.sink("video"), await second.tracks.sink("audio")
        await audio.arrived(20)
        assert video.packets[0].payload[0] & 0x1F == 24, "parameter sets first"
    assert endpoint.methods() == ["POST", "POST", "DELETE", "DELETE"]
    assert [request.path for request in endpoint.seen[2:]] == [f"/session/canary-session-{n}" for n in (0, 1)]
    listener = publication.listener
    for kind, step_ms in (("video", 40), ("audio", 20)):
        times_ns = [unit.pts_ns for unit in listener.written if unit.codec.kind == kind]
        assert times_ns == [times_ns[0] + n * step_ms * NS_PER_MS for n in range(len(times_ns))]
    assert listener.replaced == ["silent"]


async def test_a_server_that_hears_us_again_before_the_second_session_is_there_keeps_the_first(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def hold(request: Request, body: bytes) -> None:
        if request.method == "POST" and endpoint.sessions:
            is_asked.set()
            await may_answer.wait()

    endpoint.behaviour = hold
    async with published(endpoint) as publication, feeding(publication.units):
        first = await on_air(endpoint, 0)
        silent.append(first)
        await is_asked.wait()
        silent.clear()
        await asyncio.sleep(0.1)  # ten looks
        may_answer.set()
        await ended(endpoint, 1)
        assert endpoint.sessions == {"/session/canary-session-0": first}
        assert endpoint.methods() == ["POST", "POST", "DELETE"]
        assert publication.listener.replaced == [] and not publication.running.done()


async def test_a_second_session_whose_media_does_not_connect_is_tried_again(
    endpoint: WhipEndpoint, silent: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with published(endpoint) as publication, feeding(publication.units):
        first = await on_air(endpoint, 0)
        endpoint.mute = True
        with monkeypatch.context() as hurry:
            hurry.setattr(peer_connection, "CONNECT_TIMEOUT_S", 0.1)
            silent.append(first)
            await ended(endpoint, 1)
        assert first in endpoint.sessions.values()
        endpoint.mute = False
        await until(lambda: first in endpoint.ended)
        assert publication.listener.replaced == ["silent"]


async def test_a_first_session_that_is_lost_while_no_second_one_can_be_made_ends_the_attempt(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    async def useless(request: Request, body: bytes) -> Response | None:
        return Response(status_code=201) if request.method == "POST" and endpoint.sessions else None

    endpoint.behaviour = useless
    async with published(endpoint) as publication, feeding(publication.units):
        first = await on_air(endpoint, 0)
        silent.append(first)
        await until(lambda: endpoint.methods().count("POST") > 2)
        assert not publication.running.done()
        await first.peer.__aexit__(None, None, None)
        with pytest.raises(OutputLost, match="media connection"):
            await publication.running


async def test_a_server_that_throws_the_first_publisher_out_for_the_second_breaks_nothing(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    async def override(request: Request, body: bytes) -> None:
        if request.method == "POST":
            for session in endpoint.sessions.values():
                await session.peer.__aexit__(None, None, None)

    endpoint.behaviour = override
    async with published(endpoint) as publication, feeding(publication.units):
        silent.append(await on_air(endpoint, 0))
        await on_air(endpoint, 1)
        assert publication.listener.replaced == ["silent"] and not publication.running.done()
    assert endpoint.sessions == {}


async def test_an_output_that_is_cancelled_while_it_makes_a_second_session_deletes_both(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    async with published(endpoint) as publication, feeding(publication.units):
        first = await on_air(endpoint, 0)
        endpoint.mute = True
        silent.append(first)
        await session_number(endpoint, 1)
    assert publication.running.cancelled()
    assert len(endpoint.ended) == 2 and endpoint.sessions == {}


async def test_sessions_that_took_each_other_s_place_leave_no_task_and_no_socket(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    async def one_life(first: int, last: int) -> None:
        async with published(endpoint) as publication, feeding(publication.units):
            for number in range(first, last):
                silent.append(await on_air(endpoint, number))
                await ended(endpoint, number + 1)
        assert len(endpoint.ended) == last + 1

    def n_sockets() -> int:
        return sum("socket" in name for name in open_files())

    await one_life(0, 1)
    gc.collect()
    tasks, before = asyncio.all_tasks(), n_sockets()
    await one_life(2, 5)
    await until(lambda: not asyncio.all_tasks() - tasks and n_sockets() <= before)


# ---------------------------------------------------------------------------------------------- one place only


@pytest.mark.parametrize("status", [403, 409, 503])
async def test_a_server_that_refuses_a_second_publisher_is_left_first_and_not_asked_again(
    endpoint: WhipEndpoint, silent: list[Session], status: int
) -> None:
    endpoint.behaviour, room = one_place(endpoint, status), Room()
    for number, methods in enumerate((["POST", "POST", "DELETE"], ["POST", "OPTIONS", "DELETE"])):
        endpoint.seen.clear()
        publication = Publication(output_to(endpoint, room=room))
        await publication.published()
        async with feeding(publication.units):
            silent.append(await on_air(endpoint, number))
            with pytest.raises(OutputLost, match="not hear us"):
                await publication.running
        assert endpoint.methods() == methods
        assert not room.for_two


async def test_a_server_with_one_place_keeps_its_session_while_it_does_not_even_answer_http(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    is_asked, never = asyncio.Event(), asyncio.Event()

    async def mute(request: Request, body: bytes) -> None:
        if request.method == "OPTIONS":
            is_asked.set()
            await never.wait()

    endpoint.behaviour = mute
    publication = Publication(output_to(endpoint, room=Room(for_two=False)))
    await publication.published()
    async with feeding(publication.units):
        first = await on_air(endpoint, 0)
        video = await first.tracks.sink("video")
        silent.append(first)
        await is_asked.wait()
        silent.clear()
        await video.arrived(len(video.packets) + 10)
        await publication.finish()
    never.set()
    assert endpoint.methods() == ["POST", "OPTIONS", "DELETE"]


async def test_a_refusal_that_passes_is_no_want_of_room_and_its_wait_is_kept(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    room = Room()

    async def busy(request: Request, body: bytes) -> Response | None:
        is_second = request.method == "POST" and bool(endpoint.sessions)
        return Response(status_code=429, headers={"Retry-After": "7"}) if is_second else None

    endpoint.behaviour = busy
    publication = Publication(output_to(endpoint, room=room))
    await publication.published()
    async with feeding(publication.units):
        silent.append(await on_air(endpoint, 0))
        with pytest.raises(OutputLost) as raised:
            await publication.running
    assert raised.value.retry_after_s == 7.0 and room.for_two


# ---------------------------------------------------------------------------------------------- as the runner sees it


async def test_where_one_publisher_is_all_the_next_session_is_made_after_the_first(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    endpoint.behaviour, room = one_place(endpoint, 409), Room()
    runner = OutputRunner("studio", lambda: output_to(endpoint, room=room), LiveQueue(2.0), protocol="whip")
    async with feeding(runner.queue):
        running = asyncio.create_task(runner.run())
        silent.append(await on_air(endpoint, 0))
        await on_air(endpoint, 1)
        assert endpoint.methods() == ["POST", "POST", "DELETE", "POST"]
        assert runner.state is OutputState.PUBLISHING
        assert runner.status().reconnects == {"silent": 1} and runner.status().accepted == 2
        runner.finish()
        await running


async def test_a_session_that_was_replaced_is_one_more_try_of_an_output_that_stays_on_air(
    endpoint: WhipEndpoint, silent: list[Session]
) -> None:
    states: list[OutputState] = []
    runner = OutputRunner(
        "studio",
        lambda: output_to(endpoint),
        LiveQueue(2.0),
        protocol="whip",
        on_change=lambda status: states.append(status.state),
    )
    async with feeding(runner.queue):
        running = asyncio.create_task(runner.run())
        silent.append(await on_air(endpoint, 0))
        await ended(endpoint, 1)
        status = runner.status()
        assert (status.reconnects, status.accepted, status.state) == ({"silent": 1}, 2, OutputState.PUBLISHING)
        assert status.last_retry_s is not None
        runner.finish()
        await running
    assert states == [OutputState.PUBLISHING, OutputState.CLOSED]
