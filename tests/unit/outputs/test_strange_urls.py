"""Outputs whose URL did not come from the operator's file: the policy decides at every connection, not once."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.errors import OutputRejected
from bridge.media.live_queue import LiveQueue
from bridge.net.url_policy import UrlPolicy
from bridge.outputs.rtmp import RtmpOutput
from bridge.outputs.whip import WhipOutput
from tests.unit.outputs.coded_media import pictures


async def rebound(host: str, port: int) -> list[str]:
    """A name that showed a public address when it was looked at first, and shows another one now."""
    return ["127.0.0.1"]


OPEN: list[Callable[..., Any]] = [
    lambda **options: RtmpOutput("rtmp://live.example/app/key", **options),
    lambda **options: WhipOutput("whip+http://live.example/whip", **options),
]


@pytest.mark.parametrize("open_output", OPEN, ids=["rtmp", "whip"])
async def test_a_name_that_has_moved_to_loopback_is_refused(open_output: Callable[..., Any]) -> None:
    output = open_output(policy=UrlPolicy(resolve=rebound), is_strange=True)
    queue = LiveQueue(10.0)
    for unit in pictures(3):
        queue.put(unit)
    listener = SimpleNamespace(on_published=lambda: None, on_written=print, on_keyframe_request=lambda: None)
    with pytest.raises(OutputRejected, match=r"127\.0\.0\.1"):
        await output.run(queue, listener)
