"""A booted systemd with the daemon's own unit, in a container of systemd-nspawn: files in, what was observed out."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_program

ROOT = Path(__file__).parents[2]
# Booting takes 1 to 5 s, the script some 15 s, and both thrice as long on a busy machine.
LIMIT_S = 60.0

# Where the unit expects the daemon. The source is that of the test, wherever the environment's own would come from.
PREFIX, SOURCE, SHARED = "/opt/avatar-bridge", "/opt/source", "/mnt/shared"
PYTHON = f"{PREFIX}/bin/python"
# A Python that is not the system's is seen here.
_MOVED = "/opt/python"

# Booting further than to this one waits for devices that a container has not.
_DRIVE = f"""
[Unit]
DefaultDependencies=no
[Service]
Environment=PYTHONPATH={SOURCE} PYTHONDONTWRITEBYTECODE=1
ExecStart={PYTHON} {SHARED}/drive.py
ExecStopPost=/usr/bin/systemctl poweroff --force --no-block
StandardOutput=file:{SHARED}/observed
StandardError=file:{SHARED}/drive.log
"""


def _environment(prefix: Path) -> dict[str, Path]:
    """The environment of this test at `PREFIX`, without a way through anybody's home, which the unit may not see."""
    base = Path(sys.base_prefix)
    is_visible = base.is_relative_to("/usr")  # which is all of the host that a volatile container has
    shown = base if is_visible else Path(_MOVED)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (prefix / "bin").mkdir(parents=True)
    (prefix / packages).mkdir(parents=True)
    (prefix / "bin" / "avatar-bridge").touch()
    (prefix / "bin" / "python").symlink_to(shown / "bin" / Path(sys.executable).resolve().name)
    (prefix / "pyvenv.cfg").write_text(f"home = {shown}/bin\ninclude-system-site-packages = false\n")
    places = {PREFIX: prefix, f"{PREFIX}/{packages}": Path(sys.prefix).resolve() / packages}
    return places if is_visible else places | {str(shown): base}


def observe(directory: Path, script: Path, files: Mapping[str, str], units: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Boot, run the script as root, power off; what it printed, one JSON object a line.

    files  what lies where in the container.  units: unit files of the host, by their name in the container.
    Skips the test where systemd cannot be booted.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may boot a container")
    nspawn = require_program("systemd-nspawn", "systemd-container")
    shared = directory / "shared"
    shared.mkdir()
    (shared / "drive.py").write_text(script.read_text())
    places = {**_environment(directory / "prefix"), f"{SOURCE}/bridge": ROOT / "bridge"}
    for number, (place, content) in enumerate({**files, "/etc/systemd/system/drive.service": _DRIVE}.items()):
        places[place] = directory / f"file-{number}"
        places[place].write_text(content)
        places[place].chmod(0o755 if content.startswith("#!") else 0o644)
    places |= {f"/etc/systemd/system/{name}": path for name, path in units.items()}
    binds = [f"--bind-ro={path}:{place}" for place, path in places.items()]
    command = [nspawn, "--quiet", "--register=no", "--keep-unit", "--private-network", "--volatile=yes", "-D", "/"]
    command += [f"--machine=bridge-{os.getpid()}", *binds, f"--bind={shared}:{SHARED}", "--boot"]
    log = directory / "console.log"
    with log.open("w") as console:
        process = subprocess.Popen(
            # Where Python's own library lies, if it is one that is shared and not the system's.
            [
                *command,
                "systemd.unit=drive.service",
                "systemd.log_target=console",
                f"systemd.setenv=LD_LIBRARY_PATH={_MOVED}/lib",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            pass  # what there is to see tells how far it came
        finally:
            process.kill()
            process.wait()
    observed = shared / "observed"
    if not observed.exists():
        pytest.skip(f"systemd could not be booted here: {(log.read_text().strip().splitlines() or ['no word'])[-1]}")
    problems = (shared / "drive.log").read_text()
    assert not problems, f"{problems}\n{observed.read_text()}\n{log.read_text()}"
    return [json.loads(line) for line in observed.read_text().splitlines()]
