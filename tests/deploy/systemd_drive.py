"""Runs inside the container, as root: starts the unit, hangs its event loop, stops it, and prints what it observes."""

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

UNIT = "avatar-bridge.service"
LOG = Path("/mnt/shared/daemon.log")
PATIENCE_S = 30.0


def systemctl(*words: str) -> str:
    return subprocess.run(["/usr/bin/systemctl", *words], check=True, capture_output=True, text=True).stdout


def state() -> dict[str, str]:
    names = "ActiveState,SubState,NRestarts,Result,StatusText,ExecMainStatus,MainPID"
    return dict(line.split("=", 1) for line in systemctl("show", UNIT, f"--property={names}").splitlines())


def is_on_air(n_times: int) -> bool:
    """Whether so many runs of the daemon have written live pictures."""
    log = LOG.read_text()
    return log.count('"on_air_live"') == log.count('"recording_started"') == n_times


def avatar_listens() -> bool:
    try:
        socket.create_connection(("127.0.0.1", 8811)).close()
    except OSError:
        return False
    return True


def until(claim: Callable[[], bool], what: str) -> float:
    """Seconds that it took."""
    began_s = time.monotonic()
    while not claim():
        assert time.monotonic() - began_s < PATIENCE_S, f"not {what}: {state()}"
        time.sleep(0.05)
    return time.monotonic() - began_s


def tell(step: str, **what: object) -> None:
    print(json.dumps({"step": step, **state(), **what}), flush=True)


systemctl("start", "local-avatar.service")
until(avatar_listens, "the avatar service")
began_s = time.monotonic()
systemctl("start", UNIT)
tell("started", after_s=time.monotonic() - began_s)
on_air_s = until(lambda: is_on_air(1), "on air")
until(lambda: "live on air" in state()["StatusText"], "told so")
with open(f"/proc/{state()['MainPID']}/status") as status:
    tell("on air", after_s=on_air_s, process=status.read())

systemctl("reload", UNIT)
until(lambda: '"reloaded"' in LOG.read_text() and state()["SubState"] == "running", "reloaded")
tell("reloaded")

systemctl("kill", "--signal=SIGUSR1", "--kill-who=main", UNIT)
hung_s = time.monotonic()
until(lambda: state()["NRestarts"] == "1", "restarted")
until(lambda: is_on_air(2), "on air again")
tell("on air again", after_s=time.monotonic() - hung_s)

began_s = time.monotonic()
systemctl("stop", UNIT)
recordings = subprocess.run(
    "ls -l /var/lib/private/avatar-bridge/recordings", shell=True, check=True, capture_output=True, text=True
)
tell("stopped", after_s=time.monotonic() - began_s, recordings=recordings.stdout)
