"""The daemon with a publisher and a pipe at its inputs: whoever comes, breaks the rules or vanishes, it stays up."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import connect

from tests.e2e.processes import PATIENCE_S, Setting, faulty_avatar
from tests.net.publishers import TONE_HZ, Entrance, Publisher, post

RATE_HZ = 24_000
LOUD_DBFS, SILENT_DBFS = -30.0, -60.0


def tone(duration_s: float) -> bytes:
    times = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return np.round(16_384 * np.sin(2 * np.pi * TONE_HZ * times)).astype("<i2").tobytes()


async def levels(at: Entrance, claim: Callable[[dict[str, float]], bool]) -> None:
    """Wait until the levels of the inputs, by name, are as claimed."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status: dict[str, Any] = (await at.client.get(f"{at.origin}/v1/sessions/leo")).json()
            if claim({each["name"]: each["level_dbfs"] for each in status["inputs"]}):
                assert status["state"] == "live"
                return
            await asyncio.sleep(0.05)


async def test_a_publisher_and_a_pipe_are_heard_and_may_fail(tmp_path: Path) -> None:
    async with faulty_avatar(tmp_path) as (_, url), httpx.AsyncClient(trust_env=False) as client:
        setting = Setting(tmp_path, url)
        setting.inputs({"host": {"url": "whip:"}, "pipe": {"url": f"ws:?rate={RATE_HZ}"}})
        setting.recording()
        async with setting.daemon() as daemon:
            at = Entrance(client, f"http://{(await daemon.logged('http_listening'))['address']}")
            await daemon.metric_reaches(25, "added_latency_seconds_count")
            assert (await post(at, "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n")).status_code == 422
            async with Publisher(at) as first, Publisher(at) as second:
                await first.publish()
                await levels(at, lambda dbfs: dbfs["host"] > LOUD_DBFS)
                first.vanish()
                await levels(at, lambda dbfs: dbfs["host"] < SILENT_DBFS)
                async with connect(at.socket_url, compression=None) as pipe:
                    await pipe.send(json.dumps({"type": "start"}))
                    await pipe.send(tone(2.0))
                    await levels(at, lambda dbfs: dbfs["pipe"] > LOUD_DBFS and dbfs["host"] < SILENT_DBFS)
                    await pipe.send(json.dumps({"type": "interrupt"}))
                    await levels(at, lambda dbfs: dbfs["pipe"] < SILENT_DBFS)
                await second.publish_once_free()
                await levels(at, lambda dbfs: dbfs["host"] > LOUD_DBFS)
            await levels(at, lambda dbfs: dbfs["host"] < SILENT_DBFS)
            assert (await daemon.metrics()).total("provider_reconnects_total") == 0
            assert await daemon.stop() == 0
