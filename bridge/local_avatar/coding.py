"""The avatar's encoders: x264 and libvpx as WebRTC senders run them, Opus stamped by its input."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from bridge.errors import InternalError
from bridge.local_avatar.drawing import Canvas
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_S
from bridge.media.h264 import (
    NAL_IDR,
    NAL_PPS,
    NAL_SLICE,
    NAL_SPS,
    decoder_configuration,
    join_avcc,
    nal_type,
    split_annexb,
)

Profile = Literal["baseline", "main", "high"]

PACKET_SAMPLES = AVATAR_RATE_HZ // 50  # 20 ms, what WebRTC senders use
PACKET_NS = NS_PER_S // 50
_SOUND_BITS_PER_S = 64_000
_NEVER = 1 << 30  # pictures: more than a year of them


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """Payload and `codec_config` as in `AccessUnit`."""

    payload: bytes
    is_keyframe: bool
    codec_config: bytes = b""


class PictureEncoder(Protocol):
    """Codes pictures as they come, none held back and none referring to a later one.

    Keyframes are the first picture and those asked for; none comes by itself.
    """

    def encode(self, canvas: Canvas, index: int, *, keyframe: bool) -> CodedPicture:
        """Picture number `index`; numbers grow."""
        ...


class H264Encoder:
    """A `PictureEncoder` for H.264."""

    def __init__(self, width_px: int, height_px: int, fps: int, profile: Profile, bits_per_s: int) -> None:
        self._encoder = encoder = av.VideoCodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
        encoder.bit_rate = bits_per_s
        encoder.thread_count = 1
        encoder.profile = profile.capitalize()
        encoder.color_primaries = encoder.color_trc = encoder.colorspace = 1  # BT.709 (H.264 tables E-3 to E-5)
        encoder.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": profile,
            "forced-idr": "1",
            # Half a second of buffer: a keyframe may be several times an average picture, but not a second's worth.
            "maxrate": str(bits_per_s),
            "bufsize": str(bits_per_s // 2),
            "x264-params": "keyint=infinite:scenecut=0:open-gop=0:slices=1",
        }

    def encode(self, canvas: Canvas, index: int, *, keyframe: bool) -> CodedPicture:
        frame = _frame(canvas, index, keyframe=keyframe)
        nals = [nal for packet in self._encoder.encode(frame) for nal in split_annexb(bytes(packet))]
        slices = [nal for nal in nals if nal_type(nal) in (NAL_SLICE, NAL_IDR)]
        if not slices:
            raise InternalError("x264 held a picture back")
        sps = [nal for nal in nals if nal_type(nal) == NAL_SPS]
        pps = [nal for nal in nals if nal_type(nal) == NAL_PPS]
        config = decoder_configuration(sps[0], pps[0]) if sps and pps else b""
        return CodedPicture(join_avcc(slices), bool(config), config)


class Vp8Encoder:
    """A `PictureEncoder` for VP8. Its header can only say BT.601 (RFC 6386 §9.2): hues are a little off."""

    def __init__(self, width_px: int, height_px: int, fps: int, bits_per_s: int) -> None:
        self._encoder = encoder = av.VideoCodecContext.create("libvpx", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
        encoder.bit_rate = bits_per_s
        encoder.thread_count = 1
        # libvpx makes no keyframe by itself when the least and the greatest distance between two are the same.
        encoder.gop_size = _NEVER
        encoder.options = {
            "keyint_min": str(_NEVER),
            "deadline": "realtime",
            # Positive speeds follow the load of the machine; this one is fixed, 4.5 ms for a picture of 720x1280.
            "cpu-used": "-12",
            "lag-in-frames": "0",
            "auto-alt-ref": "0",
            "error-resilient": "0",
            "minrate": str(bits_per_s),
            "maxrate": str(bits_per_s),
            "bufsize": str(bits_per_s // 2),
        }

    def encode(self, canvas: Canvas, index: int, *, keyframe: bool) -> CodedPicture:
        packets = self._encoder.encode(_frame(canvas, index, keyframe=keyframe))
        if len(packets) != 1:
            raise InternalError(f"libvpx made {len(packets)} frames of one picture")
        return CodedPicture(bytes(packets[0]), packets[0].is_keyframe)


def _frame(canvas: Canvas, index: int, *, keyframe: bool) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(canvas.data, format="yuv420p")
    frame.pts = index
    frame.pict_type = PictureType.I if keyframe else PictureType.NONE
    return frame


class SoundEncoder:
    """Opus, one packet for every 20 ms. A packet's time is that of its first input sample, as WebRTC senders count.

    expected_loss_percent  of the packets; above 0 each packet may hold the one before it again (in-band FEC), as those
                           of WebRTC senders do when they are told of losses.
    """

    def __init__(self, expected_loss_percent: int = 0) -> None:
        # libopus takes 24 kHz as it is (RFC 6716 §2.1.3: super-wideband), so no resampler shifts the sound.
        self._encoder = encoder = av.AudioCodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.format, encoder.layout = AVATAR_RATE_HZ, "s16", "mono"
        encoder.bit_rate = _SOUND_BITS_PER_S
        encoder.options = {"application": "audio", "frame_duration": "20", "vbr": "on"}
        if expected_loss_percent:
            # Speech, as browsers code it: only SILK has FEC, and libopus takes it for speech at this rate.
            encoder.options |= {"application": "voip", "fec": "1", "packet_loss": str(expected_loss_percent)}

    def encode(self, pcm: NDArray[np.int16], index: int) -> bytes:
        """Packet number `index`, from its `PACKET_SAMPLES` samples."""
        frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts = AVATAR_RATE_HZ, index * PACKET_SAMPLES
        packets = self._encoder.encode(frame)
        if len(packets) != 1:
            raise InternalError(f"libopus made {len(packets)} packets of 20 ms of sound")
        return bytes(packets[0])
