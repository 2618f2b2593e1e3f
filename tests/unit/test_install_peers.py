"""The script that installs peers, with apt-get and dpkg-query of its own: no package is touched."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "install_peers.sh"
MACHINES_OWN = "#!/bin/sh\necho the machine says no\nexit 101\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Where the policy stands; `during` holds what it was while something was installed."""
    programs = {
        "dpkg-query": "exit 1",
        "id": "echo 0",
        "apt-get": f'cp "{tmp_path}/policy" "{tmp_path}/during"; [ ! -e "{tmp_path}/kill" ] || kill -9 $PPID',
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return tmp_path / "policy"


def install(policy: Path, *, killed: bool = False) -> None:
    kill = policy.with_name("kill")
    kill.unlink(missing_ok=True)
    if killed:
        kill.touch()
    environ = {"PATH": f"{policy.parent}/bin:{os.environ['PATH']}", "POLICY_RC_D": str(policy)}
    run = subprocess.run([SCRIPT, "a-peer"], env=environ, capture_output=True, text=True, check=False)
    assert (run.returncode < 0) == killed, run.stderr
    assert "exit 101" in policy.with_name("during").read_text()


def test_no_policy_is_left_where_there_was_none(policy: Path) -> None:
    install(policy)
    assert not policy.exists()


def test_the_policy_of_the_machine_is_put_back(policy: Path) -> None:
    policy.write_text(MACHINES_OWN)
    install(policy)
    assert policy.read_text() == MACHINES_OWN


@pytest.mark.parametrize("has_own", [True, False])
def test_what_killed_runs_have_left_is_cleared_up(policy: Path, has_own: bool) -> None:
    if has_own:
        policy.write_text(MACHINES_OWN)
    install(policy, killed=True)
    install(policy, killed=True)
    install(policy)
    assert (policy.read_text() if policy.exists() else None) == (MACHINES_OWN if has_own else None)
    assert not list(policy.parent.glob("*.before-*"))
