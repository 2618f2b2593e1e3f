"""A hundred connects and disconnects leave nothing behind, neither in the bridge nor in the avatar service."""

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Self

from tests.e2e.processes import PATIENCE_S, Show

# Codecs, caches and the interpreter's own pools are filled by the first connections: what a process has then, it keeps.
WARM_UP = 20
N_ROUNDS, CONNECTIONS = 5, 20
# No MiB: 10 KiB for each connection, of which a peer with its buffers takes some hundred. Measured: 0.1 MiB in either
# process. Now and then the allocator takes a MiB more and gives it back rounds later; a leak is in every round. So what
# is held to this is the median round, as often as there are rounds.
TOLERANCE_KIB = 1024

ROOT = Path(__file__).parents[2]


class Counted:
    """A process of `tests.e2e.counted`, alive inside its `with`."""

    def __init__(self, *arguments: str) -> None:
        command = (sys.executable, "-m", "tests.e2e.counted", *arguments)
        self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its input ends it; what hangs is what this test looks for.
        try:
            self._process.communicate(timeout=PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def counts(self, command: str = "") -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self.line())
        return counts


def test_a_hundred_connections_leave_no_task_socket_thread_or_mib(show: Show) -> None:
    bridge: list[dict[str, int]] = []
    service: list[dict[str, int]] = []
    with Counted("service") as avatar, Counted("client", avatar.line().strip()) as client:
        avatar.counts()
        for n in (WARM_UP, *[CONNECTIONS] * N_ROUNDS):
            bridge.append(client.counts(str(n)))
            service.append(avatar.counts())
    for name, counts in (("bridge", bridge), ("avatar service", service)):
        left = {what: counts[-1][what] - counts[0][what] for what in counts[0]}
        show(
            f"{N_ROUNDS * CONNECTIONS} connections left in the {name}: {', '.join(f'{n} {w}' for w, n in left.items())}"
        )
        growth_kib = [
            later["KiB of memory"] - earlier["KiB of memory"] for earlier, later in itertools.pairwise(counts)
        ]
        assert N_ROUNDS * statistics.median(growth_kib) < TOLERANCE_KIB, (
            f"memory of the {name} grew by {growth_kib} KiB"
        )
        assert not any(n for what, n in left.items() if what != "KiB of memory"), f"the {name} holds {left} more"
