"""NavTalk messages that nobody documented: every text is a message or a RemoteProtocolError."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import parse_event, parse_request

KEYS = """
type data message raw_data sdp candidate sdpMid sdpMLineIndex iceServers ice_servers urls url username credential
sessionId session_id content transcript delta id response_id audio item text error arguments name call_id avatarId
voice prompt tools
""".split()
TYPES = [value.TYPE for value in vars(navtalk).values() if isinstance(value, type) and hasattr(value, "TYPE")]
TYPES += [f"conversation.connected.{end}" for end in navtalk.End] + ["error", "session.updated"]

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["AAA=", "stun:a"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
messages = st.builds(
    lambda type_name, prefix, fields: fields | {"type": prefix + type_name},
    st.sampled_from(TYPES),
    st.sampled_from(["", "realtime."]),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=5),
)


def read_both_ways(text: str) -> None:
    for parse in (parse_event, parse_request):
        try:
            message: Any = parse(text)
        except RemoteProtocolError:
            continue
        str(message).encode()


@given(messages)
def test_a_message_of_a_known_type_with_any_content_is_read_or_refused(message: dict[str, Any]) -> None:
    read_both_ways(json.dumps(message))


@given(values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    read_both_ways(json.dumps(value))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    read_both_ways(text)
