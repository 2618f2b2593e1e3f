"""LiveKit rooms on air: local ones, over real sockets, with everything that befalls their avatars."""

from pathlib import Path

import pytest

from benchmarks.beats import beats, write_tone
from tests.e2e import recorded
from tests.e2e.processes import Show
from tests.e2e.rooms import avatar_of, room_program, studio

# What befalls a session, each in a room of its own, and whether the bridge has to join anew.
STAYS = ("late-avatar:1", "avatar-leaves:2", "republish:2")
RETURNS = ("backend-error:2", "ws-drop:2")
# Those that rooms alone have.
FAULTS = (*(stay.partition(":")[0] for stay in STAYS), "repeat-data")


@pytest.mark.serial
async def test_whatever_befalls_the_avatar_the_broadcast_goes_on_in_step(tmp_path: Path, show: Show) -> None:
    async with room_program(tmp_path, "--flash") as room:
        url = await room.said()
        # Speech has tones like a beep.
        tone = write_tone(tmp_path / "tone.wav")
        setting = studio(tmp_path, f"{url}?fault=repeat-data").input(tone)
        recordings = {"": setting.recording()}
        for fault in (*STAYS, *RETURNS):
            name = fault.partition(":")[0]
            setting.add_avatar(name, avatar_of(tmp_path, f"{url}?fault={fault}") | {"room": name})
            recordings[fault] = setting.input(tone, session=name).recording(session=name)
        async with setting.daemon() as daemon:
            for fault in RETURNS:
                await daemon.metric_reaches(1, "provider_reconnects_total", session=fault.partition(":")[0])
            # The one that is away for two seconds is to be seen for as long again, and a second more.
            for name, live_s in (("leo", 5.5), ("avatar-leaves", 5.0)):
                await daemon.metric_reaches(live_s * 25, "added_latency_seconds_count", output="archive", session=name)
            metrics = await daemon.metrics()
            assert await daemon.stop(timeout_s=7) == 0
        left = room.events("avatar_participant_left")
        assert sum(event["participants"] for event in left) == 0 and len(left) >= len(recordings) + len(RETURNS)
    assert metrics.total("provider_events_total", type="malformed") == 0

    for fault, recording in recordings.items():
        name = fault.partition(":")[0] or "leo"
        n_reconnects = metrics.total("provider_reconnects_total", session=name)
        assert (n_reconnects > 0) is (fault in RETURNS), (fault, daemon.events("avatar_lost", session=name))
        picture, sound = recorded.tracks(recording)
        assert picture.longest_gap_s < 1.0 and sound.longest_gap_s < 0.2, fault
        if fault not in RETURNS:
            assert metrics.total("session_state", session=name, state="live") == 1, fault
            first_s = metrics.total("time_to_first_frame_seconds_sum", session=name, phase="avatar")
            # An avatar whose machine is busy leaves out beeps.
            whole = [beat for beat in beats(recording) if beat.time_s >= 2.0 and abs(beat.offset_s) < 0.5]
            offsets_ms = [1000 * beat.offset_s for beat in whole]
            show(
                f"LiveKit {fault}: first picture {first_s:.2f} s, sound {max(offsets_ms, key=abs):+.1f} ms off at most"
            )
            assert len(offsets_ms) >= 2 and max(map(abs, offsets_ms)) <= 10.0, fault
