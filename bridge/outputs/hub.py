"""Fan-out of one session's access units to its outputs, which are islands and come and go while it is on air."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from bridge.errors import ConfigError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs.audio import OpusToAac, Repairs, Transcoding
from bridge.outputs.mixed_sound import Coded, MixedSound, Mixer, Rendition
from bridge.outputs.pictures import Pictures
from bridge.outputs.runner import OutputRunner
from bridge.outputs.status import OutputState

# What an output that is stopped by hand may take to publish what waits, at most its queue of 2 s, and to close: 2 s
# for RTMP. Then it is cancelled, and closes without what is left.
CLOSE_S = 4.0
# What is mixed has waited for the inputs already, and WebRTC viewers wait for all of a round: half of `audio.ROUND_S`,
# for 0.007 of a core.
MIXED_ROUND_S = 0.040

log = structlog.get_logger()


class UnknownOutput(ConfigError):
    """There is no output of that name."""


@dataclass(slots=True)
class _Member:
    """An output of the hub.

    is_due  it is to run as soon as it can: when the hub does, or when its present run has ended.
    task    its present run.
    """

    runner: OutputRunner
    is_due: bool
    task: asyncio.Task[None] | None = None

    @property
    def has_ended_by_itself(self) -> bool:
        return self.task is None and not self.is_due and self.runner.state is not OutputState.STOPPED


@dataclass(slots=True)
class _Sound:
    """AAC of one bit rate, for who takes it; of any bit rate and codec where there is a mixer.

    before  what the session had repaired when it began.
    """

    bit_rate: int
    before: Repairs
    on_fed: Callable[[OutputRunner], None]
    mixer: Mixer | None = None
    has_ended: bool = False
    takers: list[OutputRunner] = field(default_factory=list)
    transcoder: Transcoding[AccessUnit] | Transcoding[Coded] = field(init=False)
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        if (mixer := self.mixer) is None:
            self.transcoder = OpusToAac(self._emit, self.bit_rate)
        else:
            self.transcoder = Transcoding(
                self._emit_coded,
                lambda: MixedSound(mixer, lambda: [_rendition(runner) for runner in tuple(self.takers)]),
                round_s=MIXED_ROUND_S,
                before_round=mixer.before_round,
            )

    def _emit(self, unit: AccessUnit) -> None:
        for runner in self.takers:
            runner.queue.put(unit)

    def _emit_coded(self, coded: Coded) -> None:
        rendition, unit = coded
        for runner in self.takers:
            if _rendition(runner) == rendition:
                runner.queue.put(unit)

    @property
    def repairs(self) -> Repairs:
        return Repairs(*map(sum, zip(self.before, self.transcoder.repairs, strict=True)))

    async def run(self) -> None:
        try:
            await self.transcoder.run()
        except Exception:
            for runner in self.takers:
                runner.finish()
            raise
        self.has_ended = True
        for runner in self.takers:
            self.on_fed(runner)


class Hub:
    """Gives every output the pictures in the way that suits it (`pictures`), and the sound in the codec its container
    takes.

    Opus goes through untouched; for all outputs that run and want AAC at one bit rate there is one transcoder, and none
    when nobody wants it. With a mixer there is one for all outputs, Opus included. An output that fails, refuses or
    stalls touches no other: each has a queue and a runner of its own, `put` never waits, and a bug in one ends the
    session only once the others are done. A bug in a transcoder or encoder finishes the outputs that it feeds.

    Outputs are added, removed, started and stopped at any time; before `run`, they start with it. An output starts
    again only when its connection before is closed: it never publishes twice.
    """

    def __init__(
        self,
        runners: Sequence[OutputRunner] = (),
        *,
        mixer: Mixer | None = None,
        slate: Callable[[], SlatePictures | None] = lambda: None,
        request_keyframe: Callable[[], None] = lambda: None,
    ) -> None:
        """`slate`: the one that is ready.  `request_keyframe` asks the avatar for one."""
        self._mixer = mixer
        self._members: dict[str, _Member] = {}
        self._takers: list[OutputRunner] = []  # those that run
        self._sounds: dict[int, _Sound] = {}
        self._repairs = Repairs()
        self._pictures = Pictures(
            self._spawn_encoder, slate=slate, request_keyframe=request_keyframe, on_fed=self._on_fed
        )
        self._bugs: list[Exception] = []
        self._tasks: asyncio.TaskGroup | None = None
        # What is started by another task than the session's logs in the session's name all the same.
        self._context = contextvars.Context()
        self._is_over = asyncio.Event()
        self._was_on_air = False
        for runner in runners:
            self.add(runner)

    @property
    def runners(self) -> tuple[OutputRunner, ...]:
        return tuple(member.runner for member in self._members.values())

    def runner(self, name: str) -> OutputRunner:
        """Raises UnknownOutput."""
        return self._member(name).runner

    @property
    def keyframe_s(self) -> float | None:
        """The smallest distance of the avatar's keyframes that any output needs; None: no output cares."""
        return min((runner.keyframe_s for runner in self.runners if runner.keyframe_s is not None), default=None)

    @property
    def repairs(self) -> Repairs:
        """What AAC outputs got in place of lost sound. Others get it with its gaps, which the far decoder conceals."""
        return Repairs(*map(max, zip(self._repairs, *(sound.repairs for sound in self._sounds.values()), strict=True)))

    @property
    def concealment(self) -> str | None:
        """What makes up lost sound for AAC outputs; None: no output needs it."""
        return next((sound.transcoder.concealment for sound in self._sounds.values()), "") or None

    def put(self, unit: AccessUnit) -> None:
        """Offer a unit to every output that runs; never waits."""
        self._pictures.put(unit)
        for sound in self._sounds.values():
            sound.transcoder.put(unit)
        for runner in self._takers:
            if unit.codec is runner.audio_codec and self._mixer is None:
                runner.queue.put(unit)

    def show_caption(self, text: str) -> None:
        """What the avatar says at present, for outputs that paint captions; empty: nothing."""
        self._pictures.show_caption(text)

    def finish(self) -> None:
        """Let the outputs publish what waits and close; `run` then returns."""
        self._is_over.set()
        for sound in self._sounds.values():
            sound.transcoder.finish()
        self._pictures.finish()
        for runner in tuple(self._takers):
            self._on_fed(runner)

    async def run(self) -> None:
        """Run until `finish` and the end of every output, or until nobody is left to publish to.

        Nobody is left when every output that there is has ended by itself, refused for good or failed by a bug, and
        there is a bug, or none was accepted since the session began: otherwise the operator may start them again.
        Bugs are raised.
        """
        self._context = contextvars.copy_context()
        async with asyncio.TaskGroup() as self._tasks:
            try:
                for member in self._members.values():
                    if member.is_due and not self._is_over.is_set():
                        self._launch(member)
                await self._is_over.wait()
            finally:
                self._is_over.set()
        if self._bugs:
            raise ExceptionGroup("a bug ended an output", self._bugs)

    # ------------------------------------------------------------------------------------- the operator's hand

    def add(self, runner: OutputRunner) -> None:
        """Take an output in; it starts at once if it is one that does. Raises ConfigError: the name is taken."""
        if runner.name in self._members:
            raise ConfigError(f"there is an output {runner.name} already")
        self._members[runner.name] = _Member(runner, is_due=False)
        if runner.state is not OutputState.STOPPED:
            self.start(runner.name)

    async def remove(self, name: str) -> None:
        """Stop an output and forget it; its name is free at once. Raises UnknownOutput."""
        member = self._member(name)
        del self._members[name]
        await self._stop(member, is_due=False)

    def start(self, name: str) -> None:
        """Let an output publish from the next keyframe on, after a refusal too. Raises UnknownOutput."""
        member = self._member(name)
        if self._is_over.is_set():
            return
        if member.task is not None:
            member.is_due = member.runner.is_stopping
        elif self._tasks is not None:
            self._launch(member)
        else:
            member.is_due = True

    async def stop(self, name: str) -> None:
        """Close an output properly; what waits is published within `CLOSE_S`. Raises UnknownOutput."""
        await self._stop(self._member(name), is_due=False)

    async def restart(self, name: str) -> None:
        """Close an output properly and start it anew. Raises UnknownOutput."""
        member = self._member(name)
        if member.task is None:
            self.start(name)
        else:
            await self._stop(member, is_due=True)

    def _member(self, name: str) -> _Member:
        try:
            return self._members[name]
        except KeyError:
            raise UnknownOutput(f"there is no output {name}; there is {', '.join(self._members) or 'none'}") from None

    # ------------------------------------------------------------------------------------- one run of one output

    def _launch(self, member: _Member) -> None:
        runner = member.runner
        member.is_due = False
        runner.prepare()
        self._takers.append(runner)
        if self._is_transcoded(runner):
            self._sound(self._bit_rate(runner)).takers.append(runner)
        self._pictures.attach(runner)
        member.task = self._spawn(runner.run, runner.name, output=runner.name)
        member.task.add_done_callback(lambda _: self._on_end(member))

    async def _stop(self, member: _Member, *, is_due: bool) -> None:
        member.is_due = is_due
        # What comes from now on is not for it: so its queue has an end.
        self._detach(member.runner)
        is_publishing = member.runner.state is OutputState.PUBLISHING
        member.runner.stop()
        if (task := member.task) is None:
            return
        try:
            if is_publishing:
                await asyncio.wait((task,), timeout=CLOSE_S)
        finally:
            task.cancel()
        await asyncio.wait((task,))

    def _on_end(self, member: _Member) -> None:
        member.task = None
        self._detach(member.runner)
        self._was_on_air |= member.runner.has_been_accepted and not member.runner.is_aside
        if self._is_over.is_set():
            return
        if member.is_due:
            self._launch(member)
        elif member.has_ended_by_itself and self._nobody_is_left():
            self.finish()

    def _nobody_is_left(self) -> bool:
        wanted = [member for member in self._members.values() if not member.runner.is_aside]
        have_ended = all(member.has_ended_by_itself for member in wanted)
        return have_ended and (bool(self._bugs) or not self._was_on_air)

    def _detach(self, runner: OutputRunner) -> None:
        if runner in self._takers:
            self._takers.remove(runner)
        self._pictures.detach(runner)
        sound = self._sounds.get(self._bit_rate(runner))
        if sound is not None and runner in sound.takers:
            sound.takers.remove(runner)
            if not sound.takers:
                self._retire(sound)

    def _on_fed(self, runner: OutputRunner) -> None:
        """One of those that make its sound or its pictures has given all, or none does: are all of them done?"""
        makes_sound = any(runner in sound.takers and not sound.has_ended for sound in self._sounds.values())
        if not makes_sound and not self._pictures.feeds(runner):
            runner.finish()

    # ------------------------------------------------------------------------------------- sound

    def _is_transcoded(self, runner: OutputRunner) -> bool:
        return self._mixer is not None or runner.audio_codec is Codec.AAC

    def _bit_rate(self, runner: OutputRunner) -> int:
        """Of the sound that it takes; 0: of all."""
        return runner.audio_bitrate if self._mixer is None else 0

    def _sound(self, bit_rate: int) -> _Sound:
        if bit_rate not in self._sounds:
            sound = self._sounds[bit_rate] = _Sound(bit_rate, self.repairs, self._on_fed, self._mixer)
            name = f"aac {bit_rate}" if self._mixer is None else "mixed sound"
            sound.task = self._spawn(sound.run, name, transcoder=name)
            sound.task.add_done_callback(lambda _: self._retire(sound))
        return self._sounds[bit_rate]

    def _retire(self, sound: _Sound) -> None:
        if self._sounds.get(sound.bit_rate) is sound:
            self._repairs = self.repairs
            del self._sounds[sound.bit_rate]
        if sound.task is not None:
            sound.task.cancel()

    def _spawn_encoder(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        return self._spawn(run, name, encoder=name)

    def _spawn(self, run: Callable[[], Coroutine[Any, Any, None]], name: str, **what: str) -> asyncio.Task[None]:
        assert self._tasks is not None, "the hub does not run"
        return self._tasks.create_task(_isolate(run, self._bugs, **what), name=name, context=self._context.copy())


def _rendition(runner: OutputRunner) -> Rendition:
    return Rendition(runner.audio_codec, runner.audio_bitrate)


async def _isolate(run: Callable[[], Coroutine[Any, Any, None]], bugs: list[Exception], **what: str) -> None:
    try:
        await run()
    except Exception as bug:
        # Whatever is wrong with one of them, the others stay on air: the bug is kept for the end.
        log.exception("output_failed", **what)
        bugs.append(bug)
