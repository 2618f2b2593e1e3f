"""avatar-bridge: audio in, a lip-synced avatar out.

Media flows down this list; each stage knows only the type of the line above:

    inputs      any audio source                  -> AudioBlock
    dsp         numpy and scipy                   -> PCM16, 24 kHz, mono
    providers   the avatar service, as a client   -> RtpPacket
    receive     reorder, depacketize              -> ReceivedUnit, on the sender's clock
    timeline    lip-sync                          -> AccessUnit, on session time
    outputs     RTMP, files

`session.py` wires one line, `supervisor.py` keeps it running, `daemon.py` runs many, `ops` watches, `local_avatar`
stands in for the cloud.
Reasons: ARCHITECTURE.md beside this file.
"""

import os

# BLAS would take a thread for each core and let it spin between calls: for products as short as ours that costs more
# than it gains, a third of a core measured with eight sessions. numpy reads it when it is loaded, which is later.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
