"""What platforms object to: rules against facts, and what is new of it."""

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.outputs.compliance import (
    Compliance,
    SoundFacts,
    StreamFacts,
    StreamMeter,
    VideoFacts,
    objections,
)
from bridge.presets import PresetName, find_preset
from tests.unit.outputs.coded_media import pictures
from tests.unit.outputs.fakes import Rig, aac, publish, settle

# What everybody takes who takes RTMP.
GOOD = StreamFacts(
    video=VideoFacts(
        codec="h264",
        profile="baseline",
        level=3.1,
        width_px=1280,
        height_px=720,
        has_b_pictures=False,
        fps=30.0,
        keyframe_s=2.0,
        bitrate=4_000_000,
        bitrate_swing=0.02,
    ),
    sound=SoundFacts(is_present=True, codec="aac", bitrate=128_000),
)


def with_video(**facts: object) -> StreamFacts:
    return replace(GOOD, video=replace(GOOD.video, **facts))  # type: ignore[arg-type]


def with_sound(**facts: object) -> StreamFacts:
    return replace(GOOD, sound=replace(GOOD.sound, **facts))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["twitch", "youtube", "cloudflare", "ivs", "mediamtx", "generic"])
def test_nobody_objects_to_what_all_ask_for_or_to_what_is_not_known(name: PresetName) -> None:
    assert objections(find_preset(name), "rtmps", GOOD) == ()
    assert objections(find_preset(name), "rtmps", StreamFacts()) == ()


OBJECTIONS: dict[str, tuple[PresetName, StreamFacts, str, str, str]] = {
    "codec": ("twitch", with_video(codec="vp8"), "video.codec", "reject", "video codec: vp8; Twitch asks for h264"),
    "profile": (
        "twitch",
        with_video(profile="high"),
        "video.profile",
        "reject",
        "profile: high; Twitch asks for main or baseline",
    ),
    "baseline only": (
        "ivs",
        with_video(profile="main"),
        "video.profile",
        "reject",
        "profile: main; Amazon IVS asks for baseline",
    ),
    "B-pictures": (
        "ivs",
        with_video(has_b_pictures=True),
        "video.has_b_pictures",
        "reject",
        "B-pictures: some; Amazon IVS asks for none",
    ),
    "B-pictures that only some players mind": (
        "mediamtx",
        with_video(has_b_pictures=True),
        "video.has_b_pictures",
        "advice",
        "B-pictures: some; MediaMTX asks for none",
    ),
    "a long way between keyframes": (
        "youtube",
        with_video(keyframe_s=10.02),
        "video.keyframe_s",
        "reject",
        "distance of keyframes: 10 s; YouTube asks for at most 4 s",
    ),
    "a bit long": (
        "youtube",
        with_video(keyframe_s=3.0),
        "video.keyframe_s",
        "advice",
        "distance of keyframes: 3 s; YouTube asks for at most 2 s",
    ),
    "keyframes too often": (
        "cloudflare",
        with_video(keyframe_s=1.0),
        "video.keyframe_s",
        "reject",
        "distance of keyframes: 1 s; Cloudflare Stream asks for at least 2 s and at most 10 s",
    ),
    "size": (
        "ivs",
        with_video(width_px=1080, height_px=1080),
        "video.short_side_px",
        "reject",
        "shorter side: 1080 px; Amazon IVS asks for at least 160 px and at most 720 px",
    ),
    "what is not documented": (
        "ivs",
        with_video(width_px=1600),
        "video.long_side_px",
        "reject",
        "longer side: 1600 px; Amazon IVS asks for at most 1280 px, as is said and not documented",
    ),
    "no sound": (
        "youtube",
        with_sound(is_present=False),
        "sound.is_present",
        "reject",
        "sound: none; YouTube asks for some",
    ),
    "sound codec": (
        "twitch",
        with_sound(codec="opus"),
        "sound.codec",
        "reject",
        "sound codec: opus; Twitch asks for aac",
    ),
    "sound bit rate": (
        "ivs",
        with_sound(bitrate=192_000),
        "sound.bitrate",
        "advice",
        "sound bit rate: 192 kb/s; Amazon IVS asks for at most 160 kb/s",
    ),
    "a still avatar": (
        "cloudflare",
        with_video(bitrate=1_800_000),
        "bitrate",
        "advice",
        "bit rate: 1.93 Mb/s; Cloudflare Stream asks for at least 2 Mb/s and at most 14 Mb/s",
    ),
    "bit rate that is not constant": (
        "twitch",
        with_video(bitrate_swing=0.4),
        "video.bitrate_swing",
        "advice",
        "swing of the bit rate: 40%; Twitch asks for at most 10%",
    ),
    "picture rate": (
        "twitch",
        with_video(fps=15.0),
        "video.fps",
        "advice",
        "picture rate: 15 a second; Twitch asks for at least 25 a second and at most 60 a second",
    ),
}


@pytest.mark.parametrize(("name", "facts", "rule", "weight", "text"), OBJECTIONS.values(), ids=OBJECTIONS)
def test_an_objection_says_what_there_is_and_what_is_asked_for(
    name: PresetName, facts: StreamFacts, rule: str, weight: str, text: str
) -> None:
    (objection,) = objections(find_preset(name), "rtmps", facts)
    assert (objection.rule, objection.weight, objection.text) == (rule, weight, text)
    assert objection.source.startswith("https://")


def test_an_upright_picture_is_measured_by_its_sides() -> None:
    assert objections(find_preset("ivs"), "rtmps", with_video(width_px=720, height_px=1280)) == ()


def test_what_an_asked_for_keyframe_takes_to_come_is_no_objection() -> None:
    assert objections(find_preset("ivs"), "rtmps", with_video(keyframe_s=2.2)) == ()


def test_another_protocol_has_other_rules() -> None:
    opus = with_sound(codec="opus")
    assert objections(find_preset("cloudflare"), "whip+https", opus) == ()
    (objection,) = objections(find_preset("cloudflare"), "rtmps", opus)
    assert objection.rule == "sound.codec"


# ---------------------------------------------------------------------------------------------- measuring


def test_a_stream_is_measured_over_its_last_ten_seconds() -> None:
    meter = StreamMeter()
    for unit in stream(0.0, 30.0, fps=25, picture_bytes=5_000):
        meter.put(unit)
    for unit in stream(30.0, 50.0, fps=50, picture_bytes=10_000):
        meter.put(unit)
    facts = meter.facts()
    assert facts.video.fps == pytest.approx(50)
    assert facts.video.bitrate == pytest.approx(4_000_000)
    assert facts.video.bitrate_swing == pytest.approx(0.0, abs=1e-6)
    assert facts.video.keyframe_s == pytest.approx(2.0)
    assert facts.sound == SoundFacts(is_present=True, codec="aac", bitrate=pytest.approx(128_000, rel=0.02))


def test_a_bit_rate_that_swings_is_seen() -> None:
    meter = StreamMeter()
    for number in range(6):
        for unit in stream(2.0 * number, 2.0 * number + 2.0, fps=25, picture_bytes=5_000 if number % 2 else 15_000):
            meter.put(unit)
    assert meter.facts().video.bitrate_swing == pytest.approx(0.5, abs=0.15)


def test_a_keyframe_that_does_not_come_is_seen_before_the_next_one() -> None:
    meter = StreamMeter()
    for unit in stream(0.0, 6.0, fps=25, picture_bytes=100):
        meter.put(unit)
    for number in range(100):
        meter.put(AccessUnit(Codec.H264, bytes(100), 6 * NS_PER_S + number * 40 * NS_PER_MS, is_keyframe=False))
    assert meter.facts().video.keyframe_s == pytest.approx(5.96)


def test_sound_that_is_missing_is_seen_after_a_span() -> None:
    meter = StreamMeter()
    units = [unit for unit in stream(0.0, 3.0, fps=25, picture_bytes=100) if unit.codec.kind == "video"]
    meter.put(units[0])
    assert meter.facts().sound.is_present is None
    for unit in units[1:]:
        meter.put(unit)
    assert meter.facts().sound.is_present is False


def test_parameter_sets_that_cannot_be_read_tell_nothing() -> None:
    meter = StreamMeter()
    meter.put(AccessUnit(Codec.H264, b"", 0, codec_config=b"\x01avcC"))
    assert meter.facts().video == VideoFacts(codec="h264")
    meter.put(AccessUnit(Codec.VP8, b"", NS_PER_S))
    assert meter.facts().video == VideoFacts(codec="vp8", keyframe_s=1.0)


def stream(starts_s: float, ends_s: float, *, fps: int, picture_bytes: int) -> list[AccessUnit]:
    """Pictures with a keyframe every 2 s from the beginning on, and AAC of 128 kb/s."""
    config = pictures(1)[0].codec_config
    video = [
        AccessUnit(
            Codec.H264,
            bytes(picture_bytes),
            round((starts_s + number / fps) * NS_PER_S),
            is_keyframe=number % (2 * fps) == 0,
            codec_config=config if number % (2 * fps) == 0 else b"",
        )
        for number in range(round((ends_s - starts_s) * fps))
    ]
    sound = [
        AccessUnit(Codec.AAC, bytes(320), round((starts_s + number / 50) * NS_PER_S), NS_PER_S // 50)
        for number in range(round((ends_s - starts_s) * 50))
    ]
    return sorted(video + sound, key=lambda unit: unit.pts_ns)


# ---------------------------------------------------------------------------------------------- live


def test_an_objection_appears_once_and_goes_once() -> None:
    compliance = Compliance(find_preset("ivs"), "rtmps")
    high, base = (pictures(1, profile=profile) for profile in ("high", "baseline"))
    assert compliance.look() == ((), ())
    compliance.put(high[0])
    (appeared,), gone = compliance.look()
    assert (appeared.rule, gone) == ("video.profile", ())
    assert compliance.look() == ((), ())
    assert compliance.standing == (appeared,)
    compliance.restart()
    assert compliance.look() == ((), ()), "of another connection nothing is known yet"
    assert compliance.standing == (appeared,)
    compliance.put(base[0])
    assert compliance.look() == ((), (appeared,))
    assert compliance.standing == ()


async def test_objections_stand_in_the_status_and_are_logged_as_they_come_and_go() -> None:
    rig = Rig(publish, compliance=Compliance(find_preset("twitch"), "rtmp"))
    high, base = (pictures(1, profile=profile)[0] for profile in ("high", "baseline"))
    with capture_logs() as logs:
        running = asyncio.create_task(rig.runner.run())
        await settle()
        rig.queue.put(high)
        rig.queue.put(aac(10))
        await rig.time.pass_s(3.0)
        (standing,) = rig.runner.status().objections
        rig.queue.put(replace(base, pts_ns=NS_PER_S))
        await rig.time.pass_s(3.0)
        rig.runner.finish()
        await running
    assert standing.text == "profile: high; Twitch asks for main or baseline"
    assert rig.runner.status().objections == ()
    told = [entry for entry in logs if entry["event"].startswith("output_objection")]
    assert [(entry["event"], entry["log_level"], entry["rule"]) for entry in told] == [
        ("output_objection", "warning", "video.profile"),
        ("output_objection_gone", "info", "video.profile"),
    ]
