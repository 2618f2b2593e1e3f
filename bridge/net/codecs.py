"""The codecs that aiortc may agree to.

Importing this module widens `aiortc.codecs.CODECS` for the process: aiortc knows H.264 baseline only, in packetization
mode 1, and refuses offers of main and high, which many senders prefer. Nothing is decoded here, so any profile will do.
And it does not say that its Opus decoder uses in-band FEC; ours does, and senders add it only for those that say so.
Of pictures we read when they were captured, which it does not know either (`aiortc.codecs.HEADER_EXTENSIONS`).
"""

import itertools
from collections.abc import Iterable

from aiortc.codecs import CODECS, HEADER_EXTENSIONS, get_capabilities, is_rtx
from aiortc.rtcrtpparameters import (
    RTCRtcpFeedback,
    RTCRtpCodecCapability,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
)

from bridge.media.access_unit import Codec
from bridge.protocols.header_extension import CAPTURE_TIME_URI

PRIVATE_NAMES = (
    "aiortc.codecs:CODECS",
    "aiortc.codecs:HEADER_EXTENSIONS",
    "aiortc.codecs:get_capabilities",
    "aiortc.codecs:is_rtx",
    "aiortc.rtcpeerconnection:is_codec_compatible",
)

# RFC 6184 §8.1: baseline, constrained baseline, main, constrained high, high, all of level 3.1.
H264_PROFILE_LEVEL_IDS = ("42001f", "42e01f", "4d001f", "640c1f", "64001f")
_NAMES = {Codec.PCMU: "PCMU", Codec.PCMA: "PCMA"}  # RFC 3551 §6; others are called as in FFmpeg
PACKETIZATION_MODES = ("1", "0")  # RFC 6184 §6.2 and §6.3


def _register_h264_profiles() -> None:
    codecs = CODECS["video"]
    known = {(c.parameters.get("profile-level-id"), c.parameters.get("packetization-mode")) for c in codecs}
    payload_type = max(c.payloadType or 0 for c in codecs) + 1
    for mode in PACKETIZATION_MODES:
        for profile_level_id in H264_PROFILE_LEVEL_IDS:
            if (profile_level_id, mode) in known:
                continue
            codecs += [
                RTCRtpCodecParameters(
                    mimeType="video/H264",
                    clockRate=90_000,
                    payloadType=payload_type,
                    rtcpFeedback=[
                        RTCRtcpFeedback(type="nack"),
                        RTCRtcpFeedback(type="nack", parameter="pli"),
                        RTCRtcpFeedback(type="goog-remb"),
                    ],
                    parameters={
                        "level-asymmetry-allowed": "1",
                        "packetization-mode": mode,
                        "profile-level-id": profile_level_id,
                    },
                ),
                RTCRtpCodecParameters(
                    mimeType="video/rtx",
                    clockRate=90_000,
                    payloadType=payload_type + 1,
                    parameters={"apt": payload_type},
                ),
            ]
            payload_type += 2


def _announce_opus_fec() -> None:
    for codec in CODECS["audio"]:
        if codec.name.lower() == Codec.OPUS:
            codec.parameters["useinbandfec"] = "1"  # RFC 7587 §6.1


def _register_full_intra_requests() -> None:
    """FIR (RFC 5104 §4.3.1) is agreed on too: a few senders know it and no PLI, and ours answers both."""
    for codec in CODECS["video"]:
        if not is_rtx(codec):
            codec.rtcpFeedback.append(RTCRtcpFeedback(type="ccm", parameter="fir"))


def _register_capture_time() -> None:
    # The numbers are common to all sections of a bundle (RFC 8285 §6).
    identifier = max(extension.id for extensions in HEADER_EXTENSIONS.values() for extension in extensions) + 1
    HEADER_EXTENSIONS["video"].append(RTCRtpHeaderExtensionParameters(id=identifier, uri=CAPTURE_TIME_URI))


_register_h264_profiles()
_register_capture_time()
_register_full_intra_requests()
_announce_opus_fec()


def h264_preferences(
    profile_level_ids: Iterable[str] = H264_PROFILE_LEVEL_IDS, modes: Iterable[str] = PACKETIZATION_MODES
) -> list[RTCRtpCodecCapability]:
    """Codec preferences that allow H.264 of these profiles and modes with retransmission, and nothing else."""
    wanted = set(itertools.product(profile_level_ids, modes))
    return [
        codec
        for codec in get_capabilities("video").codecs
        if is_rtx(codec)
        or (codec.parameters.get("profile-level-id"), codec.parameters.get("packetization-mode")) in wanted
    ]


def preferences(*codecs: Codec) -> list[RTCRtpCodecCapability]:
    """Codec preferences that allow these of one kind with retransmission, and nothing else; not for H.264."""
    names = {codec_name(codec).lower() for codec in codecs}
    return [found for found in get_capabilities(codecs[0].kind).codecs if is_rtx(found) or found.name.lower() in names]


def codec_name(codec: Codec) -> str:
    """What descriptions call it."""
    return _NAMES.get(codec, codec.upper())
