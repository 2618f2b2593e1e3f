"""WHIP (RFC 9725) as a server that takes sound sees it, without I/O: which offers of publishers are of use."""

from bridge.protocols.webrtc_offers import Refused, read_sections, shown

# What descriptions call the codecs that are taken, in lower case.
CODECS = ("opus", "pcmu", "pcma")


def check_offer(sdp: str) -> None:
    """See that an offer is one to send one track of sound in a codec that is taken. Raises Refused.

    Pictures beside it are declined in the answer: RFC 9725 §4.4.3 would rather have the whole offer refused, but many
    publishers cannot leave them out.
    """
    sections = read_sections(sdp)
    sounds = [section for section in sections if section.kind == "audio"]
    if not sounds:
        there_is = "video only" if any(section.kind == "video" for section in sections) else "none"
        raise Refused(422, f"the offer has no sound ({there_is}), and this input takes nothing else")
    if len(sounds) > 1:
        raise Refused(406, f"the offer has {len(sounds)} tracks of sound, and this input takes one")
    (sound,) = sounds
    if sound.direction in ("recvonly", "inactive"):
        raise Refused(422, f"the offer sends no sound: its section is {sound.direction}")
    if not set(sound.codecs).intersection(CODECS):
        raise Refused(406, f"the offer has none of the codecs Opus, PCMU and PCMA (it has {shown(sound.codecs)})")
