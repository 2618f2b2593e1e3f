from datetime import datetime, timedelta, timezone

import pytest

from bridge.errors import ConfigError
from bridge.media.recording_name import SUFFIXES, check_is_below, check_name, name_at
from bridge.outputs.recording import CONTAINERS


def test_every_suffix_has_a_container() -> None:
    assert tuple(CONTAINERS) == SUFFIXES


def test_the_start_stands_in_a_name_in_utc() -> None:
    start = datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert name_at("leo-{start:%Y%m%dT%H%MZ}.mp4", start) == "leo-20260228T2330Z.mp4"


@pytest.mark.parametrize("name", ["x", "x.avi", ".mp4", "{x}.mp4", "{start}.mp4", "{{start:%Y}}.mp4", "a\0.mp4"])
def test_what_is_no_name_of_a_recording_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="file:"):
        check_name(name)


@pytest.mark.parametrize("name", ["/x.mp4", "../x.mp4", "a/../../x.mp4", "{start:/}x.mp4", "{start:../}x.mp4"])
def test_a_name_that_leaves_its_directory_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"must stay below storage\.dir"):
        check_is_below(name)
    check_is_below("days/{start:%F}/x.mp4")
