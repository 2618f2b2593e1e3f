"""Session descriptions of anybody: each gives one that aiortc can take, or a documented error."""

import random

import pytest

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.net.ice import IceSettings
from bridge.net.peer import ReceivingPeer
from bridge.net.sdp import Description, is_usable, offered_codecs, parse_candidate, parse_description
from bridge.ports import RemoteTrack, TrackSink

N_DESCRIPTIONS, N_NEGOTIATED, N_CANDIDATES = 2_000, 300, 5_000
LO = IceSettings(interfaces=("lo",))
_TRANSPORT = (
    "c=IN IP4 127.0.0.1\r\na=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n"
    "a=fingerprint:sha-256 " + ":".join(["AB"] * 32) + "\r\na=setup:actpass\r\n"
)
CANDIDATE = "candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host"
OFFER = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\na=msid-semantic:WMS *\r\n"
    f"m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\na=mid:0\r\na=sendonly\r\n{_TRANSPORT}"
    "a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\n"
    f"a=rtpmap:0 PCMU/8000\r\na=ssrc:1 cname:x\r\na={CANDIDATE}\r\n"
    f"m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103\r\na=mid:1\r\na=sendonly\r\n{_TRANSPORT}"
    "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"
    "a=rtpmap:102 H264/90000\r\na=rtcp-fb:102 ccm fir\r\na=rtcp-fb:102 nack\r\n"
    "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
    "a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\na=ssrc-group:FID 2 3\r\na=ssrc:2 cname:x\r\na=ssrc:3 cname:x\r\n"
    f"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n{_TRANSPORT}a=sctp-port:5000\r\n"
)
PIECES = (
    "0",
    "-1",
    "65536",
    "9" * 30,
    "\0",
    "é",
    " ",
    ":",
    "/",
    ";",
    "=",
    "rtx",
    "1",
    "BUNDLE",
    "\r\n",
    "m=",
    "a=mid:0",
)


def mutated(text: str, chance: random.Random) -> str:
    """Lines are lost, repeated and exchanged, and what stands in them is."""
    lines = text.split("\r\n")
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(5):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case _:
                words = chance.choice((" ", ":", "=", "/")).join
                line = lines[at]
                cut = chance.randrange(len(line) + 1)
                lines[at] = chance.choice(
                    (
                        line[:cut] + chance.choice(PIECES) + line[cut:],
                        line[:cut] + line[cut + chance.randrange(1, 8) :],
                        line[:cut],
                        words((line[:cut], chance.choice(PIECES))),
                    )
                )
    return "\r\n".join(lines)


@pytest.mark.parametrize("seed", range(2))
def test_any_description_is_read_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    whole = former = parse_description(OFFER, "offer")
    n_read = 0
    for _ in range(N_DESCRIPTIONS):
        try:
            description = parse_description(mutated(OFFER, chance), "offer", known=chance.choice((None, whole.mids)))
            n_read += 1
            check(description)
            description.check_follows(former)
            former = description
        except RemoteProtocolError as error:
            assert error.reason == "media"
    assert n_read > N_DESCRIPTIONS / 20, "most are broken, and some are not"


def check(description: Description) -> None:
    parse_description(description.text_led_by(description.bundle_mid), "offer")
    assert description.continues(description)
    for media in description.session.media:
        offered_codecs(media)


async def test_any_offer_is_answered_or_refused() -> None:
    chance = random.Random(3)
    n_answered = 0
    for _ in range(N_NEGOTIATED):
        async with ReceivingPeer(LO, nobody_listens) as peer:
            offer = mutated(OFFER, chance)
            try:
                answer = await peer.answer(offer)
            except (RemoteProtocolError, ProviderUnavailable):
                continue
            n_answered += 1
            assert n_sections(answer) == n_sections(offer)  # RFC 3264 §6
    assert n_answered > N_NEGOTIATED / 20


def n_sections(description: str) -> int:
    return sum(line.startswith("m=") for line in description.splitlines())


def nobody_listens(track: RemoteTrack) -> TrackSink:
    raise AssertionError("nobody connects")


def test_any_candidate_is_read_or_ignored() -> None:
    chance = random.Random(4)
    for _ in range(N_CANDIDATES):
        candidate = parse_candidate(mutated(CANDIDATE, chance))
        if candidate is not None:
            is_usable(candidate)
