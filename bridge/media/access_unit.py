"""Coded pictures and sound, on the sender's clock and on session time."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, Self

from bridge.media.clock import G711_RATE_HZ, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ

Kind = Literal["audio", "video"]


class Codec(StrEnum):
    """Codings that flow through the bridge; the values are FFmpeg's names.

    rtp_clock_hz  what RTP timestamps count; 0: never on RTP here.
    """

    # Asked of every unit at every stage: looked up, not computed.
    kind: Kind
    rtp_clock_hz: int

    H264 = "h264", "video", VIDEO_CLOCK_HZ
    VP8 = "vp8", "video", VIDEO_CLOCK_HZ
    OPUS = "opus", "audio", OPUS_CLOCK_HZ
    PCMU = "pcm_mulaw", "audio", G711_RATE_HZ
    PCMA = "pcm_alaw", "audio", G711_RATE_HZ
    AAC = "aac", "audio", 0

    # Kind and clock are always given; mypy takes looking up for making.
    def __new__(cls, name: str, kind: Kind = "video", rtp_clock_hz: int = 0) -> Self:
        codec = str.__new__(cls, name)
        codec._value_, codec.kind, codec.rtp_clock_hz = name, kind, rtp_clock_hz
        return codec


class CaptureTime(NamedTuple):
    """When a picture was captured, as far as its sender tells (`timeline.capture`).

    at_ns  `time.monotonic_ns`.
    basis  capture: the sender has stamped the picture (abs-capture-time). sender_report: only its RTP timestamp tells,
           which many senders take when a picture is coded.
    """

    at_ns: int
    basis: Literal["capture", "sender_report"]


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture, or one coded audio packet, placed on session time.

    payload           H.264: NAL units, each behind its length in 4 bytes (AVCC), without SPS and PPS when they
                      stand in `codec_config`. VP8: one frame (RFC 6386). Opus: one packet (RFC 6716). G.711: a byte
                      for each sample. AAC: one raw frame.
    pts_ns            presentation time since the session began; strictly increasing per track. There are no
                      B-pictures, so it is the decoding time too.
    duration_ns       audio: exact. Video: 0, for it is only known when the next picture comes.
    is_keyframe       decodable without history. Audio: always true.
    codec_config      what a decoder needs before this unit: AVCDecoderConfigurationRecord (ISO 14496-15 §5.3.3) on
                      every H.264 keyframe, AudioSpecificConfig on every AAC unit, empty for Opus and other pictures.
    arrival_ns        `time.monotonic_ns` at which the last packet of the unit was received: added latency starts here.
    is_discontinuity  units were lost between this one and the one before, or its track has moved on session time.
    lost_ns           audio: how much sound was lost right before this unit. What a sender does not send (DTX) is no
                      loss.
    captured          where a picture's glass-to-glass latency starts; None: not known, or nobody has captured it.
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
    captured: CaptureTime | None = None


@dataclass(frozen=True, slots=True)
class ReceivedUnit:
    """One coded picture or audio packet as the sender timed it. Fields as in `AccessUnit`.

    rtp_ticks         the unit's RTP timestamp, unwrapped (`media.rtp.RtpUnwrapper`).
    first_arrival_ns  when the first packet of the unit was received; `arrival_ns` is the last one.
    captured_ntp_ns   when it was captured, on the sender's NTP clock, if it has said so with this unit; else 0.
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
    captured_ntp_ns: int = 0

    def at(self, pts_ns: int, captured: CaptureTime | None = None, *, has_moved: bool = False) -> AccessUnit:
        """The same unit, placed on session time; `has_moved`: it does not continue what was placed before."""
        return AccessUnit(
            self.codec,
            self.payload,
            pts_ns,
            self.duration_ns,
            self.is_keyframe,
            self.codec_config,
            self.arrival_ns,
            self.is_discontinuity or has_moved,
            self.lost_ns,
            captured,
        )
