"""The commands of README.md do what it says: each block marked `sh test` runs in a copy of the project."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# The longest block records some seconds of media; the rest is for a machine that is busy.
LIMIT_S = 120

BLOCKS = re.findall(r"^```sh test\n(.*?)^```$", README.read_text() if README.exists() else "", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, with their times, so that the environment beside them counts as set up."""
    target = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(ROOT / ".venv")
    return target


def test_the_readme_has_commands_to_test() -> None:
    assert BLOCKS, "mark blocks of README.md with ```sh test"


@pytest.mark.serial
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:60])
def test_a_command_of_the_readme_runs(clone: Path, block: str) -> None:
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=clone,
        env={**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        # The whole group: a block may leave a service in the background, and it may hang.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()
    assert process.returncode == 0, output
