"""What the front door opens, without opening it; recordings stand in tests/interop/test_container.py."""

import subprocess
import sys

import pytest

from bridge.config import OutputConfig, StorageConfig
from bridge.media.access_unit import Codec
from bridge.outputs import open_output


@pytest.mark.parametrize("url", ["rtmp://127.0.0.1/live", "rtmps://live.example/app"])
def test_rtmp_outputs_are_opened_anew_for_every_attempt_with_the_configured_distance_of_keyframes(url: str) -> None:
    config = OutputConfig.model_validate({"url": f"{url}/canary-key", "keyframe_s": 4})
    opener = open_output("twitch", config, StorageConfig())

    first, second = opener(), opener()

    assert first is not second
    assert (first.audio_codec, first.keyframe_s) == (Codec.AAC, 4.0)


def test_the_front_door_does_not_load_libav() -> None:
    code = "import sys, bridge.outputs; sys.exit('av' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
