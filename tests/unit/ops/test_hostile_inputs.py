from pathlib import Path
from typing import Any

import pytest

from bridge.config import InputConfig
from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile_sessions import HostileSessions
from bridge.ops.problems import Problem
from bridge.protocols import input_urls
from tests.unit.ops.fakes import resolve


class Inputs:
    """Reads an input as that of a session, which has nothing wrong else."""

    def __init__(self, storage_dir: Path) -> None:
        self._sessions = HostileSessions(storage_dir, UrlPolicy(["studio.lan"], resolve=resolve), {})

    async def read(self, body: Any) -> InputConfig:
        avatar = {"url": "wss://live.example.com/chat", "license": "sk_test", "name": "Leo"}
        session = {"avatar": avatar, "inputs": {"x": body}, "outputs": {"watch": {"url": "whep:"}}}
        return (await self._sessions.read(session)).config.inputs["x"]


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    (tmp_path / "link.wav").symlink_to("/etc/hostname")
    return Inputs(tmp_path)


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
async def test_what_is_public_or_stored_may_be_heard(inputs: Inputs, url: str) -> None:
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
        ({"url": {"secret": "x"}}, "no secret of that name is in the configuration"),
        ({"url": "file:q.wav", "start_s": -1}, "greater than or equal to 0"),
    ],
)
async def test_what_is_not_may_not(inputs: Inputs, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(Problem) as caught:
        await inputs.read(body)
    assert caught.value.status == 422
    assert any(reason in message for _, message in caught.value.mistakes), caught.value.mistakes


@pytest.mark.parametrize("key", [*InputConfig.model_fields, "url_file", "url_env", "url_credential"])
async def test_no_key_reads_this_machine(inputs: Inputs, key: str) -> None:
    with pytest.raises(Problem) as caught:
        await inputs.read({"url": "tone:", key: "${PATH}"})
    found = {(mistake[0], "only for the configuration file" in mistake[1]) for mistake in caught.value.mistakes}
    assert found == {(("inputs", "x", key), True)}


@pytest.mark.parametrize("scheme", sorted(input_urls.MACHINE_SCHEMES))
async def test_each_scheme_that_listens_to_this_machine_is_refused(inputs: Inputs, scheme: str) -> None:
    for rest in ("", "-", "default", "/dev/zero", "?rate=16000"):
        with pytest.raises(Problem):
            await inputs.read({"url": f"{scheme}:{rest}"})


def test_devices_and_pipes_are_of_this_machine() -> None:
    assert {"pcm", "alsa", "pulse"} <= set(input_urls.MACHINE_SCHEMES)
