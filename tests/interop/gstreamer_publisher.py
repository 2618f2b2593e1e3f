"""A publisher of GStreamer's: webrtcbin that sends a tone of 1 kHz.

`/usr/bin/python3 -I tests/interop/gstreamer_publisher.py CODEC`, a codec being `opus` or `pcma`, is for the Python that
Debian's `gi` belongs to: it imports nothing else, and takes no part in the signalling. JSON lines: prints
`{"missing": [...]}`; with nothing missing `{"offer": SDP}` with all candidates inside, reads `{"answer": SDP}`, and
sends until SIGTERM.
"""

import json
import signal
import sys
import threading

try:
    import gi

    gi.require_versions({"Gst": "1.0", "GstSdp": "1.0", "GstWebRTC": "1.0"})
    from gi.repository import GLib, Gst, GstSdp, GstWebRTC
except (ImportError, ValueError) as absence:  # ValueError: no such namespace
    print(json.dumps({"missing": [str(absence)]}))
    sys.exit(0)

ELEMENTS = ("webrtcbin", "audiotestsrc", "audioconvert", "audioresample", "opusenc", "rtpopuspay", "alawenc")
ELEMENTS += ("rtppcmapay", "rtpbin", "nicesrc", "dtlssrtpenc", "srtpenc")
_SOURCE = "webrtcbin name=webrtc bundle-policy=max-bundle audiotestsrc is-live=true freq=1000 volume=0.5 ! "
PIPELINES = {
    "opus": _SOURCE + "audio/x-raw,rate=48000,channels=2 ! audioconvert ! audioresample ! opusenc ! rtpopuspay pt=96 !"
    " application/x-rtp,media=audio,encoding-name=OPUS,payload=96 ! webrtc.",
    "pcma": _SOURCE + "audio/x-raw,rate=8000,channels=1 ! audioconvert ! alawenc ! rtppcmapay pt=8 !"
    " application/x-rtp,media=audio,encoding-name=PCMA,payload=8 ! webrtc.",
}


class Publisher:
    def __init__(self, codec: str) -> None:
        self._loop = GLib.MainLoop()
        self._gathered = threading.Event()
        self._pipeline = Gst.parse_launch(PIPELINES[codec])
        self._webrtc = self._pipeline.get_by_name("webrtc")
        agent = self._webrtc.get_property("ice-agent")
        # webrtcbin of GStreamer 1.22 gives away its own reference: without another the agent ends with this function.
        agent._ref()
        # An address that is set takes the place of those that libnice finds, which leave loopback out.
        agent.emit("add-local-ip-address", "127.0.0.1")
        # Otherwise libnice looks for a router to map ports on, by multicast on every interface.
        agent.get_property("agent").set_property("upnp", False)
        self._webrtc.connect("notify::ice-gathering-state", self._on_gathering)

    def offer(self) -> str:
        """Start; an offer to send."""
        self._pipeline.set_state(Gst.State.PLAYING)
        created = self._ask("create-offer", None)
        # The reply belongs to the promise, the offer to the reply: all three stay referred to until it is text.
        reply = created.get_reply()
        offer = reply.get_value("offer")
        self._describe("set-local-description", GstWebRTC.WebRTCSDPType.OFFER, offer.sdp.as_text())
        self._gathered.wait()
        return self._webrtc.get_property("local-description").sdp.as_text()

    def run(self, answer: str) -> None:
        """Send until SIGTERM."""
        self._describe("set-remote-description", GstWebRTC.WebRTCSDPType.ANSWER, answer)
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, self._loop.quit)
        try:
            self._loop.run()
        finally:
            self._pipeline.set_state(Gst.State.NULL)

    def _describe(self, action: str, kind: GstWebRTC.WebRTCSDPType, sdp: str) -> None:
        _, message = GstSdp.SDPMessage.new_from_text(sdp)
        self._ask(action, GstWebRTC.WebRTCSessionDescription.new(kind, message))

    def _ask(self, action: str, argument: GstWebRTC.WebRTCSessionDescription | None) -> Gst.Promise:
        promise = Gst.Promise.new()
        self._webrtc.emit(action, argument, promise)
        if promise.wait() != Gst.PromiseResult.REPLIED:
            raise RuntimeError(f"webrtcbin did not reply to {action}")
        return promise

    def _on_gathering(self, *_: object) -> None:
        if self._webrtc.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            self._gathered.set()


def main() -> None:
    Gst.init(None)
    missing = [f"no GStreamer element {name}" for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
    print(json.dumps({"missing": missing}), flush=True)
    if missing:
        return
    publisher = Publisher(sys.argv[1])
    print(json.dumps({"offer": publisher.offer()}), flush=True)
    publisher.run(json.loads(sys.stdin.readline())["answer"])


if __name__ == "__main__":
    main()
