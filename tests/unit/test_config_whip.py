"""WHIP outputs in the configuration, and what the front door opens for them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config import OutputConfig, StorageConfig
from bridge.media.access_unit import Codec
from bridge.net.ice import IceSettings
from bridge.outputs import open_output
from bridge.outputs.whip import WhipOutput

URL = "whip+https://whip.example/live/canary-key"


def read(**keys: Any) -> OutputConfig:
    return OutputConfig.model_validate(keys)


def test_an_output_is_opened_anew_for_every_attempt_with_its_distance_of_keyframes() -> None:
    opener = open_output("studio", read(url=URL, keyframe_s=4), StorageConfig(), IceSettings(("lo",)))
    first, second = opener(), opener()
    assert isinstance(first, WhipOutput) and first is not second
    assert (first.audio_codec, first.keyframe_s) == (Codec.OPUS, 4.0)


def test_url_and_token_may_stand_in_files_and_show_neither(tmp_path: Path) -> None:
    for name, content in (("url", URL), ("token", "canary-token")):
        (tmp_path / name).write_text(f"{content}\n")
    config = read(url_file=str(tmp_path / "url"), token_file=str(tmp_path / "token"))
    assert config.bearer is not None and config.bearer.reveal() == "canary-token"
    assert config.address.reveal() == URL
    assert "canary" not in f"{config!r} {config.address} {config.model_dump_json()}"


def test_ice_servers_of_the_output_take_the_place_of_the_general_ones() -> None:
    assert read(url=URL).ice_servers is None
    assert read(url=URL, ice_servers=[]).ice_servers == ()
    (server,) = read(url=URL, ice_servers=[{"urls": "stun:stun.example"}]).ice_servers or ()
    assert server.urls == ("stun:stun.example",)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"url": "whip+https:///canary"}, "names no host"),
        ({"url": "whip+https://host/x", "stream_key_env": "HOME"}, "a WHIP server has a token, no stream key"),
        ({"url": "whip+https://me:canary@host/x", "token_env": "HOME"}, "exclude each other"),
        ({"url": "rtmp://host/app/canary", "token_env": "HOME"}, "token and ice_servers are for whip"),
        ({"url": "file:a.mp4", "ice_servers": []}, "token and ice_servers are for whip"),
        ({"url": URL, "token_env": "HOME", "token_credential": "x"}, "."),
        ({"url": URL, "token": "canary"}, "a secret must not stand in the file"),
    ],
)
def test_what_does_not_go_together_is_named_without_secrets(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as raised:
        read(**keys)
    assert "canary" not in str(raised.value)
