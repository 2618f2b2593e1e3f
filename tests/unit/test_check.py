from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge import check
from bridge.config import Config, OutputConfig, SessionConfig
from bridge.config_file import load_config
from bridge.errors import BridgeError, OutputRejected, ProviderRejected
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.h264 import decoder_configuration
from bridge.presets import find_preset
from bridge.redact import Secret
from tests.unit.outputs.coded_media import pictures
from tests.unit.outputs.fakes import FakeOutput, publish
from tests.unit.receive.streams import PPS, SPS

CONFIG = """\
sessions:
  leo:
    avatar: {name: navtalk.Leo, license: "${NAVTALK}"}
    inputs: {question: {url: "file:question.wav"}}
    outputs: {archive: {url: "file:leo.mp4"}}
"""


async def test_findings_are_printed_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def findings(config: Config, session: SessionConfig) -> AsyncIterator[tuple[str, str | BridgeError]]:
        yield "avatar", ProviderRejected("the service says sk_canary_check")
        yield "outputs.archive", "sk_canary_check may be written"

    monkeypatch.setattr(check, "_findings", findings)
    Secret("sk_canary_check")
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    config = load_config(str(tmp_path / "bridge.yaml"), {"NAVTALK": "sk_canary_licence"})
    assert not await check.check_connections(config)
    assert capsys.readouterr().out.splitlines() == [
        "FAILED  leo.avatar: the service says ***",
        "ok      leo.outputs.archive: *** may be written",
    ]


async def test_a_history_is_read_and_its_mistakes_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def well(*_: object) -> str:
        return "well"

    for part in ("_input", "_avatar", "_output"):
        monkeypatch.setattr(check, part, well)
    history = tmp_path / "said.jsonl"
    text = CONFIG.replace("navtalk.Leo,", f"navtalk.Leo, history_file: {history},")
    (tmp_path / "bridge.yaml").write_text(text)
    config = load_config(str(tmp_path / "bridge.yaml"), {"NAVTALK": "sk_canary_licence"})
    history.write_text('{"role": "user", "content": "hello"}\n')
    assert await check.check_connections(config)
    assert f"ok      leo.avatar.history_file: {history}: of what users said 1 items" in capsys.readouterr().out
    history.write_text("Dear diary\n")
    assert not await check.check_connections(config)
    assert f"FAILED  leo.avatar.history_file: avatar.history_file {history}: line 1 is no" in capsys.readouterr().out


def test_pictures_that_no_output_carries_as_they_come_are_found() -> None:
    assert check._pictures(AccessUnit(Codec.VP8, b"keyframe", 0)) == (
        "VP8, which is encoded for outputs (with video: copy viewers hear it, and see the slate)"
    )
    config = decoder_configuration(SPS, PPS)
    assert check._pictures(AccessUnit(Codec.H264, b"", 0, codec_config=config)) == "H.264 baseline 3.1 1280x720"


async def test_what_a_platform_would_object_to_is_a_finding() -> None:
    def finding(profile: str, **keys: str) -> str | BridgeError:
        config = OutputConfig.model_validate({"preset": "twitch", "url": "rtmp://live.example/app/key"} | keys)
        assert config.preset is not None
        viewer = check._Viewer(0.0, None)
        viewer.meter.put(pictures(1, profile=profile)[0])
        return check._compliance(config, find_preset(config.preset), FakeOutput(publish, Codec.AAC), viewer)

    camp = "https://www.twitch.tv/creatorcamp/en/paths/going-live/broadcast-recommendations/"
    assert finding("baseline") == "Twitch has nothing against it"
    assert str(finding("high")).endswith("main or baseline (" + camp + "); so pictures will be encoded")
    rejected = finding("high", video="copy")
    assert isinstance(rejected, OutputRejected)
    assert str(rejected) == f"Twitch rejects profile: high; Twitch asks for main or baseline ({camp})"
    assert finding("baseline", preset="ivs", audio_bitrate="192k") == (
        "Amazon IVS advises against sound bit rate: 192 kb/s; Amazon IVS asks for at most 160 kb/s "
        "(https://docs.aws.amazon.com/ivs/latest/RealTimeUserGuide/rt-stream-ingest.html)"
    )
