"""What must be right in a session description before aiortc sees it, and what aiortc's own ones lack."""

import ipaddress
import re
from dataclasses import dataclass

from aiortc import RTCIceCandidate
from aiortc.sdp import DTLS_ROLE_SETUP, MediaDescription, SessionDescription, candidate_from_sdp

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import Kind

PRIVATE_NAMES = (
    "aiortc.sdp:DTLS_ROLE_SETUP",
    "aiortc.sdp:SessionDescription.parse",
    "aiortc.sdp:candidate_from_sdp",
)

# Descriptions of ten tracks with thirty codecs each stay below 32 KiB.
MAX_SDP_BYTES = 128 * 1024

# Everything that aiortc is seen to raise on descriptions that are no good.
AIORTC_SDP_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
# End of candidates would let ICE give up before a peer-reflexive pair has formed; a deadline of ours ends it instead.
_CANDIDATE_LINES = re.compile(r"^a=(?:end-of-candidates|candidate:).*\n?", re.MULTILINE)
_MID = re.compile(r"[!-~]+")  # RFC 5888 §4: a token
_BUNDLE_LINE = re.compile(r"^a=group:BUNDLE.*\r\n", re.MULTILINE)
_DEFAULT_DESTINATION = re.compile(r"^(m=\w+) \d+ (.*\r\n)c=.*\r\n", re.MULTILINE)
# Stands in for a section that is rejected (port 0), which aiortc does not know: nothing flows in it.
_IDLE_FORMATS = {
    "audio": "UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n",
    "video": "UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n",
    "application": "UDP/DTLS/SCTP webrtc-datachannel\r\na=sctp-port:5000\r\n",
}


def unusable(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, reason="media")


@dataclass(frozen=True, slots=True)
class Description:
    """A session description that has passed our checks.

    text        the description spelled out for aiortc. Without candidates: aiortc would keep those of the last bundled
                section only, and use them unchecked. With rejected sections as idle ones.
    session     the same, parsed.
    candidates  what was taken out, each with the mid and the index of its section.
    bundle      mids of the sections that share a transport, the one that stands for it first (RFC 9143 §7.3).
    rejected    mids of the sections that are not in use (port 0, RFC 3264 §6 and §8.2).
    """

    text: str
    session: SessionDescription
    candidates: list[tuple[RTCIceCandidate, str, int]]
    bundle: tuple[str, ...]
    rejected: frozenset[str]

    @property
    def bundle_mid(self) -> str | None:
        """The section whose transport carries all others of the bundle, None without BUNDLE."""
        return self.bundle[0] if self.bundle else None

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Mid and kind of each section, rejected ones included."""
        return [(media.rtp.muxId, media.kind) for media in self.session.media]

    @property
    def transports(self) -> frozenset[tuple[str, str, frozenset[str]]]:
        """What tells a transport from any other: ICE user and password, DTLS fingerprints."""
        carried = self.rejected.union(self.bundle[1:])
        return frozenset(
            (
                str(media.ice.usernameFragment),
                str(media.ice.password),
                frozenset(f"{f.algorithm} {f.value}".lower() for f in media.dtls.fingerprints),
            )
            for media in self.session.media
            if media.rtp.muxId not in carried and media.ice is not None and media.dtls is not None
        )

    def continues(self, former: "Description") -> bool:
        """Whether both are about the same transports."""
        return self.transports <= former.transports

    def check_follows(self, former: "Description") -> None:
        """Raises RemoteProtocolError unless sections were only added, and to the bundle (RFC 8829 §5.2.2)."""
        known = former.sections
        if self.sections[: len(known)] != known:
            raise unusable(f"the offer takes away sections that there were: {known} became {self.sections}")
        loose = [mid for mid, _ in self.sections[len(known) :] if mid not in (*self.bundle, *self.rejected)]
        if loose:
            raise unusable(f"the offer adds sections outside of the bundle: {' '.join(loose)}")

    def text_led_by(self, carrier: str | None) -> str:
        """The text with one bundle of all that is bundled or rejected, and the section `carrier` standing for it.

        aiortc stops the transport of the section that stood for the bundle before when another one does.
        """
        members = sorted([*self.bundle, *sorted(self.rejected)], key=lambda mid: mid != carrier)
        return _BUNDLE_LINE.sub(f"a=group:BUNDLE {' '.join(members)}\r\n", self.text)

    def codecs(self, kind: Kind) -> list[str]:
        """Codec names that the sections in use offer for a kind."""
        return [
            name
            for media in self.session.media
            if media.kind == kind and media.rtp.muxId not in self.rejected
            for name in offered_codecs(media)
        ]

    def complete_answer(self, sdp: str) -> str:
        """aiortc's answer to this offer, with what is rejected and bundled as in the offer."""
        bundle = " ".join(self.bundle)
        head, *sections = _split(_BUNDLE_LINE.sub(f"a=group:BUNDLE {bundle}\r\n" if bundle else "", sdp))
        for index, (mid, _) in enumerate(self.sections):
            if mid in self.rejected:
                sections[index] = re.sub(r"^(m=\w+) \d+", r"\1 0", _CANDIDATE_LINES.sub("", sections[index]))
        return head + "".join(sections)


def parse_description(sdp: str, what: str) -> Description:
    """Read a description; `what` names it in errors.

    Raises RemoteProtocolError when it cannot be parsed or lacks what WebRTC needs (RFC 8829): in every section a mid
    of its own and, unless it is rejected, ICE credentials, a DTLS fingerprint and RTCP multiplexing.
    """
    if len(sdp) > MAX_SDP_BYTES:
        raise unusable(f"the {what} has {len(sdp)} bytes, {MAX_SDP_BYTES} are allowed")
    # One kind of line end: aiortc splits at characters that are none in SDP.
    text = "".join(f"{line}\r\n" for line in sdp.splitlines())
    session = _parse(text, what)
    if not session.media:
        raise unusable(f"the {what} has no media section")
    mids = [media.rtp.muxId for media in session.media]
    if len(set(mids)) < len(mids) or not all(_MID.fullmatch(mid or "") for mid in mids):
        raise unusable(f"the {what} has sections without a mid of their own: {mids}")
    if [media.kind for media in session.media].count("application") > 1:
        raise unusable(f"the {what} has more than one section for data channels")
    for media in session.media:
        if media.kind not in _IDLE_FORMATS:
            raise unusable(f"the {what} has a media section {media.kind!r}, which cannot be answered")
    # RFC 9143 §6: port 0 of a section that is bundled only is no rejection.
    rejected = frozenset(
        media.rtp.muxId
        for media, section in zip(session.media, _split(text)[1:], strict=True)
        if media.port == 0 and "\na=bundle-only\r" not in section
    )
    groups = [group.items for group in session.group if group.semantic == "BUNDLE" and group.items]
    bundle = tuple(str(mid) for mid in groups[0] if mid not in rejected) if groups else ()
    if bundle and bundle[0] not in mids:
        raise unusable(f"the {what} bundles its sections with {bundle[0]!r}, which is none of them")
    if len(rejected) == len(mids) or (rejected and not bundle):
        raise unusable(f"the {what} rejects sections {' '.join(sorted(rejected))} and bundles none")
    candidates = [
        (candidate, media.rtp.muxId, i) for i, media in enumerate(session.media) for candidate in media.ice_candidates
    ]
    text = _spell_out(text, session, bundle, rejected)
    session = _parse(text, what)
    for media in session.media:
        if media.ice is None or not (media.ice.usernameFragment and media.ice.password):
            raise unusable(f"the {what} has no ICE credentials for {media.kind}")
        if media.dtls is None or not media.dtls.fingerprints:
            raise unusable(f"the {what} has no DTLS fingerprint for {media.kind}")
        if media.kind != "application" and not media.rtcp_mux:
            raise unusable(f"the {what} does not multiplex RTCP for {media.kind}")
    return Description(text, session, candidates, bundle, rejected)


def _parse(text: str, what: str) -> SessionDescription:
    try:
        return SessionDescription.parse(text)
    except AIORTC_SDP_ERRORS as error:
        raise unusable(f"the {what} is not a session description aiortc can read: {error!r}") from error


def _split(sdp: str) -> list[str]:
    """What stands before the first section, and each section."""
    return re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)


def _spell_out(text: str, session: SessionDescription, bundle: tuple[str, ...], rejected: frozenset[str]) -> str:
    """The text as aiortc can take it: see `Description.text`, and with all that a section leaves to defaults."""
    head, *sections = _split(_CANDIDATE_LINES.sub("", text))
    carriers = [media for media in session.media if media.rtp.muxId in bundle[:1]]
    for index, media in enumerate(session.media):
        mid = media.rtp.muxId
        if mid in rejected:
            sections[index] = (
                f"m={media.kind} 9 {_IDLE_FORMATS[media.kind]}a=mid:{mid}\r\na=inactive\r\na=rtcp-mux\r\n"
                + _transport_lines(carriers[0])
            )
            continue
        if media.direction is None:
            sections[index] += "a=sendrecv\r\n"  # RFC 8866 §6.7
        if mid in bundle[1:] and media.dtls is None and not (media.ice and media.ice.usernameFragment):
            sections[index] += _transport_lines(carriers[0])  # RFC 9143 §7.1.3
    return head + "".join(sections)


def _transport_lines(media: MediaDescription) -> str:
    if media.ice is None or media.dtls is None:
        return ""
    lines = [f"ice-ufrag:{media.ice.usernameFragment}", f"ice-pwd:{media.ice.password}"]
    lines += [f"fingerprint:{f.algorithm} {f.value}" for f in media.dtls.fingerprints]
    lines.append(f"setup:{DTLS_ROLE_SETUP[media.dtls.role]}")
    return "".join(f"a={line}\r\n" for line in lines)


def without_candidates(sdp: str) -> str:
    """A description of ours whose candidates are to be trickled (RFC 8840 §4.1.1 and §4.1.3)."""
    bare = _CANDIDATE_LINES.sub("", sdp)
    return _DEFAULT_DESTINATION.sub(r"\1 9 \2c=IN IP4 0.0.0.0\r\na=ice-options:trickle\r\n", bare)


def candidates_of(sdp: str) -> list[tuple[str, str, int]]:
    """Candidates of the first section of a description of ours, each with the mid and the index of the section."""
    lines = re.findall(r"^a=(candidate:.*)\r\n", _split(sdp)[1], re.MULTILINE)
    mid = SessionDescription.parse(sdp).media[0].rtp.muxId
    return [(line, mid, 0) for line in lines]


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
