"""The operator's hand on a daemon that broadcasts: by HTTP and by `avatar-bridge ctl`, seen in recordings."""

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np

from tests.e2e import recorded
from tests.e2e.processes import COMMAND, PATIENCE_S, STREAM_KEY, Avatar, Daemon, Program, Setting, Show
from tests.interop.nginx_rtmp import NginxRtmp

OPERATOR, LOOKER = "operator_canary_0123456789", "looker_canary_0123456789"


class Hand:
    """Calls the API of a daemon with the operator's token."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self._daemon = daemon
        self._directory = directory
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {OPERATOR}"}, timeout=PATIENCE_S, trust_env=False
        )

    async def __aenter__(self) -> "Hand":
        listening = await self._daemon.logged("http_listening")
        self.url = f"http://{listening['address']}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        return await self._client.request(method, f"{self.url}/v1/sessions/leo{path}", json=body)

    async def post(self, path: str, body: object = None) -> None:
        answer = await self.call("POST", path, body)
        assert answer.status_code == 204, answer.text

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.call("GET", "")).json()
        return found

    async def scrape(self) -> str:
        return (await self._client.get(f"{self.url}/metrics")).text

    async def until(self, **fields: object) -> None:
        async with asyncio.timeout(PATIENCE_S):
            # An answer is all that another process sees.
            while not fields.items() <= (await self.status()).items():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def ctl(self, *arguments: str, token: str = OPERATOR) -> tuple[int, str]:
        """Exit status, and all that was printed."""
        token_file = self._directory / "ctl.token"
        token_file.write_text(f"{token}\n")
        command = (*COMMAND, "ctl", "--url", self.url, "--token-file", token_file, *arguments)
        async with Program(*command) as program:
            status = await program.exit_status()
        assert token not in program.everything()
        return status, program.everything()


def guarded(directory: Path, url: str, **keys: Any) -> Setting:
    tokens = []
    for token, scopes in ((OPERATOR, ["read", "control"]), (LOOKER, ["read"])):
        file = directory / f"{scopes[-1]}.token"
        file.write_text(f"{token}\n")
        tokens.append({"file": str(file), "scopes": scopes})
    return Setting(directory, url, http={"listen": "127.0.0.1:0", "tokens": tokens}, **keys)


class Growth:
    """Watches how a file grows, so that a place in it can be told the time at which it was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes: list[tuple[float, int]] = []

    async def run(self) -> None:
        while True:
            self._sizes.append((time.monotonic(), self._path.stat().st_size))
            await asyncio.sleep(0.002)

    def time_of(self, place: int) -> float:
        return next(time_s for time_s, size in self._sizes if size > place)


def likenesses(path: Path) -> list[tuple[int, bool]]:
    """Of each picture of an MPEG-TS file: where it starts in the file, and whether it looks like the last one."""
    with av.open(str(path)) as container:
        places, pictures = [], []
        for packet in container.demux(video=0):
            if packet.size:
                places.append(packet.pos)
            pictures += [frame.to_ndarray(format="gray").astype(np.int16) for frame in packet.decode()]
    first, last = pictures[0], pictures[-1]
    assert len(places) == len(pictures)
    return [
        (place, bool(np.abs(picture - last).mean() < np.abs(picture - first).mean()))
        for place, picture in zip(places, pictures, strict=True)
    ]


async def test_the_slate_is_on_air_at_once_and_off_again(avatar: Avatar, tmp_path: Path, show: Show) -> None:
    setting = guarded(tmp_path, avatar.url)
    # MPEG-TS is written packet by packet.
    path = setting.recording(url="file:leo.ts").with_name("leo.ts")
    async with setting.daemon() as daemon, Hand(daemon, tmp_path) as hand:
        await daemon.logged("on_air_live")
        await hand.until(on_air="live")
        await asyncio.sleep(2.0)  # some of the broadcast
        growth = Growth(path)
        watching = asyncio.create_task(growth.run())
        called_s, called_at = time.monotonic(), datetime.now(UTC)
        await hand.post("/slate", {"on": True, "reason": "back in a minute"})
        await hand.until(on_air="slate", slate_reason="back in a minute")
        await asyncio.sleep(1.0)  # some of the slate
        watching.cancel()
        off_s = time.monotonic()
        await hand.post("/slate", {"on": False})
        await hand.until(on_air="live", slate_reason="")
        back_s = time.monotonic() - off_s
        await hand.post("/slate", {"on": True, "reason": "the end"})
        await hand.until(on_air="slate")
        await asyncio.sleep(0.5)  # the last picture is a slate
        assert await daemon.stop() == 0

    pictures = likenesses(path)
    first_slate = next(place for place, is_slate in pictures if is_slate)
    shown_s = growth.time_of(first_slate) - called_s
    on_air_s = (datetime.fromisoformat(daemon.events("on_air_slate")[0]["timestamp"]) - called_at).total_seconds()
    show(
        f"slate by HTTP: on air {on_air_s * 1000:.0f} ms after the call, in the recording {shown_s * 1000:.0f} ms; "
        f"live again {back_s * 1000:.0f} ms after it is taken off"
    )
    # One change each way: no picture of the avatar within the slate.
    changes = [pictures[n][1] for n in range(1, len(pictures)) if pictures[n][1] != pictures[n - 1][1]]
    assert changes == [True, False, True]
    # Generous: what is measured is shown, and this machine may be busy.
    assert shown_s < 3.0 and back_s < 3.0
    picture, _ = recorded.tracks(path)
    assert picture.shortest_gap_s > 0


async def test_muting_silences_the_recording_and_nothing_else(avatar: Avatar, tmp_path: Path) -> None:
    setting = guarded(tmp_path, avatar.url)
    path = setting.recording()
    async with setting.daemon() as daemon, Hand(daemon, tmp_path) as hand:
        await daemon.logged("on_air_live")
        await asyncio.sleep(2.0)  # of sound
        await hand.post("/mute", {"on": True})
        await hand.until(is_muted=True)
        await asyncio.sleep(2.0)  # of silence
        await hand.post("/mute", {"on": False})
        await hand.until(is_muted=False)
        await asyncio.sleep(2.0)  # of sound
        assert await daemon.stop() == 0
    heard = recorded.sound(path)
    n = recorded.SPEECH_RATE_HZ
    levels_dbfs = [recorded.rms_dbfs(heard[start : start + n]) for start in range(0, len(heard) - n, n // 10)]
    quietest = levels_dbfs.index(min(levels_dbfs))
    assert levels_dbfs[quietest] < -80
    assert max(levels_dbfs[:quietest]) > -40 and max(levels_dbfs[quietest:]) > -40
    picture, _ = recorded.tracks(path)
    assert picture.longest_gap_s < 0.5


async def test_outputs_come_and_go_by_ctl(avatar: Avatar, nginx: NginxRtmp, tmp_path: Path) -> None:
    (tmp_path / "twitch.key").write_text(STREAM_KEY)
    secrets = {"twitch": {"file": str(tmp_path / "twitch.key"), "hosts": ["127.0.0.1"]}}
    setting = guarded(tmp_path, avatar.url, url_policy={"allow": ["127.0.0.0/8"]}, secrets=secrets)
    kept = setting.recording()
    twitch, stolen = tmp_path / "twitch.json", tmp_path / "stolen.json"
    # Who calls does not know the key.
    twitch.write_text(json.dumps({"url": nginx.rtmp_url, "stream_key": {"secret": "twitch"}}))
    stolen.write_text(twitch.read_text().replace("127.0.0.1", "127.0.0.2"))
    async with setting.daemon() as daemon, Hand(daemon, tmp_path) as hand:
        await daemon.logged("on_air_live")
        status, told = await hand.ctl("output", "add", "leo", "twitch", str(stolen))
        assert (status, told) == (
            2,
            "avatar-bridge: stream_key: this secret is only for 127.0.0.1; url leads elsewhere",
        )
        assert await hand.ctl("output", "add", "leo", "twitch", str(twitch)) == (0, "")
        await daemon.logged("output_publishing", output="twitch")
        assert nginx.publishing() == [STREAM_KEY]
        status, told = await hand.ctl("--json", "status", "leo")
        assert status == 0 and [output["name"] for output in json.loads(told)["outputs"]] == ["archive", "twitch"]

        assert await hand.ctl("output", "stop", "leo", "twitch") == (0, "")
        await daemon.logged("output_stopped", output="twitch")
        assert nginx.publishing() == []
        assert await hand.ctl("output", "start", "leo", "twitch") == (0, "")
        await daemon.logged("output_publishing", 2, output="twitch")
        assert await hand.ctl("output", "restart", "leo", "twitch") == (0, "")
        await daemon.logged("output_publishing", 3, output="twitch")

        assert await hand.ctl("output", "remove", "leo", "twitch") == (0, "")
        assert nginx.publishing() == []
        assert [output["name"] for output in (await hand.status())["outputs"]] == ["archive"]
        scrape = await hand.scrape()
        assert 'output="archive"' in scrape and 'output="twitch"' not in scrape
        assert await hand.ctl("drain") == (0, "")
        assert await daemon.exit_status() == 0
    picture, _ = recorded.tracks(kept)
    assert picture.longest_gap_s < 0.5
    assert OPERATOR not in daemon.everything()


async def test_a_stranger_gets_nowhere(avatar: Avatar, tmp_path: Path) -> None:
    setting = guarded(tmp_path, avatar.url)
    setting.recording()
    (tmp_path / "inside.yaml").write_text("url: rtmp://127.0.0.1/app/key_canary\n")
    (tmp_path / "reader.yaml").write_text("url_file: /etc/passwd\n")
    async with setting.daemon() as daemon, Hand(daemon, tmp_path) as hand:
        await daemon.logged("on_air_live")
        assert await hand.ctl("mute", "leo", "on", token=LOOKER) == (
            2,
            "avatar-bridge: this token lacks the scope control",
        )
        status, told = await hand.ctl("sessions", token="nobody_0123456789")
        assert status == 2 and "a token is needed" in told
        assert (await hand.ctl("sessions", token=LOOKER))[0] == 0
        status, told = await hand.ctl("mute", "nobody", "on")
        assert (status, told) == (2, "avatar-bridge: there is no session nobody")
        status, told = await hand.ctl("output", "add", "leo", "inside", str(tmp_path / "inside.yaml"))
        assert status == 2 and "url: 127.0.0.1 is this machine" in told and "canary" not in told
        status, told = await hand.ctl("output", "add", "leo", "reader", str(tmp_path / "reader.yaml"))
        assert status == 2 and "url_file: is only for the configuration file" in told
        assert not (await hand.status())["is_muted"]
        for hostile in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(f"{hand.url}/v1/drain", headers=hostile)
            assert answer.status_code in (400, 403)
        assert await daemon.stop() == 0
