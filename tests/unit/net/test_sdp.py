import re
from collections.abc import Iterable

import pytest

from bridge.errors import RemoteProtocolError
from bridge.net.sdp import (
    MAX_SDP_BYTES,
    Section,
    candidates_of,
    is_usable,
    offered_codecs,
    parse_candidate,
    parse_description,
    without_candidates,
)

SECTION = """a=ice-ufrag:abcd
a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaa
a=fingerprint:sha-256 AA:BB
a=setup:actpass
a=rtcp-mux
a=sendonly
"""
DATA = f"""m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=mid:d
{SECTION}"""
TEXT = """m=text 9 RTP/AVP 98 what:ever
a=mid:t
a=fmtp:97 no such format
"""
OFFER = f"""v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE v a
m=video 9 UDP/TLS/RTP/SAVPF 96 97 98
a=mid:v
a=rtpmap:96 VP8/90000
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:98 H264/90000
a=candidate:1 1 udp 2130706431 4f0d.local 5000 typ host
a=candidate:2 1 udp 2130706430 192.0.2.1 5001 typ host
a=end-of-candidates
{SECTION}m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:a
a=rtpmap:111 opus/48000/2
{SECTION}"""


def test_codecs_are_named_as_offered_without_retransmission() -> None:
    offer = parse_description(OFFER, "offer")
    assert offered_codecs(offer.session.media[0]) == ["VP8", "H264"]


def test_the_first_section_of_the_bundle_carries_all() -> None:
    assert parse_description(OFFER, "offer").bundle_mid == "v"
    assert parse_description(OFFER.replace("a=group:BUNDLE v a\n", ""), "offer").bundle_mid is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_candidates_are_taken_out_with_their_section(newline: str) -> None:
    offer = parse_description(OFFER.replace("\n", newline), "offer")
    assert [(c.ip, mid, index) for c, mid, index in offer.candidates] == [
        ("4f0d.local", "v", 0),
        ("192.0.2.1", "v", 0),
    ]
    assert "candidate" not in offer.text
    assert offer.text.count("\r\n") == OFFER.count("\n") - 3


def test_a_section_without_a_direction_sends_and_receives() -> None:
    offer = parse_description(OFFER.replace("a=sendonly\n", "", 1), "offer")
    assert [media.direction for media in parse_description(offer.text, "offer").session.media] == [
        "sendrecv",
        "sendonly",
    ]


@pytest.mark.parametrize("prefix", ["", "candidate:", "a=candidate:", " a=candidate:"])
def test_a_candidate_is_read_with_and_without_its_name(prefix: str) -> None:
    candidate = parse_candidate(prefix + "1 1 udp 2130706431 192.0.2.1 5001 typ host")
    assert candidate is not None
    assert (candidate.ip, candidate.port, is_usable(candidate)) == ("192.0.2.1", 5001, True)


@pytest.mark.parametrize("line", ["candidate:", "candidate:1", "x" * 100, "1 1 udp x 192.0.2.1 5 typ host", "\0"])
def test_a_malformed_candidate_is_none(line: str) -> None:
    assert parse_candidate(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "1 1 udp 1 4f0d.local 5 typ host",
        "1 1 udp 1 host.example 5 typ host",
        "1 1 tcp 1 192.0.2.1 9 typ host tcptype active",
        "1 2 udp 1 192.0.2.1 5 typ host",
        "1 1 udp 1 192.0.2.1 0 typ host",
        "1 1 udp 1 192.0.2.1 70000 typ host",
        "1 1 udp 1 192.0.2.1 -1 typ host",
    ],
)
def test_candidates_that_ice_must_not_try_are_told_apart(line: str) -> None:
    candidate = parse_candidate(line)
    assert candidate is not None and not is_usable(candidate)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("", "no media section"),
        ("hello", "no media section"),
        ("v=0\nm=video\n", "not a session description"),
        ("v=x\n", "not a session description"),
        (OFFER.replace("a=rtpmap:98 H264/90000", "a=rtpmap:98"), "not a session description"),
        (OFFER.replace("apt=96", "apt=x"), "not a session description"),
        (OFFER.replace("a=fmtp:97", "a=fmtp:99"), "not a session description"),
        (OFFER.replace("192.0.2.1 5001 typ host", "192.0.2.1"), "not a session description"),
        (OFFER.replace("a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaa\n", ""), "no ICE credentials for video"),
        (OFFER.replace("a=fingerprint:sha-256 AA:BB\n", ""), "no DTLS fingerprint for video"),
        (OFFER.replace("a=setup:actpass\n", ""), "no DTLS fingerprint for video"),
        (OFFER.replace("a=rtcp-mux\n", ""), "does not multiplex RTCP for video"),
        (OFFER.replace("a=mid:a", "a=mid:v"), "sections without a mid of their own"),
        (OFFER.replace("a=mid:a", "a=mid"), "sections without a mid of their own"),
        (OFFER.replace("a=mid:a", "a=mid:a b"), "sections without a mid of their own"),
        (OFFER.replace("a=mid:a", "a=mid:a\na=mid:c"), "sections without a mid of their own"),
        (OFFER.replace("a=group:BUNDLE v a", "a=group:BUNDLE x a"), "bundles its sections with 'x'"),
        (f"v=0\n{DATA}{TEXT}", r"nothing that can be used: application, text"),
        ("v=0\n" + "a=x\n" * (MAX_SDP_BYTES // 4), "bytes, 131072 are allowed"),
    ],
)
def test_a_description_that_cannot_work_is_refused_by_what_is_wrong(broken: str, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        parse_description(broken, "offer")


def takes_vp8(section: Section) -> bool:
    return section.kind == "video" and "VP8" in section.codecs


def mids_of(sections: Iterable[Section]) -> list[str]:
    return [section.mid for section in sections]


def test_what_nobody_has_a_use_for_is_left_out_and_declined_in_its_place() -> None:
    sdp = OFFER.replace("m=video", TEXT + "m=video") + DATA
    offer = parse_description(sdp, "offer", takes_vp8, known=())
    assert mids_of(offer.declined) == ["t", "a", "d"]
    assert (offer.mids, offer.bundle, offer.rejected) == ({"v"}, ("v",), set())
    answer = offer.complete_answer(offer.text_led_by(None))
    assert re.findall(r"^m=(\w+) (\d+) (\S+)", answer, re.MULTILINE) == [
        ("text", "0", "RTP/AVP"),
        ("video", "9", "UDP/TLS/RTP/SAVPF"),
        ("audio", "0", "UDP/TLS/RTP/SAVPF"),
        ("application", "0", "UDP/DTLS/SCTP"),
    ]
    assert re.findall(r"^a=mid:(\w+)", answer, re.MULTILINE) == ["t", "v", "a", "d"]
    assert "a=group:BUNDLE v\r\n" in answer


def test_the_transport_of_a_section_that_is_left_out_serves_the_others() -> None:
    video, audio = OFFER.split("m=audio")
    bare = TRANSPORT.sub("", "m=audio" + audio)
    offer = parse_description(video + bare, "offer", lambda section: section.kind == "audio", known=())
    assert offer.bundle == ("a",)
    media = offer.session.media[0]
    assert media.ice is not None and media.ice.password == "a" * 22
    assert [(c.ip, mid) for c, mid, _ in offer.candidates] == [("4f0d.local", "v"), ("192.0.2.1", "v")]


def test_a_section_that_aiortc_knows_becomes_idle_when_it_is_of_no_use_any_more() -> None:
    offer = parse_description(OFFER, "offer", takes_vp8, known={"v", "a"})
    assert offer.rejected == {"a"} and mids_of(offer.declined) == ["a"]
    assert offer.session.media[1].direction == "inactive"
    assert "m=audio 0 " in offer.complete_answer(offer.text_led_by(None))


def test_a_bundled_data_channel_is_answered_and_a_second_one_declined() -> None:
    second = DATA.replace("mid:d", "mid:e")
    sdp = OFFER.replace("BUNDLE v a", "BUNDLE v a d e") + DATA + second
    offer = parse_description(sdp, "offer", known=())
    assert offer.bundle == ("v", "a", "d") and mids_of(offer.declined) == ["e"]


REJECTED = "m=audio 0 UDP/TLS/RTP/SAVPF 0\na=mid:gone\na=inactive\n"
TRANSPORT = re.compile(r"a=(ice-|fingerprint|setup).*\n")


def test_a_rejected_section_needs_nothing_and_is_idle_for_aiortc_that_knows_it() -> None:
    assert parse_description(OFFER + REJECTED, "offer", known={"v", "a"}).mids == {"v", "a"}
    offer = parse_description(OFFER + REJECTED, "offer")
    assert offer.rejected == {"gone"} and offer.bundle == ("v", "a")
    assert mids_of(offer.outline) == ["v", "a", "gone"]
    idle = offer.session.media[2]
    assert (idle.direction, idle.port) == ("inactive", 9)
    assert idle.ice is not None and idle.ice.usernameFragment == "abcd"
    assert offer.codecs("audio") == ["opus"]


def test_the_section_that_stands_for_the_bundle_can_be_kept() -> None:
    offer = parse_description(OFFER + REJECTED, "offer")
    assert "a=group:BUNDLE gone v a\r\n" in offer.text_led_by("gone")
    assert "a=group:BUNDLE a v gone\r\n" in offer.text_led_by("a")
    assert "a=group:BUNDLE v a gone\r\n" in offer.text_led_by(None)


def test_an_answer_rejects_and_bundles_what_the_offer_does() -> None:
    offer = parse_description(OFFER + REJECTED, "offer")
    answer = offer.complete_answer(offer.text_led_by(None))
    assert re.findall(r"m=(\w+) (\d+)", answer) == [("video", "9"), ("audio", "9"), ("audio", "0")]
    assert "a=group:BUNDLE v a\r\n" in answer
    loose = parse_description(OFFER.replace("a=group:BUNDLE v a\n", ""), "offer")
    assert "BUNDLE" not in loose.complete_answer(loose.text)


def test_port_0_of_a_section_that_is_bundled_only_is_no_rejection() -> None:
    sdp = OFFER.replace("m=audio 9", "m=audio 0").replace("a=mid:a\n", "a=mid:a\na=bundle-only\n")
    assert parse_description(sdp, "offer").rejected == set()


@pytest.mark.parametrize(
    "sdp",
    [
        OFFER.replace("m=audio 9", "m=audio 0").replace("m=video 9", "m=video 0"),
        (OFFER + REJECTED).replace("a=group:BUNDLE v a\n", ""),
    ],
    ids=["all", "without a bundle"],
)
def test_rejected_sections_stand_beside_bundled_ones(sdp: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"rejects (all its )?sections"):
        parse_description(sdp, "offer")


def test_a_bundled_section_inherits_the_transport() -> None:
    first, audio = OFFER.split("m=audio")
    offer = parse_description(f"{first}m=audio{TRANSPORT.sub('', audio)}", "offer")
    assert len(offer.transports) == 1
    media = offer.session.media[1]
    assert media.ice is not None and media.ice.password == "a" * 22
    assert media.dtls is not None and [f.value for f in media.dtls.fingerprints] == ["AA:BB"]


def test_transports_are_told_apart_by_credentials_and_fingerprints() -> None:
    here = parse_description(OFFER, "offer").transports
    assert parse_description(OFFER.replace("AA:BB", "aa:bb"), "offer").transports == here
    for old, new in (("abcd", "abce"), ("a" * 22, "b" * 22), ("AA:BB", "AA:BC")):
        assert not parse_description(OFFER.replace(old, new), "offer").transports & here


def test_an_offer_without_candidates_says_that_they_trickle() -> None:
    sdp = "v=0\r\nm=audio 4000 X 96\r\nc=IN IP4 192.0.2.1\r\na=mid:0\r\na=candidate:1\r\na=end-of-candidates\r\n"
    assert without_candidates(sdp) == (
        "v=0\r\nm=audio 9 X 96\r\nc=IN IP4 0.0.0.0\r\na=ice-options:trickle\r\na=mid:0\r\n"
    )


def test_candidates_to_trickle_are_those_of_the_first_section() -> None:
    sdp = OFFER.replace("\n", "\r\n")
    assert candidates_of(sdp) == [
        ("candidate:1 1 udp 2130706431 4f0d.local 5000 typ host", "v", 0),
        ("candidate:2 1 udp 2130706430 192.0.2.1 5001 typ host", "v", 0),
    ]
