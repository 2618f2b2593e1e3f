import asyncio
from pathlib import Path

import pytest

from bridge.errors import SourceLost, SourceRejected
from bridge.inputs import sdp
from bridge.inputs.sdp import SdpSource
from bridge.net.url_policy import UrlPolicy
from tests.unit.inputs.test_file import play

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\n{connection}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"


def source(folder: Path, connection: str, *, is_strange: bool = False, port: int = 40_000) -> SdpSource:
    path = folder / "call.sdp"
    path.write_text(SDP.format(connection=connection, port=port))
    return SdpSource("call", path, UrlPolicy(), is_strange=is_strange)


@pytest.mark.parametrize(
    "connection",
    [
        "c=IN IP4 127.0.0.1",
        "  c=IN IP4 192.168.1.1/127",
        "c=IN IP4 192.88.99.1\rc=IN IP4 10.0.0.1",
        "c=IN IP4 localhost",
        "c=IN IP6 ::1",
        "c=IN IP4 239.0.0.1/1",
        "c=IN  IP4 8.8.8.8",
    ],
)
async def test_strange_description_names_public_addresses_alone(tmp_path: Path, connection: str) -> None:
    with pytest.raises(SourceRejected, match=r"input call: .*call\.sdp: in its c= line: "):
        await play(source(tmp_path, connection, is_strange=True))


async def test_nothing_is_lost_and_a_call_off_is_prompt(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdp, "_LOOK_S", 0.05)
    silent = source(tmp_path, "c=IN IP4 127.0.0.1", port=free_port & ~1)
    running = asyncio.create_task(play(silent))
    await asyncio.sleep(0.1)
    running.cancel()
    async with asyncio.timeout(1):
        await asyncio.gather(running, return_exceptions=True)
    monkeypatch.setattr(sdp, "IDLE_S", 0.1)
    with pytest.raises(SourceLost, match=r"nothing has come for 0\.1 s"):
        await play(silent)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("just words\n", "describes no sound"),
        ("v=0\r\ns=-\r\nt=0 0\r\n", "describes no sound"),
        ("x" * 20_000, "too long"),
    ],
)
async def test_what_is_no_description_of_sound_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "call.sdp"
    path.write_text(text)
    with pytest.raises(SourceRejected, match=reason):
        await play(SdpSource("call", path, UrlPolicy()))
    path.unlink()
    with pytest.raises(SourceRejected, match="cannot be read"):
        await play(SdpSource("call", path, UrlPolicy()))
