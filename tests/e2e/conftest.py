from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Avatar
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
