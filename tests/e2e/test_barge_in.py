"""Somebody speaks over an avatar that says what it is sent: what waits to be said is dropped."""

from pathlib import Path

from tests.e2e.processes import Setting, faulty_avatar


async def test_the_service_is_told_to_drop_the_sound_it_has_not_spoken(tmp_path: Path) -> None:
    async with faulty_avatar(tmp_path, "barge-in:2") as (avatar, url):
        setting = Setting(tmp_path, url)
        setting.recording()
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(1, "provider_events_total", type="speech_started")
            before = (await daemon.metrics()).total("added_latency_seconds_count")
            # The avatar goes on, with what is said after the interruption.
            await daemon.metric_reaches(before + 25, "added_latency_seconds_count")
            assert (await daemon.metrics()).total("provider_reconnects_total") == 0
            assert await daemon.stop() == 0
        ended = await avatar.logged("avatar_session_ended")
        assert ended["clears"] == 1
