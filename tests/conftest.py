"""What every test may ask for, and what every test is held to: no task and no thread outlives it."""

import asyncio
import inspect
import os
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import settings

from bridge import redact

# A machine that is busy is no reason to fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# How long a thread that was told to end may take to do so.
THREAD_GRACE_S = 2.0


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Several of them, all different."""

    def ports(count: int) -> list[int]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        numbers = [listening.getsockname()[1] for listening in sockets]
        for listening in sockets:
            listening.close()
        return numbers

    return ports


def require_program(name: str, package: str | None = None) -> str:
    """The path of a third-party program; without it the test is skipped, on a CI machine it fails."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return path or unavailable(f"{name} is not installed (Debian package {package or name})")


def require_file(path: str, package: str) -> str:
    """As `require_program`, for a file that is no program, such as a server's module."""
    return path if os.path.exists(path) else unavailable(f"{path} is missing (Debian package {package})")


def unavailable(reason: str) -> str:
    """Skip the test, or fail it on a CI machine, which has all peers."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def forgotten_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test calls a secret is none to the next, whose words it would mask."""
    monkeypatch.setattr(redact, "_kept", redact._kept.copy())
    monkeypatch.setattr(redact, "_passing", redact._passing.copy())
    monkeypatch.setattr(redact, "_pattern", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # First, so that it is torn down after the test's own fixtures.
            item.fixturenames.insert(0, "no_task_left_behind")


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # A cancelled task ends in the next turns of the loop; one that does not is nobody's.
        await asyncio.wait(left, timeout=0.2)
    running = [task for task in left if not task.done()]
    assert not running, f"tasks left behind: {', '.join(f'{task.get_name()} {task.get_coro()}' for task in running)}"


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # The loop's own executor keeps its threads for the next call; the loop's end is theirs.
    left = [t for t in threading.enumerate() if t not in before and not t.name.startswith("asyncio_")]
    for thread in left:
        thread.join(THREAD_GRACE_S)
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive, f"threads left behind: {', '.join(alive)}"
