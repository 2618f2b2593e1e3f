"""Facts of real streams: what the meter finds is what FFmpeg's prober says, and platforms object to it."""

import json
import subprocess
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.outputs.compliance import SoundFacts, StreamFacts, StreamMeter, objections
from bridge.presets import PresetName, find_preset
from tests.conftest import require_program

pytestmark = pytest.mark.peer

# Each with its length, how it is coded, and what platforms object to.
STREAMS: dict[str, tuple[int, str, dict[PresetName, dict[str, str]]]] = {
    "baseline, 30 a second, constant bit rate": (
        8,
        "-s 320x180 -r 30 -profile:v baseline -bf 0 -g 60 -b:v 400k -minrate 400k -maxrate 400k -bufsize 400k "
        "-x264-params nal-hrd=cbr:scenecut=0",
        {
            "ivs": {},
            "generic": {},
            "twitch": {"video.bitrate": "advice"},
        },
    ),
    "high with B-pictures": (
        5,
        "-s 320x180 -r 25 -profile:v high -bf 2 -g 50",
        {
            "ivs": {"video.profile": "reject", "video.has_b_pictures": "reject"},
            "mediamtx": {"video.has_b_pictures": "advice"},
            "youtube": {"video.bitrate": "advice"},
        },
    ),
    "high without B-pictures, in several slices": (
        3,
        "-s 320x180 -r 25 -profile:v high -bf 0 -g 25 -slices 4",
        {"twitch": {"video.profile": "reject", "video.bitrate": "advice"}, "mediamtx": {}},
    ),
    "keyframes 12 s apart": (
        25,
        "-s 320x180 -r 5 -profile:v main -bf 0 -g 60 -sc_threshold 0",
        {
            "youtube": {"video.keyframe_s": "reject", "video.bitrate": "advice"},
            "cloudflare": {"video.keyframe_s": "reject", "bitrate": "advice"},
        },
    ),
    "main with B-pictures, square and large": (
        5,
        "-s 1088x1088 -r 5 -profile:v main -bf 1 -g 5",
        {
            "ivs": {
                "video.profile": "reject",
                "video.has_b_pictures": "reject",
                "video.short_side_px": "reject",
                "video.fps": "advice",
            },
            "twitch": {"video.short_side_px": "reject", "video.fps": "advice", "video.bitrate": "advice"},
        },
    ),
}


@pytest.mark.parametrize(("length_s", "coded", "expected"), STREAMS.values(), ids=STREAMS)
def test_facts_are_what_ffprobe_says_and_platforms_object_to_them(
    length_s: int, coded: str, expected: dict[PresetName, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "stream.mp4"
    source = ("-f", "lavfi", "-i", "testsrc2=s=320x180:r=50", "-t", str(length_s), "-pix_fmt", "yuv420p", "-an")
    command = (
        require_program("ffmpeg"),
        "-v",
        "error",
        *source,
        "-c:v",
        "libx264",
        "-preset",
        "superfast",
        *coded.split(),
    )
    subprocess.run((*command, path), check=True, timeout=60)
    facts, probed = measured(path), probe(path)
    video = probed["streams"][0]
    assert facts.video.codec == video["codec_name"]
    assert facts.video.profile == {"Constrained Baseline": "baseline", "Main": "main", "High": "high"}[video["profile"]]
    assert facts.video.level == video["level"] / 10
    assert (facts.video.width_px, facts.video.height_px) == (video["width"], video["height"])
    assert facts.video.has_b_pictures == (video["has_b_frames"] > 0)
    assert facts.video.fps == pytest.approx(float(Fraction(video["avg_frame_rate"])), rel=0.01)
    keyframes_s = [float(packet["pts_time"]) for packet in probed["packets"] if "K" in packet["flags"]]
    assert facts.video.keyframe_s == pytest.approx(max(b - a for a, b in pairwise(keyframes_s)), abs=0.001)
    n_bytes = sum(int(packet["size"]) for packet in probed["packets"])
    # The last seconds of it, and without parameter sets: more or less the same of a picture that always moves.
    assert facts.video.bitrate == pytest.approx(8 * n_bytes / length_s, rel=0.2)
    facts = replace(facts, sound=SoundFacts(is_present=True, codec="aac"))
    for name, rules in expected.items():
        found = objections(find_preset(name), "rtmps", facts)
        assert {each.rule: each.weight for each in found if each.rule != "video.bitrate_swing"} == rules, name


def measured(path: Path) -> StreamFacts:
    """Of the units of a file, in decoding order."""
    meter = StreamMeter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec_config = bytes(stream.codec_context.extradata or b"")
        for packet in container.demux(stream):
            if packet.dts is None or packet.time_base is None:
                continue
            pts_ns = round(packet.dts * packet.time_base * NS_PER_S)
            config = codec_config if packet.is_keyframe else b""
            meter.put(
                AccessUnit(Codec.H264, bytes(packet), pts_ns, is_keyframe=packet.is_keyframe, codec_config=config)
            )
    return meter.facts()


def probe(path: Path) -> dict[str, Any]:
    command = (require_program("ffprobe"), "-v", "error", "-show_streams", "-show_packets", "-of", "json", path)
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    return found
