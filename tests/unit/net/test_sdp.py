import pytest

from bridge.errors import RemoteProtocolError
from bridge.net.sdp import (
    MAX_SDP_BYTES,
    is_usable,
    offered_codecs,
    parse_candidate,
    parse_description,
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
        (OFFER.replace("m=audio", "m=text"), "media section 'text'"),
        (OFFER.replace("a=mid:a", "a=mid:v"), "sections without a mid of their own"),
        (OFFER.replace("a=mid:a", "a=mid"), "sections without a mid of their own"),
        (OFFER.replace("a=mid:a", "a=mid:a b"), "sections without a mid of their own"),
        (OFFER.replace("a=group:BUNDLE v a", "a=group:BUNDLE x a"), "bundles its sections with 'x'"),
        (OFFER + DATA.replace("mid:d", "mid:e") + DATA, "more than one section for data channels"),
        ("v=0\n" + "a=x\n" * (MAX_SDP_BYTES // 4), "bytes, 131072 are allowed"),
    ],
)
def test_a_description_that_cannot_work_is_refused_by_what_is_wrong(broken: str, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        parse_description(broken, "offer")
