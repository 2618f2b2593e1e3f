"""Messages of NavTalk's older interface that nobody documented: each is a message or a RemoteProtocolError."""

import json
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.protocols import navtalk, navtalk_legacy
from tests.fuzz.navtalk_messages import KEYS, broken_often
from tests.fuzz.test_fuzz_navtalk import values
from tests.golden.navtalk import LEGACY_LINES, Line

TYPES = sorted({line.message["type"] for line in LEGACY_LINES})
MORE_KEYS = (*KEYS, "targetSessionId", "session_id")
messages = st.builds(
    lambda type_name, fields: fields | {"type": type_name},
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(MORE_KEYS), values, max_size=5),
)


def read_everywhere(text: str) -> None:
    """Read a text at every end; what is read is written and read again as itself."""
    with suppress(RemoteProtocolError):
        event = navtalk_legacy.parse_event(text)
        written = navtalk_legacy.dump_event(event)
        # The unified interface's event of this kind, which is understood here too, says more.
        is_richer = isinstance(event, navtalk.Connected) and (event.ice_servers or not event.session_id)
        assert written is None or is_richer or navtalk_legacy.parse_event(written) == event
    with suppress(RemoteProtocolError):
        request = navtalk_legacy.parse_request(text)
        if isinstance(request, navtalk_legacy.SessionUpdate):
            assert json.dumps(request.session) == json.dumps(
                navtalk_legacy.parse_request(navtalk_legacy.dump_request(request)).session  # type: ignore[union-attr]
            )
    with suppress(RemoteProtocolError):
        signal = navtalk_legacy.parse_signal(text)
        if not isinstance(signal.message, navtalk.Unknown):
            assert navtalk_legacy.parse_signal(navtalk_legacy.dump_signal(signal)) == signal


@pytest.mark.parametrize("line", LEGACY_LINES, ids=str)
@settings(max_examples=30)
@given(random=st.randoms(use_true_random=False), times=st.integers(1, 4))
def test_a_documented_message_that_is_broken_is_read_or_refused(line: Line, random: Random, times: int) -> None:
    read_everywhere(json.dumps(broken_often(line.message, random, times)))


@given(messages)
def test_a_message_of_a_known_type_with_any_content_is_read_or_refused(message: dict[str, Any]) -> None:
    read_everywhere(json.dumps(message))


@given(st.text() | values.map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_everywhere(text)


@given(st.binary(max_size=64))
def test_any_binary_frame_is_sound_or_refused(frame: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert navtalk_legacy.parse_event(frame) == navtalk.AvatarAudio(frame)
