"""Names that the shell offers while a line of `ctl` is typed: those of the sessions and outputs that the daemon has."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from bridge.errors import BridgeError

DAEMON_URL = "http://127.0.0.1:8080"
# Whoever has pressed the tab key waits for it.
TIMEOUT_S = 2.0


def session_names(context: typer.Context, incomplete: str) -> list[str]:
    """Sessions whose names begin like that; none where the daemon does not answer."""
    return _names(_ask(context, "sessions") or [], incomplete)


def output_names(context: typer.Context, incomplete: str) -> list[str]:
    """The same of outputs, of the session that stands before on the line."""
    session = _ask(context, "sessions", context.params.get("session") or "")
    return _names(session["outputs"] if session else [], incomplete)


def _names(found: list[dict[str, Any]], incomplete: str) -> list[str]:
    return [each["name"] for each in found if each["name"].startswith(incomplete)]


def _ask(context: typer.Context, *path: str) -> Any:
    """What the daemon says; None where it does not: in the middle of a line is no place to complain."""
    from bridge.ops.client import ApiClient, read_token

    given, parent = context.params, context.parent
    while parent is not None and "url" not in given:
        given, parent = parent.params, parent.parent
    if given["token_file"] == Path("-"):
        return None  # standard input is where the line is typed
    with suppress(BridgeError):
        client = ApiClient(given["url"] or DAEMON_URL, read_token(given["token_file"]), given["ca_file"], TIMEOUT_S)
        return client.call("GET", *path)
