"""A real Janus, with a WHIP endpoint in front of its VideoRoom: whoever publishes is in its one room.

It gathers no candidates on loopback, so it runs in a network namespace.
"""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.net.ice import IceSettings
from tests.interop.whip_endpoint import QuietServer
from tests.net import namespace
from tests.net.namespace import Namespace

PLUGINS = Path("/usr/lib/x86_64-linux-gnu/janus/plugins/libjanus_videoroom.so")
TRANSPORTS = Path("/usr/lib/x86_64-linux-gnu/janus/transports/libjanus_http.so")
ROOM, API_PORT = 1234, 8088
READY_S = 10.0
POLL_S = 0.05

# Nothing is loaded that is not needed.
_CONFIG = """
general: {{
    configs_folder = "{directory}"
    plugins_folder = "{directory}/plugins"
    transports_folder = "{directory}/transports"
    events_folder = "{directory}/nothing"
    loggers_folder = "{directory}/nothing"
    debug_level = 4
}}
media: {{ ipv6 = false }}
"""
_HTTP = """
general: {{ json = "compact", base_path = "/janus", http = true, ip = "{address}", port = {port}, https = false }}
admin: {{ admin_http = false }}
"""


def why_unavailable() -> str | None:
    """The reason why Janus cannot be run here; None if it can."""
    if reason := namespace.why_unavailable():
        return reason
    is_there = shutil.which("janus") and PLUGINS.exists() and TRANSPORTS.exists()
    return None if is_there else "Janus is not installed (Debian: apt-get install janus)"


class Handle:
    """One attachment to the VideoRoom, in a session of its own."""

    def __init__(self, client: httpx.AsyncClient, session: int, handle: int) -> None:
        self._client = client
        self._session = session
        self._handle = handle

    async def ask(self, body: dict[str, Any], jsep: dict[str, str] | None = None) -> dict[str, Any]:
        """What the plugin answers, at once or as an event: with its own `jsep`, if there is one."""
        message: dict[str, Any] = {"janus": "message", "transaction": uuid.uuid4().hex, "body": body}
        if jsep:
            message["jsep"] = jsep
        answer = await _post(self._client, f"/{self._session}/{self._handle}", message)
        while answer["janus"] == "ack" or answer.get("transaction") != message["transaction"]:
            answer = (await self._client.get(f"/{self._session}")).raise_for_status().json()
        assert "error" not in answer["plugindata"]["data"], answer
        return answer

    async def close(self) -> None:
        await _post(self._client, f"/{self._session}", {"janus": "destroy", "transaction": uuid.uuid4().hex})


class Janus:
    """whip_url: publishes to the room.  ice: reaches its media.

    handles  of the publishers that are there, by the path of their session."""

    def __init__(self, client: httpx.AsyncClient, ice: IceSettings) -> None:
        self.whip_url = ""
        self.ice = ice
        self.handles: dict[str, Handle] = {}
        self._client = client
        self._n_sessions = 0

    async def attach(self) -> Handle:
        session = (await _post(self._client, "", _request("create")))["data"]["id"]
        attachment = await _post(self._client, f"/{session}", _request("attach", plugin="janus.plugin.videoroom"))
        return Handle(self._client, session, attachment["data"]["id"])

    async def subscribe(self) -> tuple[Handle, str]:
        """An attachment to the one publisher, and the room's offer of its tracks; answered by `start`."""
        asking = await self.attach()
        found = await asking.ask({"request": "listparticipants", "room": ROOM})
        await asking.close()
        (publisher,) = (p for p in found["plugindata"]["data"]["participants"] if p["publisher"])
        handle = await self.attach()
        streams = [{"feed": publisher["id"]}]
        offered = await handle.ask({"request": "join", "room": ROOM, "ptype": "subscriber", "streams": streams})
        return handle, offered["jsep"]["sdp"]

    @staticmethod
    async def start(handle: Handle, answer: str) -> None:
        await handle.ask({"request": "start"}, {"type": "answer", "sdp": answer})

    async def serve(self, request: Request) -> Response:
        path = request.url.path
        if request.method == "DELETE":
            if (gone := self.handles.pop(path, None)) is None:
                return Response(status_code=404)
            await gone.close()
            return Response()
        handle = await self.attach()
        offer = {"type": "offer", "sdp": (await request.body()).decode()}
        joining = {"request": "joinandconfigure", "room": ROOM, "ptype": "publisher"}
        answer = (await handle.ask(joining, offer))["jsep"]["sdp"]
        self._n_sessions += 1
        path = f"/session/{self._n_sessions}"
        self.handles[path] = handle
        return Response(answer, 201, {"Location": path}, "application/sdp")


class JanusProcess:
    """Alive inside its `with`. `directory` is created, and holds configuration and log."""

    def __init__(self, directory: Path, host: Namespace) -> None:
        self._directory = directory
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        directory = self._directory
        for name, library in (("plugins", PLUGINS), ("transports", TRANSPORTS)):
            (directory / name).mkdir(parents=True)
            (directory / name / library.name).symlink_to(library)
        (directory / "nothing").mkdir()
        (directory / "janus.jcfg").write_text(_CONFIG.format(directory=directory))
        (directory / "janus.transport.http.jcfg").write_text(_HTTP.format(address=self._host.far, port=API_PORT))
        with (directory / "janus.log").open("wb") as log:
            command = self._host.command("janus", "-C", str(directory / "janus.jcfg"), "-F", str(directory))
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises AssertionError with its last words when it has ended."""
        assert self._process is not None and self._process.poll() is None, self._log()

    def _log(self) -> str:
        return (self._directory / "janus.log").read_text(errors="replace")[-2000:]


@contextlib.asynccontextmanager
async def janus(directory: Path) -> AsyncIterator[Janus]:
    """With one room, which takes H.264 and Opus."""
    with Namespace() as host, JanusProcess(directory, host) as process:
        # Events are waited for at most 30 s (janus.transport.http).
        async with httpx.AsyncClient(base_url=f"http://{host.far}:{API_PORT}/janus", timeout=40.0) as client:
            await _until_ready(client, process)
            room = Janus(client, IceSettings(interfaces=(host.interface,)))
            creating = await room.attach()
            codecs = {"audiocodec": "opus", "videocodec": "h264", "h264_profile": "42e01f"}
            await creating.ask({"request": "create", "room": ROOM, "publishers": 2, **codecs})
            async with _serving(room):
                yield room
            await creating.close()


async def _until_ready(client: httpx.AsyncClient, process: JanusProcess) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/info")).is_success:
                    return
            process.check()
            await asyncio.sleep(POLL_S)


@contextlib.asynccontextmanager
async def _serving(room: Janus) -> AsyncIterator[None]:
    listening = socket.create_server(("127.0.0.1", 0))
    room.whip_url = f"whip+http://127.0.0.1:{listening.getsockname()[1]}/live"
    app = Starlette(routes=[Route("/{path:path}", room.serve, methods=["POST", "DELETE"])])
    server = QuietServer(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    running = asyncio.create_task(server.serve([listening]))
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await running


async def _post(client: httpx.AsyncClient, path: str, message: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.post(path, json=message)).raise_for_status().json()
    assert answer["janus"] != "error", answer
    return answer


def _request(verb: str, **more: str) -> dict[str, str]:
    return {"janus": verb, "transaction": uuid.uuid4().hex, **more}
