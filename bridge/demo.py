"""`avatar-bridge demo`: the whole main job on one machine, against the local avatar service."""

import asyncio
import contextlib
import os
import sys
import webbrowser
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bridge.config import (
    Address,
    AnyAvatarConfig,
    Config,
    HeyGenConfig,
    HttpConfig,
    IceConfig,
    InputConfig,
    LiveAvatarConfig,
    LiveKitConfig,
    NavTalkConfig,
    NavTalkLegacyConfig,
    OutputConfig,
    SessionConfig,
    StorageConfig,
)
from bridge.daemon import Daemon
from bridge.errors import ConfigError, ProviderUnavailable
from bridge.ops.logs import configure_logging
from bridge.outputs.status import OutputState
from bridge.protocols import input_urls
from bridge.redact import Secret, mask
from bridge.samples import SPEECH
from bridge.signals import RELOAD_SIGNALS, STOP_SIGNALS, on_signals
from bridge.status import SessionStatus

SESSION = "demo"
INPUT = "speech"
MICROPHONE = "microphone"
RECORDING = "recordings/demo-{start:%Y%m%dT%H%M%SZ}.mp4"
# Importing and drawing the face takes 2 s of CPU; the rest is for a machine that is busy.
SERVICE_START_S = 20.0
SERVICE_STOP_S = 5.0
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """input: None is the shipped sample.  record: replaces its file.  seconds: of picture, if the input lasts."""

    service: str = "navtalk"
    input: InputConfig | None = None
    outputs: tuple[OutputConfig, ...] = ()
    record: Path | None = None
    seconds: float | None = None


async def run_demo(options: DemoOptions) -> int:
    """Run it; a status line on a terminal, a table at the end. Returns the exit status.

    On a terminal it has a page to watch and talk on, and goes on until Control-C, unless something says how long.
    """
    console = Console(stderr=True)
    is_open = console.is_terminal and options.seconds is None and options.input is None
    # On a terminal the status line says what info lines would.
    configure_logging("warning" if console.is_terminal else "info")
    async with _local_service(options.service) as (urls, has_ended):
        daemon = Daemon(_config(options, urls, is_open=is_open))
        # Nobody watches this broadcast: Control-C does not wait for the end of a sentence.
        with on_signals(STOP_SIGNALS + RELOAD_SIGNALS, lambda: daemon.stop(within_s=0.0)):
            running = asyncio.create_task(daemon.run())
            watching = asyncio.create_task(_watch(daemon, options, console, is_open=is_open))
            await asyncio.wait((running, has_ended), return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            if not running.done():
                running.cancel()
                await asyncio.wait((running,))
                raise ProviderUnavailable("the local avatar service ended by itself; its error is above")
    succeeded = running.result()
    (status,) = daemon.status()
    Console().print(_summary(status))
    has_recorded = all(output.accepted and output.state is OutputState.CLOSED for output in status.outputs)
    return 0 if succeeded and has_recorded and not daemon.has_crashed else 1


@contextlib.asynccontextmanager
async def _local_service(service: str) -> AsyncIterator[tuple[Sequence[str], asyncio.Task[int]]]:
    """The local avatar service in a process of its own: its URLs, and a task that is done when it has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "avatar", "--listen", "127.0.0.1:0", "--services", service),
        "--until-stdin-closes",  # however the demo ends, its service does not stay behind
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # a terminal's Control-C is for the demo, which ends the service after its session
    )
    assert process.stdout is not None
    has_ended = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(SERVICE_START_S):
            urls = (await process.stdout.readline()).decode().split()
        if not urls:
            raise ProviderUnavailable("the local avatar service did not start; its error is above")
        yield urls, has_ended
    except TimeoutError:
        raise ProviderUnavailable(f"the local avatar service did not start within {SERVICE_START_S:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait((has_ended,), timeout=SERVICE_STOP_S)
        if not has_ended.done():
            process.kill()
            # What it has said and nobody read: Python 3.11 and 3.12 wait for its end too (python/cpython#119710).
            await process.stdout.read()
            await has_ended


def avatar_at(service: str, urls: Sequence[str]) -> AnyAvatarConfig:
    """The avatar of a local service, which has these URLs: it says what it is sent."""
    url, license = Secret.url(urls[0]), Secret("local")
    match service:
        case "navtalk-legacy":
            signal_url = Secret.url(urls[1])
            return NavTalkLegacyConfig(
                service=service, url=url, signal_url=signal_url, license=license, name="navtalk.Leo", role="speak"
            )
        case "livekit":
            from bridge.local_avatar.livekit import API_KEY, DEV_SECRET, ROOM

            secret = Secret(DEV_SECRET)
            return LiveKitConfig(service=service, url=url, api_key=API_KEY, api_secret=secret, room=ROOM)
        case "heygen":
            return HeyGenConfig(service=service, url=url, api_key=license, avatar_id="local")
        case "liveavatar":
            return LiveAvatarConfig(service=service, url=url, api_key=license, avatar_id="local")
        case _:
            return NavTalkConfig(url=url, license=license, name="navtalk.Leo", role="speak")


def _config(options: DemoOptions, urls: Sequence[str], *, is_open: bool) -> Config:
    outputs = {f"output-{number}": output for number, output in enumerate(options.outputs, 1)}
    if options.record is not None:
        if options.record.is_dir():
            raise ConfigError(f"--record {options.record} is a directory: name a file")
        options.record.unlink(missing_ok=True)
        # One file was named, and is replaced: nothing else appears or goes.
        outputs["record"] = _file_output(str(options.record)).model_copy(update={"transcript": False})
    elif not outputs:
        outputs["record"] = _file_output(RECORDING)
    source = options.input or InputConfig(url=Secret.url(f"file:{SPEECH}"))
    inputs = {INPUT: source.model_copy(update={"url": _from_here(source.url)})}
    if is_open:
        inputs[MICROPHONE] = InputConfig(url=Secret.url("whip:"), priority=1)
    storage_dir = _common_directory(outputs.values())
    return Config(
        http=HttpConfig(listen=Address("127.0.0.1", 0)),
        storage=StorageConfig(dir=storage_dir),
        ice=IceConfig(interfaces=("lo",)),
        sessions={
            SESSION: SessionConfig(
                avatar=avatar_at(options.service, urls),
                inputs=inputs,
                outputs={name: _below(storage_dir, output) for name, output in outputs.items()},
            )
        },
    )


def _file_output(path: str) -> OutputConfig:
    return OutputConfig(url=Secret.url(f"file:{path}"))


def _from_here(url: Secret) -> Secret:
    """An input's URL from the command line, whose path is relative to the current directory, in a configuration."""
    return Secret.url(input_urls.placed(url.reveal(), Path.cwd()))


def _path(output: OutputConfig) -> Path:
    """The path of a `file:` URL of the command line, which is relative to the current directory."""
    return Path(output.address.reveal().partition(":")[2]).resolve()


def _common_directory(outputs: Iterable[OutputConfig]) -> Path:
    """A directory that all recordings lie below: in a configuration they do, on a command line they need not."""
    parents = [_path(output).parent for output in outputs if output.scheme == "file"]
    return Path(os.path.commonpath(parents)) if parents else Path.cwd()


def _below(directory: Path, output: OutputConfig) -> OutputConfig:
    if output.scheme != "file":
        return output
    return output.model_copy(
        update={"url": Secret.url(f"file:{_path(output).relative_to(directory)}"), "url_file": None}
    )


def _tell_entrance(daemon: Daemon, options: DemoOptions, console: Console) -> None:
    """Where sound is to be sent to, if the input waits for somebody who sends."""
    scheme = options.input.url.reveal().partition(":")[0] if options.input is not None else ""
    if scheme in input_urls.LISTENING_SCHEMES and daemon.http_address is not None:
        protocol, kind = ("http", "whip") if scheme == "whip" else ("ws", "pcm")
        url = f"{protocol}://{daemon.http_address}/v1/sessions/{SESSION}/{kind}/{INPUT}"
        console.print(f"send sound to {url}", highlight=False, soft_wrap=True)


def _show_page(daemon: Daemon, console: Console) -> None:
    page = f"http://{daemon.http_address}/"
    console.print(f"watch, and talk to the avatar, at {page}; Control-C ends it", highlight=False, soft_wrap=True)
    # Elsewhere Python would look for a browser that takes over the terminal.
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(page)


async def _watch(daemon: Daemon, options: DemoOptions, console: Console, *, is_open: bool) -> None:
    """Show the status, and end the demo in time."""
    _tell_entrance(daemon, options, console)  # the daemon, which was started before, listens
    if is_open:
        await asyncio.to_thread(_show_page, daemon, console)
    seconds = options.seconds
    loop = asyncio.get_running_loop()
    ends_at_s: float | None = None
    with contextlib.ExitStack() as stack:
        line: Live | None = None
        if console.is_terminal:
            line = stack.enter_context(Live(console=console, transient=True, auto_refresh=False))
        while not daemon.is_draining:
            await asyncio.sleep(LOOK_EVERY_S)
            for status in daemon.status():
                if line is not None:
                    line.update(_status_line(status), refresh=True)
                if status.media.n_pictures and ends_at_s is None and seconds is not None:
                    ends_at_s = loop.time() + seconds
                if daemon.is_draining:
                    return
                if ends_at_s is not None and loop.time() >= ends_at_s:
                    daemon.stop(within_s=0.0)
                elif status.input_is_finished:
                    daemon.stop()


def _status_line(status: SessionStatus) -> Text:
    media = status.media
    parts = [
        f"{status.state.value}",
        f"{media.fps:4.1f} fps",
        f"{media.video_bps / 1e6:4.2f} Mb/s",
        f"A/V {_ms(media.av_offset_s, signed=True)}",
        f"added {_ms(media.added_latency_s)}",
        *(f"{output.name} {output.state.value}" for output in status.outputs),
    ]
    return Text(" · ".join(parts), style="green" if status.state.value == "live" else "yellow")


def _summary(status: SessionStatus) -> Table:
    media = status.media
    table = Table(title="avatar-bridge demo", title_justify="left", show_header=False)
    table.add_row("pictures", f"{media.n_pictures}, lost packets {media.n_lost_packets}")
    table.add_row("first picture after", f"{media.first_picture_s or 0:.2f} s")
    table.add_row("speech sent", f"{status.spoken_s:.1f} s")
    table.add_row("A/V offset", _ms(media.av_offset_s, signed=True))
    table.add_row("added latency", f"median {_ms(media.added_latency_s)}, 99 % {_ms(media.added_latency_p99_s)}")
    for output in status.outputs:
        said = f"{output.bytes_total / 1e6:.1f} MB, {output.protocol}, {output.state.value}"
        table.add_row(output.name, f"{said}; {mask(output.last_error)}" if output.last_error else said)
    if status.error:
        table.add_row("last error", mask(status.error))
    return table


def _ms(seconds: float | None, signed: bool = False) -> str:
    return "–" if seconds is None else f"{seconds * 1000:{'+' if signed else ''}.1f} ms"
