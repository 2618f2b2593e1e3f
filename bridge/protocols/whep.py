"""WHEP (draft-ietf-wish-whep) as a server sees it, without I/O: which offers of viewers can be shown something.

WHEP is RFC 9725 with media in the other direction. What a viewer sends is hostile: see `webrtc_offers`.
"""

import re
from dataclasses import dataclass

from bridge.protocols.webrtc_offers import OfferedSection, Refused, read_sections, shown
from bridge.protocols.whip_sdp import H264Profile, profile_of

# What else a decoder of the key's profile cannot help decoding, best first (H.264 §A.2): baseline is none of main's
# kind, because of its slice groups, but constrained baseline is.
_DECODED_BY = {
    "42e0": ("42e0", "4200", "4d00", "640c", "6400"),
    "4200": ("4200",),
    "4d00": ("4d00", "6400"),
    "640c": ("640c", "6400"),
    "6400": ("6400",),
}
_FMTP = re.compile(r"^a=fmtp:(\d+) (.*)$", re.MULTILINE)
_H264 = re.compile(r"^a=rtpmap:(\d+) h264/90000", re.MULTILINE | re.IGNORECASE)
# RFC 6184 §8.1: baseline, level 1, which nobody means who leaves it out; browsers take it for this (RFC 7742 §6.2).
_DEFAULT_ID = "42e01f"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an offer wants to be sent.

    profile  of the H.264 that it is answered with, as `H264Profile` writes it; empty: no pictures.
    decodes  all profiles that it has offered.
    """

    profile: str
    decodes: frozenset[str]

    def takes(self, pictures: H264Profile) -> bool:
        """Whether these pictures can be shown too, where others were negotiated."""
        return not self.profile or not self.decodes.isdisjoint(_DECODED_BY[pictures.profile])


def check_viewing_offer(sdp: str, pictures: H264Profile) -> Wanted:
    """What a viewer is to be sent, where `pictures` are what there is, beside Opus. Raises Refused.

    The level is not looked at: players offer 3.1 and decode what their machine can (RFC 7742 §6.2 makes it a minimum).
    """
    receiving = [s for s in read_sections(sdp) if s.kind in ("audio", "video")]
    if not receiving:
        raise Refused(422, "the offer has neither sound nor pictures, and there is nothing else here")
    receiving = [s for s in receiving if s.direction in ("recvonly", "sendrecv")]
    if not receiving:
        raise Refused(422, "the offer receives nothing: its sections are sendonly or inactive")
    sounds = [section for section in receiving if section.kind == "audio"]
    videos = [section for section in receiving if section.kind == "video"]
    for what, sections in (("sound", sounds), ("pictures", videos)):
        if len(sections) > 1:
            raise Refused(406, f"the offer has {len(sections)} tracks of {what}, and there is one")
    for sound in sounds:
        if "opus" not in sound.codecs:
            raise Refused(406, f"the sound here is Opus, and the offer has {shown(sound.codecs)}")
    for video in videos:
        return _wanted(video, pictures)
    return Wanted("", frozenset())


def _wanted(video: OfferedSection, pictures: H264Profile) -> Wanted:
    formats = dict(_FMTP.findall(video.text))
    offered = [_parameters(formats.get(payload_type, "")) for payload_type in _H264.findall(video.text)]
    if not offered:
        raise Refused(406, f"the pictures here are {pictures}, and the offer has {shown(video.codecs)}")
    # Pictures do not fit into one packet each, as mode 0 would have it (RFC 6184 §6.2).
    ids = [each.get("profile-level-id", _DEFAULT_ID) for each in offered if each.get("packetization-mode") == "1"]
    if not ids:
        raise Refused(406, "the offer takes H.264 in packetization-mode 0 alone, and pictures are sent in mode 1")
    decodes = frozenset(filter(None, map(_profile, ids)))
    for profile in _DECODED_BY[pictures.profile]:
        if profile in decodes:
            return Wanted(profile, decodes)
    known = ", ".join(sorted(decodes)) or "of other profiles"
    raise Refused(406, f"the pictures here are {pictures}, and the offer decodes H.264 {known}")


def _parameters(text: str) -> dict[str, str]:
    pairs = (pair.strip().partition("=") for pair in text.split(";"))
    return {name.lower(): value.strip() for name, _, value in pairs}


def _profile(profile_level_id: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{6}", profile_level_id):
        return ""
    return profile_of(int(profile_level_id[:2], 16), int(profile_level_id[2:4], 16)) or ""


def ice_server_link(url: str, username: str = "", credential: str = "") -> str:
    """The value of a Link header that names an ICE server (RFC 9725 §4.6)."""
    parameters = {"username": username, "credential": credential}
    given = "".join(f'; {name}="{_quoted(value)}"' for name, value in parameters.items() if value)
    return f'<{url}>; rel="ice-server"{given}' + ('; credential-type="password"' if credential else "")


def _quoted(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", value)
