"""Presets and overlays in a configuration."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config import OutputConfig


def output(**keys: Any) -> OutputConfig:
    return OutputConfig.model_validate(keys)


def test_a_preset_gives_what_is_not_set() -> None:
    found = output(preset="cloudflare", url="rtmps://live.cloudflare.com/live/a-key")
    assert (found.keyframe_s, found.audio_bitrate, found.strict) == (4.0, 128_000, False)


def test_what_is_set_stays() -> None:
    found = output(preset="cloudflare", url="rtmps://mine.example/live/a-key", keyframe_s=3, audio_bitrate="96k")
    assert found.address.reveal() == "rtmps://mine.example/live/a-key"
    assert (found.keyframe_s, found.audio_bitrate) == (3.0, 96_000)


def test_a_url_that_the_platform_has_for_all_need_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key\n")
    found = output(preset="youtube", stream_key_file=str(tmp_path / "key"))
    assert found.address.reveal() == "rtmps://a.rtmps.youtube.com:443/live2"
    (tmp_path / "url").write_text("rtmps://mine.example/live/a-key\n")
    assert (
        output(preset="youtube", url_file=str(tmp_path / "url")).address.reveal() == "rtmps://mine.example/live/a-key"
    )


def test_the_bit_rate_of_a_preset_is_for_what_is_encoded() -> None:
    url = "rtmps://live.twitch.tv/app/a-key"
    assert output(preset="twitch", url=url).bitrate == 4_500_000
    assert output(preset="twitch", url=url, bitrate="6000k").bitrate == 6_000_000
    assert output(preset="twitch", url=url, video="copy").bitrate is None


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no preset": ({"preset": "vimeo", "url": "rtmp://a.example/b/c"}, "Input should be 'twitch', 'youtube'"),
    "no name": ({"preset": ["twitch"], "url": "rtmp://a.example/b/c"}, "Input should be 'twitch', 'youtube'"),
    "a platform without a common URL": ({"preset": "ivs"}, "one of url, url_file is needed"),
    "a file": ({"preset": "twitch", "url": "file:x.mp4"}, "a preset is for what is published, not for a file"),
    "strict about nothing": ({"strict": True, "url": "rtmp://a.example/b/c"}, "preset is needed"),
    "copies and paints": (
        {"url": "rtmp://a.example/b/c", "video": "copy", "overlay": {"text": "Live"}},
        "video: copy takes none of size, fit, background, fps, bitrate, overlay, strict",
    ),
    "copies and fits": (
        {"url": "rtmp://a.example/b/c", "video": "copy", "fit": "cover"},
        "video: copy takes none of size, fit, background, fps, bitrate, overlay, strict",
    ),
    "two in a corner": (
        {"url": "rtmp://a.example/b/c", "overlay": {"logo_file": "x.png", "text": "x", "text_corner": "top-right"}},
        "logo and text are both in the corner top-right",
    ),
    "two lines": ({"url": "rtmp://a.example/b/c", "overlay": {"text": "a\nb"}}, "should match pattern"),
}


@pytest.mark.parametrize(("keys", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        output(**keys)


def test_an_overlay_has_defaults() -> None:
    overlay = output(url="rtmp://a.example/b/c", overlay={"captions": True}).overlay
    assert overlay is not None
    assert (overlay.logo_file, overlay.text, overlay.captions, overlay.margin) == (None, "", True, 0.04)
