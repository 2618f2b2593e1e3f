"""Pictures that have to be encoded, as they leave the product: another shape, a size that changes and changes back."""

import asyncio
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e import recorded
from tests.e2e.onair import SENT, assert_plays, n_more_pictures, publications, quiet
from tests.e2e.processes import STREAM_KEY, Avatar, Setting
from tests.e2e.service import FaultRelay, StampedAvatar
from tests.interop.nginx_rtmp import NginxRtmp

pytestmark = pytest.mark.paired

# Every picture at its own multiple of 1/30 s, which FLV rounds to milliseconds.
PICTURE_S = 1 / 30


async def test_an_upright_avatar_stands_between_bars_on_a_wide_canvas(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url, size="1280x720", background="#ff0000")
    blurred = setting.recording("blurred", size="320x180", fit="blur", fps=25)
    async with setting.daemon() as daemon:
        await daemon.metric_reaches(4 * 25, SENT, output="live", mode="encode")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0
    assert metrics.of('output_mode{output="live",mode="encode",reason="size"}') == 1
    assert metrics.total("output_dropped_units_total", reason="undecodable") == 0

    broadcast = await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)
    picture, sound = recorded.tracks(broadcast)
    assert {round(spacing_s, 3) for spacing_s in picture.keyframe_spacings_s} == {2.0} and sound.longest_gap_s < 0.06
    if not metrics.total("output_dropped_units_total", output="live"):
        assert picture.longest_gap_s <= PICTURE_S + 0.001 and picture.shortest_gap_s >= PICTURE_S - 0.001
    shown = pictures(broadcast, every=25)
    assert {each.shape for each in shown} == {(720, 1280, 3)}
    # 180x320 on 1280x720 is 405 wide (404: chroma has half as many columns).
    for each in shown[1:]:
        for bar in (each[:, :430], each[:, 850:]):
            assert np.abs(bar.mean(axis=(0, 1)) - (255, 0, 0)).max() < 8 and bar.std(axis=(0, 1)).max() < 4
        assert each[:, 450:830].std() > 20, "nobody stands there"
    for each in pictures(blurred, every=25)[1:]:
        middle, bar = each[:, 115:205], each[:, :100]
        assert 0 < bar.mean() < middle.mean() / 1.5, "a darker copy"
    for path in (broadcast, blurred):
        await asyncio.to_thread(assert_plays, path)


async def test_a_size_that_changes_and_changes_back_is_encoded_in_between_and_nobody_is_disconnected(
    nginx: NginxRtmp, tmp_path: Path, free_port: int
) -> None:
    service = StampedAvatar(tmp_path, free_port)
    faults = [["size-change:2", "ws-drop:5"]]
    relay = FaultRelay(service.url, lambda: faults.pop() if faults else ())
    async with service, relay.listening() as url:
        setting = quiet(Setting(tmp_path, url), tmp_path).rtmp("live", nginx.rtmp_url)
        async with setting.daemon() as daemon:
            await daemon.logged("output_mode", output="live", mode="encode", reason="size")
            await daemon.logged("output_mode", 2, output="live", mode="copy")
            await n_more_pictures(daemon, 25 * 2, output="live", mode="copy")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
    assert publications(nginx) == 1 and metrics.total("output_reconnects_total") == 0
    broadcast = await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)
    picture, sound = recorded.tracks(broadcast)
    assert {each.shape for each in pictures(broadcast)} == {(320, 180, 3)}
    assert recorded.n_pictures(broadcast) == len(picture.packets)
    assert sound.longest_gap_s < 0.06 and picture.shortest_gap_s > 0
    await asyncio.to_thread(assert_plays, broadcast)


def pictures(path: Path, every: int = 1) -> list[NDArray[np.uint8]]:
    """RGB, of one picture in so many."""
    with av.open(str(path)) as container:
        chosen = itertools.islice(container.decode(video=0), 0, None, every)
        return [picture.to_ndarray(format="rgb24").astype(np.uint8) for picture in chosen]
