"""FLV tag bodies, which are RTMP message payloads as well (Adobe, "Video File Format Specification", version 10.1).

Composition time is 0 throughout: there are no B-pictures, so decoding time is presentation time.
"""

from typing import Literal, NamedTuple

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Kind
from bridge.media.clock import NS_PER_MS
from bridge.media.h264 import parameter_sets, parse_sps
from bridge.protocols import amf

# Annex E.4.3.1: frame type in the high nibble (1 key, 2 inter), codec 7 = AVC in the low one.
_KEY_AVC = 0x17
_INTER_AVC = 0x27
# E.4.2.1: format 10 = AAC; rate, size and type bits are fixed to 44 kHz, 16 bits, stereo whatever the coded sound is.
_AAC = 0xAF
_SEQUENCE_HEADER = 0
_CODED = 1
_COMPOSITION_TIME_0 = bytes(3)

_KEYFRAME_HEADER = bytes([_KEY_AVC, _CODED]) + _COMPOSITION_TIME_0
_INTER_HEADER = bytes([_INTER_AVC, _CODED]) + _COMPOSITION_TIME_0
_AAC_HEADER = bytes([_AAC, _CODED])


def avc_sequence_header(codec_config: bytes) -> bytes:
    """What an H.264 decoder needs first; takes an AVCDecoderConfigurationRecord."""
    return bytes([_KEY_AVC, _SEQUENCE_HEADER]) + _COMPOSITION_TIME_0 + codec_config


def avc_picture(payload: bytes, *, is_keyframe: bool) -> bytes:
    """One picture; takes NAL units behind 4-byte lengths."""
    return (_KEYFRAME_HEADER if is_keyframe else _INTER_HEADER) + payload


def aac_sequence_header(codec_config: bytes) -> bytes:
    """What an AAC decoder needs first; takes an AudioSpecificConfig."""
    return bytes([_AAC, _SEQUENCE_HEADER]) + codec_config


def aac_frame(payload: bytes) -> bytes:
    """One raw AAC frame, without ADTS."""
    return _AAC_HEADER + payload


def metadata(codec_config: bytes) -> bytes:
    """The onMetaData script tag of H.264 with AAC, with the picture size read from the AVC configuration (E.5).

    Raises RemoteProtocolError if the configuration holds no readable SPS.
    """
    sequence_sets, _ = parameter_sets(codec_config)
    if not sequence_sets:
        raise RemoteProtocolError("AVC configuration holds no sequence parameter set")
    picture = parse_sps(sequence_sets[0])
    return amf.encode(
        "onMetaData",
        amf.EcmaArray(
            duration=0.0,
            width=float(picture.width_px),
            height=float(picture.height_px),
            videocodecid=7.0,
            audiocodecid=10.0,
            encoder="avatar-bridge",
        ),
    )


class Tag(NamedTuple):
    """One tag. timestamp_ms grows without end; whoever writes it puts it on the 2**32 circle."""

    kind: Kind | Literal["script"]
    timestamp_ms: int
    body: bytes


class TagSequence:
    """Access units of one connection in, tags out.

    Time runs from the first keyframe, which gets `first_timestamp_ms`; what comes before it, or lies before it, is
    dropped. Timestamps increase strictly per track. Sequence headers go out when a configuration changes and only
    then, metadata when the picture size does.
    """

    def __init__(self, first_timestamp_ms: int = 0) -> None:
        self._first_timestamp_ms = first_timestamp_ms
        self._origin_ns: int | None = None
        self._last_ms: dict[Kind, int] = {}
        self._codec_config: dict[Kind, bytes] = {}
        self._metadata = b""

    def tags(self, unit: AccessUnit) -> list[Tag]:
        """The tags of one H.264 or AAC unit, headers first; none if it is dropped."""
        kind = unit.codec.kind
        if self._origin_ns is None:
            if kind == "audio" or not unit.is_keyframe:
                return []
            self._origin_ns = unit.pts_ns
        if unit.pts_ns < self._origin_ns:
            return []
        # Absolute conversion, to the nearest: the error never adds up (RTMP has no finer unit).
        elapsed_ms = (unit.pts_ns - self._origin_ns + NS_PER_MS // 2) // NS_PER_MS
        timestamp_ms = max(self._first_timestamp_ms + elapsed_ms, self._last_ms.get(kind, -1) + 1)
        self._last_ms[kind] = timestamp_ms
        headers = self._headers(unit, timestamp_ms)
        if kind == "video":
            body = avc_picture(unit.payload, is_keyframe=unit.is_keyframe)
        else:
            body = aac_frame(unit.payload)
        return [*headers, Tag(kind, timestamp_ms, body)]

    def _headers(self, unit: AccessUnit, timestamp_ms: int) -> list[Tag]:
        kind, codec_config = unit.codec.kind, unit.codec_config
        if not codec_config or codec_config == self._codec_config.get(kind):
            return []
        self._codec_config[kind] = codec_config
        if kind == "audio":
            return [Tag(kind, timestamp_ms, aac_sequence_header(codec_config))]
        header = Tag(kind, timestamp_ms, avc_sequence_header(codec_config))
        # An encoder may number its parameter sets anew at each keyframe: nothing there that metadata says has changed.
        described = metadata(codec_config)
        if described == self._metadata:
            return [header]
        self._metadata = described
        return [Tag("script", timestamp_ms, described), header]
