"""A publisher of GStreamer's: webrtcbin that sends a tone of 1 kHz.

`/usr/bin/python3 -I tests/interop/gstreamer_publisher.py CODEC`, a codec being `opus` or `pcma`, is for the Python that
Debian's `gi` belongs to: it imports `webrtcbin.py` alone, and takes no part in the signalling. JSON lines: prints
`{"missing": [...]}`; with nothing missing `{"offer": SDP}` with all candidates inside, reads `{"answer": SDP}`, and
sends until SIGTERM.
"""

import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which -I leaves out
from webrtcbin import GLib, Gst, WebrtcBin, has_elements

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
        self._pipeline = Gst.parse_launch(PIPELINES[codec])
        self._webrtc = WebrtcBin(self._pipeline)

    def offer(self) -> str:
        """Start; an offer to send."""
        self._pipeline.set_state(Gst.State.PLAYING)
        return self._webrtc.make_local("offer")

    def run(self, answer: str) -> None:
        """Send until SIGTERM."""
        self._webrtc.set_remote("answer", answer)
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, self._loop.quit)
        try:
            self._loop.run()
        finally:
            self._pipeline.set_state(Gst.State.NULL)


def main() -> None:
    if not has_elements(ELEMENTS):
        return
    publisher = Publisher(sys.argv[1])
    print(json.dumps({"offer": publisher.offer()}), flush=True)
    publisher.run(json.loads(sys.stdin.readline())["answer"])


if __name__ == "__main__":
    main()
