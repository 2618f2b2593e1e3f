"""A daemon with one session, for the API to lay hands on, and a client that calls it without a socket."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from bridge.config import HttpConfig, InputConfig, NavTalkConfig, OutputConfig, SecretConfig, SessionConfig
from bridge.config_origin import Definition
from bridge.events import EventLog
from bridge.net.url_policy import UrlPolicy
from bridge.ops.app import control_app
from bridge.ops.hostile_sessions import HostileSessions
from bridge.ops.metrics import Metrics
from bridge.outputs.compliance import Objection
from bridge.redact import Secret
from bridge.trend import Trend

PUBLIC = "93.184.215.14"
PNG = b"\x89PNG\r\n\x1a\n rest"
JPEG = b"\xff\xd8\xff\xe0 rest"


# What the operator's file defines: with what belongs to this machine alone, and secrets.
LEO = Definition(
    SessionConfig(
        avatar=NavTalkConfig(
            url=Secret.url("ws://studio.lan/chat"), license=Secret("sk_canary_leo"), name="navtalk.Leo"
        ),
        inputs={"question": InputConfig(url=Secret.url("pcm:-"))},
        outputs={
            "twitch": OutputConfig(url=Secret.url("rtmp://live.example.com/app"), stream_key=Secret("live_canary_leo"))
        },
    )
)


@dataclass
class FakeOutput:
    name: str
    protocol: str = "rtmp"
    state: str = "publishing"
    mode: str = "copy"
    mode_reason: str = "as_received"
    since_s: float = 1.0
    last_error: str = ""
    retry_in_s: float | None = None
    reconnects: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    last_retry_s: float | None = None
    accepted: int = 1
    bytes_total: int = 2
    last_progress_s: float | None = None
    queue_s: float = 0.0
    dropped_units: dict[str, int] = field(default_factory=dict)
    objections: tuple[Objection, ...] = ()


@dataclass
class FakeInput:
    name: str = "question"
    protocol: str = "file"
    state: str = "playing"
    error: str = ""
    is_speaking: bool = True
    level_dbfs: float = -20.0
    waiting_s: float = 1.0
    dropped_s: float = 0.0
    underruns: int = 0
    drift_ppm: float | None = None
    is_on_air: bool = False
    air_lost_s: float = 0.0


@dataclass
class FakeMedia:
    fps: float = 25.0
    video_bps: float = 1e6
    av_offset_s: float | None = 0.002
    added_latency_s: float | None = None
    added_latency_p99_s: float | None = None
    n_pictures: int = 100
    n_lost_packets: int = 0
    first_picture_s: float | None = 0.5
    ignores_keyframe_requests: bool = False
    concealment: str | None = None
    concealed_s: float = 0.0
    restored_s: float = 0.0


@dataclass
class FakeStatus:
    """With more fields than may be shown."""

    name: str = "leo"
    state: str = "live"
    error: str = ""
    on_air: str = "live"
    slate_reason: str = ""
    slate_cause: str = ""
    is_muted: bool = False
    freezes: int = 0
    capabilities: frozenset[str] = frozenset({"say", "interrupt", "image", "history", "tools", "listening"})
    media: FakeMedia = field(default_factory=FakeMedia)
    spoken_s: float = 3.0
    input_is_finished: bool = False
    inputs: tuple[FakeInput, ...] = (FakeInput(),)
    outputs: tuple[FakeOutput, ...] = (FakeOutput("twitch"),)
    license: str = "sk_canary_license"


class FakeSession:
    """Writes down what it is told; raises `error` if there is one."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.events = EventLog(lambda: 1_800_000_000.0)
        self.trend = Trend()
        self.error: Exception | None = None
        self.waiting_calls = {"call_1"}
        self.sources: dict[str, Any] = {}
        self.now = FakeStatus()

    def status(self) -> FakeStatus:
        return self.now

    def _tell(self, *what: Any) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(what)

    async def say(self, text: str) -> None:
        self._tell("say", text)

    async def show_image(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        self._tell("image", image, media_type, wants_answer)

    async def interrupt(self) -> None:
        self._tell("interrupt")

    async def remember(self, text: str) -> None:
        self._tell("history", text)

    async def listen(self, on: bool) -> None:
        self._tell("listening", on)

    def answer_tool(self, call_id: str, output: str) -> bool:
        self._tell("tool", call_id, output)
        return call_id in self.waiting_calls

    def show_slate(self, on: bool, reason: str = "") -> None:
        self._tell("slate", on, reason)

    def mute(self, on: bool) -> None:
        self._tell("mute", on)

    def source(self, name: str) -> Any:
        return self.sources.get(name)

    def output(self, name: str) -> None:
        return None

    async def take_outputs(self, before: Mapping[str, OutputConfig], after: Mapping[str, OutputConfig]) -> None:
        for name in before.keys() - after.keys():
            self._tell("remove", name)
        for name, config in after.items():
            if before.get(name) != config:
                self._tell("add", name, config)
        known = {output.name: output for output in self.now.outputs}
        outputs = (known.get(name, FakeOutput(name, config.scheme, "connecting")) for name, config in after.items())
        self.now = replace(self.now, outputs=tuple(outputs))

    async def start_output(self, name: str) -> None:
        self._tell("start", name)

    async def stop_output(self, name: str) -> None:
        self._tell("stop", name)

    async def restart_output(self, name: str) -> None:
        self._tell("restart", name)


class FakeDaemon:
    def __init__(self) -> None:
        self.is_draining = False
        self.n_stops = 0
        self.leo = FakeSession()
        self.runs = True
        self.has_room = True
        self.definitions = {"leo": LEO}

    def status(self) -> list[FakeStatus]:
        return [replace(self.leo.now, name=name) if name != "leo" else self.leo.now for name in self.definitions]

    def status_of(self, name: str) -> FakeStatus | None:
        return next((status for status in self.status() if status.name == name), None)

    def definition(self, name: str) -> Definition | None:
        return self.definitions.get(name)

    def is_overridden(self, name: str) -> bool:
        return self.definitions[name].config != LEO.config

    async def change_session(
        self, name: str, change: Callable[[Definition | None], Awaitable[Definition | None]]
    ) -> None:
        now = self.definition(name)
        then = await change(now)
        if then is None:
            self.definitions.pop(name)
            return
        self.definitions[name] = then
        if name == "leo" and now is not None:
            await self.leo.take_outputs(now.config.outputs, then.config.outputs)

    def session(self, name: str) -> FakeSession | None:
        return self.leo if name == "leo" and self.runs else None

    def stop(self) -> None:
        self.is_draining = True
        self.n_stops += 1


async def resolve(host: str, port: int) -> list[str]:
    known = {"live.example.com": [PUBLIC], "inside.example.com": ["10.0.0.7"], "studio.lan": ["192.168.1.5"]}
    if host not in known:
        raise OSError(-2, "Name or service not known")
    return known[host]


def app_of(
    daemon: FakeDaemon,
    storage_dir: Path = Path("recordings"),
    http: HttpConfig | None = None,
    secrets: Mapping[str, SecretConfig] | None = None,
) -> FastAPI:
    registry = CollectorRegistry()
    Metrics(registry)
    hostile = HostileSessions(storage_dir, UrlPolicy(["studio.lan"], resolve=resolve), secrets or {})
    return control_app(http or HttpConfig(), lambda: None, registry, daemon, hostile, UrlPolicy())


@asynccontextmanager
async def api(
    daemon: FakeDaemon,
    storage_dir: Path = Path("recordings"),
    http: HttpConfig | None = None,
    secrets: Mapping[str, SecretConfig] | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_of(daemon, storage_dir, http, secrets), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client
