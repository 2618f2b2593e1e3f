"""What goes on air: live pictures and sound, or what stands in for them, on one timeline that never stops.

A pause of the pictures is first held: viewers keep the last one, and sound that is missing runs on as silence. A longer
one is a slate: pictures that are ready, over and over. Live comes back at a keyframe. Timestamps strictly increase per
track through all of it, and sound that is missing alone changes nothing about the pictures. A connection that has no
pictures is heard over the slate. Pictures are of any codec, and those of the slate H.264: what goes on air changes its
codec at keyframes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum

from bridge.media.access_unit import AccessUnit, Codec, Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.opus import SILENCE_20_MS
from bridge.media.slate_pictures import SlatePictures

# A dozen pictures at 25 a second: no network jitter, and what viewers take for a freeze (ITU-R P.1201 counts 0.5 s).
HOLD_NS = 500 * NS_PER_MS
# An avatar that takes this long to show itself at all is late; a slate is better on air than nothing.
START_NS = 10 * NS_PER_S
# What stands in lies this far behind the clock, so that live media, which arrives a network's jitter after it was due,
# still comes later than all of it. Sound needs more: a receiver waits up to 120 ms for a packet, and tracks are skewed.
SLATE_BEHIND_NS = 100 * NS_PER_MS
SILENCE_BEHIND_NS = 300 * NS_PER_MS
SILENCE_NS = 20 * NS_PER_MS
# Joints of sound within one packet are the transcoder's business.
_JOINT_NS = SILENCE_NS
# Lost packets are the decoder's business (RFC 6716 §4.4), but what it makes up for longer than this is heard. Sound
# that begins anew has lost none.
_LONGEST_LOSS_NS = 3 * SILENCE_NS
# Live media arrives behind the clock by its network's delay, and further and further where its sender's clock is slower
# than ours. What stands in keeps that distance: each unit moves it by a 32nd, so it follows a change within a second.
# What comes sooner moves it by an eighth: media that a network or a busy machine has held up comes in one burst, whose
# delays would else count for a second after it is over.
_LAG_SHARE, _SOONER_SHARE = 32, 8
# A longer gap is left open: the machine slept, and nobody listens to minutes of silence in one burst.
_LONGEST_FILL_NS = 10 * NS_PER_S
_MIN_STEP_NS = NS_PER_MS
# A connection that takes over may be behind the one before by what its network and its service differ in. Its pictures
# then follow the last one closely until they have caught up: for five pictures nobody sees it.
_CATCH_UP_NS = 200 * NS_PER_MS
_NO_VIDEO = "no_video"


class OnAir(StrEnum):
    STARTING = "starting"  # nothing has been shown yet
    LIVE = "live"
    HELD = "held"
    SLATE = "slate"


class Splice:
    """Chooses among avatar connections, hold and slate. Times are session time; `emit` takes what goes on air.

    slate     what to show; None: not ready yet, and the last picture is held until it is.
    cause     why there is a slate: starting, avatar or operator; no_video: there are no pictures; empty without one.
    state     see `OnAir`.
    operator_reason  what the operator said who wants one; empty: wants none.
    freezes   how often the pictures paused.  frozen_ns: for how long, until live again or a slate.
    late_units  live units that came after what stood in for them.
    last_ns   pts of what went on air last, per track.
    """

    def __init__(self, began_ns: int, slate_after_ns: int, emit: Callable[[AccessUnit], None]) -> None:
        self.slate: SlatePictures | None = None
        self.state = OnAir.STARTING
        self.cause = ""
        self.is_muted = False
        self.freezes = 0
        self.frozen_ns = 0
        self._slate_ns: Counter[str] = Counter()  # on slates that are over
        self.late_units = 0
        self.last_ns: dict[Kind, int] = {}
        self._slate_after_ns = max(HOLD_NS, slate_after_ns)
        self._emit = emit
        self.operator_reason = ""
        self._source: int | None = None  # the connection that is on air
        self._has_no_video = False
        self._candidate: int | None = None  # the one that goes on air at its next keyframe
        self._needs_keyframe = True
        self._pictured_ns = began_ns  # when the connection on air last gave a picture
        self._sound_ends_ns: int | None = None
        self._lag_ns = 0  # how far live media lies behind the clock
        self._frozen_at_ns = 0
        self._slate_began_ns = 0
        self._slate_index = 0
        self._slate_on_air: SlatePictures | None = None

    @property
    def wants_keyframe(self) -> bool:
        """Whether live pictures could go on air, if only one could be decoded."""
        needs_keyframe = self._needs_keyframe and not self._has_no_video
        return not self.operator_reason and (needs_keyframe or self._candidate is not None)

    @property
    def is_switching(self) -> bool:
        """Whether `follow` waits for a keyframe."""
        return self._candidate is not None

    def follow(self, source: int) -> None:
        """Put this connection on air at its next keyframe; what is on air stays until then."""
        self._candidate = source

    def show_slate(self, reason: str, now_ns: int) -> None:
        """The operator wants the slate, and silence; an empty reason: no more, and live comes back at a keyframe."""
        self.operator_reason = reason
        self.poll(now_ns)

    # ------------------------------------------------------------------------------------------ live

    def put(self, source: int, unit: AccessUnit, now_ns: int) -> None:
        """A unit of a connection has come."""
        if source == self._source:
            further_ns = now_ns - unit.pts_ns - self._lag_ns
            self._lag_ns += further_ns // (_LAG_SHARE if further_ns > 0 else _SOONER_SHARE)
        if unit.codec.kind == "audio":
            self._put_sound(source, unit, now_ns)
        else:
            self._put_picture(source, unit, now_ns)

    def hear(self, source: int, now_ns: int) -> None:
        """A connection has no pictures, and will have none: it is on air with its sound."""
        if source == self._candidate:
            self._source, self._candidate = source, None
        if source == self._source:
            self._has_no_video, self._pictured_ns = True, now_ns
            self._needs_keyframe = True
            self.poll(now_ns)

    def _put_picture(self, source: int, unit: AccessUnit, now_ns: int) -> None:
        late_ns = self.last_ns.get("video", unit.pts_ns - _MIN_STEP_NS) + _MIN_STEP_NS - unit.pts_ns
        is_late = late_ns > _CATCH_UP_NS
        if source == self._candidate and unit.is_keyframe and not is_late:
            self._source, self._candidate = source, None
            self._lag_ns = now_ns - unit.pts_ns
        if source != self._source:
            return
        self._has_no_video, self._pictured_ns = False, now_ns
        # What refers to a picture that was too late cannot be shown either.
        self.late_units += is_late
        self._needs_keyframe = is_late or bool(self.operator_reason) or (self._needs_keyframe and not unit.is_keyframe)
        if self._needs_keyframe:
            return
        if self.state is not OnAir.LIVE:
            self._enter(OnAir.LIVE, "", now_ns)
        self._show(replace(unit, pts_ns=unit.pts_ns + late_ns) if late_ns > 0 else unit)

    def _put_sound(self, source: int, unit: AccessUnit, now_ns: int) -> None:
        if source != self._source:
            return
        if self._has_no_video:
            self._pictured_ns = now_ns
            if "video" not in self.last_ns:
                return  # a broadcast begins with a picture
        if self._sound_ends_ns is not None:
            if unit.pts_ns < self._sound_ends_ns - _JOINT_NS // 2 or unit.pts_ns <= self.last_ns.get("audio", -1):
                self.late_units += 1
                return
            if unit.pts_ns - self._sound_ends_ns > (_LONGEST_LOSS_NS if unit.lost_ns else _JOINT_NS):
                self._fill(unit.pts_ns)
        if self.is_muted or self.operator_reason:
            self._sound_ends_ns = unit.pts_ns if self._sound_ends_ns is None else self._sound_ends_ns
            self._fill(unit.pts_ns + unit.duration_ns)
        else:
            self._play(unit)

    # ------------------------------------------------------------------------------------------ what stands in

    def poll(self, now_ns: int) -> None:
        """Do what is due without live media."""
        paused_ns = now_ns - self._pictured_ns
        if self.state is OnAir.LIVE and paused_ns >= HOLD_NS:
            self._enter(OnAir.HELD, "", now_ns)
        if self._has_no_video and paused_ns >= self._slate_after_ns:
            self._has_no_video = False
            if self.cause == _NO_VIDEO:
                self._rename_slate("avatar", now_ns)  # nothing comes any more that could be heard
        is_other = self._has_no_video and self.cause != _NO_VIDEO
        if is_other and self.state is OnAir.SLATE and not self.operator_reason:
            self._rename_slate(_NO_VIDEO, now_ns)
        cause = self._slate_cause(paused_ns)
        if self.slate is not None and cause and self.state is not OnAir.SLATE:
            self._enter(OnAir.SLATE, cause, now_ns)
        if self.state is OnAir.SLATE and self.slate is not None:
            self._show_slate(self.slate, now_ns)
        if self._sound_ends_ns is not None:
            self._fill(now_ns - self._lag_ns - SILENCE_BEHIND_NS)

    def slate_total_ns(self, now_ns: int) -> Mapping[str, int]:
        """Time on slates by cause, the present one included."""
        present = {self.cause: now_ns - self._slate_began_ns} if self.state is OnAir.SLATE else {}
        return self._slate_ns + Counter(present)

    def next_deadline_ns(self) -> int | None:
        """When `poll` is needed, unless live media comes before; it may have passed. None: not before there is a slate.

        Without sound there has been no picture either: what is due then is due when there is a slate.
        """
        due_ns: list[int] = []
        if self._sound_ends_ns is not None:
            due_ns.append(self._sound_ends_ns + SILENCE_NS + SILENCE_BEHIND_NS + self._lag_ns)
        if self.state is OnAir.LIVE:
            due_ns.append(self._pictured_ns + HOLD_NS)
        elif self.slate is not None:
            match self.state:
                case OnAir.SLATE:
                    due_ns.append(self._slate_due_ns(self.slate) + SLATE_BEHIND_NS + self._lag_ns)
                case OnAir.STARTING:
                    due_ns.append(self._pictured_ns + START_NS)
                case OnAir.HELD:
                    due_ns.append(self._pictured_ns + self._slate_after_ns)
        return min(due_ns, default=None)

    def _slate_cause(self, paused_ns: int) -> str:
        if self.operator_reason:
            return "operator"
        if self._has_no_video:
            return _NO_VIDEO
        if self.state is OnAir.HELD and paused_ns >= self._slate_after_ns:
            return "avatar"
        return "starting" if self.state is OnAir.STARTING and paused_ns >= START_NS else ""

    def _show_slate(self, slate: SlatePictures, now_ns: int) -> None:
        until_ns = now_ns - self._lag_ns - SLATE_BEHIND_NS
        # The first one follows the last live picture, without waiting for the clock: an operator wants it seen now.
        while (pts_ns := self._slate_due_ns(slate)) <= until_ns or self._slate_index == 0:
            if until_ns - pts_ns > _LONGEST_FILL_NS:
                pts_ns = until_ns
            if self._slate_on_air is not slate:  # a new one begins with its keyframe
                self._slate_on_air, self._slate_index = slate, 0
            index = self._slate_index % len(slate.payloads)
            unit = AccessUnit(Codec.H264, slate.payloads[index], pts_ns, is_keyframe=False)
            if index in slate.keyframes:
                unit = replace(unit, is_keyframe=True, codec_config=slate.codec_config)
            self._show(unit)
            self._slate_index += 1
            if self._sound_ends_ns is None:
                self._sound_ends_ns = pts_ns  # the broadcast begins here, with silence

    def _slate_due_ns(self, slate: SlatePictures) -> int:
        first_ns = self._slate_began_ns - self._lag_ns - SLATE_BEHIND_NS
        if "video" not in self.last_ns:
            return first_ns
        return max(first_ns, self.last_ns["video"] + (slate.interval_ns if self._slate_index else _MIN_STEP_NS))

    def _fill(self, until_ns: int) -> None:
        """Silence from where sound ended, in whole packets."""
        assert self._sound_ends_ns is not None
        if until_ns - self._sound_ends_ns > _LONGEST_FILL_NS:
            self._sound_ends_ns = until_ns - SILENCE_NS
        while self._sound_ends_ns + SILENCE_NS <= until_ns:
            self._play(AccessUnit(Codec.OPUS, SILENCE_20_MS, self._sound_ends_ns, SILENCE_NS))

    # ------------------------------------------------------------------------------------------ on air

    def _show(self, unit: AccessUnit) -> None:
        self.last_ns["video"] = unit.pts_ns
        self._emit(unit)

    def _play(self, unit: AccessUnit) -> None:
        self.last_ns["audio"] = unit.pts_ns
        self._sound_ends_ns = unit.pts_ns + unit.duration_ns
        self._emit(unit)

    def _rename_slate(self, cause: str, now_ns: int) -> None:
        """The same slate goes on for another reason."""
        self._slate_ns[self.cause] += now_ns - self._slate_began_ns
        self.cause, self._slate_began_ns = cause, now_ns

    def _enter(self, state: OnAir, cause: str, now_ns: int) -> None:
        if self.state is OnAir.SLATE:
            self._slate_ns[self.cause] += now_ns - self._slate_began_ns
        if state is OnAir.SLATE:
            self._slate_began_ns, self._slate_index = now_ns, 0
            self._needs_keyframe = True
        if self.state is OnAir.HELD:
            self.frozen_ns += now_ns - self._frozen_at_ns
        if state is OnAir.HELD:
            self.freezes += 1
            self._frozen_at_ns = self._pictured_ns
        self.state, self.cause = state, cause
