"""What a platform objects to in a stream: its facts, measured as its units pass, held against a preset's rules."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import is_b_picture, parameter_sets, parse_sps
from bridge.presets import Preset, Rule, Weight

# Long enough for one keyframe in each, so that rates compare; five of them forget a short trouble after 10 s.
SPAN_NS = 2 * NS_PER_S
N_SPANS = 5
# Rates of fewer spans tell nothing of how they swing.
_SPANS_TO_COMPARE = 3
# Where every picture is a keyframe, as many as a second has.
_MOST_KEYFRAMES = 60
_BASELINE = 66

# Of measured facts: a keyframe that is asked for comes a round trip and a picture after its time, and pictures that are
# numbered by 90 kHz ticks are 29.97 a second where a page says 30.
_TOLERANCE = {"video.keyframe_s": 0.25, "video.fps": 0.5}


# ---------------------------------------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """Facts of pictures; None: not known yet.

    codec          as FFmpeg names it.  profile: baseline, main, high, or `profile` and its number.
    keyframe_s     the longest distance of keyframes lately, or since the last one.
    bitrate        bits per second.
    bitrate_swing  by how much the rate of a span of 2 s differs from the mean at most, as a share of the mean.
    """

    codec: str | None = None
    profile: str | None = None
    level: float | None = None
    width_px: int | None = None
    height_px: int | None = None
    has_b_pictures: bool | None = None
    fps: float | None = None
    keyframe_s: float | None = None
    bitrate: float | None = None
    bitrate_swing: float | None = None

    @property
    def long_side_px(self) -> int | None:
        return max(self.width_px, self.height_px) if self.width_px and self.height_px else None

    @property
    def short_side_px(self) -> int | None:
        return min(self.width_px, self.height_px) if self.width_px and self.height_px else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundFacts:
    """Facts of sound; None: not known yet."""

    is_present: bool | None = None
    codec: str | None = None
    bitrate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What is known of a stream. Rules name these fields and properties."""

    video: VideoFacts = field(default_factory=VideoFacts)
    sound: SoundFacts = field(default_factory=SoundFacts)

    @property
    def bitrate(self) -> float | None:
        """Of both tracks."""
        return None if self.video.bitrate is None else self.video.bitrate + (self.sound.bitrate or 0.0)


def video_facts(unit: AccessUnit) -> VideoFacts:
    """What one keyframe tells. Parameter sets that cannot be read tell nothing."""
    facts = VideoFacts(codec=unit.codec.value)
    if unit.codec is not Codec.H264:
        return facts
    try:
        sequence_sets, _ = parameter_sets(unit.codec_config)
        video = parse_sps(sequence_sets[0])
    except (RemoteProtocolError, IndexError):
        return facts
    return replace(
        facts,
        profile=video.profile,
        level=video.level,
        width_px=video.width_px,
        height_px=video.height_px,
        # H.264 §A.2.1: this profile has none.
        has_b_pictures=False if video.profile_idc == _BASELINE else None,
    )


class _Span(NamedTuple):
    """What passed within some 2 s. `n_b`: pictures that are B-pictures."""

    duration_ns: int
    n_pictures: int
    n_b: int
    video_bytes: int
    sound_bytes: int


class StreamMeter:
    """Measures the facts of a stream over its last 10 s; `put` does the same small work for every unit."""

    def __init__(self) -> None:
        self._format = VideoFacts()
        self._codec_config = b""
        self._may_have_b = False
        self._sound_codec: Codec | None = None
        self._began_ns: int | None = None  # the present span
        self._now_ns = 0
        self._n_pictures = self._n_b = self._video_bytes = self._sound_bytes = 0
        self._spans: deque[_Span] = deque(maxlen=N_SPANS)
        self._last_keyframe_ns: int | None = None
        self._keyframes: deque[tuple[int, int]] = deque(
            maxlen=_MOST_KEYFRAMES
        )  # when, and how long after the one before

    def put(self, unit: AccessUnit) -> None:
        """A unit passes, in the order of its track."""
        if unit.codec.kind == "audio":
            self._sound_codec = unit.codec
            self._sound_bytes += len(unit.payload)
            return
        self._now_ns = unit.pts_ns
        if self._began_ns is None:
            self._began_ns = unit.pts_ns
        elif unit.pts_ns - self._began_ns >= SPAN_NS:
            self._close_span(unit.pts_ns - self._began_ns)
        if unit.is_keyframe:
            self._on_keyframe(unit)
        elif self._may_have_b and is_b_picture(unit.payload):
            self._n_b += 1
        self._n_pictures += 1
        self._video_bytes += len(unit.payload)

    def facts(self) -> StreamFacts:
        """As far as they are known."""
        video = replace(self._format, keyframe_s=self._keyframe_s())
        sound = SoundFacts(codec=self._sound_codec and self._sound_codec.value)
        if not self._spans:
            return StreamFacts(video=video, sound=replace(sound, is_present=True if self._sound_codec else None))
        spans = _Span(*map(sum, zip(*self._spans, strict=True)))
        duration_s = spans.duration_ns / NS_PER_S
        mean = spans.video_bytes / spans.duration_ns
        swing = max(abs(span.video_bytes / span.duration_ns / mean - 1) for span in self._spans) if mean else None
        return StreamFacts(
            video=replace(
                video,
                has_b_pictures=spans.n_b + self._n_b > 0,
                fps=spans.n_pictures / duration_s,
                bitrate=8 * spans.video_bytes / duration_s,
                bitrate_swing=swing if len(self._spans) >= _SPANS_TO_COMPARE else None,
            ),
            sound=replace(
                sound,
                is_present=spans.sound_bytes + self._sound_bytes > 0,
                bitrate=8 * spans.sound_bytes / duration_s,
            ),
        )

    def _close_span(self, duration_ns: int) -> None:
        self._spans.append(_Span(duration_ns, self._n_pictures, self._n_b, self._video_bytes, self._sound_bytes))
        self._began_ns = self._now_ns
        self._n_pictures = self._n_b = self._video_bytes = self._sound_bytes = 0

    def _on_keyframe(self, unit: AccessUnit) -> None:
        if unit.codec_config != self._codec_config or unit.codec.value != self._format.codec:
            self._codec_config = unit.codec_config
            self._format = video_facts(unit)
            self._may_have_b = unit.codec is Codec.H264 and self._format.has_b_pictures is None
        if self._last_keyframe_ns is not None:
            self._keyframes.append((unit.pts_ns, unit.pts_ns - self._last_keyframe_ns))
        self._last_keyframe_ns = unit.pts_ns

    def _keyframe_s(self) -> float | None:
        if self._last_keyframe_ns is None:
            return None
        while len(self._keyframes) > 1 and self._now_ns - self._keyframes[0][0] > N_SPANS * SPAN_NS:
            self._keyframes.popleft()
        waiting_ns = self._now_ns - self._last_keyframe_ns
        if not self._keyframes and waiting_ns < N_SPANS * SPAN_NS:
            return None
        return max((waiting_ns, *(distance_ns for _, distance_ns in self._keyframes))) / NS_PER_S


# ---------------------------------------------------------------------------------------------- objections


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """What a platform does not like.

    rule    the fact that it is about, as the rule names it.
    weight  reject: it would refuse the stream, or viewers would not see it.  advice: it would play.
    text    for people: what the stream has, and what the platform asks for.
    source  the page that says so.
    """

    rule: str
    weight: Weight
    text: str
    source: str


def objections(preset: Preset, scheme: str, facts: StreamFacts) -> tuple[Objection, ...]:
    """What the platform objects to where the output's URL has that scheme; nothing in what is not known.

    Advice on a fact that is rejected already is left out.
    """
    broken = [rule for rule in preset.rules_for(scheme) if _is_broken(rule, attrgetter(rule.fact)(facts))]
    rejected = {rule.fact for rule in broken if rule.weight == "reject"}
    return tuple(
        Objection(rule=rule.fact, weight=rule.weight, text=_text(preset, rule, facts), source=rule.source)
        for rule in broken
        if rule.weight == "reject" or rule.fact not in rejected
    )


def _is_broken(rule: Rule, value: Any) -> bool:
    if value is None:
        return False
    if rule.any_of is not None:
        return value not in rule.any_of
    tolerance = _TOLERANCE.get(rule.fact, 0.0)
    is_less = rule.at_least is not None and value < rule.at_least - tolerance
    return is_less or (rule.at_most is not None and value > rule.at_most + tolerance)


def _plain(value: Any) -> str:
    return str(value)


def _bits(value: float) -> str:
    return f"{value / 1e6:.3g} Mb/s" if value >= 1e6 else f"{value / 1e3:.3g} kb/s"


# How people call a fact, and how its values are shown to them.
_SHOWN: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "video.codec": ("video codec", _plain),
    "video.profile": ("profile", _plain),
    "video.level": ("level", _plain),
    "video.long_side_px": ("longer side", "{} px".format),
    "video.short_side_px": ("shorter side", "{} px".format),
    "video.has_b_pictures": ("B-pictures", {True: "some", False: "none"}.__getitem__),
    "video.fps": ("picture rate", "{:.3g} a second".format),
    "video.keyframe_s": ("distance of keyframes", "{:.3g} s".format),
    "video.bitrate": ("video bit rate", _bits),
    "video.bitrate_swing": ("swing of the bit rate", "{:.0%}".format),
    "sound.is_present": ("sound", {True: "some", False: "none"}.__getitem__),
    "sound.codec": ("sound codec", _plain),
    "sound.bitrate": ("sound bit rate", _bits),
    "bitrate": ("bit rate", _bits),
}


def _text(preset: Preset, rule: Rule, facts: StreamFacts) -> str:
    name, show = _SHOWN[rule.fact]
    if rule.any_of is not None:
        asked = " or ".join(show(value) for value in rule.any_of)
    else:
        limits = (("at least", rule.at_least), ("at most", rule.at_most))
        asked = " and ".join(f"{word} {show(limit)}" for word, limit in limits if limit is not None)
    doubt = "" if rule.is_verified else ", as is said and not documented"
    return f"{name}: {show(attrgetter(rule.fact)(facts))}; {preset.title} asks for {asked}{doubt}"


class Compliance:
    """Holds what goes out at one output against its preset, and keeps what stands against it.

    standing  the objections when last looked; one stays until the fact that it is about is known to have changed.
    """

    def __init__(self, preset: Preset, scheme: str) -> None:
        self.preset = preset
        self.standing: tuple[Objection, ...] = ()
        self._scheme = scheme
        self._meter = StreamMeter()

    def put(self, unit: AccessUnit) -> None:
        """A unit has gone out."""
        self._meter.put(unit)

    def restart(self) -> None:
        """What goes out from now on is another stream."""
        self._meter = StreamMeter()

    def look(self) -> tuple[tuple[Objection, ...], tuple[Objection, ...]]:
        """Which objections have appeared since the last look, and which have gone."""
        facts = self._meter.facts()
        found = objections(self.preset, self._scheme, facts)
        kept = [old for old in self.standing if attrgetter(old.rule)(facts) is None]
        before = {(old.rule, old.weight) for old in self.standing}
        now = (*found, *kept)
        still = {(each.rule, each.weight) for each in now}
        gone = tuple(old for old in self.standing if (old.rule, old.weight) not in still)
        self.standing = now
        return tuple(each for each in found if (each.rule, each.weight) not in before), gone
