"""The pictures from the last keyframe on, which a viewer that comes now begins with."""

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import with_parameter_sets
from bridge.net.packetize import packetize_h264
from bridge.net.shared_track import SharedTrack, SharedUnit

# Twice the distance of keyframes that outputs ask for by default. A viewer whose last keyframe is further away waits
# for the next one: what is sent to it at once, at eight times the stream's rate, has to pass its path.
MAX_GROUP_NS = 4 * NS_PER_S
# The same at 16 Mb/s, more than any avatar sends.
MAX_GROUP_BYTES = 8 << 20


class LastGroup:
    """Keeps pictures as they come, and packetizes them for a track once somebody wants them.

    is_whole  whether there has been a keyframe, and the last one is not too long ago.
    """

    def __init__(self, track: SharedTrack) -> None:
        self._track = track
        self._pictures: list[AccessUnit] = []
        self._packetized: list[SharedUnit] = []
        self._n_bytes = 0

    @property
    def is_whole(self) -> bool:
        return bool(self._pictures)

    def add(self, picture: AccessUnit) -> None:
        if picture.is_keyframe:
            self._clear()
        elif not self._pictures:
            return
        self._pictures.append(picture)
        self._n_bytes += len(picture.payload)
        if self._n_bytes > MAX_GROUP_BYTES or picture.pts_ns - self._pictures[0].pts_ns > MAX_GROUP_NS:
            self._clear()

    def packetized(self) -> list[SharedUnit]:
        """All of them, numbered in their order."""
        for picture in self._pictures[len(self._packetized) :]:
            self._packetized.append(add_picture(self._track, picture))
        return self._packetized

    def forget_packets(self) -> None:
        """Nobody wants them any more."""
        self._packetized = []

    def _clear(self) -> None:
        self._pictures, self._packetized, self._n_bytes = [], [], 0


def add_picture(track: SharedTrack, picture: AccessUnit) -> SharedUnit:
    """Packetize a picture, parameter sets in band before a keyframe, as the newest of a track."""
    payloads = packetize_h264(with_parameter_sets(picture.payload, picture.codec_config))
    return track.add(payloads, picture.pts_ns, is_keyframe=picture.is_keyframe)
