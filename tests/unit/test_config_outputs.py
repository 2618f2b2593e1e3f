"""SRT, HLS and rotated files in the configuration."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config import OutputConfig

SRT = "srt://live.example:9000"


def read(**keys: Any) -> OutputConfig:
    return OutputConfig.model_validate(keys)


def test_a_passphrase_may_stand_in_a_file_or_in_the_url_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("canary-passphrase\n")
    config = read(url=f"{SRT}?streamid=canary-stream&pbkeylen=32", passphrase_file=str(tmp_path / "passphrase"))
    assert config.cipher_passphrase is not None and config.cipher_passphrase.reveal() == "canary-passphrase"
    (tmp_path / "url").write_text(f"{SRT}?passphrase=canary-passphrase&latency=80")
    in_url = read(url_file=str(tmp_path / "url"))
    for shown in (config, in_url):
        assert "canary" not in f"{shown!r} {shown.address} {shown.model_dump_json()}"
    assert str(in_url.address) == f"{SRT}?passphrase=***&latency=80"
    assert (config.scheme, config.waits_for_caller) == ("srt", False)
    assert read(url=f"{SRT}?mode=listener").waits_for_caller


def test_what_was_read_can_be_read_again() -> None:
    for url in (SRT, "hls:leo/web", "file:leo.mp4", "rtmp://host/app/key"):
        shown = read(url=url).model_dump(exclude_none=True, exclude={"url"})
        assert read(url=url, **shown) == read(url=url)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"url": "srt://host"}, "srt://HOST:PORT"),
        ({"url": f"{SRT}?canary=1"}, "none of mode"),
        ({"url": f"{SRT}?pbkeylen=16"}, "no passphrase"),
        ({"url": SRT, "stream_key_env": "HOME"}, "srt: has no stream key"),
        ({"url": SRT, "passphrase": "canary-passphrase"}, "a secret must not stand in the file"),
        ({"url": f"{SRT}?passphrase=canary-passphrase", "passphrase_env": "PATH"}, "already"),
        ({"url": "file:a.mp4", "passphrase_env": "PATH"}, "for srt: alone"),
        ({"url": SRT, "backup_url": SRT}, "backup_url is for rtmp"),
        ({"url": SRT, "rotate_s": 60}, "rotate_s, rotate_bytes and transcript are for file: alone"),
        ({"url": SRT, "transcript": False}, "rotate_s, rotate_bytes and transcript are for file: alone"),
        ({"url": "hls:leo", "rotate_bytes": "1GiB"}, "rotate_bytes and transcript are for file: alone"),
        ({"url": "file:a.mp4", "rotate_s": 0}, "greater than or equal to 1"),
        ({"url": "file:a.mp4", "window_s": 60}, "segment_s and window_s are for hls: alone"),
        ({"url": "hls:leo", "segment_s": 1}, "segment_s must be keyframe_s at least"),
        ({"url": "hls:leo", "segment_s": 6, "window_s": 12}, "window_s must be three times segment_s"),
        ({"url": "hls:"}, "must be a directory below"),
        ({"url": "hls:/srv"}, "must be a directory below"),
        ({"url": "hls:../leo"}, "must be a directory below"),
        ({"url": "hls:."}, "must be a directory below"),
        ({"url": "hls:leo-{start:%Y}"}, "braces"),
    ],
)
def test_what_does_not_go_together_is_named_without_secrets(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as raised:
        read(**keys)
    assert "canary" not in str(raised.value)
