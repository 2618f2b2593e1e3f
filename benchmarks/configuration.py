"""What the bridge is given to run."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from bridge.samples import SPEECH

SESSION = "bench"


def write_configuration(
    directory: Path,
    avatar_url: str,
    outputs: Mapping[str, str],
    *,
    speech: Path = SPEECH,
    loop: bool = True,
    n_sessions: int = 1,
    listen: str = "127.0.0.1:0",
) -> Path:
    """A file for `avatar-bridge run`: sessions whose avatars say what they are sent, the first one named `SESSION`.

    outputs  a URL for each name; `{session}` in it becomes the session's.
    """
    licence, path = directory / "licence", directory / "bridge.yaml"
    licence.touch(0o600)
    licence.write_text("any licence will do")
    names = [SESSION, *(f"{SESSION}-{number}" for number in range(2, n_sessions + 1))]
    settings = {
        "http": {"listen": listen},
        "log": {"level": "warning"},
        "storage": {"dir": str(directory), "min_free": 0},
        "ice": {"interfaces": ["lo"]},
        "drain_s": 5,
        "sessions": {
            name: {
                "avatar": {"url": avatar_url, "license_file": str(licence), "name": "navtalk.Leo", "role": "speak"},
                "inputs": {"speech": {"url": f"file:{speech}", "loop": loop}},
                "outputs": {output: {"url": url.replace("{session}", name)} for output, url in outputs.items()},
            }
            for name in names
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return path
