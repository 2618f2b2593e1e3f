"""Presets as data: every rule is about a fact that there is, and says where it is from."""

from operator import attrgetter
from typing import get_args

import pytest

from bridge.config import OutputConfig
from bridge.outputs.compliance import _SHOWN, StreamFacts
from bridge.presets import PresetName, _presets, find_preset

PRESETS = [find_preset(name) for name in get_args(PresetName)]


def test_the_data_has_the_presets_that_configurations_may_name() -> None:
    assert tuple(_presets()) == get_args(PresetName)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_rule_bounds_a_fact_that_is_measured_and_names_its_page(preset: object) -> None:
    for rule in preset.rules:  # type: ignore[attr-defined]
        assert attrgetter(rule.fact)(StreamFacts()) is None, "there is such a fact, and it is not known"
        assert rule.fact in _SHOWN
        assert rule.source.startswith("https://")
        assert (rule.any_of is None) != (rule.at_least is None and rule.at_most is None)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_defaults_are_of_keys_of_outputs(preset: object) -> None:
    assert set(preset.defaults) <= set(OutputConfig.model_fields)  # type: ignore[attr-defined]


def test_a_page_about_one_protocol_binds_no_other() -> None:
    cloudflare = find_preset("cloudflare")
    profiles = [rule for rule in cloudflare.rules if rule.fact == "video.profile"]
    assert [rule.any_of for rule in profiles] == [("baseline",)]
    assert set(profiles) <= set(cloudflare.rules_for("whip+https"))
    assert not set(profiles) & set(cloudflare.rules_for("rtmps"))


def test_what_to_encode_to_can_be_asked_for() -> None:
    twitch, ivs = find_preset("twitch"), find_preset("ivs")
    assert twitch.taken("video.profile", "rtmps") == ("main", "baseline"), "the better one first"
    assert (ivs.taken("video.profile", "rtmps"), ivs.taken("video.level", "rtmps")) == (("baseline",), None)
    assert (ivs.most("video.short_side_px", "rtmps"), ivs.most("video.bitrate", "rtmps")) == (720, None)
    assert twitch.most("video.keyframe_s", "rtmps") == 4
