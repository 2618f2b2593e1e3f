"""RtmpOutput where its server asks it to reconnect, as Enhanced RTMP v2 has it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from bridge.errors import OutputLost
from bridge.media.access_unit import AccessUnit
from bridge.media.live_queue import LiveQueue
from bridge.net.url_policy import UrlPolicy
from bridge.outputs.rtmp import RtmpDeadlines, RtmpOutput
from tests.interop import rtmp_media
from tests.interop.rtmp_server import Publication, ScriptedRtmp

KEY = "canary-7f3a9"
SHORT = RtmpDeadlines(connect_s=2.0, handshake_s=0.3, publish_s=2.0, wedged_s=5.0, close_s=1.0)
LOOPBACK = UrlPolicy(["127.0.0.0/8"])
TEST_S = 30.0


class Broadcast:
    """Feeds an output with pictures 40 ms apart, every 25th a keyframe, as fast as the test wants."""

    def __init__(self) -> None:
        self.queue = LiveQueue(max_s=1000.0)
        self.units = [unit for unit in rtmp_media.units(8.0) if unit.codec.kind == "video"]
        self.n_put = 0
        self.published = asyncio.Event()
        self.written: list[AccessUnit] = []
        self.keyframes_wanted = asyncio.Event()

    def put(self, n_pictures: int) -> None:
        for unit in self.units[self.n_put : self.n_put + n_pictures]:
            self.queue.put(unit)
        self.n_put += n_pictures

    def on_published(self) -> None:
        assert not self.published.is_set(), "on_published is called once"
        self.published.set()

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)

    def on_keyframe_request(self) -> None:
        self.keyframes_wanted.set()


@contextlib.asynccontextmanager
async def broadcasting(output: RtmpOutput) -> AsyncIterator[tuple[Broadcast, "asyncio.Task[None]"]]:
    broadcast = Broadcast()
    async with asyncio.timeout(TEST_S):
        task = asyncio.create_task(output.run(broadcast.queue, broadcast))
        await broadcast.published.wait()
        try:
            yield broadcast, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def something_in(logs: Sequence[object]) -> None:
    while not logs:  # noqa: ASYNC110  a log has no event for tests
        await asyncio.sleep(0.01)


def bodies(*publications: Publication) -> list[bytes]:
    return [body[5:] for publication in publications for _, body in publication.pictures]


@pytest.mark.parametrize("one_per_key", [False, True])
async def test_the_broadcast_goes_on_at_a_keyframe_of_the_next_connection_and_loses_no_picture(
    one_per_key: bool,
) -> None:
    async with ScriptedRtmp(one_per_key=one_per_key) as server:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)
        async with broadcasting(output) as (broadcast, task):
            broadcast.put(30)
            (first,) = server.publications
            first.ask_to_reconnect()
            await broadcast.keyframes_wanted.wait()
            broadcast.put(10)
            await server.until(lambda: len(first.pictures) == 40)
            assert not first.ended.is_set(), "it gets the broadcast until the next keyframe"
            broadcast.put(20)
            broadcast.queue.finish()
            await task

        *_, last = server.publications
        # The second keyframe is the 26th picture, the third the 51st.
        assert bodies(first, last) == [unit.payload for unit in broadcast.units[:60]]
        assert len(first.pictures) == 50 and last.pictures[0][0] == 0
        assert broadcast.written == broadcast.units[:60]
        # The second one waits for the first one's end, so that it does not matter whether the key may be taken twice.
        assert len(server.publications) == 2
        assert server.most_live == 1
        assert "FCUnpublish" in first.commands and "deleteStream" in first.commands
        media_bytes = sum(len(unit.payload) for unit in broadcast.written)
        assert media_bytes < output.progress().bytes_total < 1.2 * media_bytes + 15_000


async def test_a_server_sends_the_broadcast_to_another_one() -> None:
    async with ScriptedRtmp() as first, ScriptedRtmp() as second:
        output = RtmpOutput(f"{first.url}/{KEY}", deadlines=SHORT, policy=LOOPBACK)
        async with broadcasting(output) as (broadcast, task):
            broadcast.put(10)
            first.publications[0].ask_to_reconnect(f"rtmp://127.0.0.1:{second.port}/edge?token=canary-token")
            await broadcast.keyframes_wanted.wait()
            broadcast.put(30)
            broadcast.queue.finish()
            await task

    (here,), (there,) = first.publications, second.publications
    assert (there.app, there.name) == ("edge?token=canary-token", KEY)
    assert bodies(here, there) == [unit.payload for unit in broadcast.units[:40]]


@pytest.mark.parametrize(
    "tc_url, words",
    [
        ("http://127.0.0.1/live", "starts with rtmp"),
        ("rtmp://127.0.0.1:7/live", "port 7"),
        ("rtmp://169.254.169.254/live", "metadata"),
        ("rtmp://10.0.0.1/live", "private"),
        ("rtmp://user:pw@127.0.0.1/live", "user info"),
        ("rtmp://[::1/live", "malformed"),
        ("//127.0.0.1:70000/live", "malformed"),
        ("rtmp://127.0.0.1/" + "x" * 3000, "characters"),
        ("rtmp://192.168.0.1/live", "private"),
    ],
)
async def test_a_server_that_leads_where_nobody_may_go_keeps_the_broadcast(tc_url: str, words: str) -> None:
    async with ScriptedRtmp() as server:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)
        with capture_logs() as logs:
            async with broadcasting(output) as (broadcast, task):
                broadcast.put(10)
                server.publications[0].ask_to_reconnect(tc_url)
                await something_in(logs)
                broadcast.put(60)
                broadcast.queue.finish()
                await task

        (ignored,) = logs
        assert ignored["event"] == "reconnect_request_ignored" and words in ignored["error"]
        assert len(server.publications) == 1 and len(server.publications[0].pictures) == 70


async def test_a_key_that_is_for_some_hosts_goes_to_no_other_that_its_server_leads_to() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with ScriptedRtmp() as server, ScriptedRtmp() as other:
        output = RtmpOutput(
            f"rtmp://live.example:{server.port}/live/{KEY}",
            deadlines=SHORT,
            policy=UrlPolicy(["127.0.0.1"], resolve=resolve),
            is_strange=True,
            receivers=frozenset({"live.example", "edge.example"}),
        )
        with capture_logs() as logs:
            async with broadcasting(output) as (broadcast, task):
                broadcast.put(10)
                server.publications[0].ask_to_reconnect(f"rtmp://evil.example:{other.port}/live")
                await something_in(logs)
                assert "evil.example is none of the hosts" in logs[0]["error"]
                assert not other.publications and not other.most_live

                output._moved_at_s = float("-inf")  # as 10 s later
                server.publications[0].ask_to_reconnect(f"rtmp://edge.example:{other.port}/live")
                await broadcast.keyframes_wanted.wait()
                broadcast.put(30)
                broadcast.queue.finish()
                await task
    assert [publication.name for publication in other.publications] == [KEY]


async def test_where_strangers_named_the_server_its_name_is_judged_again_when_it_asks() -> None:
    addresses = iter(["127.0.0.1", "10.0.0.1"])

    async def rebind(host: str, port: int) -> list[str]:
        return [next(addresses)]

    async with ScriptedRtmp() as server:
        policy = UrlPolicy(["127.0.0.1"], resolve=rebind)
        url = f"rtmp://live.example:{server.port}/live/{KEY}"
        output = RtmpOutput(url, deadlines=SHORT, policy=policy, is_strange=True)
        with capture_logs() as logs:
            async with broadcasting(output) as (broadcast, _):
                broadcast.put(10)
                server.publications[0].ask_to_reconnect()
                await something_in(logs)

    assert "10.0.0.1, which is private" in logs[0]["error"]
    assert len(server.publications) == 1


async def test_a_server_that_asks_again_and_again_is_followed_once() -> None:
    async with ScriptedRtmp() as server:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)
        async with broadcasting(output) as (broadcast, _):
            broadcast.put(10)
            server.publications[0].ask_to_reconnect()
            await broadcast.keyframes_wanted.wait()
            broadcast.put(20)
            await server.until(lambda: len(server.publications[1].pictures) == 5)
            with capture_logs() as logs:
                for _ in range(100):
                    server.publications[1].ask_to_reconnect()
                broadcast.put(60)
                await server.until(lambda: len(server.publications[1].pictures) == 65)

    assert len(server.publications) == 2
    assert {entry["error"] for entry in logs} == {"it asked less than 10 s before"}


async def test_a_place_that_does_not_answer_leaves_the_broadcast_where_it_is() -> None:
    async with ScriptedRtmp() as gone:
        port = gone.port
    async with ScriptedRtmp() as server:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT, policy=LOOPBACK)
        with capture_logs() as logs:
            async with broadcasting(output) as (broadcast, task):
                broadcast.put(10)
                await server.until(lambda: len(server.publications[0].pictures) == 10)
                server.publications[0].ask_to_reconnect(f"rtmp://127.0.0.1:{port}/live")
                await something_in(logs)
                broadcast.put(60)
                broadcast.queue.finish()
                await task

    assert "cannot connect" in logs[0]["error"]
    assert len(server.publications[0].pictures) == 70


async def test_a_server_that_goes_right_after_it_asked_is_followed_without_a_loss() -> None:
    async with ScriptedRtmp() as server:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)
        async with broadcasting(output) as (broadcast, task):
            broadcast.put(10)
            await server.until(lambda: len(server.publications[0].pictures) == 10)
            server.publications[0].ask_to_reconnect()
            await server.until(lambda: len(server.publications) == 2 and "connect" in server.publications[1].commands)
            server.publications[0].reset()
            await broadcast.keyframes_wanted.wait()
            broadcast.put(30)
            broadcast.queue.finish()
            await task

    assert bodies(server.publications[1])[0] == broadcast.units[25].payload


async def test_a_place_that_refuses_the_key_is_a_loss_and_no_refusal() -> None:
    async def refuse(publication: Publication) -> None:
        publication.status("error", "NetStream.Publish.Denied", description="no such key")

    async with ScriptedRtmp() as server, ScriptedRtmp(on_publish=refuse) as elsewhere:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT, policy=LOOPBACK)
        async with broadcasting(output) as (broadcast, task):
            server.publications[0].ask_to_reconnect(f"rtmp://127.0.0.1:{elsewhere.port}/live")
            await broadcast.keyframes_wanted.wait()
            broadcast.put(30)
            with pytest.raises(OutputLost, match="no such key"):
                await task

    assert output.has_failed


async def test_what_is_asked_before_the_broadcast_is_live_means_nothing() -> None:
    async def ask_first(publication: Publication) -> None:
        publication.ask_to_reconnect()
        publication.status("status", "NetStream.Publish.Start")

    async with ScriptedRtmp(on_publish=ask_first) as server:
        async with broadcasting(RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)) as (broadcast, task):
            broadcast.put(60)
            broadcast.queue.finish()
            await task

    assert len(server.publications) == 1


async def test_a_move_that_is_cancelled_leaves_no_connection() -> None:
    async def mute(publication: Publication) -> None:
        pass

    async with ScriptedRtmp() as server, ScriptedRtmp(on_publish=mute) as elsewhere:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT, policy=LOOPBACK)
        async with broadcasting(output) as (broadcast, task):
            broadcast.put(10)
            server.publications[0].ask_to_reconnect(f"rtmp://127.0.0.1:{elsewhere.port}/live")
            await elsewhere.until(lambda: elsewhere.live)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await server.until(lambda: not server.live)
        await elsewhere.until(lambda: not elsewhere.live)


async def test_a_connection_that_waits_for_the_end_of_the_first_is_closed_with_it() -> None:
    async with ScriptedRtmp() as server:
        async with broadcasting(RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)) as (broadcast, task):
            broadcast.put(10)
            server.publications[0].ask_to_reconnect()
            await broadcast.keyframes_wanted.wait()
            broadcast.queue.finish()
            await task
        first, waiting = server.publications
        await server.until(waiting.ended.is_set)
        assert len(first.pictures) == 10 and waiting.commands == ["connect"]


async def test_another_server_publishes_before_the_first_one_ends_and_is_lost_when_it_dies() -> None:
    async with ScriptedRtmp() as server, ScriptedRtmp() as elsewhere:
        output = RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT, policy=LOOPBACK)
        async with broadcasting(output) as (broadcast, task):
            broadcast.put(10)
            server.publications[0].ask_to_reconnect(f"rtmp://127.0.0.1:{elsewhere.port}/live")
            await broadcast.keyframes_wanted.wait()
            assert server.live and elsewhere.live
            elsewhere.publications[0].reset()
            broadcast.put(30)
            with pytest.raises(OutputLost):
                await task


async def test_the_server_learns_what_the_publisher_can_do() -> None:
    async with ScriptedRtmp() as server:
        async with broadcasting(RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)):
            pass

    fields = server.publications[0].connect_fields
    assert fields["fourCcList"] == ["avc1", "mp4a"]
    assert (fields["videoFourCcInfoMap"], fields["audioFourCcInfoMap"]) == ({"avc1": 4.0}, {"mp4a": 2.0})
    assert fields["capsEx"] == 1.0
