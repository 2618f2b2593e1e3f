"""The peer that copies too: GStreamer's webrtcbin, H.264 untouched, Opus to AAC, rtmp2sink.

`/usr/bin/python3 -I benchmarks/gstreamer.py PIPELINE RTMP_URL`, a pipeline's name being `fast` or `robust`, is for the
Python that Debian's `gi` belongs to: it imports `tests/interop/webrtcbin.py` alone, and takes no part in the
signalling. JSON lines: prints `{"missing": [...]}`; with nothing missing it reads `{"offer": SDP}`, prints
`{"answer": SDP}` with all candidates inside, and publishes until SIGTERM.
"""

import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "interop"))
from webrtcbin import GLib, Gst, WebrtcBin, has_elements

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
        self._pipeline = Gst.parse_launch(PIPELINES[pipeline])
        self._pipeline.get_by_name("sink").set_property("location", rtmp_url)
        self._webrtc = WebrtcBin(self._pipeline)
        self._webrtc.element.connect("pad-added", self._on_pad_added)
        if pipeline == "robust":
            self._webrtc.element.connect("on-new-transceiver", lambda _, one: one.set_property("do-nack", True))
        bus = self._pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", self._on_error)
        bus.connect("message::latency", lambda *_: self._pipeline.recalculate_latency())

    def answer(self, offer: str) -> str:
        """Start; the answer to the offer."""
        self._pipeline.set_state(Gst.State.PLAYING)
        self._webrtc.set_remote("offer", offer)
        return self._webrtc.make_local("answer")

    def run(self) -> None:
        """Publish until SIGTERM or until an element reports an error."""
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, self._loop.quit)
        try:
            self._loop.run()
        finally:
            self._pipeline.set_state(Gst.State.NULL)

    def _on_pad_added(self, _: Gst.Element, pad: Gst.Pad) -> None:
        if pad.direction == Gst.PadDirection.SRC:
            media = pad.get_current_caps().get_structure(0).get_string("media")
            pad.link(self._pipeline.get_by_name(media).get_static_pad("sink"))

    def _on_error(self, _: Gst.Bus, message: Gst.Message) -> None:
        error, details = message.parse_error()
        self.error = f"{error.message} ({details})"
        self._loop.quit()


def main() -> None:
    if not has_elements(ELEMENTS):
        return
    session = Session(sys.argv[1], sys.argv[2])
    print(json.dumps({"answer": session.answer(json.loads(sys.stdin.readline())["offer"])}), flush=True)
    session.run()
    sys.exit(session.error)


if __name__ == "__main__":
    main()
