"""The product as its users run it: `python -m bridge` in processes of its own, on loopback, and what they say."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

# No run may show these, in whatever it writes; every secret of a test holds the word canary.
LICENSE = "sk_navtalk_canary_5d1e"
STREAM_KEY = "live_canary_9b27"

COMMAND = (sys.executable, "-m", "bridge")
# For what takes a second on a quiet machine.
PATIENCE_S = 20.0
SMALL = ("--size", "180x320")
Show = Callable[[str], None]
_MetricLabels = frozenset[tuple[str, str]]


class Program:
    """One run of a program: alive inside its `async with`, killed at the end if need be, its output kept.

    stdout, stderr  lines so far, without their ends.  status: the exit status; None while it runs.
    own_group       it and what it starts are a process group, as on a terminal.
    environ         variables that it gets besides ours.
    """

    def __init__(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        own_group: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.status: int | None = None
        self._command = tuple(map(str, command))
        self._cwd = cwd
        self._own_group = own_group
        self._environ = {**os.environ, **(environ or {})}
        self._changed = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._cwd,
            env=self._environ,
            start_new_session=self._own_group,
            limit=2**26,  # a tap tells of all its pictures in one line: 4 MB in half an hour
        )
        self._following = asyncio.create_task(self._follow(self._process))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None and self._following is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._following
        assert_no_canary(self.everything())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def everything(self) -> str:
        return "\n".join((*self.stdout, *self.stderr))

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines of this event with these fields, oldest first."""
        found = [json.loads(line) for line in self.stderr if f'"event": "{name}"' in line]
        return [event for event in found if event["event"] == name and fields.items() <= event.items()]

    async def until(self, claim: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the claim holds; it is looked at after every line, and at the program's end."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                while not claim():
                    assert self.status is None, f"ended with {self.status} before {what}:\n{self.everything()}"
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} within {timeout_s:g} s:\n{self.everything()}") from None

    async def logged(self, name: str, n_times: int = 1, *, timeout_s: float = PATIENCE_S, **fields: Any) -> Any:
        """The last of so many log lines of this event, once it is there."""
        what = f"{name} {fields or ''} ({n_times}.)"
        await self.until(lambda: len(self.events(name, **fields)) >= n_times, what, timeout_s)
        return self.events(name, **fields)[n_times - 1]

    async def said(self) -> str:
        """The first line on standard output."""
        await self.until(lambda: self.stdout, "line")
        return self.stdout[0]

    async def exit_status(self, timeout_s: float = PATIENCE_S) -> int:
        await self.until(lambda: self.status is not None, "end", timeout_s)
        assert self.status is not None
        return self.status

    async def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, and the exit status."""
        self.send(signal.SIGTERM)
        return await self.exit_status(timeout_s)

    def send(self, signal_number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(signal_number)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None and process.stderr is not None
        await asyncio.gather(self._read(process.stdout, self.stdout), self._read(process.stderr, self.stderr))
        status = await process.wait()
        async with self._changed:
            self.status = status
            self._changed.notify_all()

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            async with self._changed:
                lines.append(line.decode().rstrip("\n"))
                self._changed.notify_all()


class Daemon(Program):
    """`avatar-bridge run`. `within`: a command to run it in, such as one that limits it."""

    def __init__(self, config: Path, within: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        super().__init__(*within, *COMMAND, "run", config, environ=environ)
        self._scrapes = ""

    async def metrics(self) -> "Metrics":
        text = await self.get("/metrics")
        self._scrapes += text
        return Metrics(text)

    async def get(self, path: str) -> str:
        """What is answered. Raises HTTPError unless it is a success."""
        listening = await self.logged("http_listening")

        def fetch() -> str:
            with urllib.request.urlopen(f"http://{listening['address']}{path}", timeout=PATIENCE_S) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(fetch)

    async def unreadiness(self) -> str:
        """Why it is not ready."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            await self.get("/readyz")
        with caught.value as answer:
            assert answer.code == 503
            return str(answer.read().decode())

    async def metric_reaches(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric is at least this large; the daemon publishes most of them once a second."""
        async with asyncio.timeout(PATIENCE_S):
            # A scrape is all that another process sees.
            while (await self.metrics()).total(name, **labels) < value:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def everything(self) -> str:
        return super().everything() + self._scrapes


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._series: dict[tuple[str, _MetricLabels], float] = {}
        for name, labels, value in re.findall(r"^avatar_bridge_(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
            self._series[name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of this name with these labels; 0 if there is none."""
        wanted = labels.items()
        return sum(value for (found, has), value in self._series.items() if found == name and wanted <= set(has))

    def has(self, name: str, **labels: str) -> bool:
        """Whether there is a series of this name with these labels."""
        return any(found == name and labels.items() <= set(has) for found, has in self._series)

    def of(self, series: str, **labels: str) -> float:
        """The same, with name and labels as Prometheus writes them."""
        name, _, listed = series.partition("{")
        return self.total(name, **dict(re.findall(r'(\w+)="([^"]*)"', listed)), **labels)


class Avatar:
    """`avatar-bridge avatar` for a test that is no coroutine, and for many tests: alive inside its `with`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.url = ""
        license_file = directory / "avatar.license"
        license_file.write_text(LICENSE)
        listen = ("--listen", "127.0.0.1:0", "--license-file", str(license_file))
        self._command = (*COMMAND, "avatar", *listen, *SMALL, *options)
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._reading = threading.Thread(target=self._read, name="avatar-stderr")
        self._reading.start()
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(PATIENCE_S) == 0
        self._reading.join()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.stderr.close()  # type: ignore[union-attr]
        assert self.url, "\n".join(self._lines)
        assert_no_canary("\n".join(self._lines))

    @property
    def lines(self) -> Sequence[str]:
        """What it has logged so far."""
        return self._lines

    def n_events(self, name: str) -> int:
        return sum(f'"event": "{name}"' in line for line in self._lines)

    def _read(self) -> None:
        assert self._process.stderr is not None
        self._lines.extend(self._process.stderr)


@contextlib.asynccontextmanager
async def faulty_avatar(directory: Path, *faults: str) -> AsyncIterator[tuple[Program, str]]:
    """A local avatar service that misbehaves, and its URL."""
    license_file = directory / "faulty.license"
    license_file.write_text(LICENSE)
    options = [word for fault in faults for word in ("--fault", fault)]
    command = (*COMMAND, "avatar", "--listen", "127.0.0.1:0", "--license-file", license_file, *SMALL, *options)
    async with Program(*command) as avatar:
        yield avatar, await avatar.said()


# A piece of a secret: as it is or URL-encoded, in base64 from each of the three places in which it can begin, in hex.
_CANARY = re.compile("canary|Y2FuYXJ5|NhbmFye|jYW5hcn|63616e617279")


def assert_no_canary(text: str) -> None:
    found = _CANARY.search(text)
    assert found is None, f"{found[0]} stands in {text[max(0, found.start() - 300) :][:600]}"


class Setting:
    """A configuration in the making, with one session `leo` on the avatar service at `url`; none yet without a URL.

    sessions  by name, as they will stand in the file.
    """

    def __init__(self, directory: Path, url: str = "", **keys: Any) -> None:
        self.directory = directory
        self.recordings = directory / "recordings"
        self._keys: dict[str, Any] = {
            "http": {"listen": "127.0.0.1:0"},
            "drain_s": 4.5,  # what closing may take: no utterance is waited for
            "ice": {"interfaces": ["lo"]},
            "storage": {"dir": str(self.recordings), "min_free": 0},
        } | keys
        self.sessions: dict[str, dict[str, Any]] = {}
        if url:
            self.add_session("leo", url)

    def add_session(self, name: str, url: str, /, *, license: str = LICENSE, **avatar: Any) -> None:
        license_file = self.directory / f"{name}.license"
        license_file.write_text(license)
        defaults = {"url": url, "license_file": str(license_file), "name": "navtalk.Leo", "role": "speak"}
        self.add_avatar(name, defaults | avatar)

    def add_avatar(self, name: str, avatar: Mapping[str, Any], /) -> None:
        """A session with an avatar of any service."""
        self.sessions[name] = {
            "avatar": dict(avatar),
            "inputs": {"speech": {"url": f"file:{SPEECH}", "loop": True}},
            "outputs": {},
        }

    def input(self, path: Path, *, session: str = "leo", loop: bool = False, **keys: Any) -> Self:
        return self.hears(f"file:{path}", session=session, loop=loop, **keys)

    def hears(self, url: str, *, session: str = "leo", **keys: Any) -> Self:
        return self.inputs({"speech": {"url": url} | keys}, session=session)

    def inputs(self, inputs: Mapping[str, Mapping[str, Any]], *, session: str = "leo") -> Self:
        self.sessions[session]["inputs"] = {name: dict(keys) for name, keys in inputs.items()}
        return self

    def slate(self, *, session: str = "leo", **keys: Any) -> Self:
        """What stands in for the avatar."""
        self.sessions[session]["slate"] = keys
        return self

    def recording(self, name: str = "archive", *, session: str = "leo", **keys: Any) -> Path:
        """Record, and the file's path."""
        self.sessions[session]["outputs"][name] = {"url": f"file:{session}-{name}.mp4"} | keys
        return self.recordings / f"{session}-{name}.mp4"

    def forget_output(self, name: str, *, session: str = "leo") -> None:
        del self.sessions[session]["outputs"][name]

    def rtmp(self, name: str, url: str, *, key: str = STREAM_KEY, session: str = "leo", **keys: Any) -> Self:
        key_file = self.directory / f"{session}-{name}.key"
        key_file.write_text(key)
        outputs = self.sessions[session]["outputs"]
        outputs[name] = {"url": url, "stream_key_file": str(key_file)} | keys
        return self

    def whip(self, name: str, url: str, *, token: str, session: str = "leo") -> Self:
        token_file = self.directory / f"{session}-{name}.token"
        token_file.write_text(token)
        self.sessions[session]["outputs"][name] = {"url": url, "token_file": str(token_file)}
        return self

    def ice(self, interfaces: Sequence[str]) -> Self:
        """Where media goes; none: wherever there is a way but loopback."""
        self._keys["ice"] = {"interfaces": list(interfaces)}
        return self

    def write(self) -> Path:
        path = self.directory / "bridge.yaml"
        path.write_text(yaml.safe_dump(self._keys | {"sessions": self.sessions}, sort_keys=False))
        return path

    def daemon(self, *within: str) -> Daemon:
        return Daemon(self.write(), within)


SPEECH = Path(__file__).parents[2] / "bridge" / "samples" / "speech.flac"


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            # proc(5): behind the command in parentheses come the state and the parent.
            if entry.name.isdecimal() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found |= {int(entry.name), *descendants(int(entry.name))}
    return found


def arguments_of(pid: int) -> str:
    """What the system shows to everybody of the command that a process was started with."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:  # it has ended since it was listed
        return ""


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def is_root() -> bool:
    return os.geteuid() == 0
