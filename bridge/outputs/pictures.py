"""How each output gets the pictures on air: as they come, from an encoder that it shares, or a slate in their place."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.live_queue import DropReason
from bridge.media.picture_format import StreamFormat, stream_format
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs.choice import Mode, OnAir, Way, choose
from bridge.outputs.compliance import StreamFacts, StreamMeter, objections
from bridge.outputs.encode import Transcoding
from bridge.outputs.encoder import Rendition
from bridge.outputs.runner import OutputRunner

# The pictures since the last keyframe are kept, so that encoding can begin between two. Where an avatar makes none when
# asked, they lie further apart than this.
LONGEST_GROUP_NS = 10 * NS_PER_S

# Runs a coroutine beside the outputs, under a name.
Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]], str], "asyncio.Task[None]"]


@dataclass(slots=True, eq=False)
class _Taker:
    """An output that runs.

    mode     the one that was chosen last.
    source   what its pictures come from; None: from nothing yet.
    next     what they are to come from, from its first keyframe on.
    shown    the format of the first live pictures that it was given.
    last_ns  pts of the last picture that it was given.
    advised  facts that its preset has advised against, where it is strict: rates swing, and one that was wrong once is
             wrong again.
    """

    runner: OutputRunner
    mode: Mode | None = None
    source: object = None
    next: object = None
    shown: StreamFormat | None = None
    last_ns: int = -1
    advised: set[str] = field(default_factory=set)

    def wants(self, source: object) -> bool:
        """Whether pictures of that source are, or are to be, the output's."""
        return source is self.source or source is self.next

    def offer(self, source: object, picture: AccessUnit) -> None:
        """A picture of some source; it is given if that is the output's."""
        if picture.pts_ns <= self.last_ns:
            return
        if source is self.next and picture.is_keyframe:
            self.source, self.next = source, None
        if source is self.source:
            self.last_ns = picture.pts_ns
            self.runner.queue.put(picture)


@dataclass(slots=True, eq=False)
class _Encoding:
    """One rendition, for who takes it."""

    transcoding: Transcoding
    task: asyncio.Task[None] | None = None


_COPY, _SLATE = "copy", "slate"


class Pictures:
    """Gives every output that runs the pictures on air, in the way that `choose` finds for it, anew when they change.

    An output goes from one way to another at a keyframe, and its timestamps go on. What encodes runs as long as
    anybody takes it; it goes through slates as through live, so all look alike. Where an output is to have the slate,
    each picture that it cannot have is replaced by one of the slate's, at the same time.

    slate             the slate that is ready; None: none yet.
    request_keyframe  asks the avatar for one.
    on_fed            told of an output that an encoder has given its last picture, at the end.
    """

    def __init__(
        self,
        spawn: Spawn,
        *,
        slate: Callable[[], SlatePictures | None],
        request_keyframe: Callable[[], None],
        on_fed: Callable[[OutputRunner], None],
    ) -> None:
        self._spawn = spawn
        self._slate = slate
        self._request_keyframe = request_keyframe
        self._on_fed = on_fed
        self._takers: dict[OutputRunner, _Taker] = {}
        self._encodings: dict[Rendition, _Encoding] = {}
        self._on_air: OnAir | None = None
        self._codec_config = b""  # whose format is known
        self._keyframe_ns = self._last_ns = 0
        self._group: list[AccessUnit] = []
        self._meter: StreamMeter | None = None  # of what is on air, while there is a preset
        self._caption = ""
        self._slate_shown: SlatePictures | None = None
        self._slate_index = 0
        self._is_finished = False

    def put(self, unit: AccessUnit) -> None:
        """Pictures on air, and sound, for its time; never waits. After `finish` nothing is taken."""
        if self._is_finished:
            return
        if unit.codec.kind == "video":
            if self._meter is not None:
                self._meter.put(unit)
            self._look(unit)
        for encoding in self._encodings.values():
            if encoding.transcoding.put(unit):
                self._cut_before(encoding)
        if unit.codec.kind == "video":
            for taker in self._takers.values():
                if unit.codec is Codec.H264:
                    taker.offer(_COPY, unit)
            self._replace(unit)
            self._keep(unit)
            self._retire_unwanted()

    def attach(self, runner: OutputRunner) -> None:
        """An output begins to run."""
        taker = self._takers[runner] = _Taker(runner)
        if runner.wants.preset is not None and self._meter is None:
            self._meter = StreamMeter()
        self._choose(taker)

    def detach(self, runner: OutputRunner) -> None:
        """An output gets no more pictures."""
        self._takers.pop(runner, None)
        self._retire_unwanted()

    def show_caption(self, text: str) -> None:
        """What the avatar says at present, as far as it is known; empty: nothing."""
        self._caption = text
        for encoding in self._encodings.values():
            encoding.transcoding.show_caption(text)

    def finish(self) -> None:
        """Let encoders give what they have, and end."""
        self._is_finished = True
        for encoding in self._encodings.values():
            encoding.transcoding.finish()

    def feeds(self, runner: OutputRunner) -> bool:
        """Whether an encoder still has pictures for it."""
        taker = self._takers.get(runner)
        return taker is not None and any(taker.wants(encoding) for encoding in self._encodings.values())

    # ------------------------------------------------------------------------------------- what is on air

    def _look(self, unit: AccessUnit) -> None:
        """Take note of what has changed, and let every output choose anew."""
        before = self._on_air
        if unit.is_keyframe:
            # To its last picture: a pause before the next one is the avatar's, not its keyframes'.
            group_s = (self._last_ns - self._keyframe_ns) / NS_PER_S
            self._on_air = OnAir(unit.codec, self._format(unit), bool(unit.arrival_ns), group_s)
            self._keyframe_ns = unit.pts_ns
            self._group.clear()
        elif before is not None and (since_s := (unit.pts_ns - self._keyframe_ns) / NS_PER_S) > before.group_s + 1:
            self._on_air = before._replace(group_s=since_s)
        self._last_ns = unit.pts_ns
        if unit.is_keyframe or self._on_air != before:
            for taker in self._takers.values():
                self._choose(taker)

    def _format(self, keyframe: AccessUnit) -> StreamFormat | None:
        before = self._on_air
        if before and keyframe.codec is before.codec is Codec.H264 and keyframe.codec_config == self._codec_config:
            return before.format
        self._codec_config = keyframe.codec_config
        try:
            return stream_format(keyframe)
        except RemoteProtocolError:
            return None

    def _keep(self, unit: AccessUnit) -> None:
        if unit.is_keyframe or self._group:
            self._group.append(unit)
        if self._group and unit.pts_ns - self._group[0].pts_ns > LONGEST_GROUP_NS:
            self._group.clear()

    def _replace(self, unit: AccessUnit) -> None:
        """Offer a picture of the slate in place of one that cannot be copied."""
        if not any(taker.wants(_SLATE) for taker in self._takers.values()):
            return
        if (slate := self._slate()) is None:
            return
        if slate is not self._slate_shown:
            self._slate_shown, self._slate_index = slate, 0
        index = self._slate_index % len(slate.payloads)
        self._slate_index += 1
        picture = AccessUnit(Codec.H264, slate.payloads[index], unit.pts_ns, is_keyframe=False)
        if index in slate.keyframes:
            picture = replace(picture, is_keyframe=True, codec_config=slate.codec_config)
        for taker in self._takers.values():
            taker.offer(_SLATE, picture)

    # ------------------------------------------------------------------------------------- whose pictures come whence

    def _choose(self, taker: _Taker) -> None:
        on_air, wants = self._on_air, taker.runner.wants
        if on_air is None:
            return
        mode = choose(wants, on_air, taker.shown.size if taker.shown else None, self._rejected(taker))
        if taker.shown is None and on_air.is_live and mode.reason != "too_large":
            taker.shown = on_air.format
        if mode == taker.mode:
            return
        taker.mode = mode
        taker.runner.on_mode(mode)
        source: object = _SLATE if mode.way is Way.SLATE else _COPY
        if mode.way is Way.ENCODE:
            source = self._encoding(wants.rendition(taker.shown or on_air.format))
        taker.next = None
        if source is not taker.source:
            taker.next = source
            if mode.replaces_at_once:
                taker.source = None

    def _rejected(self, taker: _Taker) -> list[str]:
        """Facts of what is on air that the output's preset does not take."""
        wants = taker.runner.wants
        if wants.preset is None or self._meter is None:
            return []
        # Sound reaches the output by another way.
        facts = StreamFacts(video=self._meter.facts().video)
        found = objections(wants.preset, wants.scheme, facts)
        if wants.is_strict:
            taker.advised |= {each.rule for each in found if each.weight == "advice"}
        return [*(each.rule for each in found if each.weight == "reject"), *sorted(taker.advised)]

    # ------------------------------------------------------------------------------------- encoders

    def _encoding(self, rendition: Rendition) -> _Encoding:
        if rendition not in self._encodings:
            transcoding = Transcoding(
                rendition,
                lambda unit: self._offer(encoding, unit),
                on_dropped=lambda reason, n: self._count(encoding, reason, n),
                request_keyframe=self._request_keyframe,
                group=self._group,
            )
            transcoding.show_caption(self._caption)
            encoding = self._encodings[rendition] = _Encoding(transcoding)
            encoding.task = self._spawn(lambda: self._run(encoding), f"encode {rendition}")
        return self._encodings[rendition]

    def _cut_before(self, encoding: _Encoding) -> None:
        """A keyframe is being made: whoever waits for it gets nothing later than it from elsewhere."""
        for taker in self._takers.values():
            if taker.next is encoding:
                taker.source = None

    async def _run(self, encoding: _Encoding) -> None:
        try:
            await encoding.transcoding.run()
        except Exception:
            for taker in self._takers_of(encoding):
                taker.runner.finish()
            raise
        finally:
            fed = self._takers_of(encoding)
            self._forget(encoding)
        for taker in fed:
            self._on_fed(taker.runner)

    def _offer(self, encoding: _Encoding, picture: AccessUnit) -> None:
        for taker in self._takers.values():
            taker.offer(encoding, picture)

    def _count(self, encoding: _Encoding, reason: DropReason, n: int) -> None:
        for taker in self._takers_of(encoding):
            taker.runner.queue.dropped[reason] += n

    def _takers_of(self, encoding: _Encoding) -> list[_Taker]:
        return [taker for taker in self._takers.values() if taker.wants(encoding)]

    def _retire_unwanted(self) -> None:
        for encoding in tuple(self._encodings.values()):
            if not self._takers_of(encoding):
                self._forget(encoding)
                if encoding.task is not None:
                    encoding.task.cancel()

    def _forget(self, encoding: _Encoding) -> None:
        rendition = encoding.transcoding.rendition
        if self._encodings.get(rendition) is encoding:
            del self._encodings[rendition]
