"""What must be right in a session description before aiortc sees it, and what aiortc's own ones lack."""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from aiortc import RTCIceCandidate
from aiortc.sdp import MediaDescription, SessionDescription, candidate_from_sdp

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import Kind

PRIVATE_NAMES = (
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
_TRANSPORT_LINES = re.compile(r"^a=(?:ice-ufrag|ice-pwd|fingerprint|setup):.*\r\n", re.MULTILINE)
_CODEC_LINES = re.compile(r"^a=(?:rtpmap|fmtp):.*\r\n", re.MULTILINE)
_BUNDLE_LINE = re.compile(r"^a=group:BUNDLE.*\r\n", re.MULTILINE)
_DEFAULT_DESTINATION = re.compile(r"^(m=\w+) \d+ (.*\r\n)c=.*\r\n", re.MULTILINE)
_MEDIA = ("audio", "video")
_DATA_CHANNEL = "DTLS/SCTP webrtc-datachannel"  # RFC 8841 §4.1
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
class Section:
    """A media section as it was described. codecs: names, each once, retransmission and redundancy left out."""

    mid: str
    kind: str
    text: str
    codecs: tuple[str, ...] = ()

    @property
    def is_data_channel(self) -> bool:
        return self.kind == "application" and self.text.partition("\r\n")[0].endswith(_DATA_CHANNEL)

    def declined(self, transport: str) -> str:
        """What an answer says about it that has no use for it (RFC 3264 §6): port 0.

        aiortc at the far end insists on the lines of a transport, and on codecs of its own.
        """
        media = re.sub(r"^(m=\S+) \S+", r"\1 0", self.text.partition("\r\n")[0])
        codecs = "".join(_CODEC_LINES.findall(self.text))
        return f"{media}\r\nc=IN IP4 0.0.0.0\r\na=mid:{self.mid}\r\na=inactive\r\na=rtcp-mux\r\n{transport}{codecs}"


@dataclass(frozen=True, slots=True)
class Description:
    """A session description that has passed our checks.

    text        the description spelled out for aiortc. Without candidates: aiortc would keep those of the last bundled
                section only, and use them unchecked. Without sections that nobody here has a use for, unless it knows
                them already; those and rejected ones are idle.
    session     the same, parsed.
    candidates  what was taken out, each with the mid and the index of its section.
    bundle      mids of the sections that share a transport, the one that stands for it first (RFC 9143 §7.3).
    rejected    mids of the sections that are not in use (port 0, RFC 3264 §6 and §8.2).
    outline     all sections, as they were described.
    declined    those that there is no use for.
    """

    text: str
    session: SessionDescription
    candidates: list[tuple[RTCIceCandidate, str, int]]
    bundle: tuple[str, ...]
    rejected: frozenset[str]
    outline: tuple[Section, ...]
    declined: tuple[Section, ...]

    @property
    def bundle_mid(self) -> str | None:
        """The section whose transport carries all others of the bundle, None without BUNDLE."""
        return self.bundle[0] if self.bundle else None

    @property
    def mids(self) -> frozenset[str]:
        """The sections that aiortc knows of."""
        return frozenset(media.rtp.muxId for media in self.session.media)

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
        known, now = ([(s.mid, s.kind) for s in each.outline] for each in (former, self))
        if now[: len(known)] != known:
            raise unusable(f"the offer takes away sections that there were: {known} became {now}")
        loose = self.mids - former.mids - self.rejected - set(self.bundle)
        if loose:
            raise unusable(f"the offer adds sections outside of the bundle: {' '.join(sorted(loose))}")

    def text_led_by(self, carrier: str | None) -> str:
        """The text with one bundle of all that is bundled or rejected, and the section `carrier` standing for it.

        aiortc stops the transport of the section that stood for the bundle before when another one does.
        """
        members = sorted([*self.bundle, *sorted(self.rejected)], key=lambda mid: mid != carrier)
        return _BUNDLE_LINE.sub(f"a=group:BUNDLE {' '.join(members)}\r\n", self.text)

    def codecs(self, kind: Kind) -> list[str]:
        """Codec names that are described for a kind, also in sections that are declined for them."""
        in_use = [section for section in self.outline if section.mid not in self.rejected or section in self.declined]
        return [name for section in in_use if section.kind == kind for name in section.codecs]

    def complete_answer(self, sdp: str) -> str:
        """aiortc's answer to this offer, with every section of the offer, and rejected and bundled what is to be."""
        bundle = " ".join(self.bundle)
        head, *answered = _split(_BUNDLE_LINE.sub(f"a=group:BUNDLE {bundle}\r\n" if bundle else "", sdp))
        by_mid = dict(zip((media.rtp.muxId for media in self.session.media), answered, strict=True))
        transport = "".join(_TRANSPORT_LINES.findall(answered[0]))
        sections = []
        for section in self.outline:
            text = by_mid.get(section.mid)
            if text is None:
                text = section.declined(transport)
            elif section.mid in self.rejected:
                text = re.sub(r"^(m=\w+) \d+", r"\1 0", _CANDIDATE_LINES.sub("", text))
            sections.append(text)
        return head + "".join(sections)


def parse_description(
    sdp: str,
    what: str,
    takes: Callable[[Section], bool] = lambda section: True,
    known: Collection[str] | None = None,
) -> Description:
    """Read a description; `what` names it in errors.

    takes  whether there is a use for a section of sound or pictures. Of others there is for a bundled data channel
           alone: a far end that is built on aiortc takes a declined one for a connection that does not come up.
    known  mids of the sections that aiortc knows of; None: all.

    Raises RemoteProtocolError when it cannot be parsed or lacks what WebRTC needs (RFC 8829): in every section a mid
    of its own and, unless it is rejected or of no use, ICE credentials, a DTLS fingerprint and RTCP multiplexing; and
    when there is a use for none of it.
    """
    if len(sdp) > MAX_SDP_BYTES:
        raise unusable(f"the {what} has {len(sdp)} bytes, {MAX_SDP_BYTES} are allowed")
    # One kind of line end: aiortc splits at characters that are none in SDP.
    text = "".join(f"{line}\r\n" for line in sdp.splitlines())
    head, *texts = _split(text)
    # aiortc need not be able to read sections of kinds that it does not know.
    session = _parse(head + "".join(text for text in texts if _kind(text) in _MEDIA), what)
    outline = _outline(texts, session)
    if not outline:
        raise unusable(f"the {what} has no media section")
    mids = [section.mid for section in outline]
    if len(set(mids)) < len(mids) or not all(map(_MID.fullmatch, mids)):
        raise unusable(f"the {what} has sections without a mid of their own: {mids}")
    # RFC 9143 §6: port 0 of a section that is bundled only is no rejection.
    rejected = {
        section.mid
        for section in outline
        if re.match(r"m=\S+ 0[ /]", section.text) and "\na=bundle-only\r" not in section.text
    }
    groups = [group.items for group in session.group if group.semantic == "BUNDLE" and group.items]
    bundled = [str(mid) for mid in groups[0] if mid not in rejected] if groups else []
    if bundled and bundled[0] not in mids:
        raise unusable(f"the {what} bundles its sections with {bundled[0]!r}, which is none of them")
    data = next((section.mid for section in outline if section.mid in bundled and section.is_data_channel), "")
    declined = [
        section
        for section in outline
        if section.mid not in rejected and not (section.mid == data if section.kind not in _MEDIA else takes(section))
    ]
    if len(rejected) + len(declined) == len(outline):
        there_is = ", ".join(f"{s.kind} ({', '.join(s.codecs)})" if s.codecs else s.kind for s in declined)
        raise unusable(f"the {what} has nothing that can be used: {there_is or 'it rejects all its sections'}")
    carrier = next((section.text for section in outline if section.mid in bundled[:1]), "")
    idle = rejected | {section.mid for section in declined}
    bundle = tuple(mid for mid in bundled if mid not in idle)
    is_known = set(mids if known is None else known).__contains__
    left_out = {s.mid for s in outline if s.mid in idle and (s.kind not in _IDLE_FORMATS or not is_known(s.mid))}
    if idle - left_out and not bundle:
        raise unusable(f"the {what} rejects sections {' '.join(sorted(idle - left_out))} and bundles none")
    kept = [section for section in outline if section.mid not in left_out]
    text = head + "".join(_spell_out(section, bundled, idle, carrier) for section in kept)
    session = _parse(text, what)
    for media in session.media:
        if media.ice is None or not (media.ice.usernameFragment and media.ice.password):
            raise unusable(f"the {what} has no ICE credentials for {media.kind}")
        if media.dtls is None or not media.dtls.fingerprints:
            raise unusable(f"the {what} has no DTLS fingerprint for {media.kind}")
        if media.kind != "application" and not media.rtcp_mux:
            raise unusable(f"the {what} does not multiplex RTCP for {media.kind}")
    candidates = [
        (candidate, section.mid, i)
        for i, section in enumerate(outline)
        for line in re.findall(r"^a=candidate:(.*)\r\n", section.text, re.MULTILINE)
        if (candidate := parse_candidate(line)) is not None
    ]
    return Description(text, session, candidates, bundle, frozenset(idle - left_out), tuple(outline), tuple(declined))


def _kind(section: str) -> str:
    return section[2:].split(maxsplit=1)[0] if section[2:].strip() else ""


def _outline(texts: Iterable[str], session: SessionDescription) -> list[Section]:
    parsed = iter(session.media)
    outline = []
    for text in texts:
        mids = re.findall(r"^a=mid:(.*)\r$", text, re.MULTILINE)
        kind = _kind(text)
        codecs = offered_codecs(next(parsed)) if kind in _MEDIA else []
        outline.append(Section(mids[0] if len(mids) == 1 else "", kind, text, tuple(codecs)))
    return outline


def _parse(text: str, what: str) -> SessionDescription:
    try:
        return SessionDescription.parse(text)
    except AIORTC_SDP_ERRORS as error:
        raise unusable(f"the {what} is not a session description aiortc can read: {error!r}") from error


def _split(sdp: str) -> list[str]:
    """What stands before the first section, and each section."""
    return re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)


def _spell_out(section: Section, bundled: Sequence[str], idle: Collection[str], carrier: str) -> str:
    """A section as aiortc can take it: see `Description.text`, and with all that it leaves to defaults.

    carrier  the section that stands for the bundle.
    """
    transport = "".join(_TRANSPORT_LINES.findall(carrier))
    if section.mid in idle:
        formats = _IDLE_FORMATS[section.kind]
        return f"m={section.kind} 9 {formats}a=mid:{section.mid}\r\na=inactive\r\na=rtcp-mux\r\n{transport}"
    text = _CANDIDATE_LINES.sub("", section.text)
    if not re.search(r"^a=(?:sendrecv|sendonly|recvonly|inactive)\r$", text, re.MULTILINE):
        text += "a=sendrecv\r\n"  # RFC 8866 §6.7
    if section.mid in bundled[1:] and not re.search(r"^a=(?:setup|ice-ufrag):", text, re.MULTILINE):
        text += transport  # RFC 9143 §7.1.3
    return text


def without_candidates(sdp: str) -> str:
    """A description of ours whose candidates are to be trickled (RFC 8840 §4.1.1 and §4.1.3)."""
    bare = _CANDIDATE_LINES.sub("", sdp)
    return _DEFAULT_DESTINATION.sub(r"\1 9 \2c=IN IP4 0.0.0.0\r\na=ice-options:trickle\r\n", bare)


def trickling(sdp: str) -> str:
    """A description of ours whose far end may send candidates later (RFC 8838 §4.1)."""
    return sdp.replace("m=", "a=ice-options:trickle\r\nm=", 1)


def without_extension(sdp: str, uri: str) -> str:
    """A description of ours that does not agree on a header extension (RFC 8285 §5)."""
    return re.sub(rf"^a=extmap:\S+ {re.escape(uri)}\r\n", "", sdp, flags=re.MULTILINE)


def with_nack(answer: str, offered: Section) -> str:
    """An answer that agrees on retransmission by request of sound too (RFC 4585 §4.2), where it was offered; aiortc
    knows it of pictures alone."""
    asked = re.findall(r"^a=rtcp-fb:(\d+|\*) nack\r$", offered.text, re.MULTILINE)
    if not asked:
        return answer
    formats = r"\d+" if "*" in asked else "|".join(asked)
    return re.sub(rf"^(a=rtpmap:({formats}) .*\r\n)", r"\1a=rtcp-fb:\2 nack\r\n", answer, flags=re.MULTILINE)


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
