"""The peer that copies too: GStreamer's webrtcbin, H.264 untouched, Opus to AAC, rtmp2sink.

`/usr/bin/python3 -I benchmarks/gstreamer.py PIPELINE RTMP_URL`, a pipeline's name being `fast` or `robust`, is for the
Python that Debian's `gi` belongs to: it imports nothing else, and takes no part in the signalling. JSON lines: prints
`{"missing": [...]}`; with nothing missing it reads `{"offer": SDP}`, prints `{"answer": SDP}` with all candidates
inside, and publishes until SIGTERM.
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

# The first eight are what the pipeline names, the others what webrtcbin makes by itself.
ELEMENTS = ("webrtcbin", "rtph264depay", "h264parse", "rtpopusdepay", "opusdec", "avenc_aac", "flvmux", "rtmp2sink")
ELEMENTS += ("audioconvert", "audioresample", "rtpbin", "nicesrc", "dtlssrtpdec", "srtpdec")
_REST = """
rtpopusdepay name=audio ! opusdec ! audioconvert ! audioresample ! avenc_aac bitrate=128000 aac-coder=fast ! mux.
flvmux name=mux streamable=true ! rtmp2sink name=sink chunk-size=65536 sync=false
"""
PIPELINES = {
    # Set as by somebody who knows it: as delivered, with 200 ms in the jitter buffer, a sink that waits for the clock
    # and FFmpeg's slower way to choose AAC's parameters, it takes 220 ms and a fifth more CPU for the same pictures.
    "fast": "webrtcbin name=webrtc bundle-policy=max-bundle latency=20 rtph264depay name=video ! h264parse ! mux."
    + _REST,
    # For a lossy path: 200 ms to ask again in, and no damaged picture is passed on. Without `wait-for-keyframe` three
    # pictures of four are damaged at 1 % loss; without NACK no picture is whole for seconds.
    "robust": "webrtcbin name=webrtc bundle-policy=max-bundle latency=200"
    " rtph264depay name=video request-keyframe=true wait-for-keyframe=true ! h264parse ! mux." + _REST,
}


class Session:
    """One connection, answered and published. `error` says why it ended by itself."""

    def __init__(self, pipeline: str, rtmp_url: str) -> None:
        self.error: str | None = None
        self._loop = GLib.MainLoop()
        self._gathered = threading.Event()
        self._pipeline = Gst.parse_launch(PIPELINES[pipeline])
        self._pipeline.get_by_name("sink").set_property("location", rtmp_url)
        self._webrtc = self._pipeline.get_by_name("webrtc")
        agent = self._webrtc.get_property("ice-agent")
        # webrtcbin of GStreamer 1.22 gives away its own reference: without another the agent ends with this function.
        agent._ref()
        # An address that is set takes the place of those that libnice finds, which leave loopback out.
        agent.emit("add-local-ip-address", "127.0.0.1")
        # Otherwise libnice looks for a router to map ports on, by multicast on every interface.
        agent.get_property("agent").set_property("upnp", False)
        self._webrtc.connect("pad-added", self._on_pad_added)
        self._webrtc.connect("notify::ice-gathering-state", self._on_gathering)
        if pipeline == "robust":
            self._webrtc.connect("on-new-transceiver", lambda _, one: one.set_property("do-nack", True))
        bus = self._pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", self._on_error)
        bus.connect("message::latency", lambda *_: self._pipeline.recalculate_latency())

    def answer(self, offer: str) -> str:
        """Start; the answer to the offer."""
        self._pipeline.set_state(Gst.State.PLAYING)
        self._describe("set-remote-description", GstWebRTC.WebRTCSDPType.OFFER, offer)
        created = self._ask("create-answer", None)
        # The reply belongs to the promise, the answer to the reply: all three stay referred to until it is text.
        reply = created.get_reply()
        answer = reply.get_value("answer")
        self._describe("set-local-description", GstWebRTC.WebRTCSDPType.ANSWER, answer.sdp.as_text())
        self._gathered.wait()
        return self._webrtc.get_property("local-description").sdp.as_text()

    def run(self) -> None:
        """Publish until SIGTERM or until an element reports an error."""
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

    def _on_pad_added(self, _: Gst.Element, pad: Gst.Pad) -> None:
        if pad.direction == Gst.PadDirection.SRC:
            media = pad.get_current_caps().get_structure(0).get_string("media")
            pad.link(self._pipeline.get_by_name(media).get_static_pad("sink"))

    def _on_error(self, _: Gst.Bus, message: Gst.Message) -> None:
        error, details = message.parse_error()
        self.error = f"{error.message} ({details})"
        self._loop.quit()


def main() -> None:
    Gst.init(None)
    missing = [f"no GStreamer element {name}" for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
    print(json.dumps({"missing": missing}), flush=True)
    if missing:
        return
    session = Session(sys.argv[1], sys.argv[2])
    print(json.dumps({"answer": session.answer(json.loads(sys.stdin.readline())["offer"])}), flush=True)
    session.run()
    sys.exit(session.error)


if __name__ == "__main__":
    main()
