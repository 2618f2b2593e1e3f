from pathlib import Path
from typing import Any

import pytest

from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile_inputs import HostileInputs
from bridge.ops.problems import Problem
from tests.unit.ops.fakes import resolve


@pytest.fixture
def inputs(tmp_path: Path) -> HostileInputs:
    (tmp_path / "link.wav").symlink_to("/etc/hostname")
    return HostileInputs(tmp_path, UrlPolicy(["studio.lan"], resolve=resolve))


@pytest.mark.parametrize(
    "url",
    [
        "https://live.example.com/radio",
        "http://studio.lan:8000/radio",
        "rtsp://studio.lan/cam",
        "rtmp://live.example.com/app/q7xk2w9",
        "file:question.wav",
        "sdp:calls/one.sdp",
        "tone:",
    ],
)
async def test_what_is_public_or_stored_may_be_heard(inputs: HostileInputs, url: str) -> None:
    assert (await inputs.read({"url": url})).url.reveal() == url


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"url": "pcm:-"}, "pcm: is only for the configuration file"),
        ({"url": "pcm:fifo?rate=8000"}, "pcm: is only for the configuration file"),
        ({"url": "alsa:default"}, "alsa: is only for the configuration file"),
        ({"url": "pulse:"}, "pulse: is only for the configuration file"),
        ({"url": "file:/etc/passwd"}, "must stay below storage.dir"),
        ({"url": "file:///etc/passwd"}, "must stay below storage.dir"),
        ({"url": "file:../secret.wav"}, "must stay below storage.dir"),
        ({"url": "sdp:a/../../x.sdp"}, "must stay below storage.dir"),
        ({"url": "file:link.wav"}, "leads through a link"),
        ({"url": "http://127.0.0.1:8080/v1/sessions"}, "is this machine"),
        ({"url": "http://169.254.169.254/latest"}, "metadata"),
        ({"url": "rtsp://192.168.1.20/cam"}, "is private"),
        ({"url": "rtmp://[::1]/app/q7xk2w9"}, "is this machine"),
        ({"url": "https://live.example.com:22/"}, "port 22 is none"),
        ({"url": "https://${HOST}/"}, "only for the configuration file"),
        ({"url_file": "/etc/passwd"}, "only for the configuration file"),
        ({"url": {"secret": "x"}}, "must be a URL"),
        ({"url": "file:q.wav", "start_s": -1}, "greater than or equal to 0"),
    ],
)
async def test_what_is_not_may_not(inputs: HostileInputs, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(Problem) as caught:
        await inputs.read(body)
    assert caught.value.status == 422
    assert any(reason in message for _, message in caught.value.mistakes), caught.value.mistakes
