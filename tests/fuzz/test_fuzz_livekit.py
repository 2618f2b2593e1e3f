"""LiveKit servers and participants that say anything: a value or a documented error."""

import asyncio
import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from bridge.errors import RemoteProtocolError
from bridge.net.livekit_rpc import RpcEndpoint
from bridge.protocols import livekit
from bridge.protocols.livekit_data import Inbox, Outbox, StreamReader, StreamWriter, read_audio_attributes, rpc_request
from bridge.protocols.livekit_room import Choice, Room
from bridge.protocols.livekit_token import BadToken, Grant, mint, read, verify
from tests.unit.providers.livekit_server import AVATAR, RoomServer, joined, staying, update

SECRET = "a secret of more than 32 characters"
N_FRAMES = 60


def mangled(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, taken out or put in."""
    mutable = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(mutable) + 1)
        match chance.randrange(3):
            case 0 if at < len(mutable):
                mutable[at] = chance.randrange(256)
            case 1:
                del mutable[at : at + chance.randrange(1, 9)]
            case _:
                mutable[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(mutable)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_the_peers_mistake(data: bytes) -> None:
    for kind in (rtc.SignalResponse, rtc.SignalRequest, models.DataPacket):
        try:
            message = livekit.parse(kind, data)
        except RemoteProtocolError:
            continue
        if isinstance(message, rtc.SignalResponse):
            try:
                livekit.read_candidate(message.trickle)
            except RemoteProtocolError:
                pass
            Room(Choice()).update(message.update.participants)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_candidate_or_the_peers_mistake(text: str) -> None:
    try:
        livekit.read_candidate(rtc.TrickleRequest(candidateInit=text))
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize("seed", range(4))
def test_packets_that_are_mangled_reordered_and_repeated_harm_nobody(seed: int) -> None:
    chance = random.Random(seed)
    outbox, inbox, reader = Outbox("leo", "PA_1"), Inbox(), StreamReader()
    endpoint = RpcEndpoint(lambda packet: None, {"m": lambda caller, payload: payload})
    writer = StreamWriter("s", ["us"])
    packets = [writer.header("lk.audio_stream", {"sample_rate": "24000"}, 0), *writer.chunks(bytes(40_000))]
    packets += [writer.trailer(), rpc_request("id", "us", "m", "x", 1)]
    wire = [outbox.pack(packet) for packet in packets]
    for _ in range(500):
        data = chance.choice(wire)
        try:
            packet = inbox.take(mangled(data, chance) if chance.random() < 0.7 else data)
        except RemoteProtocolError:
            continue
        if packet is None:
            continue
        endpoint.take(packet)
        for piece in reader.take(packet):
            try:
                read_audio_attributes(piece.stream.attributes)
            except RemoteProtocolError:
                pass


@pytest.mark.parametrize("seed", range(4))
def test_tokens_that_are_mangled_open_nothing(seed: int) -> None:
    chance = random.Random(seed)
    token = mint(Grant("us", "studio", expires_s=2_000), "key", SECRET, 1_000)
    for _ in range(100):
        other = mangled(token.encode(), chance).decode(errors="replace")
        if other == token:
            continue
        try:
            read(other)
        except BadToken:
            pass
        with pytest.raises(BadToken):
            verify(other, "key", SECRET, 1_000)


@pytest.mark.parametrize("seed", range(2))
async def test_a_server_that_goes_mad_is_survived_or_left_with_a_documented_error(seed: int) -> None:
    chance = random.Random(seed)
    said = [
        update(AVATAR),
        rtc.SignalResponse(refresh_token="token"),
        rtc.SignalResponse(pong_resp=rtc.Pong(last_ping_timestamp=1)),
        rtc.SignalResponse(trickle=livekit.trickle("candidate:1 1 udp 1 127.0.0.1 5 typ host", "0", 0, 1)),  # type: ignore[arg-type]
        rtc.SignalResponse(answer=rtc.SessionDescription(type="answer", sdp="v=0")),
        rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged()),
    ]
    async with RoomServer(joined(AVATAR)).serving() as server, staying(server) as stay:
        await stay.listener.until(lambda: stay.listener.links)
        for _ in range(N_FRAMES):
            frame = mangled(chance.choice(said).SerializeToString(), chance)
            try:
                if rtc.SignalResponse.FromString(frame).WhichOneof("message") in ("leave", "offer"):
                    continue  # these end it
            except DecodeError:
                pass
            await server.say(frame)
        await server.say(rtc.SignalResponse(leave=rtc.LeaveRequest()))
        await asyncio.sleep(0)
        await stay.outcome()
