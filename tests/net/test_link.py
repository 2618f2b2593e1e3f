"""The impairment link: an instrument has to be right before anything that it measures is."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bridge.media.clock import NS_PER_MS
from bridge.net.peer import ReceivingPeer, SendingPeer
from tests.net.conditions import Conditions, Direction
from tests.net.link import Line, Pump, bad_network, rewritten
from tests.net.loopback import LOOPBACK, PATIENCE_S, Sink, Tracks

N = 20_000
STEP_NS = 3 * NS_PER_MS


def through(conditions: Conditions, seed: int = 1, n: int = N, n_bytes: int = 1200) -> list[list[int]]:
    """When each of so many datagrams arrives, sent every 3 ms."""
    direction = Direction(conditions, seed)
    return [direction.pass_on(index * STEP_NS, n_bytes) for index in range(n)]


def runs_of_loss(arrivals: list[list[int]]) -> list[int]:
    found = "".join("x" if due else "." for due in arrivals).split("x")
    return [len(run) for run in found if run]


# ------------------------------------------------------------------------------------------- what is decided


def test_a_good_link_changes_nothing() -> None:
    assert through(Conditions(), n=5) == [[index * STEP_NS] for index in range(5)]


def test_every_datagram_takes_the_delay() -> None:
    assert through(Conditions(delay_ms=25), n=3) == [[index * STEP_NS + 25 * NS_PER_MS] for index in range(3)]


@pytest.mark.parametrize("burst", [1, 5])
def test_the_share_that_was_asked_for_is_lost_in_runs_of_that_length(burst: int) -> None:
    arrivals = through(Conditions(loss=0.05, burst=burst))
    assert abs(sum(not due for due in arrivals) / N - 0.05) < 0.008
    *runs, _ = runs_of_loss(arrivals)  # the window may end in the last one
    assert min(runs) >= burst or burst == 1
    assert sum(run == burst for run in runs) > 0.9 * len(runs)  # two may touch


def test_the_seed_decides_and_nothing_else() -> None:
    bad = Conditions(delay_ms=10, jitter_ms=5, loss=0.02, burst=3, reorder=0.01, duplicate=0.01)
    assert through(bad, seed=7) == through(bad, seed=7) != through(bad, seed=8)


def test_jitter_stays_within_its_span_and_nothing_overtakes() -> None:
    arrivals = [due for (due,) in through(Conditions(delay_ms=40, jitter_ms=20))]
    delays_ms = [(due - index * STEP_NS) / NS_PER_MS for index, due in enumerate(arrivals)]
    assert arrivals == sorted(arrivals)
    assert 20 <= min(delays_ms) < 30 and 55 < max(delays_ms) <= 60


def test_reordered_datagrams_are_overtaken_and_the_others_are_not() -> None:
    arrivals = [due for (due,) in through(Conditions(reorder=0.05, reorder_ms=10))]
    late = [index for index, due in enumerate(arrivals) if due != index * STEP_NS]
    assert abs(len(late) / N - 0.05) < 0.01
    assert {arrivals[index] - index * STEP_NS for index in late} == {10 * NS_PER_MS}


def test_duplicates_come_twice() -> None:
    arrivals = through(Conditions(duplicate=0.1))
    assert {len(due) for due in arrivals} == {1, 2}
    assert abs(sum(len(due) == 2 for due in arrivals) / N - 0.1) < 0.01


def test_a_slow_link_queues_up_to_its_limit_and_then_drops() -> None:
    # 1228 bytes every 3 ms are 3.3 Mb/s: a link of half of that loses half.
    arrivals = through(Conditions(rate_bps=1_637_333, queue_ms=100))
    delays_ms = [(due[0] - index * STEP_NS) / NS_PER_MS for index, due in enumerate(arrivals) if due]
    assert 100 < max(delays_ms) < 113
    assert abs(sum(not due for due in arrivals) / N - 0.5) < 0.01


def test_nothing_arrives_in_an_outage_and_everything_does_around_it() -> None:
    arrivals = through(Conditions(outages_s=((1.0, 0.6),)), n=1000)
    lost_ms = [index * 3 for index, due in enumerate(arrivals) if not due]
    assert (min(lost_ms), max(lost_ms)) == (1002, 1599)
    assert len(lost_ms) == 200


def test_connections_come_up_before_the_trouble_begins() -> None:
    arrivals = through(Conditions(loss=1.0, clear_s=2.0), n=1000)
    assert [bool(due) for due in arrivals] == [index * 3 < 2000 for index in range(1000)]


# ------------------------------------------------------------------------------------------- what is moved

OFFER = (
    r'{"sdp": "v=0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 4000 typ host\r\n'
    r"a=candidate:2 1 udp 2130706431 ::1 4001 typ host\r\na=candidate:3 1 tcp 1 127.0.0.1 9 typ host tcptype active\r\n"
    r'a=end-of-candidates\r\n"}'
)


def test_each_end_knows_the_other_one_by_an_address_of_the_link_only() -> None:
    with Pump() as pump:
        line = Line(pump, Direction(Conditions(), 0), Direction(Conditions(), 1))
        offer = json.loads(rewritten(OFFER, "service", line))["sdp"].splitlines()
        port = line.stand_in("service", ("127.0.0.1", 4000)).getsockname()[1]
        assert offer[1:] == [f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host", "a=end-of-candidates"]
        trickled = json.dumps({"candidate": "candidate:1 1 UDP 5 127.0.0.1 4000 typ host generation 0", "sdpMid": "0"})
        assert json.loads(rewritten(trickled, "service", line)) == {
            "candidate": f"candidate:1 1 UDP 5 127.0.0.1 {port} typ host generation 0",
            "sdpMid": "0",
        }
        line.close()


class Service:
    """Offers a sending peer to each client."""

    def __init__(self) -> None:
        self.peer = SendingPeer(LOOPBACK, lambda: None)
        self.answer = ""

    async def handle(self, socket: ServerConnection) -> None:
        async with self.peer:
            await socket.send(json.dumps({"sdp": await self.peer.offer()}))
            self.answer = json.loads(await socket.recv())["sdp"]
            await self.peer.accept(self.answer)
            await socket.wait_closed()


@asynccontextmanager
async def bridged(down: Conditions, up: Conditions) -> AsyncIterator[tuple[Service, ReceivingPeer, Sink]]:
    service, tracks = Service(), Tracks()
    async with (
        serve(service.handle, "127.0.0.1", 0) as server,
        bad_network(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/", down=down, up=up) as link,
        connect(link.url) as socket,
        ReceivingPeer(LOOPBACK, tracks.on_track) as peer,
    ):
        await socket.send(json.dumps({"sdp": await peer.answer(json.loads(await socket.recv())["sdp"])}))
        async with asyncio.timeout(PATIENCE_S):
            await service.peer.connected()
            await peer.connected()
        yield service, peer, await tracks.sink("audio")


async def test_media_takes_the_way_over_the_link_and_its_delay() -> None:
    async with bridged(Conditions(delay_ms=30), Conditions(delay_ms=10)) as (service, peer, sink):
        sent_ns = time.monotonic_ns()
        for index in range(5):
            service.peer.send_audio(bytes([index]) * 50, index * 20 * NS_PER_MS)
        packets = await sink.arrived(5)
        assert [packet.payload[0] for packet in packets] == list(range(5))
        assert packets[0].arrival_ns - sent_ns >= 30 * NS_PER_MS
        # Neither end has the other one's own port.
        ours, theirs = (one.path.split(" to ")[0].rpartition(":")[2] for one in (peer, service.peer))
        assert ours not in service.peer.path.split(" to ")[1] and theirs not in peer.path.split(" to ")[1]


async def test_the_checks_of_the_connection_tell_a_track_its_round_trip() -> None:
    async with bridged(Conditions(delay_ms=30), Conditions(delay_ms=10)) as (_, _, sink):
        assert 40 * NS_PER_MS <= sink.track.round_trip_ns <= 200 * NS_PER_MS


async def test_of_two_directions_each_has_its_own_loss() -> None:
    async with bridged(Conditions(loss=1.0, clear_s=1.0), Conditions()) as (service, _, sink):
        service.peer.send_audio(b"heard", 0)
        await sink.arrived(1)
        await asyncio.sleep(1.0)
        service.peer.send_audio(b"lost", 20 * NS_PER_MS)
        await asyncio.sleep(0.1)
        assert len(sink.packets) == 1
