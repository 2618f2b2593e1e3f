"""How long sound waits on its way up: from an audio packet of a WHIP publisher to the provider's socket.

A publisher sends beeps, one in a packet of 20 ms; the avatar service says when it had the message in which each
begins. Both are processes of their own on the same clock, so the figures hold the network of loopback too. The beep
itself begins 6.5 ms behind the beginning of its packet's sound, as Opus decodes it.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.beeper import N_PHASES, PAUSE_S, PUBLICATION_S
from benchmarks.configuration import SESSION, free_port, write_configuration
from benchmarks.media import load_media
from benchmarks.processes import Child, ending_properly, python
from benchmarks.report import Findings, percentile

# Session, connection and the service's first picture.
WARM_UP_S = 4.0
# Every phase twice.
RUN_S = 2 * N_PHASES * (PUBLICATION_S + PAUSE_S + 0.5)
# Beeps are half a second apart: what is heard later than this belongs to another one, or to none.
LATEST_MS = 400.0
NS_PER_MS = 1e6

TITLE = "ingest: an audio packet of a WHIP publisher to the provider's socket, in messages of 20 ms"
BOUNDS = {"whip_to_provider_p50_ms": 45.0}


def measure() -> Findings:
    load_media()  # encoded before anything is measured
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ingest-")))
        service = stack.enter_context(Child(python("benchmarks.beep_service")))
        sink = stack.enter_context(Child(python("benchmarks.rtmp_sink")))
        outputs = {"rtmp": f"{sink.first_line()}/{SESSION}"}
        port = free_port()
        config = write_configuration(
            directory, service.first_line(), outputs, inputs={"host": {"url": "whip:"}}, listen=f"127.0.0.1:{port}"
        )
        bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
        time.sleep(WARM_UP_S)
        url = f"http://127.0.0.1:{port}/v1/sessions/{SESSION}/whip/host"
        beeper = stack.enter_context(Child(python("benchmarks.beeper", url)))
        beeper.first_line()
        time.sleep(RUN_S)
        sent_ns = json.loads(beeper.finish())
        bridge.finish()
        heard_ns = json.loads(service.finish())
    waits_ms = pair_up(sent_ns, heard_ns)
    return Findings(
        title=TITLE,
        figures={
            "whip_to_provider_p50_ms": percentile(waits_ms, 50),
            "whip_to_provider_p95_ms": percentile(waits_ms, 95),
            "whip_to_provider_max_ms": max(waits_ms, default=None),
            "beeps": len(sent_ns),
            "beeps_lost": len(sent_ns) - len(waits_ms),
        },
        at_most=BOUNDS,
        notes=[f"Publications of {PUBLICATION_S:g} s, one after the other, begin at {N_PHASES} phases of 20 ms."],
    )


def pair_up(sent_ns: Sequence[int], heard_ns: Sequence[int]) -> list[float]:
    """Milliseconds from each beep's sending to its hearing; what was not heard is left out."""
    waits_ms = []
    for at_ns in sent_ns:
        later = [heard for heard in heard_ns if heard >= at_ns]
        wait_ms = (min(later) - at_ns) / NS_PER_MS if later else LATEST_MS
        if wait_ms < LATEST_MS:
            waits_ms.append(wait_ms)
    return waits_ms


if __name__ == "__main__":
    with ending_properly():
        measure().show()
