"""FFmpeg's program as a sender of SRT: bytes go in by its standard input, and out as datagrams."""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Self

from bridge import child
from bridge.errors import OutputLost, OutputRejected
from bridge.redact import mask

# Seven packets of MPEG-TS, what a message of SRT carries by custom; FFmpeg sends none that is not full.
DATAGRAM_BYTES = 7 * 188
# ISO 13818-1 §2.4.3.3: PID 0x1FFF, without a meaning.
NULL_PACKET = b"\x47\x1f\xff\x10" + bytes(184)
_NOTHING = NULL_PACKET * (DATAGRAM_BYTES // len(NULL_PACKET))
# The runner looks once a second whether bytes have moved.
_REPORT_EVERY_S = 0.5
# Behind its report that the end was sent we are so late, at most.
_NOTHING_EVERY_S = 0.1
_LACKS_SRT = ("Protocol not found", "Invalid option", "Unrecognized option")
# What libsrt says of a refusal, before FFmpeg's four lines about an I/O error.
_REFUSAL = re.compile(r"REJECT reported from HS processing: ([^;]+?) - not processing")
_WRONG_PASSPHRASE = ("Incorrect passphrase", "Password required or unexpected")
_N_WORDS = 6
_SPEAKER = re.compile(r"\[\S+ @ 0x[0-9a-f]+\] ")


class SrtSender:
    """One run of the program, within its `async with`.

    It copies what it is given: what is sent, and when, is decided here. What is secret reaches it by a pipe that it
    reads as a preset file, so that it stands neither among the arguments, which everybody on the machine can read, nor
    on a disk. When we end, its input does, and so does it.

    sent_bytes  what it says it has sent; 0 until it is connected.
    """

    def __init__(self, program: str, url: str, secrets: Mapping[str, str], name: str) -> None:
        """`url`: with FFmpeg's own parameters. `secrets`: further ones. `name` stands in errors."""
        self._program = program
        self._url = url
        self._secrets = secrets
        self._name = name
        self._is_connected = asyncio.Event()
        self._given_bytes = 0
        self.sent_bytes = 0

    async def __aenter__(self) -> Self:
        preset, writing = os.pipe()
        try:
            # Less than the pipe holds, so that this does not wait.
            os.write(writing, "".join(f"{name}={value}\n" for name, value in self._secrets.items()).encode())
            os.close(writing)
            process = await asyncio.create_subprocess_exec(
                *(self._program, "-nostdin", "-hide_banner", "-loglevel", "error"),
                *("-nostats", "-progress", "pipe:1", "-stats_period", str(_REPORT_EVERY_S)),
                *("-f", "data", "-i", "pipe:0", "-map", "0", "-c", "copy"),
                *("-fpre", f"/dev/fd/{preset}", "-flush_packets", "0", "-f", "data", self._url),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(preset,),
            )
        finally:
            os.close(preset)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._process, self._input = process, process.stdin
        self._words = asyncio.create_task(child.last_words(process.stderr, _N_WORDS), name="words of ffmpeg")
        self._reports = asyncio.create_task(self._read_reports(process.stdout), name="reports of ffmpeg")
        # It reports when it has sent something: that is how it is known to be connected.
        self._give(_NOTHING)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reports.cancel()
        await asyncio.wait((self._reports,))
        await child.end(self._process)
        self._words.cancel()
        await asyncio.wait((self._words,))

    @property
    def waiting_bytes(self) -> int:
        return self._input.transport.get_write_buffer_size()

    async def connected(self) -> None:
        """Wait until it is. Raises OutputRejected, OutputLost once it has ended instead."""
        await self._is_connected.wait()
        if not self.sent_bytes:
            await self.ended()

    async def send(self, datagrams: bytes) -> None:
        """Give it whole datagrams, and wait while it does not take them. Raises OutputRejected, OutputLost."""
        try:
            self._give(datagrams)
            await self._input.drain()
        except ConnectionError:
            await self.ended()

    def _give(self, datagrams: bytes) -> None:
        self._given_bytes += len(datagrams)
        self._input.write(datagrams)

    async def finish(self, latency_s: float) -> None:
        """Let it send the rest, and end it when that is played: a far end drops what it has not played by then.

        Raises OutputRejected, OutputLost.
        """
        until_bytes = self._given_bytes
        while self.sent_bytes < until_bytes and not self._reports.done():
            await self.send(_NOTHING)  # it reports only when it sends something
            await asyncio.wait((self._reports,), timeout=_NOTHING_EVERY_S)
        await asyncio.wait((self._reports,), timeout=latency_s)
        self._input.close()
        await asyncio.wait((self._reports,))

    async def ended(self) -> None:
        """Wait for its end. Raises OutputRejected, OutputLost that say why; never returns."""
        await asyncio.wait((self._reports,))
        words = await self._words
        if refusal := _REFUSAL.search(words):
            is_passphrase = refusal[1] in _WRONG_PASSPHRASE
            raise (OutputRejected if is_passphrase else OutputLost)(f"{self._name}: refused: {mask(refusal[1])}")
        words = mask(_SPEAKER.sub("", words.replace(self._url, self._name)))
        if any(lack in words for lack in _LACKS_SRT):
            # It may have repeated what it did not understand.
            raise OutputRejected(f"{self._name}: {self._program} has no SRT; install an FFmpeg that has libsrt")
        raise OutputLost(f"{self._name}: {words or f'{self._program} has ended by itself'}")

    async def _read_reports(self, reports: asyncio.StreamReader) -> None:
        while line := await reports.readline():
            name, _, value = line.decode(errors="replace").strip().partition("=")
            if name == "total_size" and value.isdecimal() and int(value):
                self.sent_bytes = int(value)
                self._is_connected.set()
        self._is_connected.set()
