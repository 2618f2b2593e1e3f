"""The lock installs the same files everywhere: exact versions, hashes, and nothing about where they come from."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_exact_and_has_hashes() -> None:
    requirements = re.split(r"\n(?=[a-z0-9])", LOCK.strip(), flags=re.IGNORECASE)
    wrong = [
        r.splitlines()[0] for r in requirements if not re.match(r"[\w.\[\]-]+==[^\s;]+", r) or "--hash=sha256:" not in r
    ]
    assert wrong == []


def test_the_lock_names_no_address() -> None:
    assert "://" not in LOCK
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", LOCK)


def test_everything_the_project_names_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(r for group in project["project"]["optional-dependencies"].values() for r in group),
        *(r for group in project["dependency-groups"].values() for r in group),
    ]
    locked = {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK, re.MULTILINE)}
    for requirement in named:
        match = re.match(r"([\w.-]+)(?:==(\S+))?", requirement)
        assert match and canonical(match[1]) in locked, requirement
        assert match[2] in (None, locked[canonical(match[1])]), requirement
