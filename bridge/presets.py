"""What platforms ask of a stream, from `presets.yaml`: rules, each with the page that states it, and defaults."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml

PresetName = Literal["twitch", "youtube", "cloudflare", "ivs", "mediamtx", "generic"]
# reject: the platform refuses the stream, or its viewers do not see it; encoding is the remedy.  advice: it plays.
Weight = Literal["reject", "advice"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A bound on one fact of a stream.

    fact         its path in `outputs.compliance.StreamFacts`, such as video.keyframe_s.
    any_of       what it may be; None: it has limits, at_least and at_most, in its own unit.
    source       the page that states it.  is_verified: whether one of the platform's own does.
    schemes      of the output URLs that it holds for; None: all.
    """

    fact: str
    weight: Weight
    source: str
    any_of: tuple[str | bool, ...] | None = None
    at_least: float | None = None
    at_most: float | None = None
    is_verified: bool = True
    schemes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A platform, or a kind of server.

    title     its name, for people.
    defaults  of keys of an output's configuration, for those that are not set.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    defaults: Mapping[str, Any]

    def rules_for(self, scheme: str) -> tuple[Rule, ...]:
        """Those that hold for an output whose URL has that scheme."""
        return tuple(rule for rule in self.rules if rule.schemes is None or scheme in rule.schemes)

    def taken(self, fact: str, scheme: str) -> tuple[str | bool, ...] | None:
        """What the fact may be, the best first, so that it is not rejected; None: anything."""
        rules = (rule for rule in self.rules_for(scheme) if rule.fact == fact and rule.weight == "reject")
        return next((rule.any_of for rule in rules if rule.any_of is not None), None)

    def most(self, fact: str, scheme: str) -> float | None:
        """The most that the fact may be, so that it is not rejected; None: any."""
        rules = (rule for rule in self.rules_for(scheme) if rule.fact == fact and rule.weight == "reject")
        return min((rule.at_most for rule in rules if rule.at_most is not None), default=None)


def find_preset(name: PresetName) -> Preset:
    """The preset of that name."""
    return _presets()[name]


@functools.cache
def _presets() -> Mapping[str, Preset]:
    described = yaml.safe_load(files("bridge").joinpath("presets.yaml").read_text())
    return {
        name: Preset(
            name=name,
            title=preset["title"],
            rules=tuple(rule for page in preset["pages"] for rule in _rules(page)),
            defaults=MappingProxyType(preset.get("defaults", {})),
        )
        for name, preset in described.items()
    }


def _rules(page: Mapping[str, Any]) -> Iterator[Rule]:
    schemes = tuple(page["schemes"]) if "schemes" in page else None
    for weight in WEIGHTS:
        for fact, bound in page.get(weight, {}).items():
            yield Rule(
                fact=fact,
                weight=weight,
                source=page["source"],
                is_verified=page.get("verified", True),
                schemes=schemes,
                **({"any_of": tuple(bound)} if isinstance(bound, list) else bound),
            )
