"""What must be right in a session description before aiortc sees it, and the codecs that aiortc may agree to.

Importing this module widens `aiortc.codecs.CODECS` for the process: aiortc knows H.264 baseline only, in packetization
mode 1, and refuses offers of main and high, which many senders prefer. Nothing is decoded here, so any profile will do.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiortc import RTCIceCandidate
from aiortc.codecs import CODECS, get_capabilities, is_rtx
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpCodecCapability, RTCRtpCodecParameters
from aiortc.sdp import MediaDescription, SessionDescription, candidate_from_sdp

from bridge.errors import RemoteProtocolError

PRIVATE_NAMES = (
    "aiortc.codecs:CODECS",
    "aiortc.codecs:get_capabilities",
    "aiortc.codecs:is_rtx",
    "aiortc.rtcpeerconnection:is_codec_compatible",
    "aiortc.sdp:SessionDescription.parse",
    "aiortc.sdp:candidate_from_sdp",
)

# RFC 6184 §8.1: baseline, constrained baseline, main, constrained high, high, all of level 3.1.
H264_PROFILE_LEVEL_IDS = ("42001f", "42e01f", "4d001f", "640c1f", "64001f")
# Descriptions of ten tracks with thirty codecs each stay below 32 KiB.
MAX_SDP_BYTES = 128 * 1024

# Everything that aiortc is seen to raise on descriptions that are no good.
AIORTC_SDP_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
# End of candidates would let ICE give up before a peer-reflexive pair has formed; a deadline of ours ends it instead.
_CANDIDATE_LINES = re.compile(r"^a=(?:end-of-candidates|candidate:).*\n?", re.MULTILINE)
_MID = re.compile(r"[!-~]+")  # RFC 5888 §4: a token


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


@dataclass(frozen=True, slots=True)
class Description:
    """A session description that has passed our checks.

    text        the description without candidates: aiortc would keep those of the last bundled section only, and use
                them unchecked.
    session     the same, parsed.
    candidates  what was taken out, each with the mid and the index of its section.
    """

    text: str
    session: SessionDescription
    candidates: list[tuple[RTCIceCandidate, str, int]]

    @property
    def bundle_mid(self) -> str | None:
        """The section whose transport carries all others (RFC 9143 §7.3), None without BUNDLE."""
        for group in self.session.group:
            if group.semantic == "BUNDLE" and group.items:
                return str(group.items[0])
        return None


def parse_description(sdp: str, what: str) -> Description:
    """Read a description; `what` names it in errors.

    Raises RemoteProtocolError when it cannot be parsed or lacks what WebRTC needs (RFC 8829): in every section a mid
    of its own, ICE credentials, a DTLS fingerprint and RTCP multiplexing.
    """
    if len(sdp) > MAX_SDP_BYTES:
        raise RemoteProtocolError(f"the {what} has {len(sdp)} bytes, {MAX_SDP_BYTES} are allowed")
    # One kind of line end: aiortc splits at characters that are none in SDP.
    text = "".join(f"{line}\r\n" for line in sdp.splitlines())
    try:
        session = SessionDescription.parse(text)
    except AIORTC_SDP_ERRORS as error:
        raise RemoteProtocolError(f"the {what} is not a session description aiortc can read: {error!r}") from error
    if not session.media:
        raise RemoteProtocolError(f"the {what} has no media section")
    mids = [media.rtp.muxId for media in session.media]
    if len(set(mids)) < len(mids) or not all(_MID.fullmatch(mid or "") for mid in mids):
        raise RemoteProtocolError(f"the {what} has sections without a mid of their own: {mids}")
    if [media.kind for media in session.media].count("application") > 1:
        raise RemoteProtocolError(f"the {what} has more than one section for data channels")
    candidates = []
    for index, media in enumerate(session.media):
        if media.kind not in ("audio", "video", "application"):
            raise RemoteProtocolError(f"the {what} has a media section {media.kind!r}, which cannot be answered")
        if media.ice is None or not (media.ice.usernameFragment and media.ice.password):
            raise RemoteProtocolError(f"the {what} has no ICE credentials for {media.kind}")
        if media.dtls is None or not media.dtls.fingerprints:
            raise RemoteProtocolError(f"the {what} has no DTLS fingerprint for {media.kind}")
        if media.kind != "application" and not media.rtcp_mux:
            raise RemoteProtocolError(f"the {what} does not multiplex RTCP for {media.kind}")
        candidates += [(candidate, media.rtp.muxId, index) for candidate in media.ice_candidates]
    description = Description(_spell_out(text, session), session, candidates)
    if description.bundle_mid not in (None, *mids):
        raise RemoteProtocolError(
            f"the {what} bundles its sections with {description.bundle_mid!r}, which is none of them"
        )
    return description


def _spell_out(sdp: str, session: SessionDescription) -> str:
    """The text without candidates, with the direction that a section leaves to its default: aiortc knows none."""
    head, *sections = re.split(r"^(?=m=)", _CANDIDATE_LINES.sub("", sdp), flags=re.MULTILINE)
    for index, media in enumerate(session.media):
        if media.direction is None:
            sections[index] += "a=sendrecv\r\n"  # RFC 8866 §6.7
    return head + "".join(sections)


def parse_candidate(line: str) -> RTCIceCandidate | None:
    """The value of a candidate attribute (RFC 8839 §5.1), with or without its name; None when it is malformed."""
    try:
        return candidate_from_sdp(line.strip().removeprefix("a=").removeprefix("candidate:"))
    except (AssertionError, IndexError, ValueError):
        return None


def is_usable(candidate: RTCIceCandidate) -> bool:
    """Whether ICE may try a candidate: UDP, RTP's component, an address that can be sent to.

    A multicast DNS name (`….local`) is none: resolving it takes multicast on every interface, and a peer that hides
    behind one can reach us first.
    """
    try:
        ipaddress.ip_address(candidate.ip)
    except ValueError:
        return False
    return candidate.component == 1 and candidate.protocol.lower() == "udp" and 0 < candidate.port < 65536


def offered_codecs(media: MediaDescription) -> list[str]:
    """Codec names of a section, as offered, each once, retransmission and redundancy left out."""
    names = [
        codec.name for codec in media.rtp.codecs if codec.name.lower() not in ("rtx", "red", "ulpfec", "flexfec-03")
    ]
    return list(dict.fromkeys(names))
