"""The unit files: what systemd itself says of them, and the daemon under a real one."""

import re
import subprocess
from pathlib import Path

import pytest

from bridge.config import Config
from bridge.daemon import END_S
from bridge.supervisor import LAST_WORDS_S
from tests.conftest import require_program
from tests.deploy.nspawn import PREFIX, PYTHON, ROOT, SHARED, SOURCE, observe
from tests.e2e.processes import LICENSE, Show, assert_no_canary

DEPLOY = ROOT / "deploy"
UNIT, TEMPLATE = DEPLOY / "avatar-bridge.service", DEPLOY / "avatar-bridge@.service"
# The unit's own would only make the test longer.
WATCHDOG_S = 3.0


def settings(path: Path) -> dict[str, str]:
    """Every line KEY=VALUE; several of one key are one."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def test_the_template_is_the_unit_once_for_each_configuration() -> None:
    unit, template = settings(UNIT), settings(TEMPLATE)
    places = {"Description", "ExecStart", "LoadCredential", "StateDirectory", "WorkingDirectory"}
    assert {key for key in unit | template if unit.get(key) != template.get(key)} == places
    assert all("%i" in template[key] for key in places)


def test_stopping_takes_no_longer_than_draining_by_default_does() -> None:
    assert float(settings(UNIT)["TimeoutStopSec"]) == Config.model_fields["drain_s"].default + LAST_WORDS_S + END_S


@pytest.mark.parametrize("path", [UNIT, TEMPLATE], ids=lambda path: path.name)
def test_systemd_finds_nothing_to_say_about_it(path: Path, tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze", "systemd")
    copy = tmp_path / path.name.replace("@", "@leo")
    copy.write_text(path.read_text().replace(f"{PREFIX}/bin/avatar-bridge", "/bin/true"))
    verified = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_its_sandbox_leaves_little(show: Show) -> None:
    analyze = require_program("systemd-analyze", "systemd")
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", UNIT]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", judged.stdout)
    assert exposure, judged.stdout + judged.stderr
    show(f"systemd-analyze security: {exposure[1]} (bound 2.0)")
    assert judged.returncode == 0 and float(exposure[1]) <= 2.0, judged.stdout


# The console script of the environment, with the source of this test, and a way to make the event loop hang.
_SCRIPT = f"""#!{PYTHON}
import signal, sys, time
sys.path.insert(0, "{SOURCE}")
from bridge.cli import main
def hang(*_: object) -> None:
    time.sleep(3600)
signal.signal(signal.SIGUSR1, hang)
main()
"""

_CONFIG = f"""
ice: {{interfaces: [lo]}}
drain_s: 6
storage: {{min_free: 0}}
sessions:
  leo:
    avatar:
      url: ws://127.0.0.1:8811/wss/v2/realtime-chat
      license_credential: secret_navtalk
      name: navtalk.Leo
      role: speak
    inputs: {{speech: {{url: "file:{SOURCE}/bridge/samples/speech.flac", loop: true}}}}
    outputs: {{archive: {{url: "file:leo-{{start:%H%M%S}}.mp4"}}}}
"""

_AVATAR = f"""
[Unit]
DefaultDependencies=no
[Service]
Environment=PYTHONPATH={SOURCE} PYTHONDONTWRITEBYTECODE=1
ExecStart={PYTHON} -m bridge avatar --listen 127.0.0.1:8811 --size 180x320 --license-file /etc/avatar.license
"""

_DROP_IN = f"""
[Unit]
DefaultDependencies=no
[Service]
WatchdogSec={WATCHDOG_S:g}
StandardError=append:{SHARED}/daemon.log
"""


@pytest.mark.peer
@pytest.mark.paired
def test_a_real_systemd_starts_watches_and_drains_it(tmp_path: Path, show: Show) -> None:
    script = Path(__file__).with_name("systemd_drive.py")
    files = {
        f"{PREFIX}/bin/avatar-bridge": _SCRIPT,
        "/etc/avatar-bridge/bridge.yaml": _CONFIG,
        "/etc/avatar-bridge/secrets/navtalk": LICENSE,
        "/etc/avatar.license": LICENSE,
        "/etc/systemd/system/local-avatar.service": _AVATAR,
        "/etc/systemd/system/avatar-bridge.service.d/test.conf": _DROP_IN,
    }
    started, on_air, reloaded, again, stopped = observe(tmp_path, script, files, {UNIT.name: UNIT})
    log = (tmp_path / "shared" / "daemon.log").read_text()
    assert_no_canary(log)

    assert (started["ActiveState"], started["SubState"]) == ("active", "running")
    assert on_air["StatusText"] == "leo: live, live on air"
    assert "CapEff:\t0000000000000000" in on_air["process"] and "Seccomp:\t2" in on_air["process"]

    assert (reloaded["SubState"], reloaded["MainPID"]) == ("running", on_air["MainPID"])

    console = (tmp_path / "console.log").read_text()
    assert "Watchdog timeout" in console and "ABRT" in console
    assert "in hang" in log, "what hung is not in the log"
    assert again["StatusText"] and int(again["MainPID"]) != int(on_air["MainPID"])
    show(f"hung event loop to on air again: {again['after_s']:.1f} s, watchdog {WATCHDOG_S:g} s (bound + 5 s)")
    assert again["after_s"] <= WATCHDOG_S + 5.0

    assert (stopped["ActiveState"], stopped["Result"], stopped["ExecMainStatus"]) == ("inactive", "success", "0")
    assert '"daemon_stopped"' in log.splitlines()[-1]
    assert stopped["recordings"].count(".mp4") == 2
