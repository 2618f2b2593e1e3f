"""What the front door opens, without opening it; recordings stand in tests/interop/test_container.py."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.config import OutputConfig, OverlayConfig, StorageConfig
from bridge.errors import ConfigError
from bridge.media.access_unit import Codec
from bridge.net.ice import IceServer, IceSettings
from bridge.outputs import check_overlay, open_output, whip
from bridge.redact import Secret


@pytest.mark.parametrize("url", ["rtmp://127.0.0.1/live", "rtmps://live.example/app"])
def test_rtmp_outputs_are_opened_anew_for_every_attempt_with_the_configured_distance_of_keyframes(url: str) -> None:
    config = OutputConfig.model_validate({"url": f"{url}/canary-key", "keyframe_s": 4})
    opener = open_output("twitch", config, StorageConfig())

    first, second = opener(), opener()

    assert first is not second
    assert (first.audio_codec, first.keyframe_s) == (Codec.AAC, 4.0)


ICE = IceSettings(("lo",), public_address="203.0.113.7", udp_ports=range(50_000, 50_101))


@pytest.mark.parametrize("is_strange", [True, False])
def test_ice_servers_of_strangers_have_to_pass_the_policy(is_strange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[IceSettings, Sequence[IceServer]]] = []

    def remember(
        url: str, token: None, ice: IceSettings, *, strange_ice_servers: Sequence[IceServer], **_: Any
    ) -> None:
        opened.append((ice, strange_ice_servers))

    monkeypatch.setattr(whip, "WhipOutput", remember)
    servers = [{"urls": "stun:relay.example"}]
    config = OutputConfig.model_validate({"url": "whip+https://live.example/x", "ice_servers": servers})
    open_output("guest", config, StorageConfig(), ICE, is_strange=is_strange)()
    [(ice, strange)] = opened
    named = (IceServer(("stun:relay.example",)),)
    assert replace(ice, servers=()) == ICE
    assert (strange, ice.servers) == ((named, ()) if is_strange else ((), named))


def test_the_front_door_does_not_load_libav() -> None:
    code = "import sys, bridge.outputs; sys.exit('av' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_logo_or_a_font_that_is_missing_is_named_with_its_output(tmp_path: Path) -> None:
    for key in ("logo_file", "font_file"):
        overlay = OverlayConfig(text="Live", **{key: tmp_path / "missing"})  # type: ignore[arg-type]
        config = OutputConfig(url=Secret.url("rtmp://live.example/app/key"), overlay=overlay)
        with pytest.raises(ConfigError, match=rf"outputs\.twitch: overlay\.{key}: .*missing"):
            check_overlay("twitch", config)
