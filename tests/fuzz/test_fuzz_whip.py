"""A WHIP server that answers anything: the client gives an answer that fits its offer, or a documented error."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator

import pytest

from bridge.errors import OutputError, RemoteProtocolError
from bridge.net.sdp import parse_description
from bridge.net.url_policy import UrlPolicy
from bridge.outputs import whip_signalling
from bridge.outputs.whip_signalling import WhipSignalling
from bridge.protocols import whip
from bridge.protocols.whip_sdp import H264Profile, check_answer

N_ANSWERS = 60
PICTURES = H264Profile("42e0", 31)
ANSWER = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 127.0.0.1\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n"
    "a=rtpmap:96 opus/48000/2\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n"
    "a=fingerprint:sha-256 AA:BB\r\na=setup:active\r\n"
    "m=video 9 UDP/TLS/RTP/SAVPF 101\r\nc=IN IP4 127.0.0.1\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\n"
    "a=rtpmap:101 H264/90000\r\na=fmtp:101 packetization-mode=1;profile-level-id=42e01f\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:abcdefghijklmnopqrstuv\r\na=fingerprint:sha-256 AA:BB\r\na=setup:active\r\n"
)
RESPONSE = (
    'HTTP/1.1 201 Created\r\nContent-Type: application/sdp\r\nLocation: /session/1\r\nETag: "a"\r\n'
    'Link: <turn:127.0.0.1?transport=udp>; rel="ice-server"; username="u"; credential="p"\r\nConnection: close\r\n'
    f"Content-Length: {len(ANSWER)}\r\n\r\n{ANSWER}"
).encode()
PIECES = [b"\r\n", b"\0", b"://", b"307", b"201", b"HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"\xff", b"9" * 30]


def mutated(response: bytes, chance: random.Random) -> bytes:
    data = bytearray(response)
    for _ in range(chance.choice((1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + chance.randrange(8)] = b""
            case 1:
                data[at:at] = chance.choice(PIECES)
            case 2:
                data[at : at + 1] = chance.randbytes(1)
            case 3:
                other = chance.randrange(len(data) + 1)
                data[at:at] = data[other : other + chance.randrange(40)]
    return bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))])


@contextlib.asynccontextmanager
async def server(chance: random.Random) -> AsyncIterator[str]:
    """Answers every request with a response that is a little wrong, and closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(mutated(RESPONSE, chance))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"whip+http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/live"


@pytest.mark.parametrize("seed", range(4))
async def test_any_response_gives_an_answer_that_fits_or_a_documented_error(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_signalling, "REQUEST_TIMEOUT_S", 5.0)
    tls = ssl.create_default_context()
    async with server(random.Random(seed)) as url:
        endpoint = whip.parse_url(url, "canary-token")
        for _ in range(N_ANSWERS):
            try:
                async with WhipSignalling(endpoint, "whip", tls, UrlPolicy()) as signalling:
                    answer = await signalling.post("v=0\r\n", "H.264")
                    await signalling.ice_servers()
                    check_answer(answer, PICTURES)
                    parse_description(answer, "answer")
            except (OutputError, RemoteProtocolError) as error:
                assert "canary" not in str(error)
