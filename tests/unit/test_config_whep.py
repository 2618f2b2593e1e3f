"""Outputs for viewers in the configuration, and what the front door opens for them."""

from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config import OutputConfig, StorageConfig
from bridge.net.ice import IceServer, IceSettings
from bridge.outputs import open_output, open_preview
from bridge.outputs.whep import WhepOutput
from bridge.redact import Secret

STUN, TURN = IceServer(("stun:stun.example",)), IceServer(("turn:turn.example",), "me", Secret("canary-password"))
ICE = IceSettings(("lo",), (STUN, TURN))


def read(**keys: Any) -> OutputConfig:
    return OutputConfig.model_validate({"url": "whep:"} | keys)


def opened(config: OutputConfig) -> WhepOutput:
    output = open_output("stage", config, StorageConfig(), ICE)()
    assert isinstance(output, WhepOutput)
    return output


def test_an_output_asks_for_keyframes_as_often_as_others_and_the_preview_for_none() -> None:
    assert opened(read(keyframe_s=4, max_viewers=3)).keyframe_s == 4.0
    preview = open_preview("preview", ICE)()
    assert isinstance(preview, WhepOutput) and preview.keyframe_s is None


def test_viewers_are_told_of_general_servers_only_what_is_no_secret() -> None:
    (link,) = opened(read()).ice_links
    assert link == '<stun:stun.example>; rel="ice-server"'
    preview = open_preview("preview", ICE)()
    assert isinstance(preview, WhepOutput) and list(preview.ice_links) == [link]


def test_servers_that_stand_with_the_output_are_told_with_their_passwords() -> None:
    own = {"urls": ["turn:a.example", "turns:a.example"], "username": "me", "credential": Secret("for-viewers")}
    first, second = opened(read(ice_servers=[own])).ice_links
    assert first.startswith("<turn:a.example>") and second.startswith("<turns:a.example>")
    assert 'username="me"; credential="for-viewers"' in first
    assert opened(read(ice_servers=[])).ice_links == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"url": "whep://host/x"}, "whep: and nothing else"),
        ({"token_env": "HOME"}, "token and ice_servers are for whip"),
        ({"stream_key_env": "HOME"}, "has no stream key"),
        ({"max_viewers": 0}, "greater than or equal to 1"),
        ({"url": "file:a.mp4", "max_viewers": 2}, "max_viewers is for whep: alone"),
    ],
)
def test_what_does_not_go_together_is_named(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        read(**keys)
