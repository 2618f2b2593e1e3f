"""A live connection under fire for a minute: forged, random and truncated STUN, DTLS, SRTP and RTCP at both its ends.

Half of it comes from a stranger, half from the ends' own sockets, as of one who writes their addresses.
"""

import argparse
import asyncio

from benchmarks.processes import ending_properly
from benchmarks.report import Findings
from tests.net.siege import Siege

SECONDS = 60.0
SEED = 1
TITLE = "siege: a live connection, and every kind of datagram that is none of its own"
BOUNDS = {"lost_packets": 0.0, "uncounted": 0.0, "connections_lost": 0.0, "memory_growth_mib": 4.0}


def measure(seconds: float = SECONDS, seed: int = SEED) -> Findings:
    siege = Siege(seconds)
    asyncio.run(siege.run(seed))
    fired, rejected = siege.fired.total(), siege.rejected.total()
    reasons = ", ".join(f"{reason} {count}" for reason, count in siege.rejected.most_common())
    return Findings(
        title=TITLE,
        figures={
            "fired": fired,
            "rejected": rejected,
            "uncounted": max(0, fired - siege.harmless - rejected),
            "connections_lost": int(not siege.is_up),
            "packets": siege.received_packets,
            "lost_packets": siege.sent_packets - siege.received_packets,
            "longest_gap_ms": 1000 * siege.longest_gap_s,
            "memory_growth_mib": siege.grown_bytes / 2**20,
        },
        at_most=BOUNDS,
        notes=[f"{seconds:g} s, seed {seed}. Rejected: {reasons}.", "A picture is sent every 20 ms."],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    with ending_properly():
        measure(arguments.seconds, arguments.seed).show()
