"""The pictures that stand in for the avatar: a card, the last live picture, or the operator's image or clip."""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av
import structlog
from av.error import FFmpegError

from bridge.errors import ConfigError, RemoteProtocolError
from bridge.media.access_unit import AccessUnit
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs.card import Card
from bridge.outputs.picture_decoder import open_decoder
from bridge.outputs.slate_coding import FPS, USUAL_FORMAT, PictureFormat, encode
from bridge.outputs.slate_files import clip_pictures, image_picture

# One breath of the card: people at rest take four to five seconds.
BREATH_S = 4.0
# Where keyframes may be further apart than this they are not: a slate is made while viewers wait for it.
LONGEST_GROUP_S = 4.0
# Sessions whose pictures are alike show the same card: it takes up to a second of CPU, and a few hundred kilobytes.
# Drawn anew for each of twenty sessions that start together, it starved their sound.
_CARDS_KEPT = 8
_BT709 = 1  # H.264 tables E-3 to E-5

log = structlog.get_logger()


class SlateMaker:
    """Makes slates in the format of the live pictures. Its calls block.

    picture      card: a drawn one that breathes.  last: the last live picture; the card as long as there is none.
                 image, clip: from that file, fitted on a dark, blurred copy of itself. A clip's sound is not heard.
    keyframe_s   how far keyframes may lie apart.
    is_coming    the clip's file may not be there yet: until then it is the card.
    """

    def __init__(
        self,
        picture: Literal["card", "last", "image", "clip"],
        image: Path | None = None,
        clip: Path | None = None,
        keyframe_s: float = 2.0,
        *,
        is_coming: bool = False,
    ) -> None:
        self._picture = picture
        self._image = image
        self._clip = clip
        self._is_coming = is_coming
        self._has_made = False
        # Two pictures at least: see SlatePictures.
        self._group_pictures = max(2, int(min(keyframe_s, LONGEST_GROUP_S) * FPS))

    def check(self) -> None:
        """See that the operator's file can be shown. Raises ConfigError that names slate.image or slate.clip."""
        for _ in self._pictures(USUAL_FORMAT, ()) or ():
            pass

    def make(self, like: AccessUnit | None, last_group: Sequence[AccessUnit]) -> SlatePictures:
        """A slate with the size, profile, constraint flags and level of the live pictures, or of VP8 the size.

        like        a keyframe of theirs; None: none has come. Then, and where it cannot be read, they are taken to be
                    `USUAL_FORMAT`.
        last_group  the pictures from the last keyframe on.

        Raises ConfigError when the operator's file cannot be shown; when it could before, the broadcast goes on with
        the card.
        """
        picture_format = _format(like)
        try:
            if pictures := self._pictures(picture_format, last_group):
                slate = encode(pictures, picture_format, self._group_pictures)
            else:
                slate = _card(picture_format, self._group_pictures)
        except ConfigError as error:
            if not self._has_made:
                raise
            log.warning("slate_file_lost", error=str(error))
            return _card(picture_format, self._group_pictures)
        self._has_made = True
        return slate

    def _pictures(self, like: PictureFormat, last_group: Sequence[AccessUnit]) -> Iterator[av.VideoFrame] | None:
        """Those of the operator's file, or the last live one; None: it is the card."""
        if self._image:
            still = image_picture(self._image, like.width_px, like.height_px)
            return itertools.repeat(still, self._group_pictures)
        if self._clip and self._has_clip:
            return clip_pictures(self._clip, like.width_px, like.height_px)
        if self._picture == "last" and (last := _last_picture(last_group)):
            return itertools.repeat(last.reformat(like.width_px, like.height_px), self._group_pictures)
        return None

    @property
    def _has_clip(self) -> bool:
        return self._clip is not None and (not self._is_coming or self._clip.exists())


@lru_cache(_CARDS_KEPT)
def _card(like: PictureFormat, group_pictures: int) -> SlatePictures:
    card = Card(like.width_px, like.height_px)
    n_pictures = max(1, round(BREATH_S * FPS / group_pictures)) * group_pictures
    return encode(_breath(card, n_pictures), like, group_pictures)


def _breath(card: Card, n_pictures: int) -> Iterator[av.VideoFrame]:
    for number in range(n_pictures):
        picture = av.VideoFrame.from_ndarray(card.picture(number / n_pictures), format="yuv420p")
        picture.colorspace = picture.color_primaries = picture.color_trc = _BT709
        yield picture


def _format(like: AccessUnit | None) -> PictureFormat:
    try:
        return PictureFormat.of(like) if like else USUAL_FORMAT
    except RemoteProtocolError as error:
        log.warning("live_format_unreadable", error=str(error))
        return USUAL_FORMAT


def _last_picture(group: Sequence[AccessUnit]) -> av.VideoFrame | None:
    """The last picture that can be decoded, unchanged; None if there is none."""
    if not group:
        return None
    decoder = open_decoder(group[0])
    last: av.VideoFrame | None = None
    try:
        for unit in group:
            last = next(iter(decoder.decode(av.Packet(unit.payload))), last)
        last = next(iter(decoder.decode(None)), last)
    except FFmpegError as error:
        log.warning("last_picture_broken", error=error.strerror)
    return last
