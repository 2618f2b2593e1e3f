"""Where the local avatar service sends its media."""

import pytest

from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import MAX_MESSAGE_BYTES, LocalAvatar
from bridge.providers.navtalk_session import MAX_IMAGE_BYTES


@pytest.mark.parametrize(
    ("host", "interfaces"),
    [("127.0.0.1", ("lo",)), ("::1", ("lo",)), ("localhost", ("lo",)), ("0.0.0.0", ()), ("127.example.com", ())],
)
def test_media_stays_on_loopback_only_for_who_listens_there(host: str, interfaces: tuple[str, ...]) -> None:
    assert LocalAvatar(LocalAvatarOptions(listen_host=host))._ice.interfaces == interfaces


def test_the_largest_picture_that_the_client_sends_is_taken() -> None:
    assert MAX_MESSAGE_BYTES > MAX_IMAGE_BYTES * 4 / 3 + 1024
