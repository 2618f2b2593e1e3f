import asyncio
import socket

from benchmarks.operators import N_FOLLOWERS, Operators
from bridge.net.http_server import serve_app
from tests.e2e.listening import PATIENCE_S, running
from tests.unit.ops.fakes import FakeDaemon, app_of


async def test_operators_follow_every_event_and_are_answered_whatever_they_ask_for() -> None:
    daemon, is_ready = FakeDaemon(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with running(serve_app(app_of(daemon), listening)), asyncio.timeout(PATIENCE_S):
            operators = Operators(f"127.0.0.1:{listening.getsockname()[1]}")
            async with running(operators.run(is_ready)):
                await is_ready.wait()
                daemon.leo.events.note("user_transcript", text="Hello.")
                while len(operators.answers_s) < 40 or operators.n_events < N_FOLLOWERS:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    assert operators.n_events == N_FOLLOWERS
    assert {told[0] for told in daemon.leo.told} == {"mute", "slate"}
