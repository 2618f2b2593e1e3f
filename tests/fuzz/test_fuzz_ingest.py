"""Publishers and senders that say anything: their input takes it or refuses it with a documented error, and goes on."""

import asyncio
import json
import random

import numpy as np
import pytest

from bridge.errors import RemoteProtocolError, SourceTaken
from bridge.inputs.published_sound import PublishedSound
from bridge.inputs.whip import WhipSource
from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_MS
from bridge.net.ice import IceSettings
from bridge.protocols.pcm_messages import PcmReader, Sound
from bridge.protocols.pcm_url import PcmFormat
from bridge.protocols.webrtc_offers import read_fragment
from bridge.protocols.whip_ingest import check_offer
from bridge.track_reception import TrackReception
from tests.fuzz.test_fuzz_sdp import CANDIDATE, OFFER, mutated

N_OFFERS, N_CHECKED, N_MESSAGES, N_UNITS = 100, 2_000, 2_000, 400
FRAGMENT = (
    f"a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\na={CANDIDATE}\r\n"
)


def no_block(block: AudioBlock) -> asyncio.Future[None]:
    raise AssertionError("nobody sent anything")


@pytest.mark.parametrize("seed", range(2))
async def test_any_offer_is_answered_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    source = WhipSource("host", IceSettings(("lo",)), TrackReception)
    running = asyncio.create_task(source.run(no_block))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    n_accepted = 0
    for _ in range(N_OFFERS):
        offer = mutated(OFFER, chance)
        try:
            check_offer(offer)
            publication = await source.publish(offer, lambda address: True)
        except SourceTaken:
            raise AssertionError("a refused offer has left something behind") from None
        except RemoteProtocolError:
            continue
        n_accepted += 1
        await source.trickle(publication.id, read_fragment_or_nothing(mutated(FRAGMENT, chance)))
        await source.end(publication.id)
    assert not running.done() and n_accepted
    running.cancel()
    await asyncio.wait({running})


def read_fragment_or_nothing(body: str) -> tuple[tuple[str, str | None], ...]:
    try:
        return read_fragment(body).candidates
    except RemoteProtocolError:
        return ()


def test_any_text_is_checked_or_refused() -> None:
    chance = random.Random(5)
    for _ in range(N_CHECKED):
        for check, text in ((check_offer, OFFER), (read_fragment, FRAGMENT)):
            try:
                check(mutated(text, chance))
            except RemoteProtocolError as error:
                assert len(str(error)) < 300


def test_any_message_is_read_or_refused() -> None:
    chance = random.Random(7)
    said = [json.dumps({"type": word, "on": True, "rate": 8_000}) for word in ("open", "start", "end", "listening")]
    for encoding in ("s16le", "s24le", "s32le", "f32le"):
        reader = PcmReader(PcmFormat(8_000, 2, encoding))  # type: ignore[arg-type]
        for _ in range(N_MESSAGES // 4):
            message = mutated(chance.choice(said), chance) if chance.random() < 0.5 else chance.randbytes(24)
            try:
                read = reader.read(message)
            except RemoteProtocolError:
                continue
            if isinstance(read, Sound):
                assert read.samples.shape[1] == 2
                assert read.samples.dtype == np.int16 or np.abs(read.samples).max(initial=0) <= 1


@pytest.mark.parametrize("codec", [Codec.OPUS, Codec.PCMU, Codec.PCMA])
def test_any_payload_is_sound(codec: Codec) -> None:
    chance = random.Random(11)
    sound, ticks = PublishedSound(), 0
    for number in range(N_UNITS):
        lost_ns = chance.choice((0, 0, 0, 20 * NS_PER_MS, 10**12))
        payload = chance.randbytes(chance.randrange(1, 200))
        unit = ReceivedUnit(codec, payload, ticks, 20 * NS_PER_MS, True, b"", number, number, lost_ns > 0, lost_ns)
        block = sound.push(unit)
        assert np.isfinite(block.samples).all() and np.abs(block.samples).max(initial=0) <= 1
        assert block.duration_s <= 0.121 + 0.12
        ticks += chance.choice((960, 160, 48_000_000))
