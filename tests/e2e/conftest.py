import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Avatar, Show
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable


@pytest.fixture(scope="session")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Avatar]:
    """A local avatar service that behaves, for everybody."""
    with Avatar(tmp_path_factory.mktemp("avatar")) as avatar:
        yield avatar


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[NginxRtmp]:
    if reason := why_unavailable():
        pytest.skip(reason)
    with NginxRtmp(tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def show(capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Show:
    """Print a figure whether or not the test passes."""

    def show(line: str) -> None:
        record_property("figure", line)
        with capfd.disabled():
            # Standard error reaches the terminal from the workers of pytest-xdist too.
            print(f"\n{line}", file=sys.stderr, flush=True)

    return show
