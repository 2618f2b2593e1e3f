"""How the program that sends is ended, by one that behaves as FFmpeg does."""

import sys
from pathlib import Path

from bridge.outputs.srt_sender import DATAGRAM_BYTES, SrtSender

# It reports at most every 0.2 s, and only when it has sent something; the last argument is a URL for FFmpeg, here a
# file for what it has seen: how long its input went on after the 11th datagram.
_PROGRAM = f"""#!{sys.executable}
import sys, time
sent, reported_s, complete_s = 0, 0.0, None
while data := sys.stdin.buffer.read({DATAGRAM_BYTES}):
    sent += len(data)
    if sent >= 11 * {DATAGRAM_BYTES} and complete_s is None:
        complete_s = time.monotonic()
    if time.monotonic() - reported_s >= 0.2:
        reported_s = time.monotonic()
        print(f"total_size={{sent}}", flush=True)
open(sys.argv[-1], "w").write(str(time.monotonic() - complete_s))
"""
# More than it takes until it is reported that all was sent.
LATENCY_S = 0.8


async def test_the_connection_ends_when_the_last_of_it_has_been_played(tmp_path: Path) -> None:
    program, seen = tmp_path / "program", tmp_path / "seen"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    async with SrtSender(str(program), str(seen), {}, "srt://far") as sender:
        await sender.connected()
        await sender.send(bytes(10 * DATAGRAM_BYTES))
        await sender.finish(LATENCY_S)
    assert float(seen.read_text()) >= LATENCY_S
    assert sender.sent_bytes >= 11 * DATAGRAM_BYTES
