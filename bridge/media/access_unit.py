"""Coded pictures and sound, on the sender's clock and on session time."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

Kind = Literal["audio", "video"]


class Codec(StrEnum):
    """Codings that flow through the bridge; the values are FFmpeg's names."""

    # Asked of every unit at every stage: looked up, not computed.
    kind: Kind

    H264 = "h264", "video"
    VP8 = "vp8", "video"
    OPUS = "opus", "audio"
    AAC = "aac", "audio"

    def __new__(cls, name: str, kind: Kind = "video") -> Self:  # always given; mypy takes looking up for making
        codec = str.__new__(cls, name)
        codec._value_, codec.kind = name, kind
        return codec


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture, or one coded audio packet, placed on session time.

    payload           H.264: NAL units, each behind its length in 4 bytes (AVCC), without SPS and PPS when they
                      stand in `codec_config`. VP8: one frame (RFC 6386). Opus: one packet (RFC 6716). AAC: one raw
                      frame.
    pts_ns            presentation time since the session began; strictly increasing per track. There are no
                      B-pictures, so it is the decoding time too.
    duration_ns       audio: exact. Video: 0, for it is only known when the next picture comes.
    is_keyframe       decodable without history. Audio: always true.
    codec_config      what a decoder needs before this unit: AVCDecoderConfigurationRecord (ISO 14496-15 §5.3.3) on
                      every H.264 keyframe, AudioSpecificConfig on every AAC unit, empty for Opus and other pictures.
    arrival_ns        `time.monotonic_ns` at which the last packet of the unit was received: added latency starts here.
    is_discontinuity  units were lost between this one and the one before.
    lost_ns           audio: how much sound was lost right before this unit. What a sender does not send (DTX) is no
                      loss.
    """

    codec: Codec
    payload: bytes
    pts_ns: int
    duration_ns: int = 0
    is_keyframe: bool = True
    codec_config: bytes = b""
    arrival_ns: int = 0
    is_discontinuity: bool = False
    lost_ns: int = 0


@dataclass(frozen=True, slots=True)
class ReceivedUnit:
    """One coded picture or audio packet as the sender timed it. Fields as in `AccessUnit`.

    rtp_ticks         the unit's RTP timestamp, unwrapped (`media.rtp.RtpUnwrapper`).
    first_arrival_ns  when the first packet of the unit was received; `arrival_ns` is the last one.
    """

    codec: Codec
    payload: bytes
    rtp_ticks: int
    duration_ns: int
    is_keyframe: bool
    codec_config: bytes
    first_arrival_ns: int
    arrival_ns: int
    is_discontinuity: bool = False
    lost_ns: int = 0

    def at(self, pts_ns: int) -> AccessUnit:
        """The same unit, placed on session time."""
        return AccessUnit(
            self.codec,
            self.payload,
            pts_ns,
            self.duration_ns,
            self.is_keyframe,
            self.codec_config,
            self.arrival_ns,
            self.is_discontinuity,
            self.lost_ns,
        )
