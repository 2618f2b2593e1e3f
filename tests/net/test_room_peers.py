"""Peers of a room: connections that begin with data alone, and tracks that come, go and come again."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from bridge.errors import ProviderUnavailable
from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS
from bridge.net.data_channels import DataChannels
from bridge.net.peer import SendingPeer
from bridge.net.room_peers import DataPeer, ParticipantPeer, SubscriberPeer
from bridge.ports import RemoteTrack
from tests.net.loopback import LOOPBACK, PATIENCE_S, Sink, Tracks

KEYFRAME = [bytes([0x67, 66, 0, 31]), bytes([0x68, 1]), bytes([0x65]) + bytes(50)]


class Messages:
    def __init__(self) -> None:
        self.all: list[tuple[str, str | bytes]] = []
        self._came = asyncio.Event()

    def take(self, label: str, message: str | bytes) -> None:
        self.all.append((label, message))
        self._came.set()

    async def arrived(self, n: int) -> list[tuple[str, str | bytes]]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.all) < n:
                self._came.clear()
                await self._came.wait()
        return self.all


@dataclass
class Room:
    """A server's end and ours of what is watched."""

    server: SendingPeer
    us: SubscriberPeer
    data: DataChannels
    tracks: Tracks
    announced: list[Kind]
    messages: Messages

    async def negotiate(self) -> None:
        await self.server.accept(await self.us.answer(await self.server.renegotiate()))

    async def flows(self, kind: Kind, n_packets: int = 1) -> Sink:
        """Send until so many packets more have come."""
        sink = await self.tracks.sink(kind)
        wanted = len(sink.packets) + n_packets
        for number in range(200):
            pts_ns = number * 20 * NS_PER_MS
            _ = self.server.send_video(KEYFRAME, pts_ns) if kind == "video" else self.server.send_audio(b"x", pts_ns)
            await asyncio.sleep(0.005)
            if len(sink.packets) >= wanted:
                return sink
        raise AssertionError(f"no {kind}")


@asynccontextmanager
async def room(*, is_up: bool = True) -> AsyncIterator[Room]:
    messages, tracks, announced = Messages(), Tracks(), list[Kind]()

    def on_track(track: RemoteTrack) -> Sink:
        announced.append(track.kind)
        return tracks.on_track(track)

    data = DataChannels(lambda label, message: None, {"_reliable": True, "_lossy": False})
    async with (
        SubscriberPeer(LOOPBACK, on_track, DataChannels(messages.take)) as us,
        SendingPeer(LOOPBACK, lambda: None, data=data) as server,
    ):
        offer = await server.offer()
        assert "m=application" in offer and "m=video" not in offer
        await server.accept(await us.answer(offer))
        if is_up:
            async with asyncio.timeout(PATIENCE_S):
                await us.connected()
                await data.opened()
        yield Room(server, us, data, tracks, announced, messages)


async def test_a_connection_begins_with_data_and_gets_tracks_later() -> None:
    async with room() as line:
        assert not line.announced
        line.data.send("_reliable", b"hello")
        assert await line.messages.arrived(1) == [("_reliable", b"hello")]
        line.server.publish(is_on=True)
        await line.negotiate()
        await line.flows("video")
        await line.flows("audio")
        assert sorted(line.announced) == ["audio", "video"]


async def test_tracks_that_are_offered_before_the_connection_is_up_flow_too() -> None:
    async with room(is_up=False) as line:
        line.server.publish(is_on=True)
        await line.negotiate()
        assert not line.us.is_connected
        await line.flows("video")
        await line.flows("audio")


async def test_tracks_that_go_and_come_again_flow_on_as_other_streams() -> None:
    async with room() as line:
        line.server.publish(is_on=True)
        await line.negotiate()
        before = (await line.flows("video")).packets[-1].ssrc
        line.server.publish(is_on=False)
        await line.negotiate()
        line.server.publish(is_on=True)
        await line.negotiate()
        after = (await line.flows("video")).packets[-1].ssrc
        assert before != after


async def test_an_idle_section_makes_room_for_another_of_its_kind() -> None:
    async with room() as line:
        line.server.publish(is_on=True)
        await line.negotiate()
        await line.flows("audio")
        n_before = len(line.announced)
        offer = await line.server.renegotiate()
        head, *sections = offer.split("m=")
        video = next(section for section in sections if section.startswith("video"))
        mid = next(text for text in video.splitlines() if text.startswith("a=mid:"))
        fresh = video.replace(mid, "a=mid:fresh").replace("a=ssrc:", "a=ssrc:7")
        head = re.sub("^(a=group:BUNDLE.*)\r", r"\1 fresh\r", head, flags=re.MULTILINE)
        idle = video.replace("a=sendonly", "a=inactive")
        others = [idle if section is video else section for section in sections]
        answer = await line.us.answer("m=".join([head, *others, fresh]))
        assert answer.count("a=recvonly") == 2  # sound, and the new section of pictures
        async with asyncio.timeout(PATIENCE_S):
            while len(line.announced) == n_before:  # noqa: ASYNC110  tracks are announced in a task of aiortc's
                await asyncio.sleep(0.01)
        assert line.announced[n_before:] == ["video"]


async def test_a_section_in_an_unknown_codec_is_declined_and_its_track_named() -> None:
    async with room() as line:
        line.server.publish(is_on=True)
        offer = (await line.server.renegotiate()).replace("H264/90000", "VP9/90000")
        offer = offer.replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=msid:PA_leo|camera TR_leo\r\n")
        answer = await line.us.answer(offer)
        assert "m=video 0 " in answer
        assert "TR_leo" in line.us.unusable_tracks


async def test_data_goes_to_a_server_that_also_takes_sound() -> None:
    messages = Messages()
    ours = DataChannels(lambda label, message: None, {"_reliable": True, "_lossy": False})
    async with (
        DataPeer(LOOPBACK, ours) as us,
        ParticipantPeer(LOOPBACK, lambda track: Sink(track), DataChannels(messages.take)) as server,
    ):
        await us.accept(await server.answer(await us.offer()))
        async with asyncio.timeout(PATIENCE_S):
            await ours.opened()
        content = bytes(range(200)) * 75
        for _ in range(20):
            ours.send("_reliable", content)
            await ours.drained("_reliable")
        assert await messages.arrived(20) == 20 * [("_reliable", content)]
        ours.send("_lossy", b"now")
        assert (await messages.arrived(21))[-1] == ("_lossy", b"now")


async def test_nothing_is_sent_where_there_is_no_channel() -> None:
    with pytest.raises(ProviderUnavailable, match="not open"):
        DataChannels(lambda label, message: None).send("_reliable", b"x")
