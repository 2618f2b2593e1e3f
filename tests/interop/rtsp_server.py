"""GStreamer's RTSP server with a tone of 997 Hz, for the Python that Debian's `gi` belongs to.

`/usr/bin/python3 -I rtsp_server.py` prints its port and serves /opus, /pcmu and, to user:secret alone,
/closed, until its standard input closes.
"""

import sys
import threading

try:
    import gi

    gi.require_versions({"Gst": "1.0", "GstRtspServer": "1.0"})
    from gi.repository import GLib, Gst, GstRtspServer
except (ImportError, ValueError) as absence:
    sys.exit(str(absence))

TONE = "audiotestsrc is-live=true freq=997 volume=0.25 samplesperbuffer={} ! audio/x-raw,rate={},channels=1"
OPUS = f"( {TONE.format(960, 48000)} ! audioconvert ! opusenc ! rtpopuspay name=pay0 pt=96 )"
MOUNTS = {
    "/opus": OPUS,
    "/closed": OPUS,
    "/pcmu": f"( {TONE.format(160, 8000)} ! mulawenc ! rtppcmupay name=pay0 pt=0 )",
}

Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service="0")
for path, pipeline in MOUNTS.items():
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline)
    factory.set_shared(True)
    server.get_mount_points().add_factory(path, factory)
    permissions = GstRtspServer.RTSPPermissions()
    for role in ("known", "anybody"):
        permissions.add_permission_for_role(role, "media.factory.access", True)
        permissions.add_permission_for_role(role, "media.factory.construct", role == "known" or path != "/closed")
    factory.set_permissions(permissions)
token = GstRtspServer.RTSPToken()
token.set_string("media.factory.role", "known")
auth = GstRtspServer.RTSPAuth()
auth.add_basic(GstRtspServer.RTSPAuth.make_basic("user", "secret"), token)
anybody = GstRtspServer.RTSPToken()
anybody.set_string("media.factory.role", "anybody")
auth.set_default_token(anybody)
server.set_auth(auth)
loop = GLib.MainLoop()
server.attach(None)
print(server.get_bound_port(), flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
loop.run()
