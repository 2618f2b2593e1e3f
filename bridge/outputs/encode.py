"""Pictures on air, of any codec and size, as H.264 of one size at a constant rate, for those who cannot copy them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
import structlog
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from bridge.errors import ConfigError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.live_queue import DropReason
from bridge.outputs.cadence import Cadence
from bridge.outputs.canvas import Canvas
from bridge.outputs.encoder import PictureEncoder, Rendition
from bridge.outputs.overlay import Overlay
from bridge.outputs.picture_decoder import open_decoder
from bridge.worker import Worker

Plane = NDArray[np.uint8]

# What waits for the thread goes after this, all at once: a machine that decodes so slowly shows nothing live. To decode
# what came before an encoder began takes half a second at most.
INBOX_NS = 2 * NS_PER_S
# A picture that has waited this long for its encoder makes room for newer ones: with what coding takes, all that is
# shown stays within the 120 ms that encoding may add on a machine that keeps up.
OVERDUE_NS = 100 * NS_PER_MS
# Where no picture comes, the one before is shown again so far behind the sound, which goes on by itself: sound is up to
# 300 ms ahead of the clock of what stands in for it, and of pictures that travel longer.
REPEAT_BEHIND_NS = 300 * NS_PER_MS
# Pictures that are only decoded go to the thread together: to wake it costs as much as decoding a small one.
_BURST = 8

log = structlog.get_logger()


@dataclass(slots=True)
class _Job:
    """A picture to decode; None: none, the one before is shown again.  place: as which it is coded; None: as none.

    put_ns  `time.monotonic_ns` at which it came.
    """

    unit: AccessUnit | None
    place: int | None
    put_ns: int


@dataclass(frozen=True, slots=True)
class _Coded:
    """What became of jobs.  n_broken: pictures that could not be decoded, or for want of a keyframe were not."""

    units: Sequence[AccessUnit]
    n_broken: int


class PictureTranscoder:
    """Coded pictures in, coded pictures of the rendition out. Blocks.

    What cannot be decoded is not shown, nor what refers to it: the picture before stays until the next keyframe.
    """

    def __init__(self, rendition: Rendition, at_ns: Callable[[int], int]) -> None:
        """`at_ns` says when a place is."""
        self._rendition = rendition
        self._at_ns = at_ns
        self.overlay = _overlay(rendition)
        self._painted = VideoFrame(rendition.width_px, rendition.height_px, "yuv420p")
        self._canvas = Canvas(rendition.width_px, rendition.height_px, rendition.fit, rendition.background)
        self._decoder: av.VideoCodecContext | None = None
        self._decodes: tuple[Codec, bytes] | None = None
        self._awaits_keyframe = True
        self._encoder: PictureEncoder | None = None
        self._decoded: VideoFrame | None = None
        self._fitted: VideoFrame | None = None

    def work(self, jobs: Iterable[_Job]) -> _Coded:
        """Raises InternalError, and av.FFmpegError of the encoder: bugs."""
        units: list[AccessUnit] = []
        n_broken = 0
        for job in jobs:
            n_broken += job.unit is not None and not self._decode(job.unit)
            if job.place is not None and (picture := self._picture()) is not None:
                units.append(self._encode(picture, job.place, job.unit))
        return _Coded(units, n_broken)

    def _decode(self, unit: AccessUnit) -> bool:
        """False: it could not be."""
        try:
            if unit.is_keyframe:
                if self._decodes != (unit.codec, unit.codec_config):
                    self._decoder = open_decoder(unit)
                    self._decodes = unit.codec, unit.codec_config
                self._awaits_keyframe = False
            if self._awaits_keyframe or self._decoder is None:
                return False
            for frame in self._decoder.decode(av.Packet(unit.payload)):
                if frame.is_corrupt:
                    self._awaits_keyframe = True
                    return False
                self._decoded, self._fitted = frame, None
        except FFmpegError as error:
            if not self._awaits_keyframe:
                log.warning("picture_undecodable", codec=unit.codec.value, error=error.strerror)
            self._decodes, self._awaits_keyframe = None, True
            return False
        return True

    def _picture(self) -> VideoFrame | None:
        """The newest picture on the canvas; only what is coded is fitted."""
        if self._fitted is None and self._decoded is not None:
            self._fitted = self._canvas.fitted(self._decoded)
        return self._fitted

    def _encode(self, picture: VideoFrame, place: int, unit: AccessUnit | None) -> AccessUnit:
        if self._encoder is None:
            assert self._canvas.matrix is not None
            self._encoder = PictureEncoder(self._rendition, self._canvas.matrix)
        if self.overlay is not None:
            # The decoder refers to its pictures, and the next one may be this one again. A new copy each time would
            # take eight times as long, for its memory's sake; the encoder makes one of its own.
            for into, plane in zip(_planes(self._painted), _planes(picture), strict=True):
                into[:] = plane
            picture = self._painted
            self.overlay.paint(_planes(picture), time.monotonic_ns())
        coded = self._encoder.encode(picture, place)
        return AccessUnit(
            Codec.H264,
            coded.payload,
            self._at_ns(place),
            is_keyframe=coded.is_keyframe,
            codec_config=coded.codec_config,
            arrival_ns=unit.arrival_ns if unit is not None else 0,
            captured=unit.captured if unit is not None else None,
        )


class Transcoding:
    """One rendition of what is on air: takes the session's units, gives coded pictures to `emit` on the event loop.

    Sound passes for its time: where pictures pause, the last one is shown again behind it. Pictures are at a constant
    rate, unless the machine cannot keep up: then those are left out that have waited longest, evenly, and all that wait
    where it cannot even decode. Sound never waits for pictures.

    on_dropped         told of pictures that were left out: overload, or undecodable.
    request_keyframe   asks the avatar for one.
    """

    def __init__(
        self,
        rendition: Rendition,
        emit: Callable[[AccessUnit], None],
        *,
        on_dropped: Callable[[DropReason, int], None] = lambda reason, n: None,
        request_keyframe: Callable[[], None] = lambda: None,
        group: Sequence[AccessUnit] = (),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`group`: the pictures on air since the last keyframe, for what comes refers to them."""
        self.rendition = rendition
        self._emit = emit
        self._on_dropped = on_dropped
        self._request_keyframe = request_keyframe
        self._overlay: Overlay | None = None
        self._caption = ""
        self._group = tuple(group)
        self._now_ns = now_ns
        self._cadence = Cadence(rendition.fps)
        self._jobs: deque[_Job] = deque()
        self._awaits_keyframe = not group
        self._is_ready = asyncio.Event()
        self._is_finished = False

    def put(self, unit: AccessUnit) -> bool:
        """A unit goes on air; never waits. True: a keyframe is made because of it."""
        if unit.codec.kind == "audio":
            repeats, place = self._cadence.follow(unit.pts_ns - REPEAT_BEHIND_NS), None
        elif self._awaits_keyframe and not unit.is_keyframe:
            return False
        else:
            self._awaits_keyframe = False
            repeats, place = self._cadence.show(unit.pts_ns)
        for each in repeats:
            self._append(_Job(None, each, self._now_ns()))
        if unit.codec.kind == "video":
            self._append(_Job(unit, place, self._now_ns()))
        places = [*repeats, *([] if place is None else [place])]
        return any(map(self._begins_group, places))

    def show_caption(self, text: str) -> None:
        """What the avatar says at present, as far as it is known; empty: nothing."""
        self._caption = text
        if self._overlay is not None:
            self._overlay.set_caption(text, time.monotonic_ns())

    def finish(self) -> None:
        self._is_finished = True
        self._is_ready.set()

    async def run(self) -> None:
        """Encode until `finish` and the last picture."""
        async with Worker(f"encode {self.rendition.width_px}x{self.rendition.height_px}") as worker:
            transcoder = await worker.call(PictureTranscoder, self.rendition, self._cadence.at_ns)
            self._overlay = transcoder.overlay
            self.show_caption(self._caption)
            await worker.call(transcoder.work, [_Job(unit, None, 0) for unit in self._group])
            self._group = ()
            while self._jobs or not self._is_finished:
                await self._is_ready.wait()
                if not self._is_finished:
                    self._is_ready.clear()
                while batch := list(self._next_jobs()):
                    coded = await worker.call(transcoder.work, batch)
                    for unit in coded.units:
                        self._emit(unit)
                    if coded.n_broken:
                        self._on_dropped("undecodable", coded.n_broken)
                        self._request_keyframe()

    def _begins_group(self, place: int) -> bool:
        """Whether that is a keyframe, which is never left out alone."""
        return place % self.rendition.group_pictures == 0

    def _append(self, job: _Job) -> None:
        self._jobs.append(job)
        self._bound()
        self._is_ready.set()

    def _next_jobs(self) -> Iterator[_Job]:
        """One picture to code, and those that only have to be decoded before it."""
        for _ in range(_BURST):
            if not self._jobs:
                return
            job = self._jobs.popleft()
            yield job
            if job.place is not None:
                return

    def _bound(self) -> None:
        now_ns = self._now_ns()
        if now_ns - self._jobs[0].put_ns > INBOX_NS:
            self._on_dropped("overload", sum(job.place is not None for job in self._jobs))
            self._jobs.clear()
            self._awaits_keyframe = True
            self._request_keyframe()
            return
        for job in self._jobs:
            if job.place is not None and not self._begins_group(job.place) and now_ns - job.put_ns > OVERDUE_NS:
                job.place = None
                self._on_dropped("overload", 1)
                return


def _overlay(rendition: Rendition) -> Overlay | None:
    """What is painted; where its files are gone since they were checked, nothing, and the broadcast goes on."""
    if rendition.overlay is None:
        return None
    try:
        return Overlay(rendition.overlay, rendition.width_px, rendition.height_px)
    except ConfigError as error:
        log.warning("overlay_lost", error=str(error))
        return None


def _planes(frame: VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Views of the pixels, without what pads lines."""
    y, cb, cr = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return y, cb, cr
