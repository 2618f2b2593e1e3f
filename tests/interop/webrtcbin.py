"""GStreamer's webrtcbin on loopback, for programs of the Python that Debian's `gi` belongs to.

Where GStreamer is not there, importing this prints `{"missing": [...]}` and ends the program.
"""

import json
import sys
import threading
from collections.abc import Sequence
from typing import Literal

try:
    import gi

    gi.require_versions({"Gst": "1.0", "GstSdp": "1.0", "GstWebRTC": "1.0"})
    from gi.repository import GLib, Gst, GstSdp, GstWebRTC
except (ImportError, ValueError) as absence:  # ValueError: no such namespace
    print(json.dumps({"missing": [str(absence)]}))
    sys.exit(0)

__all__ = ["GLib", "Gst", "WebrtcBin", "has_elements"]

_TYPES = {"offer": GstWebRTC.WebRTCSDPType.OFFER, "answer": GstWebRTC.WebRTCSDPType.ANSWER}
Kind = Literal["offer", "answer"]


def has_elements(names: Sequence[str]) -> bool:
    """Start GStreamer, and print as a line of JSON which of these elements it lacks."""
    Gst.init(None)
    missing = [f"no GStreamer element {name}" for name in names if Gst.ElementFactory.find(name) is None]
    print(json.dumps({"missing": missing}), flush=True)
    return not missing


class WebrtcBin:
    """The element `webrtc` of a pipeline: its signalling, with all candidates inside descriptions."""

    def __init__(self, pipeline: Gst.Pipeline) -> None:
        self.element = pipeline.get_by_name("webrtc")
        self._gathered = threading.Event()
        agent = self.element.get_property("ice-agent")
        # webrtcbin of GStreamer 1.22 gives away its own reference: without another the agent ends with this function.
        agent._ref()
        # An address that is set takes the place of those that libnice finds, which leave loopback out.
        agent.emit("add-local-ip-address", "127.0.0.1")
        # Otherwise libnice looks for a router to map ports on, by multicast on every interface.
        agent.get_property("agent").set_property("upnp", False)
        self.element.connect("notify::ice-gathering-state", self._on_gathering)

    def set_remote(self, kind: Kind, sdp: str) -> None:
        self._describe("set-remote-description", kind, sdp)

    def make_local(self, kind: Kind) -> str:
        """The description that it offers or answers with."""
        created = self._ask(f"create-{kind}", None)
        # The reply belongs to the promise, its value to the reply: all three stay referred to until it is text.
        reply = created.get_reply()
        value = reply.get_value(kind)
        self._describe("set-local-description", kind, value.sdp.as_text())
        self._gathered.wait()
        return self.element.get_property("local-description").sdp.as_text()

    def _describe(self, action: str, kind: Kind, sdp: str) -> None:
        _, message = GstSdp.SDPMessage.new_from_text(sdp)
        self._ask(action, GstWebRTC.WebRTCSessionDescription.new(_TYPES[kind], message))

    def _ask(self, action: str, argument: GstWebRTC.WebRTCSessionDescription | None) -> Gst.Promise:
        promise = Gst.Promise.new()
        self.element.emit(action, argument, promise)
        if promise.wait() != Gst.PromiseResult.REPLIED:
            raise RuntimeError(f"webrtcbin did not reply to {action}")
        return promise

    def _on_gathering(self, *_: object) -> None:
        if self.element.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            self._gathered.set()
