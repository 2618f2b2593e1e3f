"""Session descriptions of a WHIP publisher: what its offer must say, and what an answer to it may (RFC 9725 §4.2)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.errors import OutputRejected, RemoteProtocolError
from bridge.media.h264 import PROFILE_NAMES, parameter_sets

# Level 3.1, 720p30: what every server is tried with. Pictures of a lower level are allowed under it (RFC 6184 §8.1).
LOWEST_LEVEL_IDC = 31
# First two bytes of a profile-level-id by profile_idc, without the constraint that decoders may be fewer, and with it
# (RFC 6184 §8.1, table 5): set1 makes baseline the constrained one, set4 and set5 make high so.
_PROFILES = {66: ("4200", "42e0", 0x40), 77: ("4d00", "4d00", 0), 100: ("6400", "640c", 0x0C)}
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


@dataclass(frozen=True, slots=True)
class H264Profile:
    """What coded pictures are: the profile as WebRTC negotiates it, such as 42e0, and the level times ten."""

    profile: str
    level_idc: int

    @property
    def profile_level_id(self) -> str:
        return f"{self.profile}{max(self.level_idc, LOWEST_LEVEL_IDC):02x}"

    @property
    def known_id(self) -> str:
        """The same profile at the level that `net.codecs` knows it by; `publishing_offer` puts the real one in."""
        return f"{self.profile}{LOWEST_LEVEL_IDC:02x}"

    def __str__(self) -> str:
        name = PROFILE_NAMES[int(self.profile[:2], 16)]
        return f"H.264 {name} {self.level_idc / 10:.1f} ({self.profile_level_id})"

    def covers(self, other: "H264Profile") -> bool:
        """Whether what was negotiated for these pictures allows the others too."""
        return self.profile == other.profile and max(self.level_idc, LOWEST_LEVEL_IDC) >= other.level_idc


def picture_profile(codec_config: bytes) -> H264Profile:
    """The profile of a keyframe. Raises RemoteProtocolError, OutputRejected."""
    sequence_sets, _ = parameter_sets(codec_config)
    if not sequence_sets or len(sequence_sets[0]) < 4:
        raise RemoteProtocolError("AVC configuration has no sequence parameter set")
    _, profile_idc, constraints, level_idc = sequence_sets[0][:4]
    profile = profile_of(profile_idc, constraints)
    if profile is None:
        raise OutputRejected(f"WebRTC knows no pictures of H.264 profile {profile_idc}: only baseline, main and high")
    return H264Profile(profile, level_idc)


def profile_of(profile_idc: int, constraints: int) -> str | None:
    if profile_idc not in _PROFILES:
        return None
    plain, constrained, mask = _PROFILES[profile_idc]
    return constrained if constraints & mask == mask else plain


def publishing_offer(sdp: str, pictures: H264Profile) -> str:
    """An offer of the peer's with what it leaves open.

    The level of the pictures; that RTCP is always multiplexed; that relayed candidates may follow (RFC 8838 §4.1).
    """
    sdp = with_profile(sdp, pictures).replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=rtcp-mux-only\r\n")  # RFC 8858 §3
    return sdp.replace("a=end-of-candidates\r\n", "").replace("m=", "a=ice-options:trickle\r\nm=", 1)


def with_profile(sdp: str, pictures: H264Profile) -> str:
    """A description of ours whose one kind of H.264 is named as what it is."""
    return re.sub(r"(profile-level-id=)[0-9a-fA-F]{6}", rf"\g<1>{pictures.profile_level_id}", sdp)


def check_answer(answer: str, pictures: H264Profile) -> None:
    """See that an answer takes our sound and pictures as offered: audio first, Opus and H.264, each one way.

    Raises OutputRejected where it declines one, RemoteProtocolError where it is no answer to the offer.
    """
    # Line ends as they come: some servers write LF alone.
    answer = answer.replace("\r", "")
    head, *sections = re.split(r"^(?=m=)", answer, flags=re.MULTILINE)
    kinds = [section[2:].split(" ", 1)[0] for section in sections]
    if kinds != ["audio", "video"]:
        shown = [kind if kind in ("audio", "video", "application") else "unknown" for kind in kinds[:8]]
        raise RemoteProtocolError(f"the answer to audio and video has sections {', '.join(shown) or 'of nothing'}")
    default = _direction(head) or "sendrecv"  # RFC 8866 §6.7
    for kind, codec, section in zip(kinds, ("opus", "h264"), sections, strict=True):
        direction = _direction(section) or default
        # RFC 9143 §6: port 0 of a section that is bundled only is no rejection.
        is_rejected = re.match(r"m=\w+ 0[ /]", section) and "\na=bundle-only" not in section
        if is_rejected or direction == "inactive":
            raise OutputRejected(f"the server declines the {kind}, which was offered as {codec.upper()}")
        if direction != "recvonly":
            raise RemoteProtocolError(f"the answer makes the {kind} {direction}, where an offer to send was made")
        names = {name.lower() for name in re.findall(r"^a=rtpmap:\d+ ([\w.-]+)/", section, re.MULTILINE)}
        if codec not in names:
            wanted = ", ".join(sorted(names)[:4])[:80] or "nothing"
            raise RemoteProtocolError(f"the answer wants {wanted} as {kind}, where {codec.upper()} alone was offered")
    ids = re.findall(r"profile-level-id=([0-9a-fA-F]{6})", sections[1])
    if ids and pictures.profile not in [profile_of(int(each[:2], 16), int(each[2:4], 16)) for each in ids]:
        raise RemoteProtocolError(f"the answer wants H.264 of profile {ids[0]}, where {pictures} alone was offered")


def _direction(section: str) -> str | None:
    found = re.search(rf"^a=({'|'.join(_DIRECTIONS)})\s*$", section, re.MULTILINE)
    return found[1] if found else None


def candidate_fragment(offer: str, candidates: Iterable[str]) -> str:
    """Body of a PATCH that adds the last local candidates to those of the offer (RFC 9725 §4.3.2, RFC 8840 §9)."""
    # Of the first section, whose transport carries both.
    lines = [re.search(rf"^{line}.*", offer, re.MULTILINE) for line in ("a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:")]
    found = [line[0].rstrip() for line in lines if line]
    return "".join(f"{line}\r\n" for line in (*found, *(f"a={each}" for each in candidates), "a=end-of-candidates"))
