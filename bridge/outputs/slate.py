"""The pictures that stand in for the avatar: a card, the last live picture, or the operator's image or clip."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import av
import structlog
from av.error import FFmpegError

from bridge.errors import ConfigError, RemoteProtocolError
from bridge.media.access_unit import AccessUnit
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs.card import Card
from bridge.outputs.slate_coding import FPS, USUAL_FORMAT, PictureFormat, encode
from bridge.outputs.slate_files import clip_pictures, image_picture

# One breath of the card: people at rest take four to five seconds.
BREATH_S = 4.0
# Where keyframes may be further apart than this they are not: a slate is made while viewers wait for it.
LONGEST_GROUP_S = 4.0
_BT709 = 1  # H.264 tables E-3 to E-5

log = structlog.get_logger()


class SlateMaker:
    """Makes slates in the format of the live pictures. Its calls block.

    picture      card: a drawn one that breathes.  last: the last live picture; the card as long as there is none.
                 image, clip: from that file, fitted on a dark, blurred copy of itself. A clip's sound is not heard.
    keyframe_s   how far keyframes may lie apart.
    """

    def __init__(
        self,
        picture: Literal["card", "last", "image", "clip"],
        image: Path | None = None,
        clip: Path | None = None,
        keyframe_s: float = 2.0,
    ) -> None:
        self._picture = picture
        self._image = image
        self._clip = clip
        self._has_made = False
        # Two pictures at least: see SlatePictures.
        self._group_pictures = max(2, int(min(keyframe_s, LONGEST_GROUP_S) * FPS))

    def check(self) -> None:
        """See that the operator's file can be shown. Raises ConfigError that names slate.image or slate.clip."""
        if self._image or self._clip:
            for _ in self._pictures(USUAL_FORMAT, ()):
                pass

    def make(self, like: bytes, last_group: Sequence[AccessUnit]) -> SlatePictures:
        """A slate with the size, profile, constraint flags and level of the live pictures.

        like        their AVCDecoderConfigurationRecord; empty: none has come. Then, and where it cannot be read, they
                    are taken to be `USUAL_FORMAT`.
        last_group  the pictures from the last keyframe on.

        Raises ConfigError when the operator's file cannot be shown; when it could before, the broadcast goes on with
        the card.
        """
        picture_format = _format(like)
        try:
            slate = encode(self._pictures(picture_format, last_group), picture_format, self._group_pictures)
        except ConfigError as error:
            if not self._has_made:
                raise
            log.warning("slate_file_lost", error=str(error))
            return encode(self._card(picture_format), picture_format, self._group_pictures)
        self._has_made = True
        return slate

    def _pictures(self, like: PictureFormat, last_group: Sequence[AccessUnit]) -> Iterator[av.VideoFrame]:
        if self._image:
            still = image_picture(self._image, like.width_px, like.height_px)
            return itertools.repeat(still, self._group_pictures)
        if self._clip:
            return clip_pictures(self._clip, like.width_px, like.height_px)
        if self._picture == "last" and (last := _last_picture(last_group)):
            return itertools.repeat(last.reformat(like.width_px, like.height_px), self._group_pictures)
        return self._card(like)

    def _card(self, like: PictureFormat) -> Iterator[av.VideoFrame]:
        card = Card(like.width_px, like.height_px)
        n_pictures = max(1, round(BREATH_S * FPS / self._group_pictures)) * self._group_pictures
        for number in range(n_pictures):
            picture = av.VideoFrame.from_ndarray(card.picture(number / n_pictures), format="yuv420p")
            picture.colorspace = picture.color_primaries = picture.color_trc = _BT709
            yield picture


def _format(like: bytes) -> PictureFormat:
    try:
        return PictureFormat.of(like) if like else USUAL_FORMAT
    except RemoteProtocolError as error:
        log.warning("live_format_unreadable", error=str(error))
        return USUAL_FORMAT


def _last_picture(group: Sequence[AccessUnit]) -> av.VideoFrame | None:
    """The last picture that can be decoded, unchanged; None if there is none."""
    decoder = av.VideoCodecContext.create("h264", "r")
    decoder.thread_count = 1
    last: av.VideoFrame | None = None
    try:
        for unit in group:
            if unit.codec_config and not decoder.is_open:
                decoder.extradata = unit.codec_config
            last = next(iter(decoder.decode(av.Packet(unit.payload))), last)
        last = next(iter(decoder.decode(None)), last)
    except FFmpegError as error:
        log.warning("last_picture_broken", error=error.strerror)
    return last
