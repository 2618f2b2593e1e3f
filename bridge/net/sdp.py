"""What must be right in a session description before aiortc sees it, and the codecs that aiortc may agree to.

Importing this module widens `aiortc.codecs.CODECS` for the process: aiortc knows H.264 baseline only, in packetization
mode 1, and refuses offers of main and high, which many senders prefer. Nothing is decoded here, so any profile will do.
"""

import re
from collections.abc import Iterable

from aiortc.codecs import CODECS, get_capabilities, is_rtx
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpCodecCapability, RTCRtpCodecParameters
from aiortc.sdp import MediaDescription, SessionDescription

from bridge.errors import RemoteProtocolError

PRIVATE_NAMES = (
    "aiortc.codecs:CODECS",
    "aiortc.codecs:get_capabilities",
    "aiortc.codecs:is_rtx",
    "aiortc.rtcpeerconnection:is_codec_compatible",
    "aiortc.sdp:SessionDescription.parse",
)

# RFC 6184 §8.1: baseline, constrained baseline, main, constrained high, high, all of level 3.1.
H264_PROFILE_LEVEL_IDS = ("42001f", "42e01f", "4d001f", "640c1f", "64001f")
# Descriptions of ten tracks with thirty codecs each stay below 32 KiB.
MAX_SDP_BYTES = 128 * 1024

# Everything that aiortc's parser is seen to raise on garbage.
_PARSER_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
# mDNS names need multicast on every interface to resolve, and a peer that hides behind one can reach us first. End of
# candidates would let ICE give up before such a peer-reflexive pair has formed; a deadline of our own ends it instead.
_UNUSED_LINES = re.compile(
    r"^a=(?:end-of-candidates|candidate:\S+ \d+ \S+ \d+ \S+\.local\b.*)\r?\n?", re.MULTILINE | re.IGNORECASE
)


def _register_h264_profiles() -> None:
    codecs = CODECS["video"]
    known = {(c.parameters.get("profile-level-id"), c.parameters.get("packetization-mode")) for c in codecs}
    payload_type = max(c.payloadType or 0 for c in codecs) + 1
    for mode in ("1", "0"):
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


_register_h264_profiles()


def h264_preferences(profile_level_ids: Iterable[str] = H264_PROFILE_LEVEL_IDS) -> list[RTCRtpCodecCapability]:
    """Codec preferences that allow H.264 of these profiles with retransmission, and nothing else."""
    wanted = set(profile_level_ids)
    return [
        codec
        for codec in get_capabilities("video").codecs
        if is_rtx(codec) or codec.parameters.get("profile-level-id") in wanted
    ]


def opus_preferences() -> list[RTCRtpCodecCapability]:
    """Codec preferences that allow Opus and nothing else."""
    return [codec for codec in get_capabilities("audio").codecs if codec.name.lower() == "opus"]


def parse_description(sdp: str, what: str) -> tuple[str, SessionDescription]:
    """A description without the lines we do not use, as text and parsed; `what` names it in errors.

    Raises RemoteProtocolError when it cannot be parsed or lacks what WebRTC needs (RFC 8829): ICE credentials, a DTLS
    fingerprint and RTCP multiplexing in every section.
    """
    if len(sdp) > MAX_SDP_BYTES:
        raise RemoteProtocolError(f"the {what} has {len(sdp)} bytes, {MAX_SDP_BYTES} are allowed")
    text = _UNUSED_LINES.sub("", sdp)
    try:
        description = SessionDescription.parse(text)
    except _PARSER_ERRORS as error:
        raise RemoteProtocolError(f"the {what} is not a session description aiortc can read: {error!r}") from error
    if not description.media:
        raise RemoteProtocolError(f"the {what} has no media section")
    for media in description.media:
        if media.kind not in ("audio", "video", "application"):
            raise RemoteProtocolError(f"the {what} has a media section {media.kind!r}, which cannot be answered")
        if media.ice is None or not (media.ice.usernameFragment and media.ice.password):
            raise RemoteProtocolError(f"the {what} has no ICE credentials for {media.kind}")
        if media.dtls is None or not media.dtls.fingerprints:
            raise RemoteProtocolError(f"the {what} has no DTLS fingerprint for {media.kind}")
        if media.kind != "application" and not media.rtcp_mux:
            raise RemoteProtocolError(f"the {what} does not multiplex RTCP for {media.kind}")
    return text, description


def bundle_primary_mid(description: SessionDescription) -> str | None:
    """The section whose transport carries all others (RFC 9143 §7.3), None without BUNDLE."""
    for group in description.group:
        if group.semantic == "BUNDLE" and group.items:
            return str(group.items[0])
    return None


def offered_codecs(media: MediaDescription) -> list[str]:
    """Codec names of a section, as offered, each once, retransmission and redundancy left out."""
    names = [
        codec.name for codec in media.rtp.codecs if codec.name.lower() not in ("rtx", "red", "ulpfec", "flexfec-03")
    ]
    return list(dict.fromkeys(names))
