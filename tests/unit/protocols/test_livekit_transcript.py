"""LiveKit's messages as its documents show them: how both ends read them, and which of them we write."""

import json
from typing import Any

import jwt
import pytest
from google.protobuf.message import Message
from livekit.protocol import models, rtc

from bridge.protocols import livekit
from bridge.protocols.livekit_data import (
    Outbox,
    RpcCode,
    StreamReader,
    StreamWriter,
    audio_attributes,
    read_audio_attributes,
    rpc_ack,
    rpc_error,
    rpc_request,
    rpc_response,
)
from bridge.protocols.livekit_room import Choice, Room
from bridge.protocols.livekit_token import Grant, mint
from tests.golden.livekit import LINES, Line

SECRET = "a secret of more than 32 characters"
NOW_MS = 1_700_000_000_000
FRAMES = [line for line in LINES if line.field]
# What only a server reads of us, nobody here does but the local one, in the words of the protobufs.
READ = [line for line in FRAMES if line.from_service or line.frame == "DataPacket"]
WORKER: models.ParticipantInfo = next(line.read.update.participants[0] for line in LINES if "update" in line.message)


@pytest.mark.parametrize("line", FRAMES, ids=str)
def test_what_a_frame_holds_has_the_number_that_the_documents_give_it(line: Line) -> None:
    kind = line.read.WhichOneof("value" if line.frame == "DataPacket" else "message")
    assert line.read.DESCRIPTOR.fields_by_name[kind].number == line.field


@pytest.mark.parametrize("line", READ, ids=str)
def test_every_documented_form_is_read(line: Line) -> None:
    assert meaning_of(line) == line.means


@pytest.mark.parametrize("line", [line for line in LINES if line.is_ours], ids=str)
def test_every_form_that_is_ours_is_written(line: Line) -> None:
    assert written_for(line) == (line.read if line.field else line.message)


def meaning_of(line: Line) -> dict[str, Any]:
    if line.frame == "DataPacket":
        return _meaning_of_data(line.read)
    response: rtc.SignalResponse = line.read
    match response.WhichOneof("message"):
        case "join":
            pings = {"ping_s": [*livekit.ping_times(response.join)]}
            return {"Joined": pings | _who_is_there(*response.join.other_participants)}
        case "update":
            return {"Participants": _who_is_there(*response.update.participants)}
        case "offer":
            return {"Offer": {"id": livekit.answer_to(response.offer, "").answer.id}}
        case "trickle":
            candidate = zip(("candidate", "mid", "index"), livekit.read_candidate(response.trickle), strict=True)
            return {"Candidate": {name: value for name, value in candidate if value is not None}}
        case "leave":
            reason, may_return = livekit.reason_name(response.leave.reason), livekit.may_return(response.leave)
            return {"Leave": {"reason": reason, "may_return": may_return}}
    raise AssertionError(response)


def _who_is_there(*participants: models.ParticipantInfo) -> dict[str, Any]:
    room = Room(Choice(), own_identity="us")
    room.update(participants)
    return {"avatar": room.avatar.identity, "tracks": room.tracks} if room.avatar is not None else {}


def _meaning_of_data(packet: models.DataPacket) -> dict[str, Any]:
    reader = StreamReader()
    if not packet.HasField("stream_header"):
        reader.take(StreamWriter("s1", []).header("", {}, 0))  # that the others go on with
    match packet.WhichOneof("value"):
        case "stream_header":
            (begun,) = reader.take(packet)
            rate_hz, channels = read_audio_attributes(begun.stream.attributes)
            return {"SpeechBegins": {"rate_hz": rate_hz, "channels": channels}}
        case "stream_chunk":
            (piece,) = reader.take(packet)
            return {"Speech": {"pcm16": piece.content.hex()}}
        case "stream_trailer":
            assert [piece.is_end for piece in reader.take(packet)] == [True]
            return {"SpeechEnds": {}}
        case "rpc_request":
            payload = packet.rpc_request.payload
            return {
                "Call": {"method": packet.rpc_request.method} | ({"payload": json.loads(payload)} if payload else {})
            }
        case "rpc_ack":
            return {"Taken": {"call": packet.rpc_ack.request_id}}
    response = packet.rpc_response
    if response.HasField("error"):
        return {"Failure": {"call": response.request_id, "code": response.error.code}}
    return {"Result": {"call": response.request_id, "payload": response.payload}}


def written_for(line: Line) -> Message | dict[str, Any]:
    ((name, values),) = line.means.items()
    if line.frame == "DataPacket":
        return _written_data(name, values, line.read)
    match name:
        case "Address":
            return {"url": livekit.join_url(values["of"])}
        case "Grant":
            return dict(
                jwt.decode(mint(Grant(**values), "key", SECRET, NOW_MS / 1000), options={"verify_signature": False})
            )
        case "Subscription":
            return Room(Choice()).update([WORKER])[0]
        case "FullSize":
            return Room(Choice()).update([WORKER])[1]
        case "Unsubscription":
            room = Room(Choice())
            room.update([WORKER])
            gone = models.ParticipantInfo(
                sid=WORKER.sid, identity="leo", state=models.ParticipantInfo.State.DISCONNECTED
            )
            return room.update([gone])[0]
        case "Answer":
            return livekit.answer_to(rtc.SessionDescription(id=values["to"]), "v=0\r\n")
        case "Candidate":
            candidate = values["candidate"], values["mid"], values["index"]
            return rtc.SignalResponse(trickle=livekit.trickle(*candidate, rtc.SignalTarget.SUBSCRIBER))
        case "Ping":
            return livekit.pings(NOW_MS, values.get("rtt", 0))["rtt" in values]
        case "Farewell":
            return livekit.farewell()
    raise AssertionError(name)


def _written_data(name: str, values: dict[str, Any], like: models.DataPacket) -> models.DataPacket:
    (to,) = like.destination_identities
    writer = StreamWriter("s1", [to])
    match name:
        case "SpeechBegins":
            attributes = audio_attributes(values["rate_hz"], values["channels"])
            packet = writer.header("lk.audio_stream", attributes, NOW_MS, "AUDIO_s1")
        case "Speech":
            (packet,) = writer.chunks(bytes.fromhex(values["pcm16"]))
        case "SpeechEnds":
            packet = writer.trailer()
        case "Call":
            payload = json.dumps(values["payload"]) if "payload" in values else ""
            packet = rpc_request(like.rpc_request.id, to, values["method"], payload, 8000)
        case "Taken":
            packet = rpc_ack(values["call"], to)
        case "Result":
            packet = rpc_response(values["call"], to, values["payload"])
        case "Failure":
            packet = rpc_error(values["call"], to, RpcCode(values["code"]))
    if like.sequence:
        packed = Outbox(like.participant_identity, like.participant_sid, like.sequence - 1).pack(packet)
        return models.DataPacket.FromString(packed)
    return packet
