"""What the bridge is given to run."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from bridge.samples import SPEECH

SESSION = "bench"


def write_configuration(
    directory: Path, avatar_url: str, outputs: Mapping[str, str], *, speech: Path = SPEECH, loop: bool = True
) -> Path:
    """A file for `avatar-bridge run`: one session whose avatar says what it is sent. outputs: a URL for each name."""
    licence, path = directory / "licence", directory / "bridge.yaml"
    licence.touch(0o600)
    licence.write_text("any licence will do")
    settings = {
        "http": {"listen": "127.0.0.1:0"},
        "log": {"level": "warning"},
        "storage": {"dir": str(directory), "min_free": 0},
        "ice": {"interfaces": ["lo"]},
        "drain_s": 5,
        "sessions": {
            SESSION: {
                "avatar": {"url": avatar_url, "license_file": str(licence), "name": "navtalk.Leo", "role": "speak"},
                "inputs": {"speech": {"url": f"file:{speech}", "loop": loop}},
                "outputs": {name: {"url": url} for name, url in outputs.items()},
            }
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return path
