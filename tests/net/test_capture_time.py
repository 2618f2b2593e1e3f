"""Over real sockets: when pictures were captured reaches whoever writes them."""

import asyncio
import time

import pytest

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS
from bridge.net.peer import ReceivingPeer, SendingPeer
from bridge.protocols.header_extension import CAPTURE_TIME_URI
from bridge.reception import Reception
from tests.net.loopback import LOOPBACK, PATIENCE_S, negotiate
from tests.unit.receive.streams import IDR, OPUS_20_MS, PPS, SPS

# Behind the encoder of a slow avatar.
AGE_NS = 300 * NS_PER_MS


@pytest.mark.parametrize("delay_ms", [0, 100], ids=["", "pictures travel longer"])
@pytest.mark.parametrize("tells_capture", [True, False], ids=["capture", "sender_report"])
async def test_the_age_of_a_picture_is_known_where_it_is_received(tells_capture: bool, delay_ms: int) -> None:
    # Reports about sound tell that pictures are held up, though those about pictures are held up as well.
    units: list[AccessUnit] = []
    reception = Reception(time.monotonic_ns(), units.append, {}, None)
    async with (
        ReceivingPeer(LOOPBACK, reception.on_track) as receiving,
        SendingPeer(LOOPBACK, lambda: None, tells_capture=tells_capture, video_delay_s=delay_ms / 1000) as sending,
    ):
        await negotiate(sending, receiving)
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
            began_ns = time.monotonic_ns()
            while len(known := [unit for unit in units if unit.captured is not None]) < 5:
                # By the clock, as a live sender's: counted pictures would fall behind it where the machine is busy, and
                # every picture since the last report would look that much older.
                now_ns = time.monotonic_ns()
                pts_ns = now_ns - began_ns
                sending.send_video([SPS, PPS, IDR], pts_ns, now_ns - AGE_NS)
                sending.send_audio(OPUS_20_MS, pts_ns)
                await asyncio.sleep(0.04)
    reception.close()
    captures = [unit.captured for unit in known if unit.captured is not None]
    assert {unit.codec.kind for unit in known} == {"video"}
    assert {captured.basis for captured in captures} == {"capture" if tells_capture else "sender_report"}
    # The best of five: the machine may be busy.
    age_ns = min(unit.arrival_ns - captured.at_ns for unit, captured in zip(known, captures, strict=True))
    due_ns = delay_ms * NS_PER_MS + (AGE_NS if tells_capture else 0)
    assert due_ns - 5 * NS_PER_MS < age_ns < due_ns + 50 * NS_PER_MS


async def test_capture_times_are_agreed_on_for_pictures_where_they_are_offered() -> None:
    async with ReceivingPeer(LOOPBACK, lambda track: pytest.fail()) as receiving:
        async with SendingPeer(LOOPBACK, lambda: None, tells_capture=True) as sending:
            offer = await sending.offer()
            answer = await receiving.answer(offer)
    (line,) = (line for line in offer.splitlines() if CAPTURE_TIME_URI in line)
    assert answer.splitlines().count(line) == 1
    assert CAPTURE_TIME_URI in answer[answer.index("m=video") :]


async def test_who_passes_pictures_on_does_not_offer_to_say_when_they_were_captured() -> None:
    async with SendingPeer(LOOPBACK, lambda: None) as sending:
        assert CAPTURE_TIME_URI not in await sending.offer()
    async with ReceivingPeer(LOOPBACK, lambda track: pytest.fail()) as receiving:
        offer = await receiving.offer()
        assert offer.count(CAPTURE_TIME_URI) == 1
        async with SendingPeer(LOOPBACK, lambda: None) as sending:
            assert CAPTURE_TIME_URI not in await sending.answer(offer)
