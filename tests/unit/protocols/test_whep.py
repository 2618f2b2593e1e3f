"""Which offers of viewers can be shown H.264 of a profile, and which are refused, with the reason."""

import random

import pytest

from bridge.errors import RemoteProtocolError
from bridge.protocols.webrtc_offers import Refused
from bridge.protocols.whep import check_viewing_offer, ice_server_link
from bridge.protocols.whip import ice_servers
from bridge.protocols.whip_sdp import H264Profile
from tests.fuzz.test_fuzz_sdp import OFFER, mutated

HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
SOUND = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=recvonly\r\na=rtpmap:111 opus/48000/2\r\n"
CONSTRAINED_BASELINE = H264Profile("42e0", 31)


def pictures(*ids: str, mode: int = 1) -> str:
    numbers = range(96, 96 + len(ids))
    section = f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, numbers))}\r\na=mid:1\r\na=recvonly\r\n"
    for number, profile_level_id in zip(numbers, ids, strict=True):
        section += f"a=rtpmap:{number} H264/90000\r\na=fmtp:{number} packetization-mode={mode}"
        section += f";profile-level-id={profile_level_id}\r\n" if profile_level_id else "\r\n"
    return section


@pytest.mark.parametrize(
    ("ids", "shown", "answered"),
    [
        (("42001f", "42e01f", "4d001f"), "42e0", "42e0"),
        (("42001f", "4d001f"), "42e0", "4200"),
        (("64001f", "4D401F"), "42e0", "4d00"),  # with a constraint that says nothing about main
        (("64001f",), "4d00", "6400"),
        (("640c1f",), "640c", "640c"),
        (("",), "42e0", "42e0"),
        (("42e00a",), "42e0", "42e0"),  # a level is what a decoder has at least
    ],
)
def test_the_nearest_profile_that_decodes_the_pictures_is_answered(
    ids: tuple[str, ...], shown: str, answered: str
) -> None:
    wanted = check_viewing_offer(HEAD + SOUND + pictures(*ids), H264Profile(shown, 31))
    assert wanted.profile == answered
    assert wanted.takes(H264Profile(shown, 40))


def test_other_pictures_are_taken_if_their_profile_was_offered_too() -> None:
    wanted = check_viewing_offer(HEAD + pictures("42e01f", "4d001f"), CONSTRAINED_BASELINE)
    assert wanted.takes(H264Profile("4d00", 31)) and not wanted.takes(H264Profile("6400", 31))
    assert check_viewing_offer(HEAD + SOUND, CONSTRAINED_BASELINE).takes(H264Profile("6400", 31)), "it sees none"


@pytest.mark.parametrize(
    ("offer", "status", "reason"),
    [
        (HEAD + pictures("42001f"), 406, "decodes H.264 4200"),
        (HEAD + pictures("f4001f"), 406, "decodes H.264 of other profiles"),
        (HEAD + pictures("4d001f", mode=0), 406, "packetization-mode 0"),
        (HEAD + SOUND + pictures("4d001f").replace("H264", "VP9"), 406, "the offer has vp9"),
        (HEAD + SOUND.replace("opus", "PCMU"), 406, "the sound here is Opus, and the offer has pcmu"),
        (HEAD + SOUND + SOUND, 406, "2 tracks of sound"),
        (HEAD + SOUND.replace("recvonly", "inactive"), 422, "receives nothing"),
        (HEAD + SOUND.replace("m=audio 9", "m=audio 0"), 422, "neither sound nor pictures"),
        (HEAD + "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n", 422, "neither sound nor pictures"),
        ("nothing", 400, "no session description"),
    ],
)
def test_what_cannot_be_shown_anything_is_told_why(offer: str, status: int, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        check_viewing_offer(offer, H264Profile("4d00", 31))
    assert caught.value.status == status and reason in str(caught.value)


def test_a_section_that_is_bundled_only_is_in_use_although_its_port_is_0() -> None:
    offer = HEAD + SOUND + pictures("42e01f").replace("m=video 9", "m=video 0") + "a=bundle-only\r\n"
    assert check_viewing_offer(offer, CONSTRAINED_BASELINE).profile == "42e0"


def test_any_text_is_checked_or_refused() -> None:
    chance = random.Random(5)
    for _ in range(500):
        try:
            check_viewing_offer(mutated(OFFER, chance), CONSTRAINED_BASELINE)
        except RemoteProtocolError as error:
            assert len(str(error)) < 300


def test_a_link_to_an_ice_server_is_read_as_it_was_written() -> None:
    links = [ice_server_link("stun:stun.example.com"), ice_server_link("turn:t.example.com", 'a"b', "c\\d")]
    stun, turn = ice_servers([("Link", link) for link in links])
    assert (stun.url, stun.username) == ("stun:stun.example.com", "")
    assert (turn.url, turn.username, turn.credential) == ("turn:t.example.com", 'a"b', "c\\d")
