"""Programs that a benchmark starts: each a process of its own, whose CPU can be read and which always ends."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

# Importing everything takes 2 s of CPU; the rest is for a machine that is busy.
START_S = 30.0
# `drain_s` of the configurations is 5 s.
STOP_S = 15.0


class Child:
    """One child process, alive inside its `with`. Its standard output is a first line to wait for, and a last one.

    It is a process group of its own: Ctrl-C reaches the benchmark alone, which then ends its children. What it says on
    standard error is shown only when it fails.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.started_ns = time.monotonic_ns()
        self._name = " ".join(command[1:])
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            process_group=0,
            bufsize=0,
        )
        # The CPU clock of a process, all its threads: clock_getcpuclockid(3) as Linux computes it.
        self._cpu_clock = ~self._process.pid << 3 | 2

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._errors.close()

    def first_line(self) -> str:
        """What it says once it is ready; called again, the next line. Raises RuntimeError when it ends before."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_S)
        line = self._process.stdout.readline().decode().strip() if ready else ""
        if not line:
            raise self._failure()
        return line

    def tell(self, line: str) -> None:
        """Write one line to its standard input. Raises RuntimeError when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            raise self._failure() from None

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for it to end by itself; whether it did, well or not."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def cpu_s(self) -> float:
        """CPU time of the process so far, in seconds. Raises RuntimeError when it has ended."""
        if self._process.poll() is not None:
            raise self._failure()
        return time.clock_gettime(self._cpu_clock)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        # proc(5): the second number is the resident set, in pages.
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def run_on(self, cpu: int) -> None:
        """Keep it, and the threads that it makes from now on, on one CPU."""
        os.sched_setaffinity(self._process.pid, {cpu})

    def finish(self) -> str:
        """Ask it to end; its last line, empty for one that has nothing to say. Raises RuntimeError when it failed."""
        if self._process.poll() is not None:
            raise self._failure()
        self._process.terminate()
        try:
            output, _ = self._process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            raise self._failure() from None
        if self._process.returncode:
            raise self._failure()
        lines: list[str] = output.decode().splitlines()
        return lines[-1] if lines else ""

    def _failure(self) -> RuntimeError:
        self._end()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()
        return RuntimeError(f"{self._name} ended with status {self._process.returncode}:\n{words}")

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


@contextlib.contextmanager
def ending_properly() -> Iterator[None]:
    """SIGTERM ends the benchmark as Ctrl-C does: by way of every `with` that ends a child."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cpu_cores(children: Sequence[Child], n_windows: int, window_s: float) -> list[list[float]]:
    """CPU of each child in cores, for each window of time; all children in the same windows."""
    results: list[list[float]] = [[] for _ in children]
    for _ in range(n_windows):
        began_s, before = time.monotonic(), [child.cpu_s() for child in children]
        time.sleep(window_s)
        elapsed_s, after = time.monotonic() - began_s, [child.cpu_s() for child in children]
        for result, start_s, end_s in zip(results, before, after, strict=True):
            result.append((end_s - start_s) / elapsed_s)
    return results
