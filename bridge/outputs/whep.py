"""`whep:` viewers of this process: whoever comes over HTTP sees the session, many at a time (draft-ietf-wish-whep)."""

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from bridge.errors import OutputError, OutputLost, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec, Kind
from bridge.media.live_queue import LiveQueue
from bridge.net.aiortc_sender import SenderClock
from bridge.net.ice import IceSettings
from bridge.net.peer import ViewerPeer
from bridge.net.shared_track import SharedTrack
from bridge.net.viewer_sender import ViewerSender
from bridge.outputs.last_group import LastGroup, add_picture
from bridge.outputs.viewer import Viewer
from bridge.ports import Audience, MediaSession, OutputListener, OutputProgress
from bridge.protocols.whep import check_viewing_offer
from bridge.protocols.whip_sdp import H264Profile, picture_profile

# A place is free when somebody has left, which takes minutes. A page that was loaded before the first picture wants it
# as soon as it is there.
FULL_RETRY_S, EARLY_RETRY_S = 10.0, 1.0
# All viewers together make the avatar produce at most one keyframe more in this time, as outputs do by themselves.
KEYFRAME_EVERY_S = 2.0
LOOK_S = 1.0

log = structlog.get_logger()


class WhepOutput:
    """Sends what it is given to all its viewers: H.264 and Opus, as they are. Implements `ports.ViewingPoint`.

    A viewer starts at the last keyframe at once, and is in the present a moment later (`net.viewer_sender`); where that
    keyframe is too long ago a new one is asked for. Each viewer has a connection and a task of its own, and one that
    fails touches no other. Pictures are packetized once for all who see them, and while nobody does not at all; sound
    likewise.

    keyframe_s  how far keyframes may lie apart; None: as they come, which is for an output that mostly nobody watches.
    ice_links   as in `ports.ViewingPoint`.
    """

    audio_codec = Codec.OPUS

    def __init__(
        self,
        name: str,
        ice: IceSettings,
        *,
        max_viewers: int,
        keyframe_s: float | None = None,
        ice_links: Sequence[str] = (),
    ) -> None:
        self._name = name
        self.keyframe_s = keyframe_s
        self.ice_links = ice_links
        self._ice = ice
        self._max_viewers = max_viewers
        self._tasks: asyncio.TaskGroup | None = None  # while it runs
        self._context = contextvars.Context()
        self._viewers: set[Viewer] = set()
        self._gone: Counter[str] = Counter()  # counts of viewers that are gone
        self._tracks: Mapping[Kind, SharedTrack] = {"audio": SharedTrack("audio"), "video": SharedTrack("video")}
        self._senders: Mapping[Kind, list[ViewerSender]] = {"audio": [], "video": []}  # of connected viewers
        self._clock = SenderClock()
        self._group = LastGroup(self._tracks["video"])
        self._config = b""  # of the newest keyframe
        self._pictures: H264Profile | None = None
        self._request_keyframe: Callable[[], None] = lambda: None
        self._requested_s = -KEYFRAME_EVERY_S
        self._request: asyncio.TimerHandle | None = None

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Serve viewers until `units` is finished."""
        self._request_keyframe = listener.on_keyframe_request
        # Viewers come in tasks of the API, and belong to this output.
        structlog.contextvars.bind_contextvars(output=self._name)
        self._context = contextvars.copy_context()

        def keep(unit: AccessUnit) -> bool:
            """Without viewers there is nothing to do that is worth waking up for."""
            if self._is_watched:
                return False
            self._keep(unit)
            return True

        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            watching = tasks.create_task(self._watch(), name="viewers")
            try:
                units.express = keep
                listener.on_published()
                while (unit := await units.get()) is not None:
                    self._keep(unit)
                    if self._is_watched and self._show(unit):
                        listener.on_written(unit)
            finally:
                self._tasks = units.express = None
                if self._request is not None:
                    self._request.cancel()
                for task in (watching, *(viewer.task for viewer in self._viewers)):
                    task.cancel()

    def progress(self) -> OutputProgress:
        total = Counter(self._gone)
        for viewer in self._viewers:
            total.update(viewer.counts())
        asked = total["repeats_asked"], total["keyframes_asked"]
        return OutputProgress(
            total["bytes"], audience=Audience(len(self._viewers), *asked, packets_dropped=total["packets_dropped"])
        )

    # ------------------------------------------------------------------------------------------ ports.ViewingPoint

    async def watch(self, offer: str, may_reach: Callable[[str], bool]) -> MediaSession:
        if self._tasks is None:
            raise OutputLost("this output does not run at present", retry_after_s=FULL_RETRY_S)
        pictures = self._pictures
        if pictures is None:
            raise OutputLost("there is no picture yet", retry_after_s=EARLY_RETRY_S)
        wanted = check_viewing_offer(offer, pictures)
        if len(self._viewers) >= self._max_viewers:
            raise OutputLost(f"{self._max_viewers} viewers watch, which is the limit", retry_after_s=FULL_RETRY_S)

        def open_peer(viewer: Viewer) -> ViewerPeer:
            return ViewerPeer(
                self._ice,
                self._tracks,
                self._clock,
                pictures,
                profile=wanted.profile,
                on_ready=self._on_ready,
                on_gone=viewer.on_gone,
                on_keyframe_request=viewer.on_keyframe_request,
                may_reach=may_reach,
            )

        viewer = Viewer(wanted, open_peer, self._on_end, self._want_keyframe)
        viewer.task = self._tasks.create_task(self._serve(viewer, offer), name="viewer", context=self._context.copy())
        self._viewers.add(viewer)
        # Whoever asks may go: an accepted viewer stays until ICE misses it, or it is seen not to read.
        return await viewer.answered()

    def media_session(self, id: str) -> MediaSession | None:
        viewer = self._found(id)
        return viewer.session if viewer else None

    async def trickle(self, id: str, candidates: Sequence[tuple[str, str | None]]) -> None:
        if viewer := self._found(id):
            for candidate, mid in candidates:
                await viewer.peer.add_candidate(candidate, mid, None)

    async def end(self, id: str) -> None:
        if viewer := self._found(id):
            viewer.task.cancel()
            await asyncio.wait((viewer.task,))

    def _found(self, id: str) -> Viewer | None:
        return next((viewer for viewer in self._viewers if viewer.session and viewer.session.id == id), None)

    # ------------------------------------------------------------------------------------------ viewers

    async def _serve(self, viewer: Viewer, offer: str) -> None:
        try:
            await viewer.run(offer)
        except OutputLost as error:
            log.info("viewer_lost", error=str(error))
        except Exception:
            log.exception("viewer_failed")  # a bug: the other viewers are not to notice
        finally:
            self._viewers.discard(viewer)
            self._on_end(viewer)  # once more: a hand-shake may have ended while the connection was closed
            self._gone.update(viewer.counts())
            if viewer.session is not None:
                log.info("viewer_gone", n_left=len(self._viewers), **viewer.counts())

    async def _watch(self) -> None:
        """Look after all viewers; never returns."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_ns = time.monotonic_ns()
            for viewer in tuple(self._viewers):
                if viewer.peer.has_stopped_reading(now_ns):
                    viewer.end("it does not read")
            if not all(sender.has_begun for sender in self._senders["video"]):
                self._want_keyframe()

    def _on_ready(self, sender: ViewerSender) -> None:
        self._senders[sender.kind].append(sender)
        if sender.kind == "audio":
            return  # it begins with what comes next
        if self._group.is_whole:
            sender.begin(self._group.packetized())
        else:
            self._want_keyframe()

    def _on_end(self, viewer: Viewer) -> None:
        for sender in viewer.peer.senders:
            if sender in self._senders[sender.kind]:
                self._senders[sender.kind].remove(sender)
        for kind, track in self._tracks.items():
            if not self._senders[kind]:
                track.clear()
        if not self._senders["video"]:
            self._group.forget_packets()

    @property
    def _is_watched(self) -> bool:
        return bool(self._senders["video"] or self._senders["audio"])

    def _want_keyframe(self) -> None:
        """Ask for one now, or once the last time was long enough ago."""
        if self._request is None:
            loop = asyncio.get_running_loop()
            self._request = loop.call_at(max(loop.time(), self._requested_s + KEYFRAME_EVERY_S), self._ask)

    def _ask(self) -> None:
        self._request = None
        self._requested_s = asyncio.get_running_loop().time()
        self._request_keyframe()

    # ------------------------------------------------------------------------------------------ media

    def _keep(self, unit: AccessUnit) -> None:
        """A unit has come, whether or not anybody sees it."""
        if unit.codec.kind == "video":
            self._group.add(unit)
            if unit.is_keyframe and unit.codec_config != self._config:
                self._config = unit.codec_config
                self._on_format()

    def _on_format(self) -> None:
        try:
            self._pictures = picture_profile(self._config)
        except (OutputError, RemoteProtocolError) as error:
            log.warning("pictures_for_no_viewer", error=str(error))
            self._pictures = None
        for viewer in tuple(self._viewers):
            if self._pictures is None or not viewer.wanted.takes(self._pictures):
                viewer.end("pictures have another profile now")

    def _show(self, unit: AccessUnit) -> bool:
        """Send a unit to all viewers that want its kind; whether anybody has got it who is in the present."""
        kind = unit.codec.kind
        if not self._senders[kind]:
            return False
        if kind == "audio":
            shared = self._tracks[kind].add([unit.payload], unit.pts_ns, is_keyframe=True)
        elif self._group.is_whole:
            shared = self._group.packetized()[-1]
        else:
            shared = add_picture(self._tracks[kind], unit)
        return any([sender.follow(shared) for sender in tuple(self._senders[kind])])
