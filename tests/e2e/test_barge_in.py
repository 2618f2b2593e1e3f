"""Somebody speaks over the avatar: what it was about to say is dropped, and it is silent soon."""

import wave
from pathlib import Path

import numpy as np
import pytest

from bridge.media.clock import AVATAR_RATE_HZ
from tests.e2e.processes import Setting, Show, faulty_avatar
from tests.unit.dsp.voices import silence, voice

N_INTERRUPTIONS = 8


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


@pytest.mark.serial
async def test_an_avatar_that_is_spoken_over_is_silent_within_300_ms(tmp_path: Path, show: Show) -> None:
    # A turn ends after 0.5 s and is answered 0.3 s later, by 0.9 s of the same: the next one begins in the middle.
    turn = np.concatenate((voice()[: round(0.6 * AVATAR_RATE_HZ)], silence(1.2)))
    with wave.open(str(tmp_path / "turns.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AVATAR_RATE_HZ)
        file.writeframes(turn.astype("<i2").tobytes())
    async with faulty_avatar(tmp_path) as (avatar, url):
        setting = Setting(tmp_path)
        setting.add_session("leo", url, role="conversation")
        setting.input(tmp_path / "turns.wav", loop=True, priority=10)
        setting.recording()
        async with setting.daemon() as daemon:
            await daemon.logged("avatar_silenced", N_INTERRUPTIONS, timeout_s=60)
            interrupted = daemon.events("avatar_interrupted")
            silenced_s = [event["after_s"] for event in daemon.events("avatar_silenced")]
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
        ended = await avatar.logged("avatar_session_ended")
    # The service may have heard one of them first.
    assert ended["clears"] >= len(interrupted) >= N_INTERRUPTIONS // 2
    assert metrics.total("interrupt_to_silence_seconds_count") == len(silenced_s)
    # The service waits for 0.5 s of silence, and answers 0.3 s later; the voice fades before the speech ends.
    n_replies = metrics.total("response_latency_seconds_count")
    assert n_replies >= N_INTERRUPTIONS - 2
    assert 0.8 < metrics.total("response_latency_seconds_sum") / n_replies < 1.5
    heard_s = interrupted[0]["voice_s"]
    p50_s, p95_s = np.percentile(np.array(silenced_s) + heard_s, (50, 95))
    show(
        f"barge-in to silence at the received audio, {len(silenced_s)} times: p50 {1000 * p50_s:.0f} ms,"
        f" p95 {1000 * p95_s:.0f} ms, of which {1000 * heard_s:.0f} ms are the voice that is heard before it counts"
    )
    assert p95_s <= 0.3
