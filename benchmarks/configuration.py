"""What the bridge is given to run."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from bridge.samples import SPEECH

SESSION = "bench"
# A URL, or all keys.
Output: TypeAlias = str | Mapping[str, object]


def write_configuration(
    directory: Path,
    avatar_url: str,
    outputs: Mapping[str, Output],
    *,
    speech: Path = SPEECH,
    loop: bool = True,
    inputs: Mapping[str, Mapping[str, object]] | None = None,
    listen: str = "127.0.0.1:0",
) -> Path:
    """A file for `avatar-bridge run`: one session whose avatar says what it is sent."""
    sessions = {SESSION: outputs}
    return write_sessions(directory, avatar_url, sessions, speech=speech, loop=loop, inputs=inputs, listen=listen)


def write_sessions(
    directory: Path,
    avatar_url: str,
    sessions: Mapping[str, Mapping[str, Output]],
    *,
    speech: Path = SPEECH,
    loop: bool = True,
    idle_audio: str = "silence",
    inputs: Mapping[str, Mapping[str, object]] | None = None,
    listen: str = "127.0.0.1:0",
) -> Path:
    """The same of several sessions. sessions: for each name its outputs. inputs: None: the speech."""
    licence, path = directory / "licence", directory / "bridge.yaml"
    licence.touch(0o600)
    licence.write_text("any licence will do")
    avatar = {"url": avatar_url, "license_file": str(licence), "name": "navtalk.Leo", "role": "speak"}
    settings = {
        "http": {"listen": listen},
        "log": {"level": "warning"},
        "storage": {"dir": str(directory), "min_free": 0},
        "ice": {"interfaces": ["lo"]},
        "drain_s": 5,
        "sessions": {
            name: {
                "avatar": avatar | {"idle_audio": idle_audio},
                "inputs": inputs or {"speech": {"url": f"file:{speech}", "loop": loop}},
                "outputs": {
                    output: {"url": keys} if isinstance(keys, str) else dict(keys) for output, keys in outputs.items()
                },
            }
            for name, outputs in sessions.items()
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def free_port() -> int:
    """One of 127.0.0.1, as a configuration is to name it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
