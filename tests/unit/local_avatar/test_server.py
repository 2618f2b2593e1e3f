"""Where the local avatar service sends its media."""

import pytest

from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import LocalAvatar


@pytest.mark.parametrize(
    ("host", "interfaces"),
    [("127.0.0.1", ("lo",)), ("::1", ("lo",)), ("localhost", ("lo",)), ("0.0.0.0", ()), ("127.example.com", ())],
)
def test_media_stays_on_loopback_only_for_who_listens_there(host: str, interfaces: tuple[str, ...]) -> None:
    assert LocalAvatar(LocalAvatarOptions(listen_host=host))._ice.interfaces == interfaces
