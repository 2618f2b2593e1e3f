"""The command line. Exit status: 0 done, 1 failed while running, 2 the command line or the configuration is wrong.

Commands import what they need when they run: `avatar-bridge --help` loads neither WebRTC nor numpy.
"""

import asyncio
import json
import re
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
from pydantic import ValidationError

import bridge
from bridge.config import ClipConfig, Config, InputConfig, Model, OutputConfig, parse_address
from bridge.config_file import explain, json_schema, load_config, show_config
from bridge.errors import BridgeError, ConfigError
from bridge.ops.ctl import app as ctl_app
from bridge.redact import Secret, mask
from bridge.signals import STOP_SIGNALS, on_signals

ModelT = TypeVar("ModelT", bound=Model)

app = typer.Typer(
    name="avatar-bridge",
    help="Puts a cloud avatar on a live broadcast: audio in, lip-synced picture and sound out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ctl_app, name="ctl")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML).", show_default=False)]


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        app()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except ConfigError as error:
        status = _complain(2, error)
    except BridgeError as error:
        status = _complain(1, error)
    except ExceptionGroup as group:
        # Tasks that fail together; a bug among them deserves its traceback.
        errors = list(_leaves(group))
        if all(isinstance(error, BridgeError) for error in errors):
            status = _complain(2 if any(isinstance(error, ConfigError) for error in errors) else 1, *errors)
        else:
            status = _show_bug(traceback.format_exception(group))
    except Exception as bug:
        status = _show_bug(traceback.format_exception(bug))
    sys.exit(status)


def _complain(status: int, *errors: Exception) -> int:
    for error in errors:
        for line in mask(str(error)).splitlines():
            print(f"avatar-bridge: {line}", file=sys.stderr)
    return status


def _show_bug(lines: list[str]) -> int:
    """Show it whole, as Python would, but for the secrets in it."""
    print(mask("".join(lines)), end="", file=sys.stderr)
    return 1


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"avatar-bridge {bridge.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigFile) -> None:
    """Run the daemon. SIGTERM drains: it lets the utterance finish and closes everything properly."""
    settings = load_config(config)
    _configure_logging(settings)
    from bridge.daemon import run_daemon

    raise typer.Exit(asyncio.run(run_daemon(settings, partial(load_config, config))))


@app.command()
def check(
    config: ConfigFile,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also open every avatar and output, say what was agreed on, and close.")
    ] = False,
) -> None:
    """Validate a configuration and print it with its defaults, secrets masked."""
    settings = load_config(config)
    print(show_config(settings), end="")
    if connect:
        from bridge.ops.logs import configure_logging

        configure_logging("warning", settings.log.format)
        from bridge.check import check_connections

        raise typer.Exit(0 if asyncio.run(check_connections(settings)) else 1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    print(json.dumps(json_schema(), indent=2))


@app.command()
def demo(
    service: Annotated[
        Literal["navtalk", "navtalk-legacy", "heygen", "liveavatar", "livekit"],
        typer.Option(help="Avatar service to imitate."),
    ] = "navtalk",
    input: Annotated[
        str | None, typer.Option(metavar="URL", help="What the avatar hears; a shipped sample unless given.")
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option(metavar="URL|@FILE", help="Publish there too; @FILE: the file holds the URL.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record to this file; one that exists is replaced.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="End after this time.")] = None,
) -> None:
    """Bridge the local avatar service on this machine: no account, no network."""
    source = _from_option("--input", InputConfig, url=input) if input else None
    outputs = tuple(
        _from_option("--output", OutputConfig, url_file=url[1:])
        if url.startswith("@")
        else _from_option("--output", OutputConfig, url=url)
        for url in output or ()
    )
    if record:
        _from_option("--record", OutputConfig, url=f"file:{record}")
    from bridge.demo import DemoOptions, run_demo

    options = DemoOptions(service=service, input=source, outputs=outputs, record=record, seconds=seconds)
    raise typer.Exit(asyncio.run(run_demo(options)))


@app.command()
def avatar(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8811",
    services: Annotated[
        str, typer.Option(metavar="NAME[,NAME]…", help="Avatar services to imitate; an unknown name lists them.")
    ] = "navtalk",
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Picture size in pixels.")] = "720x1280",
    fps: Annotated[int, typer.Option(min=1, max=60, help="Pictures per second.")] = 25,
    codec: Annotated[Literal["h264", "vp8"], typer.Option(help="Coding of pictures.")] = "h264",
    profile: Annotated[Literal["baseline", "main", "high"], typer.Option(help="H.264 profile.")] = "baseline",
    timecode: Annotated[bool, typer.Option("--timecode", help="Print a machine-readable time into pictures.")] = False,
    flash: Annotated[bool, typer.Option("--flash", help="A flash with a beep at known times.")] = False,
    license_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the only licence to accept; else any will do.")
    ] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:VALUE]", help="Misbehave; an unknown name lists them.")
    ] = None,
) -> None:
    """Run only the local avatar service, which stands in for the cloud."""
    try:
        address = parse_address(listen)
    except ValueError as error:
        raise ConfigError(f"--listen: {error}") from None
    width_px, height_px = _parse_size(size)
    _configure_logging(None)
    from bridge.local_avatar.faults import Fault, NoSuchFault, describe_faults
    from bridge.local_avatar.options import LocalAvatarOptions
    from bridge.local_avatar.server import SERVICES, LocalAvatar
    from bridge.media.access_unit import Codec

    known = {str(name): name for name in SERVICES}
    asked = services.split(",")
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--services {unknown[0]}: there is {', '.join(known)}")
    try:
        faults = tuple(Fault.parse(text) for text in fault or ())
    except NoSuchFault as error:
        raise ConfigError(f"--fault {error}, only these:\n{describe_faults()}") from None
    except ValueError as error:
        raise ConfigError(f"--fault {error}") from None
    options = LocalAvatarOptions(
        services=[known[name] for name in asked],
        listen_host=address.host,
        listen_port=address.port,
        license=_read_secret("--license-file", license_file) if license_file else None,
        size_px=(width_px, height_px),
        fps=fps,
        codec=Codec(codec),
        profile=profile,
        timecode=timecode,
        flash=flash,
        faults=faults,
    )
    service = LocalAvatar(options, on_listening=lambda url: print(url, flush=True))
    asyncio.run(_until_signalled(service.run(), or_stdin_closes=until_stdin_closes))


@app.command()
def clip(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the clip goes, .mp4; it must not exist.")],
    license_file: Annotated[Path, typer.Option(metavar="FILE", help="Holds the licence.", show_default=False)],
    video_url: Annotated[str | None, typer.Option(metavar="URL", help="Who is seen: a video.")] = None,
    image_url: Annotated[str | None, typer.Option(metavar="URL", help="Who is seen: a photograph.")] = None,
    character: Annotated[str | None, typer.Option(metavar="NAME", help="Who is seen: one of the service's.")] = None,
    audio_url: Annotated[str | None, typer.Option(metavar="URL", help="What is said: a recording.")] = None,
    audio_file: Annotated[Path | None, typer.Option(metavar="FILE", help="What is said: a file to send.")] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="What is said: words.")] = None,
    voice: Annotated[str | None, typer.Option(metavar="NAME", help="Who says the words.")] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="The service, unless it is NavTalk's.")] = None,
    status_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where it is asked about the clip, unless that is the same.")
    ] = None,
    deadline: Annotated[float, typer.Option(metavar="SECONDS", help="How long rendering may take.")] = 300.0,
) -> None:
    """Have NavTalk's video generation render a clip, and download it."""
    values = {
        "url": url,
        "status_url": status_url,
        "license_file": license_file,
        "video_url": video_url,
        "image_url": image_url,
        "character_name": character,
        "audio_url": audio_url,
        "audio_file": audio_file,
        "content": text,
        "voice": voice,
        "deadline_s": deadline,
    }
    config = _from_option("clip", ClipConfig, **{key: value for key, value in values.items() if value is not None})
    if out.exists():
        raise ConfigError(f"{out} exists: name another file")
    from bridge.clip import run_clip
    from bridge.ops.logs import configure_logging

    configure_logging("warning")
    asyncio.run(_until_signalled(run_clip(config, out), or_stdin_closes=False))


def _configure_logging(config: Config | None) -> None:
    from bridge.ops.logs import configure_logging

    if config:
        configure_logging(config.log.level, config.log.format)
    else:
        configure_logging()


async def _until_signalled(running: Coroutine[Any, Any, object], or_stdin_closes: bool) -> None:
    """Run until finished, or until SIGINT or SIGTERM, or the end of standard input, none of which is a failure."""
    task = asyncio.ensure_future(running)

    def stop() -> None:
        task.cancel()

    if or_stdin_closes:
        asyncio.get_running_loop().add_reader(sys.stdin, stop)  # nobody writes to it: what can be read is its end
    with on_signals(STOP_SIGNALS, stop):
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def _from_option(option: str, model: type[ModelT], **values: Any) -> ModelT:
    """A part of a configuration that came from the command line. Raises ConfigError that names the option."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{option}: {explain(error)}") from None


def _read_secret(option: str, path: Path) -> Secret:
    from bridge.config_secrets import read_file

    try:
        return read_file(path)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _parse_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", size)
    # 4:2:0 pictures have an even size; below 64 there is no face, above 4096 no H.264 level that anyone plays.
    sides_px = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(64 <= side_px <= 4096 and side_px % 2 == 0 for side_px in sides_px):
        raise ConfigError(f"--size {size}: must be WIDTHxHEIGHT, both even and from 64 to 4096")
    return sides_px
