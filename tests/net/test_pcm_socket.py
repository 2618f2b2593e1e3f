"""Senders of raw sound and their input, over the real API."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from bridge.inputs.websocket import WebSocketSource
from bridge.protocols.pcm_messages import MAX_MESSAGE_BYTES
from bridge.protocols.pcm_url import PcmFormat
from tests.net.loopback import PATIENCE_S
from tests.net.publishers import OTHER_TOKEN, TOKEN, Desk, desk

OPEN = {"type": "open", "rate": 16_000, "channels": 1, "format": "s16le"}


@asynccontextmanager
async def sender(at: Desk, **options: Any) -> AsyncIterator[ClientConnection]:
    options.setdefault("compression", None)
    async with asyncio.timeout(PATIENCE_S), connect(at.socket_url, **options) as socket:
        yield socket


async def closed_with(socket: ClientConnection, *messages: str | bytes) -> tuple[int, str]:
    """Code and reason that the connection is closed with."""
    with pytest.raises(ConnectionClosed) as failure:
        for message in messages:
            await socket.send(message)
        while True:
            await socket.recv()
    assert failure.value.rcvd is not None
    return failure.value.rcvd.code, failure.value.rcvd.reason


async def test_samples_are_heard_as_they_were_sent() -> None:
    samples = np.arange(3_200, dtype=np.int16)
    async with desk() as at, sender(at) as socket:
        await socket.send(json.dumps(OPEN))
        assert json.loads(await socket.recv()) == OPEN | {"type": "opened"}
        for part in np.split(samples, 10):
            await socket.send(part.tobytes())
        sound = await at.pipe.seconds(0.2, start=0)
    assert np.array_equal(sound, samples)
    assert {block.sample_rate_hz for block in at.pipe.blocks} == {16_000}


async def test_a_layout_that_the_file_gives_needs_no_word_of_it() -> None:
    async with desk(pcm=WebSocketSource("pipe", PcmFormat(48_000, 2, "f32le"))) as at:
        async with sender(at) as socket:
            await socket.send(np.array([[0.5, -0.5], [np.nan, 9.0]], "<f4").tobytes())
            while not at.pipe.blocks:  # noqa: ASYNC110  bounded by the sender's patience
                await asyncio.sleep(0.01)
            assert at.pipe.blocks[0].samples.tolist() == [[0.5, -0.5], [0.0, 1.0]]
        async with sender(at) as socket:
            code, reason = await closed_with(socket, json.dumps(OPEN))
            assert code == 1003 and "this input takes" in reason


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        ([b"\0\0"], 1008, "samples before"),
        ([json.dumps(OPEN | {"channels": 2}), bytes(6)], 1007, "6 bytes holds no whole number of frames of 4 bytes"),
        ([json.dumps(OPEN), bytes(641)], 1007, "no whole number"),
        ([json.dumps(OPEN), json.dumps(OPEN)], 1008, "once"),
        ([json.dumps(OPEN | {"rate": 7})], 1003, "rate=7 is no number from 8000 to 192000"),
        ([json.dumps(OPEN | {"rate": {}})], 1003, "rate={} is no number"),
        ([json.dumps(OPEN | {"channels": 9})], 1003, "channels=9"),
        ([json.dumps(OPEN | {"format": "mp3"})], 1003, "format=mp3"),
        (["{"], 1007, "no JSON"),
        (["[" * 100_000], 1007, "no JSON"),
        (["7"], 1007, "no JSON object"),
        (['{"type": "sing"}'], 1003, "type is none of"),
        (['{"type": "listening"}'], 1007, "listening needs on"),
        ([json.dumps(OPEN), bytes(MAX_MESSAGE_BYTES + 2)], 1009, ""),
        ([json.dumps(OPEN), *[bytes(MAX_MESSAGE_BYTES)] * 10], 1013, "wait to be said"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_what_breaks_the_rules_closes_the_connection_with_a_reason(
    messages: list[str | bytes], code: int, reason: str
) -> None:
    async with desk() as at:
        async with sender(at) as socket:
            given = await closed_with(socket, *messages)
            assert given[0] == code and reason in given[1]
        async with sender(at) as socket:  # the place is free, and nothing else was hurt
            await socket.send(json.dumps(OPEN))
            assert json.loads(await socket.recv())["type"] == "opened"


async def test_a_second_sender_is_refused_while_the_first_is_there() -> None:
    async with desk() as at:
        async with sender(at):
            with pytest.raises(InvalidStatus) as refused:
                await connect(at.socket_url)
            assert refused.value.response.status_code == 409
            assert b"somebody sends to input pipe" in refused.value.response.body
        async with sender(at):
            pass


# ---------------------------------------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403)],
)
async def test_no_page_from_elsewhere_puts_sound_on_air(headers: dict[str, str], status: int) -> None:
    async with desk() as at:
        with pytest.raises(InvalidStatus) as refused:
            await connect(at.socket_url, additional_headers=headers)
        assert refused.value.response.status_code == status
        assert refused.value.response.headers["content-type"] == "application/problem+json"


async def test_a_name_that_leads_to_us_and_is_not_ours_is_refused() -> None:
    """As in DNS rebinding: the page's own name in Host and Origin, our address."""
    async with desk() as at:
        port = at.origin.rpartition(":")[2]
        rebound = f"ws://evil.example:{port}/v1/sessions/leo/pcm/pipe"
        with pytest.raises(InvalidStatus) as refused:
            await connect(rebound, host="127.0.0.1", port=int(port), origin=f"http://evil.example:{port}")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 400


async def test_a_token_is_a_subprotocol_a_header_or_the_first_message() -> None:
    async with desk(tokens=True) as at:
        protocols = [Subprotocol("pcm"), Subprotocol(f"bearer.{TOKEN}")]
        async with sender(at, subprotocols=protocols) as socket:
            assert socket.subprotocol == "pcm"
            await socket.send(json.dumps(OPEN))
            await socket.recv()
        async with sender(at, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
            await socket.send(json.dumps(OPEN))
            await socket.recv()
        async with sender(at) as socket:
            await socket.send(json.dumps(OPEN | {"token": TOKEN}))
            assert json.loads(await socket.recv())["type"] == "opened"


async def test_without_the_right_token_nothing_is_taken() -> None:
    async with desk(tokens=True) as at:
        for token, status in (("wrong", 401), (OTHER_TOKEN, 403)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(at.socket_url, subprotocols=[Subprotocol("pcm"), Subprotocol(f"bearer.{token}")])
            assert refused.value.response.status_code == status
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{at.socket_url}?token={TOKEN}")
        assert refused.value.response.status_code == 400
        others = (json.dumps(OPEN | {"token": OTHER_TOKEN}), '{"token": 7}', r'{"token": "\ud800"}')
        for message in (json.dumps(OPEN), *others, bytes(640)):
            async with sender(at) as socket:
                assert (await closed_with(socket, message))[0] == 1008
        assert not at.pipe.blocks
        # Somebody without a token takes nobody's place.
        async with sender(at), sender(at) as socket:
            await socket.send(json.dumps(OPEN | {"token": TOKEN}))
            assert json.loads(await socket.recv())["type"] == "opened"
