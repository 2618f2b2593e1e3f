"""What the configuration of HeyGen's and LiveAvatar's avatars takes, and what it does not."""

from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config import HeyGenConfig, LiveAvatarConfig
from bridge.redact import Secret

KEY = Secret("a-key-of-a-test")
HEYGEN = {"service": "heygen", "avatar_id": "a"}
LIVEAVATAR = {"service": "liveavatar", "avatar_id": "a"}
ROOM = {"url": Secret.url("wss://example.com"), "name": "studio", "api_key": "k"}


def test_a_key_and_an_avatar_are_enough() -> None:
    heygen = HeyGenConfig.model_validate(HEYGEN | {"api_key": KEY})
    assert (heygen.url.reveal(), heygen.dialect, heygen.given_key) == ("https://api.heygen.com", "alpha", KEY)
    assert (heygen.role, heygen.idle_audio) == ("speak", "none")
    live = LiveAvatarConfig.model_validate(LIVEAVATAR | {"api_key": KEY, "quality": "very_high"})
    assert (live.url.reveal(), live.sandbox, live.room) == ("https://api.liveavatar.com", False, None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "is needed"),
        ({"api_key": KEY, "token": KEY}, "exclude each other"),
        ({"api_key": KEY, "avatar_id": ""}, "avatar_id"),
        ({"api_key": KEY, "role": "conversation"}, "role"),
        ({"api_key": KEY, "quality": "very_high"}, "quality"),
        ({"api_key": KEY, "url": Secret.url("wss://api.heygen.com")}, "https://HOST"),
        ({"api_key": KEY, "url": Secret.url("https://api.heygen.com?key=x")}, "takes no query"),
    ],
)
def test_what_heygen_could_not_be_asked_with_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        HeyGenConfig.model_validate(HEYGEN | keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "is needed"),
        ({"api_key": KEY, "token": KEY}, "token"),
        ({"api_key": KEY, "room": ROOM}, "api_secret"),
        ({"api_key": KEY, "url": Secret.url("https://api.liveavatar.com/#x")}, "takes no query"),
        ({"api_key": KEY, "room": ROOM | {"api_secret": KEY, "url": Secret.url("rtmp://example.com")}}, "wss://HOST"),
    ],
)
def test_what_liveavatar_could_not_be_asked_with_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LiveAvatarConfig.model_validate(LIVEAVATAR | keys)
