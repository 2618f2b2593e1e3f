"""What a platform would object to is said before a broadcast and during it."""

import json
from pathlib import Path

from tests.e2e.processes import COMMAND, Avatar, Program, Setting
from tests.interop.nginx_rtmp import NginxRtmp

HIGH = "profile: high; Amazon IVS asks for baseline"


def setting(directory: Path, avatar: Avatar, nginx: NginxRtmp) -> Setting:
    """Outputs that copy, that encode what is rejected, and that nobody objects to; with keys of the directory's own."""
    directory.mkdir()
    made = Setting(directory, avatar.url)
    made.rtmp("ivs", nginx.rtmp_url, key=f"{directory.name}-ivs", preset="ivs", video="copy")
    made.rtmp("encoded", nginx.rtmp_url, key=f"{directory.name}-encoded", preset="ivs")
    return made.rtmp("own", nginx.rtmp_url, key=f"{directory.name}-own", preset="mediamtx")


async def test_what_a_platform_rejects_is_logged_shown_and_found_by_check(nginx: NginxRtmp, tmp_path: Path) -> None:
    with Avatar(tmp_path, "--profile", "high") as avatar:
        live, tried = (setting(tmp_path / name, avatar, nginx) for name in ("live", "tried"))
        async with live.daemon() as daemon, Program(*COMMAND, "check", tried.write(), "--connect") as check:
            told = await daemon.logged("output_objection", output="ivs", rule="video.profile")
            assert (told["weight"], told["objection"]) == ("reject", HIGH)
            outputs = {output["name"]: output for output in json.loads(await daemon.get("/v1/sessions/leo"))["outputs"]}
            assert HIGH in [objection["text"] for objection in outputs["ivs"]["objections"]]
            await daemon.logged("output_mode", output="encoded", mode="encode", reason="preset_video_profile")
            assert await check.exit_status(60) == 1
            assert not daemon.events("output_objection", output="own")
            told = [event["output"] for event in daemon.events("output_objection", weight="reject")]
            assert told == ["ivs"], "once, and not every second; what is encoded is taken"
    (line,) = [line for line in check.stdout if "leo.outputs.ivs.preset" in line]
    assert line.startswith("FAILED") and f"Amazon IVS rejects {HIGH} (https://docs.aws.amazon.com/ivs/" in line
    (line,) = [line for line in check.stdout if "leo.outputs.encoded.preset" in line]
    assert line.startswith("ok") and "so pictures will be encoded" in line
    (line,) = [line for line in check.stdout if "leo.outputs.own.preset" in line]
    assert line.startswith("ok") and "MediaMTX has nothing against it" in line
