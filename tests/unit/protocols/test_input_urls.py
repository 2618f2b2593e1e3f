from pathlib import PurePath

import pytest

from bridge.errors import ConfigError
from bridge.protocols.input_urls import check_url, placed


@pytest.mark.parametrize(
    ("url", "is_placed_as"),
    [
        ("file:q?.wav", "file:/here/q?.wav"),
        ("file:///abs/q.wav", "file:/abs/q.wav"),
        ("pcm:fifo?rate=8000", "pcm:/here/fifo?rate=8000"),
        ("pcm:-?channels=2", "pcm:-?channels=2"),
        ("tone:1000", "tone:1000"),
    ],
)
def test_paths_alone_are_placed_in_a_directory(url: str, is_placed_as: str) -> None:
    check_url(url)
    assert placed(url, PurePath("/here")) == is_placed_as


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:", "names no file"),
        ("gopher://host/", "gopher: is no input of this version; there is file:, "),
        ("tone:19", "from 20 to 20000 Hz"),
        ("tone:1e3", "from 20 to 20000 Hz"),
        ("silence:1", "nothing behind it"),
    ],
)
def test_what_no_input_can_be_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_url(url)
