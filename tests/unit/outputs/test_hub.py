"""The hub: who gets what, and that outputs are islands."""

import asyncio
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bridge.errors import OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.opus_decoder import Samples
from bridge.outputs.audio import AacTranscoder, Repairs
from bridge.outputs.hub import Hub
from tests.unit.outputs.coded_media import clicks, opus_units, without
from tests.unit.outputs.fakes import Rig, fail, opus, picture, publish, settle, wedge
from tests.unit.stage import until


async def test_outputs_that_take_opus_get_the_packets_untouched() -> None:
    rig = Rig(publish)
    hub = Hub([rig.runner])
    task = asyncio.create_task(hub.run())
    await settle()
    units = [picture(0, keyframe=True), opus(0), picture(40), opus(20)]
    for unit in units:
        hub.put(unit)
    hub.finish()
    await task

    assert len(rig.written) == 4
    assert all(a is b for a, b in zip(rig.written, units, strict=True))


async def test_outputs_that_take_aac_share_one_transcoder_and_get_all_of_it_before_they_close() -> None:
    rigs = [Rig(publish, name=name, audio_codec=Codec.AAC) for name in ("twitch", "archive")]
    hub = Hub([rig.runner for rig in rigs])
    task = asyncio.create_task(hub.run())
    await settle()
    for unit in opus_units(clicks(1.0, [0.5])):
        hub.put(unit)
    hub.finish()
    await task

    assert {unit.codec for unit in rigs[0].written} == {Codec.AAC}
    assert 46 <= len(rigs[0].written) <= 49
    assert all(a is b for a, b in zip(rigs[0].written, rigs[1].written, strict=True))


async def test_what_was_made_up_for_lost_and_broken_sound_is_counted_once_for_all_bit_rates() -> None:
    rigs = [Rig(publish, name=str(rate), audio_codec=Codec.AAC, audio_bitrate=rate) for rate in (64_000, 192_000)]
    hub = Hub([rig.runner for rig in rigs])
    assert hub.repairs == Repairs()
    task = asyncio.create_task(hub.run())
    await settle()
    sound = opus_units(clicks(1.0, []))
    sound[10] = replace(sound[10], payload=b"\xff")
    with capture_logs() as logs:
        for unit in without(sound, range(30, 35)):
            hub.put(unit)
        hub.finish()
        await task

    # One broken packet of 20 ms, five lost ones.
    assert hub.repairs.concealed_s == pytest.approx(0.12, abs=0.001)
    (warning, _) = (entry for entry in logs if entry["event"] == "sound_concealed")
    assert (warning["broken_packets"], warning["dropped_units"]) == (1, 0)


async def test_no_transcoder_conceals_nothing() -> None:
    hub = Hub([Rig(publish).runner])
    assert hub.repairs == Repairs()
    assert hub.concealment is None


async def test_different_bit_rates_of_aac_are_encoded_apart() -> None:
    rigs = [Rig(publish, name=str(rate), audio_codec=Codec.AAC, audio_bitrate=rate) for rate in (64_000, 192_000)]
    hub = Hub([rig.runner for rig in rigs])
    task = asyncio.create_task(hub.run())
    await settle()
    for unit in opus_units(clicks(1.0, [0.1 * n for n in range(10)])):
        hub.put(unit)
    hub.finish()
    await task

    small, large = (sum(len(unit.payload) for unit in rig.written) for rig in rigs)
    assert small < large


@pytest.mark.parametrize("declared, wanted", [((2.0, 4.0), 2.0), ((None, 6.0), 6.0), ((None, None), None)])
def test_keyframes_are_wanted_as_often_as_the_most_demanding_output_says(
    declared: tuple[float | None, ...], wanted: float | None
) -> None:
    rigs = [Rig(publish, name=f"n{n}", keyframe_s=keyframe_s) for n, keyframe_s in enumerate(declared)]
    assert Hub([rig.runner for rig in rigs]).keyframe_s == wanted


async def test_an_output_that_fails_refuses_stalls_or_has_a_bug_touches_no_other() -> None:
    healthy = Rig(publish, name="healthy")
    ill = [
        Rig(fail(OutputLost("away")), name="away"),
        Rig(fail(OutputRejected("refused")), name="refused"),
        Rig(wedge, name="wedged"),
        Rig(fail(ZeroDivisionError("bug"), after=1), name="buggy"),
    ]
    hub = Hub([rig.runner for rig in (*ill, healthy)])
    task = asyncio.create_task(hub.run())
    await settle()
    for pts_ms in range(0, 10_000, 40):
        hub.put(picture(pts_ms, keyframe=pts_ms % 1000 == 0))
        await settle()
    assert len(healthy.written) == 250
    assert healthy.queue.dropped.total() == 0

    hub.finish()
    for rig in ill:
        rig.queue.finish()
    ill[2].outputs[0].behaviour = publish
    await ill[2].time.pass_s(20)
    with pytest.raises(ExceptionGroup, match="a bug ended an output") as caught:
        await task
    assert [type(bug) for bug in caught.value.exceptions] == [ZeroDivisionError]
    assert healthy.states == ["publishing", "closed"]


async def test_a_bug_in_a_transcoder_ends_only_the_outputs_that_it_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(transcoder: AacTranscoder, units: object) -> list[AccessUnit]:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(AacTranscoder, "push_all", buggy)
    fed, other = Rig(publish, name="twitch", audio_codec=Codec.AAC), Rig(publish, name="archive")
    hub = Hub([fed.runner, other.runner])
    with capture_logs() as logs:
        task = asyncio.create_task(hub.run())
        await settle()
        for unit in opus_units(clicks(0.5, [])):
            hub.put(unit)
        (twitch,) = (task for task in asyncio.all_tasks() if task.get_name() == "twitch")
        await asyncio.wait({twitch}, timeout=10)
        assert fed.states == ["publishing", "closed"]
        hub.put(picture(1_000, keyframe=True))
        await settle()
        assert [unit.pts_ns for unit in other.written if unit.codec is Codec.H264] == [NS_PER_S]
        hub.finish()
        with pytest.raises(ExceptionGroup, match="a bug ended an output") as caught:
            await task

    assert [type(bug) for bug in caught.value.exceptions] == [ZeroDivisionError]
    assert other.states == ["publishing", "closed"]
    assert [entry["transcoder"] for entry in logs if entry["event"] == "output_failed"] == ["aac 128000"]


async def test_the_hub_returns_once_every_output_has_been_refused() -> None:
    refused = fail(OutputRejected("no"))
    hub = Hub([Rig(refused, name=codec.value, audio_codec=codec).runner for codec in (Codec.AAC, Codec.OPUS)])

    await hub.run()

    assert {runner.status().state.value for runner in hub.runners} == {"rejected"}


async def test_cancelling_the_hub_closes_every_output() -> None:
    rigs = [Rig(publish, name=codec.value, audio_codec=codec) for codec in (Codec.AAC, Codec.OPUS)]
    task = asyncio.create_task(Hub([rig.runner for rig in rigs]).run())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert all(rig.outputs[0].was_cancelled and rig.states[-1] == "closed" for rig in rigs)


class Nobody:
    """A mixer with nothing to mix in, whose sound is ready at once."""

    look_ahead_samples = 0
    ready_until_ns = 1 << 62

    def before_round(self) -> None: ...

    def mix(self, starts_ns: int, sound: Samples) -> tuple[Samples, bool]:
        return sound, False


async def test_with_a_mixer_all_sound_comes_from_it_and_outputs_close_after_it() -> None:
    rigs = [
        Rig(publish, name="studio"),
        Rig(publish, name="twitch", audio_codec=Codec.AAC),
        Rig(publish, name="archive", audio_codec=Codec.AAC, audio_bitrate=64_000),
    ]
    hub = Hub([rig.runner for rig in rigs], mixer=Nobody())
    task = asyncio.create_task(hub.run())
    await settle()
    units = opus_units(clicks(1.0, [0.5]))
    for unit in units:
        hub.put(unit)
    hub.put(picture(0, keyframe=True))
    hub.finish()
    await task

    copied, coded, small = ([unit for unit in rig.written if unit.codec.kind == "audio"] for rig in rigs)
    assert all(a is b for a, b in zip(copied, units, strict=True))
    assert {unit.codec for unit in coded} == {Codec.AAC} and len(coded) == len(small)
    assert sum(len(unit.payload) for unit in coded) > sum(len(unit.payload) for unit in small)
    assert all(any(unit.codec is Codec.H264 for unit in rig.written) for rig in rigs)


class Slow(Nobody):
    """Takes its time, and notes when it is called by two at once."""

    def __init__(self) -> None:
        self.n_calls = self.n_overlaps = 0
        self.is_busy = False

    def before_round(self) -> None:
        self.n_overlaps += self.is_busy

    def mix(self, starts_ns: int, sound: Samples) -> tuple[Samples, bool]:
        self.n_overlaps += self.is_busy
        self.is_busy = True
        self.n_calls += 1
        time.sleep(0.1)
        self.is_busy = False
        return sound, False


async def test_the_only_output_that_is_restarted_while_sound_is_mixed_waits_for_its_end() -> None:
    mixer, rig = Slow(), Rig(publish, name="twitch", audio_codec=Codec.AAC)
    hub = Hub([rig.runner], mixer=mixer)
    task = asyncio.create_task(hub.run())
    await settle()
    for n, unit in enumerate(opus_units(clicks(1.0, []))):
        hub.put(unit)
        if n == 20:
            await until(lambda: mixer.is_busy)
            await hub.restart("twitch")
            n_before = mixer.n_calls
    await until(lambda: mixer.n_calls > n_before + 30)
    hub.finish()
    await task
    assert mixer.n_overlaps == 0
