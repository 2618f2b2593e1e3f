"""Session descriptions of a WHIP publisher: the profile that is offered, and answers that fit or do not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import OutputRejected, RemoteProtocolError
from bridge.media.h264 import decoder_configuration
from bridge.protocols.whip_sdp import H264Profile, candidate_fragment, check_answer, picture_profile, publishing_offer

BASELINE = H264Profile("42e0", 31)

OFFER = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:96 opus/48000/2\r\n"
    "a=candidate:1 1 udp 1 127.0.0.1 4000 typ host\r\na=end-of-candidates\r\n"
    "a=ice-ufrag:abcd\r\na=ice-pwd:efgh\r\n"
    "m=video 9 UDP/TLS/RTP/SAVPF 101\r\na=mid:1\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:101 H264/90000\r\n"
    "a=fmtp:101 packetization-mode=1;profile-level-id=42e01f\r\na=end-of-candidates\r\n"
    "a=ice-ufrag:abcd\r\na=ice-pwd:efgh\r\n"
)
ANSWER = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=recvonly\r\na=rtpmap:96 opus/48000/2\r\n"
    "m=video 9 UDP/TLS/RTP/SAVPF 101\r\na=mid:1\r\na=recvonly\r\na=rtpmap:101 H264/90000\r\n"
    "a=fmtp:101 packetization-mode=1;profile-level-id=42c01f\r\n"
)


def config(profile_idc: int, constraints: int, level_idc: int) -> bytes:
    return decoder_configuration(bytes([0x67, profile_idc, constraints, level_idc, 1]), b"\x68\x01")


@pytest.mark.parametrize(
    ("profile_idc", "constraints", "level_idc", "offered", "known"),
    [
        (66, 0xC0, 31, "42e01f", "42e01f"),
        (66, 0x40, 31, "42e01f", "42e01f"),
        (66, 0x00, 31, "42001f", "42001f"),
        (66, 0x80, 40, "420028", "42001f"),
        (66, 0xE0, 20, "42e01f", "42e01f"),
        (77, 0x40, 40, "4d0028", "4d001f"),
        (100, 0x00, 32, "640020", "64001f"),
        (100, 0x0C, 51, "640c33", "640c1f"),
    ],
)
def test_the_profile_of_the_pictures_is_offered_at_level_3_1_or_theirs_above_it(
    profile_idc: int, constraints: int, level_idc: int, offered: str, known: str
) -> None:
    pictures = picture_profile(config(profile_idc, constraints, level_idc))
    assert (pictures.profile_level_id, pictures.known_id) == (offered, known)
    assert f"profile-level-id={offered}\r\n" in publishing_offer(OFFER, pictures)


def test_pictures_that_webrtc_has_no_profile_for_are_refused() -> None:
    with pytest.raises(OutputRejected, match="profile 244"):
        picture_profile(config(244, 0, 31))


def test_a_keyframe_without_parameter_sets_breaks_the_protocol() -> None:
    with pytest.raises(RemoteProtocolError):
        picture_profile(b"\x01\x42\xe0\x1f\xff\xe0\x00")


@pytest.mark.parametrize(
    ("other", "is_covered"),
    [
        (H264Profile("42e0", 30), True),
        (H264Profile("42e0", 31), True),
        (H264Profile("42e0", 40), False),
        (H264Profile("4d00", 31), False),
    ],
)
def test_what_was_negotiated_covers_the_same_profile_up_to_its_level(other: H264Profile, is_covered: bool) -> None:
    assert H264Profile("42e0", 20).covers(other) is is_covered


def test_an_offer_multiplexes_rtcp_always_and_may_trickle() -> None:
    offer = publishing_offer(OFFER, BASELINE)
    assert offer.count("a=rtcp-mux\r\na=rtcp-mux-only\r\n") == 2
    assert "end-of-candidates" not in offer
    head, _, _ = offer.partition("m=")
    assert head.endswith("a=ice-options:trickle\r\n")
    assert offer.count("\r\nm=") == 2


def test_candidates_travel_with_the_credentials_and_the_section_of_the_offer() -> None:
    assert candidate_fragment(OFFER, ["candidate:2 1 udp 2 127.0.0.1 5000 typ relay"]) == (
        "a=ice-ufrag:abcd\r\na=ice-pwd:efgh\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
        "a=candidate:2 1 udp 2 127.0.0.1 5000 typ relay\r\na=end-of-candidates\r\n"
    )


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        ANSWER.replace("\r\n", "\n"),
        ANSWER.replace("a=recvonly\r\n", "").replace("t=0 0\r\n", "t=0 0\r\na=recvonly\r\n"),
        ANSWER.replace(";profile-level-id=42c01f", ""),
        ANSWER.replace("profile-level-id=42c01f", "profile-level-id=42e034"),
        ANSWER.replace("a=rtpmap:101 H264/90000", "a=rtpmap:99 VP8/90000\r\na=rtpmap:101 h264/90000"),
        ANSWER.replace("m=video 9", "m=video 0").replace("a=mid:1", "a=bundle-only\r\na=mid:1"),
    ],
)
def test_an_answer_that_takes_sound_and_pictures_is_accepted(answer: str) -> None:
    check_answer(answer, BASELINE)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ANSWER.replace("m=video 9", "m=video 0"), "declines the video, which was offered as H264"),
        (ANSWER.replace("m=audio 9", "m=audio 0"), "declines the audio, which was offered as OPUS"),
        (ANSWER.replace("a=recvonly", "a=inactive"), "declines the audio"),
    ],
)
def test_an_answer_that_declines_a_track_is_for_the_operator(answer: str, why: str) -> None:
    with pytest.raises(OutputRejected, match=why):
        check_answer(answer, BASELINE)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "sections of nothing"),
        (ANSWER[: ANSWER.index("m=video")], "sections audio$"),
        (ANSWER + "m=application 9 x y\r\n", "sections audio, video, application"),
        (ANSWER + "m=canary 9 x y\r\n", "sections audio, video, unknown"),
        (ANSWER.replace("a=recvonly", "a=sendonly"), "makes the audio sendonly"),
        (ANSWER.replace("a=recvonly\r\n", ""), "makes the audio sendrecv"),
        (ANSWER.replace("H264/", "VP8/"), "wants vp8 as video, where H264 alone"),
        (ANSWER.replace("opus/", "PCMU/"), "wants pcmu as audio, where OPUS alone"),
        (re.sub(r"a=rtpmap:.*\r\n", "", ANSWER), "wants nothing as audio"),
        (ANSWER.replace("42c01f", "64001f"), "profile 64001f, where H.264 baseline 3.1"),
        (ANSWER.replace("42c01f", "ff001f"), "profile ff001f"),
    ],
)
def test_an_answer_to_another_offer_breaks_the_protocol(answer: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        check_answer(answer, BASELINE)


LINES = st.sampled_from([*ANSWER.splitlines(), "a=inactive", "a=sendonly", "m=audio 0 x", "a=rtpmap:1 VP8/90000"])


@given(st.lists(LINES | st.text(max_size=20), max_size=30).map("\r\n".join))
def test_any_answer_is_accepted_or_gets_a_documented_error(answer: str) -> None:
    try:
        check_answer(answer, BASELINE)
    except (OutputRejected, RemoteProtocolError):
        pass


@given(st.binary(max_size=40))
def test_any_configuration_has_a_profile_or_gets_a_documented_error(codec_config: bytes) -> None:
    try:
        assert re.fullmatch("[0-9a-f]{6}", picture_profile(codec_config).profile_level_id)
    except (OutputRejected, RemoteProtocolError):
        pass
