"""A bridge and a local LiveKit room, as processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.processes import COMMAND, SMALL, Program, Setting

# What tokens of the local room are signed with.
API_SECRET = "canary of a secret, 32 characters and more"
AVATAR = {"service": "livekit", "api_key": "devkey", "room": "studio"}


def room_program(directory: Path, *options: str, within: Sequence[str] = (), listen: str = "127.0.0.1:0") -> Program:
    """`avatar-bridge avatar --services livekit`; it says its URL first."""
    secret = directory / "room.secret"
    secret.write_text(API_SECRET)
    arguments = ("--services", "livekit", "--listen", listen, "--license-file", secret)
    return Program(*within, *COMMAND, "avatar", *arguments, *SMALL, *options)


def studio(directory: Path, url: str, **avatar: Any) -> Setting:
    """The configuration of a bridge in that room."""
    setting = Setting(directory)
    setting.add_avatar("leo", avatar_of(directory, url) | avatar)
    return setting


def avatar_of(directory: Path, url: str) -> dict[str, Any]:
    """The configuration of the local room's avatar."""
    return {"url": url, "api_secret_file": str(directory / "room.secret")} | AVATAR
