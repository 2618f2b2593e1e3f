"""What is made of a publisher's units, and of those that were lost."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.inputs.published_sound import PublishedSound
from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.clock import NS_PER_MS, ns_to_ticks
from tests.unit.media.speech import speech
from tests.unit.outputs.coded_media import opus_units

PACKET_NS = 20 * NS_PER_MS


def opus(n_packets: int) -> list[ReceivedUnit]:
    payloads = [unit.payload for unit in opus_units(speech(n_packets * 0.02 + 0.1), layout="mono")]
    return coded(Codec.OPUS, payloads[:n_packets])


def mu_law(n_packets: int) -> list[ReceivedUnit]:
    """A tone of 200 Hz."""
    # The upper codes of the positive half go down in level, the lower ones of the negative half likewise.
    wave = np.sin(2 * np.pi * 200 * np.arange(160 * n_packets) / 8_000)
    codes = np.where(wave >= 0, 0xFF - 0x70 * wave, 0x7F + 0x70 * wave).astype(np.uint8)
    return coded(Codec.PCMU, [bytes(part) for part in codes.reshape(-1, 160)])


def coded(codec: Codec, payloads: Sequence[bytes]) -> list[ReceivedUnit]:
    ticks = ns_to_ticks(PACKET_NS, codec.rtp_clock_hz)
    return [
        ReceivedUnit(codec, payload, 5_000 + n * ticks, PACKET_NS, True, b"", n * PACKET_NS, n * PACKET_NS)
        for n, payload in enumerate(payloads)
    ]


def heard(units: Sequence[ReceivedUnit]) -> tuple[NDArray[np.float32], PublishedSound]:
    """One channel; the blocks follow each other without a joint in their times."""
    sound = PublishedSound()
    blocks = [sound.push(unit) for unit in units]
    ends_ns = [block.pts_ns + round(block.duration_s * 1e9) for block in blocks]
    assert all(abs(b.pts_ns - e) <= NS_PER_MS for b, e in zip(blocks[1:], ends_ns, strict=False))
    return np.concatenate([block.samples[:, 0] for block in blocks]), sound


@pytest.mark.parametrize(("make", "rate_hz"), [(opus, 48_000), (mu_law, 8_000)])
def test_sound_comes_at_the_codecs_rate_and_lost_packets_are_made_up(make: object, rate_hz: int) -> None:
    units = make(40)  # type: ignore[operator]
    whole, _ = heard(units)
    assert len(whole) == 40 * rate_hz // 50
    lost = {20, 21}
    kept = [unit for n, unit in enumerate(units) if n not in lost]
    kept[20] = replace(kept[20], lost_ns=2 * PACKET_NS)
    made_up, sound = heard(kept)
    assert len(made_up) == len(whole)
    assert sound.concealed_s == pytest.approx(0.04)
    first = made_up[20 * rate_hz // 50 : 21 * rate_hz // 50]
    assert np.sqrt(np.mean(first**2)) > 0.25 * np.sqrt(np.mean(whole[19 * rate_hz // 50 : 20 * rate_hz // 50] ** 2))


@pytest.mark.parametrize("make", [opus, mu_law])
def test_what_a_silent_sender_does_not_send_is_not_made_up(make: object) -> None:
    units = make(20)  # type: ignore[operator]
    later = ns_to_ticks(400 * NS_PER_MS, units[0].codec.rtp_clock_hz)
    resumed = [replace(unit, rtp_ticks=unit.rtp_ticks + later) for unit in units[10:]]
    sound = PublishedSound()
    blocks = [sound.push(unit) for unit in [*units[:10], *resumed]]
    assert {block.duration_s for block in blocks} == {0.02}
    assert blocks[10].pts_ns - blocks[9].pts_ns == pytest.approx(420 * NS_PER_MS, abs=NS_PER_MS)


def test_a_long_loss_is_not_made_up_to_its_end() -> None:
    units = opus(20)
    _, sound = heard(units[:10])
    assert sound.push(replace(units[10], lost_ns=900 * NS_PER_MS)).duration_s == pytest.approx(0.14)
