"""The clock of the machine is set back in the middle of a broadcast."""

import asyncio
import json
from datetime import datetime
from pathlib import Path

from tests.e2e import recorded
from tests.e2e.processes import COMMAND, Avatar, Daemon, Program, Setting

# As a process sees it whose machine's clock is set: so it cannot be for one alone in any other way.
CLOCK = """\
import datetime, os, time
_now_s, _is_set_back = time.time, os.environ["CLOCK_IS_SET_BACK"]

def _time():
    return _now_s() - (10.0 if os.path.exists(_is_set_back) else 0.0)

class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(_time(), tz)

time.time, datetime.datetime = _time, _Datetime
"""


async def test_a_clock_that_is_set_back_changes_names_and_nothing_else(avatar: Avatar, tmp_path: Path) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    is_set_back = tmp_path / "clock-is-set-back"
    environ = {"PYTHONPATH": str(tmp_path / "clock"), "CLOCK_IS_SET_BACK": str(is_set_back)}
    setting = Setting(tmp_path, avatar.url)
    setting.recording("archive", url="file:leo-{start:%H%M%S}.mkv", rotate_s=1, keyframe_s=0.5)
    setting.recording("whole", url="file:whole.mkv")
    async with Daemon(setting.write(), environ=environ) as daemon:
        address = (await daemon.logged("http_listening"))["address"]
        follow = (*COMMAND, "ctl", "--url", f"http://{address}", "--json", "events", "leo")
        async with Program(*follow) as follower:
            await daemon.logged("recording_started", 6)
            is_set_back.touch()
            # Ten seconds are lived through twice, and one more.
            await daemon.logged("recording_started", 20, timeout_s=60)
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
            assert await follower.exit_status() == 0
        told = [json.loads(line) for line in follower.stdout]
    assert metrics.total("freezes_total") == metrics.total("output_reconnects_total") == 0
    assert metrics.total("provider_reconnects_total") == 0
    assert all(len(daemon.events("output_publishing", output=output)) == 1 for output in ("archive", "whole"))
    stamps = [line["timestamp"] for line in daemon.events("recording_started")]
    assert stamps != sorted(stamps), "the clock was set back"
    # No name was used twice, and nothing is missing from one file to the next.
    parts = [Path(event["path"]) for event in daemon.events("recording_started") if "leo-" in event["path"]]
    assert len(set(parts)) == len(parts) == len(list(setting.recordings.glob("leo-*.mkv")))
    assert any(part.stem.endswith("-1") for part in parts)
    whole = await asyncio.to_thread(recorded.tracks, setting.recordings / "whole.mkv")
    n_pictures = [await asyncio.to_thread(recorded.n_pictures, part) for part in parts]
    assert abs(sum(n_pictures) - len(whole[0].packets)) <= 25  # one of both may have begun a keyframe later
    assert whole[0].longest_gap_s < 0.5
    # Followers are told everything in its order, with the time that the clock showed.
    assert told[-1]["type"] == "state" and told[-1]["state"] == "closed"
    assert all(datetime.fromisoformat(event["at"]).tzinfo is not None for event in told)
