"""`avatar-bridge ctl`: the API of a running daemon as commands."""

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bridge.errors import ConfigError
from bridge.ops.completion import DAEMON_URL, output_names, session_names

if TYPE_CHECKING:
    from bridge.ops.client import ApiClient

# The largest body of the API, an image: a file of more is the wrong one.
MAX_FILE_BYTES = 8 << 20

app = typer.Typer(help="Talk to a running daemon: look, and lay a hand on what is on air.", no_args_is_help=True)
output_app = typer.Typer(help="Outputs of a session, while it is on air.", no_args_is_help=True)
app.add_typer(output_app, name="output")
session_app = typer.Typer(help="Sessions that come and go without the configuration file.", no_args_is_help=True)
app.add_typer(session_app, name="session")

Session = Annotated[str, typer.Argument(metavar="SESSION", show_default=False, autocompletion=session_names)]
Output = Annotated[str, typer.Argument(metavar="OUTPUT", show_default=False, autocompletion=output_names)]
OnOff = Annotated[Literal["on", "off"], typer.Argument(metavar="on|off", show_default=False)]


@dataclass(frozen=True)
class _Ctl:
    """How to reach the daemon, and how to show what it answers."""

    client: "ApiClient"
    is_json: bool
    stdin_is_used: bool

    def call(self, method: str, *path: str, json_body: object = None, **more: Any) -> None:
        """A call whose answer is that it was done."""
        if json_body is not None:
            more["content"] = json.dumps(json_body, default=str).encode()
        answer = self.client.call(method, *path, **more)
        if self.is_json:
            print(json.dumps(answer if answer is not None else {}, indent=2))

    def read(self, source: str) -> bytes:
        """A file, or standard input for `-`. Raises ConfigError."""
        if source == "-":
            if self.stdin_is_used:
                raise ConfigError("standard input holds the token already: give the other one as a file")
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            try:
                with open(source, "rb") as file:
                    content = file.read(MAX_FILE_BYTES + 1)
            except OSError as error:
                raise ConfigError(f"cannot read {source}: {error.strerror}") from None
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{source} has more than {MAX_FILE_BYTES} bytes")
        return content

    def keys(self, source: str, of_what: str) -> dict[str, Any]:
        """What stands in a file, or in standard input for `-`, in the configuration's form. Raises ConfigError."""
        import yaml

        try:
            keys = yaml.safe_load(self.read(source))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(
                f"{source} is neither YAML nor JSON"
            ) from None  # its error would repeat a line of secrets
        if not isinstance(keys, dict):
            raise ConfigError(f"{source} holds no keys of {of_what}")
        return keys

    def text(self, given: str) -> str:
        """What was given, or standard input for `-`."""
        return self.read("-").decode(errors="replace").strip() if given == "-" else given


@app.callback()
def ctl(
    context: typer.Context,
    url: Annotated[
        str, typer.Option(metavar="URL", envvar="AVATAR_BRIDGE_URL", help="Where the daemon listens.")
    ] = DAEMON_URL,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="AVATAR_BRIDGE_TOKEN_FILE", help="Holds the access token; - is standard input."
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates to trust, where the daemon's is private.")
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print what the API answers.")] = False,
) -> None:
    from bridge.ops.client import ApiClient, read_token

    from_stdin = token_file == Path("-")
    context.obj = _Ctl(ApiClient(url, read_token(token_file), ca_file), is_json, from_stdin)


# ---------------------------------------------------------------------------------------------- looking


@app.command()
def health(context: typer.Context) -> None:
    """Tell whether the daemon answers (/healthz)."""
    typer.echo(context.obj.client.read_text("healthz"), nl=False)


@app.command()
def ready(context: typer.Context) -> None:
    """Tell whether every session is on air, or which one is not and why, with status 1 (/readyz)."""
    typer.echo(context.obj.client.read_text("readyz"), nl=False)


@app.command()
def metrics(context: typer.Context) -> None:
    """Print the metrics as Prometheus scrapes them (/metrics)."""
    typer.echo(context.obj.client.read_text("metrics"), nl=False)


@app.command()
def sessions(context: typer.Context) -> None:
    """List sessions."""
    found = context.obj.client.call("GET", "sessions")
    _show(context, found, [_session_row(session) for session in found])


@app.command()
def status(context: typer.Context, session: Session) -> None:
    """Show a session and its outputs."""
    found = context.obj.client.call("GET", "sessions", session)
    media = found["media"]
    about = {
        **_session_row(found),
        "differs from the file": "yes, by API calls" if found["overridden"] else "no",
        "service can": ", ".join(found["capabilities"]),
        "picture": f"{media['fps']:.1f} fps, {media['video_bps'] / 1000:.0f} kbit/s",
        "added latency": _milliseconds(media["added_latency_s"]),
        "sound early by": _milliseconds(media["av_offset_s"]),
    }
    outputs = [
        {
            "output": output["name"],
            "protocol": output["protocol"],
            "state": output["state"],
            "MB sent": f"{output['bytes_total'] / 1e6:.1f}",
            "reconnects": str(sum(output["reconnects"].values())),
            "last error": output["last_error"],
        }
        for output in found["outputs"]
    ]
    objections = [
        {"output": output["name"], "weight": objection["weight"], "the platform objects": objection["text"]}
        for output in found["outputs"]
        for objection in output["objections"]
    ]
    _show(context, found, [{"": name, " ": value} for name, value in about.items()], outputs, objections)


@app.command()
def events(context: typer.Context, session: Session) -> None:
    """Show what happens in a session, until it ends: states, speech, transcripts, tool calls."""

    def show(event_type: str, data: dict[str, Any]) -> None:
        if context.obj.is_json:
            print(json.dumps({"type": event_type, **data}), flush=True)
            return
        at = datetime.fromisoformat(data.pop("at")).astimezone()
        words = " ".join(f"{key}={value}" for key, value in data.items() if value not in ("", None))
        print(f"{at:%H:%M:%S} {event_type} {_plain(words)}", flush=True)

    context.obj.client.follow("sessions", session, "events", take=show)


@app.command()
def trend(context: typer.Context, session: Session) -> None:
    """Show how a session was doing in the last ten minutes: every other second as JSON, here the extremes."""
    found = context.obj.client.call("GET", "sessions", session, "trend")
    ages_s = found["age_s"]
    known = {name: [v for v in values if v is not None] for name, values in found.items() if name != "age_s"}
    rows = [
        {"": name, "least": f"{min(values):g}", "most": f"{max(values):g}", "newest": f"{values[-1]:g}"}
        for name, values in known.items()
        if values
    ]
    _show(context, found, [{"": "seconds", " ": f"{ages_s[0]:.0f}" if ages_s else "0"}], rows)


def _session_row(session: dict[str, Any]) -> dict[str, str]:
    why = session["slate_reason"] or session["slate_cause"]
    on_air = session["on_air"] + (f" ({why})" if why else "")
    publishing = sum(output["state"] == "publishing" for output in session["outputs"])
    return {
        "session": session["name"],
        "state": session["state"],
        "on air": on_air + (", muted" if session["is_muted"] else ""),
        "outputs": f"{publishing} of {len(session['outputs'])} publishing",
        "last error": session["error"],
    }


def _milliseconds(duration_s: float | None) -> str:
    return "" if duration_s is None else f"{duration_s * 1000:.1f} ms"


def _plain(text: str) -> str:
    """Without what a terminal obeys: models, services and servers wrote some of it."""
    return "".join(character if character.isprintable() else " " for character in text)


def _show(context: typer.Context, answer: Any, *tables: list[dict[str, str]]) -> None:
    if context.obj.is_json:
        print(json.dumps(answer, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for rows in filter(None, tables):
        table = Table(*rows[0], show_header=any(name.strip() for name in rows[0]), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(_plain(value)) for value in row.values()))
        Console().print(table)


# ---------------------------------------------------------------------------------------------- the avatar


@app.command()
def say(
    context: typer.Context,
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="- is standard input.", show_default=False)],
) -> None:
    """Give the avatar text to answer or to speak."""
    context.obj.call("POST", "sessions", session, "say", json_body={"text": context.obj.text(text)})


@app.command()
def interrupt(context: typer.Context, session: Session) -> None:
    """Make the avatar stop speaking."""
    context.obj.call("POST", "sessions", session, "interrupt")


@app.command()
def image(
    context: typer.Context,
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JPEG or PNG, up to 8 MiB.", show_default=False)],
    reply: Annotated[bool, typer.Option("--reply", help="Let the avatar speak about it.")] = False,
) -> None:
    """Show the avatar a picture."""
    picture = context.obj.read(file)
    media_type = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
    query = {"reply": str(reply).lower()}
    context.obj.call("POST", "sessions", session, "image", content=picture, media_type=media_type, query=query)


@app.command()
def history(
    context: typer.Context,
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="- is standard input.", show_default=False)],
) -> None:
    """Tell the avatar what a user said before; it does not answer."""
    context.obj.call("POST", "sessions", session, "history", json_body={"text": context.obj.text(text)})


@app.command()
def listening(context: typer.Context, session: Session, on: OnOff) -> None:
    """Make the avatar look as if it listened, or end that."""
    context.obj.call("POST", "sessions", session, "listening", json_body={"on": on == "on"})


@app.command()
def tool(
    context: typer.Context,
    session: Session,
    call_id: Annotated[str, typer.Argument(metavar="CALL_ID", show_default=False)],
    output: Annotated[str, typer.Argument(metavar="OUTPUT|-", help="- is standard input.", show_default=False)],
) -> None:
    """Answer a function call of the avatar's model."""
    context.obj.call("POST", "sessions", session, "tools", call_id, json_body={"output": context.obj.text(output)})


# ---------------------------------------------------------------------------------------------- what viewers get


@app.command()
def slate(
    context: typer.Context,
    session: Session,
    on: OnOff,
    reason: Annotated[str, typer.Option(help="For the log and for whoever looks.")] = "",
) -> None:
    """Put the slate on air at once, or take it off."""
    context.obj.call("POST", "sessions", session, "slate", json_body={"on": on == "on", "reason": reason})


@app.command()
def mute(context: typer.Context, session: Session, on: OnOff) -> None:
    """Silence what viewers hear."""
    context.obj.call("POST", "sessions", session, "mute", json_body={"on": on == "on"})


@app.command()
def reload(context: typer.Context) -> None:
    """Read the configuration file anew and apply what differs."""
    changed = context.obj.client.call("POST", "reload")
    _show(context, changed, [{"": key, " ": ", ".join(names)} for key, names in changed.items() if names])


@app.command()
def drain(context: typer.Context) -> None:
    """Finish the utterances under way, then end the daemon."""
    context.obj.call("POST", "drain")


# ---------------------------------------------------------------------------------------------- sessions


Keys = Annotated[
    str, typer.Argument(metavar="FILE|-", help="Its keys as in the configuration, YAML or JSON.", show_default=False)
]


@session_app.command("put")
def put_session(context: typer.Context, session: Session, file: Keys) -> None:
    """Begin a session, or begin the one of that name anew; secrets are written as for `output add`."""
    keys = context.obj.keys(file, "a session, such as avatar, inputs and outputs")
    context.obj.call("PUT", "sessions", session, json_body=keys)


@session_app.command("patch")
def patch_session(context: typer.Context, session: Session, file: Keys) -> None:
    """Change the keys of a session that the file names; null removes one. Outputs alone change while it goes on."""
    keys = context.obj.keys(file, "a session, such as outputs")
    context.obj.call("PATCH", "sessions", session, json_body=keys, media_type="application/merge-patch+json")


@session_app.command("remove")
def remove_session(context: typer.Context, session: Session) -> None:
    """Finish what is being said, then close and forget a session."""
    context.obj.call("DELETE", "sessions", session)


# ---------------------------------------------------------------------------------------------- outputs


@output_app.command("add")
def add_output(
    context: typer.Context,
    session: Session,
    output: Output,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE|-", help="Its keys as in the configuration, YAML or JSON.", show_default=False),
    ],
) -> None:
    """Add an output, or replace the one of that name.

    Secrets stand in the file (url, stream_key, token), or are named there: stream_key: {secret: NAME}, with NAME from
    the daemon's configuration.
    """
    keys = context.obj.keys(file, "an output, such as url: rtmps://HOST/APP")
    context.obj.call("PUT", "sessions", session, "outputs", output, json_body=keys)


@output_app.command("remove")
def remove_output(context: typer.Context, session: Session, output: Output) -> None:
    """Close an output and forget it."""
    context.obj.call("DELETE", "sessions", session, "outputs", output)


def _output_verb(verb: str, help: str) -> None:
    @output_app.command(verb, help=help)
    def command(context: typer.Context, session: Session, output: Output) -> None:
        context.obj.call("POST", "sessions", session, "outputs", output, verb)


_output_verb("start", "Publish; an output that does already goes on.")
_output_verb("stop", "Close an output until it is started again.")
_output_verb("restart", "Close an output and publish anew.")
