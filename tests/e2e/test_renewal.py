"""The service ends each session after a time; viewers are not to notice."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.onair import SENT, matroska, n_more_pictures, publications, quiet, whole
from tests.e2e.processes import STREAM_KEY, Setting, Show
from tests.e2e.service import FaultRelay, StampedAvatar
from tests.interop.nginx_rtmp import NginxRtmp

pytestmark = pytest.mark.paired

# The shortest there is: the next session is opened after 10 s, and on air as soon as nobody speaks.
LIMIT_S = 30.0
RENEWED_S = 35.0
PICTURE_S = 0.040


async def test_viewers_do_not_see_or_hear_that_a_session_is_replaced_before_its_limit(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service, setting = StampedAvatar(tmp_path, free_port), Setting(tmp_path)
    setting.add_session("leo", service.url, max_session_s=LIMIT_S)
    mkv = matroska(quiet(setting, tmp_path).rtmp("live", nginx.rtmp_url))
    async with service, setting.daemon() as daemon:
        await daemon.logged("avatar_renewed", timeout_s=RENEWED_S)
        await n_more_pictures(daemon, 25 * 6, output="live")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0

    assert metrics.total("provider_reconnects_total", reason="renewal") == 1
    assert metrics.total("output_reconnects_total") == 0
    assert metrics.total("freezes_total") == 0
    assert publications(nginx) == 1
    for path in (await asyncio.to_thread(nginx.finished_recording, STREAM_KEY), mkv):
        before, after = await whole(path, show, [True, True])
        gap_s = after.start_s - before.end_s
        show(f"{path.suffix}: {1000 * gap_s:.0f} ms between the last picture of one session and the first of the next")
        assert gap_s <= 2 * PICTURE_S, "no more than one picture is missing"


# Of the service's own: a session is renewed after 6 s, and what takes over 6 s after that.
SERVICE_LIMIT_S = 26


async def test_where_the_service_alone_says_when_a_session_ends_it_is_replaced_before(
    tmp_path: Path, free_port: int, show: Show
) -> None:
    service = StampedAvatar(tmp_path, free_port, "--fault", f"session-limit:{SERVICE_LIMIT_S}")
    setting = Setting(tmp_path)
    setting.add_session("leo", service.url)
    mkv = matroska(quiet(setting, tmp_path))
    async with service, setting.daemon() as daemon:
        told = await daemon.logged("avatar_session_limited", connection=1)
        await daemon.logged("avatar_renewed", connection=2)
        await n_more_pictures(daemon, 25 * 2)
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0

    # By the service's clock, which tells whole seconds.
    assert SERVICE_LIMIT_S - 2 <= told["ends_in_s"] <= SERVICE_LIMIT_S + 1
    assert metrics.total("provider_reconnects_total") == metrics.total("provider_reconnects_total", reason="renewal")
    assert metrics.total("freezes_total") == 0 and not daemon.events("on_air_slate")
    before, after = await whole(mkv, show, [True, True])
    gap_s = after.start_s - before.end_s
    show(f"{1000 * gap_s:.0f} ms between the last picture of one session and the first of the next")
    assert gap_s <= 2 * PICTURE_S, "no more than one picture is missing"


async def test_where_there_is_no_room_for_a_second_session_the_change_over_is_held(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service, setting = StampedAvatar(tmp_path, free_port), Setting(tmp_path)
    relay = FaultRelay(service.url, lambda: ["connection-limit"] if relay.n_open > 1 else [])
    async with service, relay.listening() as url:
        setting.add_session("leo", url, max_session_s=LIMIT_S)
        mkv = matroska(quiet(setting, tmp_path).rtmp("live", nginx.rtmp_url))
        async with setting.daemon() as daemon:
            failed = await daemon.logged("avatar_successor_failed", timeout_s=RENEWED_S)
            before = (await daemon.metrics()).total(SENT, output="live")
            await daemon.metric_reaches(1, "provider_reconnects_total", reason="renewal")
            await daemon.metric_reaches(before + 25 * 6, SENT, output="live")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0

    assert failed["reason"] == "connection_limit_exceeded"
    assert metrics.total("output_reconnects_total") == 0
    assert publications(nginx) == 1
    for path in (await asyncio.to_thread(nginx.finished_recording, STREAM_KEY), mkv):
        before_, after = await whole(path, show, [True, True])
        show(f"{path.suffix}: {after.start_s - before_.end_s:.2f} s held while the next session was opened")
