"""Decoders of pictures as they are received."""

import av
from av.codec.context import Flags

from bridge.media.access_unit import AccessUnit


def open_decoder(keyframe: AccessUnit) -> av.VideoCodecContext:
    """One for this keyframe and what refers to it; none of its pictures is held back."""
    decoder = av.VideoCodecContext.create(keyframe.codec.value, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    decoder.flags |= Flags.low_delay
    if keyframe.codec_config:
        decoder.extradata = keyframe.codec_config
    return decoder
