"""The hub over real sockets: outputs that refuse, stall and flap beside healthy ones; a backup server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest

from bridge.config import OutputConfig, StorageConfig
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.live_queue import LiveQueue
from bridge.outputs import open_output
from bridge.outputs.hub import Hub
from bridge.outputs.rtmp import RtmpOutput
from bridge.outputs.runner import OutputRunner
from bridge.outputs.status import OutputState
from tests.interop import rtmp_media
from tests.interop.rtmp_server import Publication, ScriptedRtmp
from tests.unit.outputs.coded_media import clicks, opus_units

# Sound waits for its batch of 80 ms: it is judged by the AAC frame, from when that was made.
LATE_S = 0.1
BROADCAST_S = 12.0
Show = Callable[[str], None]


@pytest.fixture
def show(capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Show:
    """Print a figure whether or not the test passes."""

    def show(line: str) -> None:
        record_property("figure", line)
        with capfd.disabled():
            print(f"\n{line}", flush=True)

    return show


@dataclass
class Timed:
    """How long each unit took from its queue to the kernel, and which came out."""

    put_at_s: dict[int, float] = field(default_factory=dict)
    delays_s: list[float] = field(default_factory=list)
    n_pictures: int = 0

    def on_written(self, unit: AccessUnit) -> None:
        self.delays_s.append(time.monotonic() - self.put_at_s[id(unit)])
        self.n_pictures += unit.codec is Codec.H264


class TimedQueue(LiveQueue):
    """Notes when each unit was put."""

    def __init__(self, timed: Timed) -> None:
        super().__init__(2.0)
        self._timed = timed
        self._kept: list[AccessUnit] = []

    def put(self, unit: AccessUnit) -> None:
        self._kept.append(unit)  # so that no other unit gets its id
        self._timed.put_at_s[id(unit)] = time.monotonic()
        super().put(unit)


def runner(name: str, url: str) -> tuple[OutputRunner, Timed]:
    timed = Timed()
    opened = OutputRunner(
        name, lambda: RtmpOutput(url), TimedQueue(timed), protocol="rtmp", on_written=timed.on_written
    )
    return opened, timed


@contextlib.asynccontextmanager
async def on_air(*runners: OutputRunner) -> AsyncIterator[Hub]:
    """A hub that runs, and what feeds it at the pace of a session: 25 pictures a second, a keyframe in each."""
    hub = Hub(runners)
    pictures = [unit for unit in rtmp_media.units(2.0) if unit.codec.kind == "video"]
    sound = opus_units(clicks(2.0, [0.5]))

    async def feed() -> None:
        started_s = asyncio.get_running_loop().time()
        n_picture = n_sound = 0
        while True:
            picture = pictures[n_picture % len(pictures)]
            pts_ns = n_picture * 40_000_000
            hub.put(replace(picture, pts_ns=pts_ns))
            while n_sound * 20_000_000 <= pts_ns:
                hub.put(replace(sound[n_sound % len(sound)], pts_ns=n_sound * 20_000_000))
                n_sound += 1
            n_picture += 1
            await asyncio.sleep(started_s + n_picture * 0.04 - asyncio.get_running_loop().time())

    running = asyncio.create_task(hub.run())
    feeding = asyncio.create_task(feed())
    try:
        yield hub
    finally:
        feeding.cancel()
        hub.finish()
        await asyncio.wait((running,), timeout=3.0)
        running.cancel()
        await asyncio.gather(running, feeding, return_exceptions=True)


async def stop_reading(publication: Publication) -> None:
    publication.status("status", "NetStream.Publish.Start")
    await asyncio.Event().wait()


async def refuse(publication: Publication) -> None:
    publication.status("error", "NetStream.Publish.Denied", description="no such key")


async def accept_and_reset(publication: Publication) -> None:
    publication.status("status", "NetStream.Publish.Start")
    await publication.writer.drain()
    publication.reset()


@pytest.mark.serial
async def test_beside_outputs_that_refuse_stall_and_flap_and_an_operator_healthy_ones_have_no_late_unit(
    show: Show,
) -> None:
    async with (
        ScriptedRtmp() as healthy,
        ScriptedRtmp(on_publish=refuse) as refusing,
        ScriptedRtmp(on_publish=stop_reading, receive_buffer_bytes=4096) as stalling,
        ScriptedRtmp(on_publish=accept_and_reset) as flapping,
    ):
        ill = [
            runner(name, f"{server.url}/{name}")[0]
            for name, server in (("refused", refusing), ("wedged", stalling), ("flapping", flapping))
        ]
        # Two outputs to one server: each has a connection of its own.
        well = [runner(name, f"{healthy.url}/{name}") for name in ("one", "two")]
        async with on_air(*ill, *(opened for opened, _ in well)) as hub:
            await healthy.until(
                lambda: all(len(each.pictures) >= 5 for each in healthy.live) and len(healthy.live) == 2
            )
            end_s = time.monotonic() + BROADCAST_S
            by_hand = 0
            while time.monotonic() < end_s:
                added, _ = runner(f"added{by_hand}", f"{stalling.url}/added")
                hub.add(added)
                await asyncio.sleep(0.5)  # the broadcast goes on
                await asyncio.gather(hub.restart("flapping"), hub.remove(added.name))
                hub.start("refused")
                by_hand += 1

            assert ill[0].state in (OutputState.REJECTED, OutputState.CONNECTING)
            assert ill[2].status().retries > 0
            for opened, _ in well:
                status = opened.status()
                assert status.state is OutputState.PUBLISHING
                assert status.retries == status.dropped_units.get("lagging", 0) == 0

    worst_s = max(max(timed.delays_s) for _, timed in well)
    n_units = sum(len(timed.delays_s) for _, timed in well)
    n_late = sum(delay_s > LATE_S for _, timed in well for delay_s in timed.delays_s)
    show(
        f"healthy beside a refusing, a wedged and a flapping one: {n_units} units, worst {1000 * worst_s:.1f} ms "
        f"from put to the kernel, {n_late} later than {LATE_S * 1000:.0f} ms; {by_hand} outputs added and removed"
    )
    assert n_units > 2 * BROADCAST_S * 25
    assert n_late == 0


async def test_a_backup_server_takes_over_and_is_tried_in_turn_after_each_loss() -> None:
    async with ScriptedRtmp() as first, ScriptedRtmp() as second:
        config = OutputConfig.model_validate(
            {"url": f"{first.url}/key-of-one", "backup_url": f"{second.url}/key-of-two", "keyframe_s": 1}
        )
        opened = OutputRunner(
            "live", open_output("live", config, StorageConfig()), LiveQueue(2.0), protocol=config.scheme
        )
        async with on_air(opened) as hub:
            await first.until(lambda: first.live and first.live[0].pictures)
            # The operator's restart is no loss.
            await hub.restart("live")
            await first.until(lambda: len(first.publications) == 2 and first.publications[1].pictures)
            first.publications[1].reset()
            await second.until(lambda: second.live and second.live[0].pictures)
            second.publications[0].reset()
            await first.until(lambda: len(first.publications) == 3 and first.publications[2].pictures)

    assert [publication.name for publication in first.publications] == ["key-of-one"] * 3
    assert [publication.name for publication in second.publications] == ["key-of-two"]
