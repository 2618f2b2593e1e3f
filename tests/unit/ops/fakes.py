"""A daemon with one session, for the API to lay hands on, and a client that calls it without a socket."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from bridge.config import HttpConfig, OutputConfig, SecretConfig
from bridge.net.url_policy import UrlPolicy
from bridge.ops.app import control_app
from bridge.ops.hostile import HostileOutputs
from bridge.ops.metrics import Metrics

PUBLIC = "93.184.215.14"
PNG = b"\x89PNG\r\n\x1a\n rest"
JPEG = b"\xff\xd8\xff\xe0 rest"


@dataclass
class FakeOutput:
    name: str
    protocol: str = "rtmp"
    state: str = "publishing"
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


@dataclass
class FakeInput:
    name: str = "question"
    state: str = "playing"
    error: str = ""
    is_speaking: bool = True
    level_dbfs: float = -20.0
    waiting_s: float = 1.0
    dropped_s: float = 0.0
    underruns: int = 0


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
    capabilities: frozenset[str] = frozenset({"say", "interrupt", "image", "tools"})
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

    def answer_tool(self, call_id: str, output: str) -> bool:
        self._tell("tool", call_id, output)
        return call_id in self.waiting_calls

    def show_slate(self, on: bool, reason: str = "") -> None:
        self._tell("slate", on, reason)

    def mute(self, on: bool) -> None:
        self._tell("mute", on)

    def source(self, name: str) -> Any:
        return self.sources.get(name)

    async def add_output(self, name: str, config: OutputConfig) -> None:
        self._tell("add", name, config)
        kept = tuple(output for output in self.now.outputs if output.name != name)
        self.now = replace(self.now, outputs=(*kept, FakeOutput(name, config.scheme, "connecting")))

    async def remove_output(self, name: str) -> None:
        self._tell("remove", name)

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

    def status(self) -> list[FakeStatus]:
        return [self.leo.now]

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


@asynccontextmanager
async def api(
    daemon: FakeDaemon,
    storage_dir: Path = Path("recordings"),
    http: HttpConfig | None = None,
    secrets: Mapping[str, SecretConfig] | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
    Metrics(registry)
    outputs = HostileOutputs(storage_dir, UrlPolicy(["studio.lan"], resolve=resolve), secrets or {})
    app = control_app(http or HttpConfig(), lambda: None, registry, daemon, outputs, UrlPolicy())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client
