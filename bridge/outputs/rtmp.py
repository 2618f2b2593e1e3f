"""Publishing to an RTMP or RTMPS server: the asyncio shell round `protocols.rtmp`."""

import asyncio
import fcntl
import os
import re
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bridge.errors import OutputError, OutputLost, OutputRejected, OutputWedged, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.live_queue import LiveQueue
from bridge.ports import OutputListener, OutputProgress
from bridge.protocols.flv import Tag, TagSequence
from bridge.protocols.rtmp import (
    CHUNK_BYTES,
    Ended,
    Published,
    Refused,
    RtmpAddress,
    RtmpPublisher,
    State,
    parse_url,
)
from bridge.redact import MASK, Secret, mask, redact_url

# What the kernel may hold beyond what is in flight: 0.17 s of a 6 Mb/s stream. The next unit is taken from the queue
# once the last one is all there: the queue drops whole GOPs; bytes handed over cannot be.
_UNSENT_BYTES = 131_072
# Units that wait together are written together: the frames of a batch of sound are four. More at once would take
# pictures from the queue that it could still drop.
_BURST = 4
# TCP accepts bytes long after the far end stopped reading. The thinnest stream that makes sense, 32 kb/s of sound,
# moves 40 kB in the default window of 10 s: less than a tenth of it while more waits is no broadcast.
_WEDGED_BELOW_BYTES = 4_096
# RFC 8305 §5: how long one address of a name is waited for before the next one is tried beside it.
_NEXT_ADDRESS_S = 0.25
# A wedge is found within 5 % of its window.
_LOOKS_PER_WINDOW = 20

_MAX_WORDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RtmpDeadlines:
    """How long each step may take.

    connect_s    name lookup, TCP and TLS: three lost SYNs of a TCP (RFC 6298: 1 + 2 s) and some.
    handshake_s  RTMP handshake: one round trip.
    publish_s    connect to publish start: four round trips, and the server asks its own authority for the key.
    wedged_s     hardly a byte leaves while media waits.
    close_s      unpublish and the last bytes.
    """

    connect_s: float = 5.0
    handshake_s: float = 5.0
    publish_s: float = 10.0
    wedged_s: float = 10.0
    close_s: float = 2.0


class RtmpOutput:
    """One publishing connection to rtmp[s]://host[:port]/app and a stream key, or with the key in the URL's path.

    Takes H.264 and AAC. The far end stays in step with what is written: when it does not read, units stay in the
    queue, which forgets whole GOPs, and after `deadlines.wedged_s` the connection is given up.

    A server that closes the connection in answer to `publish`, without a word, has refused the key: nginx-rtmp has no
    other way to say so. That is `OutputRejected`, because retrying a wrong key is useless; the runner tries again all
    the same where the key was accepted before. A reset at that moment is `OutputLost`, because that is how a server
    dies. So is a name that is still taken: mostly by a connection of ours that the server has not missed yet.
    """

    audio_codec = Codec.AAC

    def __init__(
        self,
        url: str,
        stream_key: Secret | None = None,
        *,
        keyframe_s: float | None = 2.0,
        deadlines: RtmpDeadlines | None = None,
        tls: ssl.SSLContext | None = None,
        first_timestamp_ms: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Raises ConfigError if the URL is none for RTMP. `tls` replaces the system's trust, `first_timestamp_ms` 0."""
        self.keyframe_s = keyframe_s
        self._address = parse_url(url, stream_key.reveal() if stream_key else None)
        self._name = f"{redact_url(self._address.tc_url)}/{MASK}"
        self._deadlines = deadlines or RtmpDeadlines()
        self._tls = tls
        self._first_timestamp_ms = first_timestamp_ms
        self._chunk_bytes = chunk_bytes
        self._link: _Link | None = None

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Publish until `units` is finished. Raises OutputRejected, OutputLost. See `ports.Output`."""
        publisher = RtmpPublisher(self._address, chunk_bytes=self._chunk_bytes)
        link = self._link = _Link(publisher, self._name)
        try:
            await self._connect(link)
            await self._reach(link, State.HANDSHAKING, self._deadlines.handshake_s)
            await self._reach(link, State.PUBLISHING, self._deadlines.publish_s)
            listener.on_published()
            await _race(self._pump(link, units, listener), self._watch(link), link.until(lambda: False))
        except RemoteProtocolError as error:
            raise OutputLost(f"{self._name}: {error}") from error
        except OutputError as error:
            link.give_up(error)
            raise
        finally:
            await link.close(self._deadlines.close_s)

    def progress(self) -> OutputProgress:
        return self._link.progress() if self._link else OutputProgress()

    async def _connect(self, link: "_Link") -> None:
        address: RtmpAddress = self._address
        try:
            async with asyncio.timeout(self._deadlines.connect_s):
                tls = None
                if address.is_tls:
                    # Reading the system's certificates takes long enough to be heard in other sessions.
                    tls = self._tls or await asyncio.to_thread(ssl.create_default_context)
                await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    address.host,
                    address.port,
                    ssl=tls,
                    server_hostname=address.host if tls else None,
                    happy_eyeballs_delay=_NEXT_ADDRESS_S,
                )
        except TimeoutError:
            raise OutputLost(f"{self._name}: no connection within {self._deadlines.connect_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise OutputRejected(f"{self._name}: the server's certificate is refused: {error.verify_message}") from None
        except UnicodeError:
            raise OutputRejected(f"{self._name}: the host name is malformed") from None
        except OSError as error:
            cause = _common(error)
            raise OutputLost(f"{self._name}: cannot connect: {cause.strerror or cause}") from cause

    async def _reach(self, link: "_Link", last: State, deadline_s: float) -> None:
        """Wait until the publisher is past the state `last`."""
        states = list(State)
        try:
            async with asyncio.timeout(deadline_s):
                await link.until(lambda: states.index(link.state) > states.index(last))
        except TimeoutError:
            raise OutputLost(f"{self._name}: {link.state.value} did not come within {deadline_s:g} s") from None

    async def _pump(self, link: "_Link", units: LiveQueue, listener: OutputListener) -> None:
        sequence = TagSequence(self._first_timestamp_ms)
        while (first := await units.get()) is not None:
            burst = [first, *units.get_waiting(_BURST - 1)]
            sent = link.send(burst, sequence)
            if not link.is_writable:
                await link.until(lambda: link.is_writable)
            for unit in sent:
                listener.on_written(unit)

    async def _watch(self, link: "_Link") -> None:
        """Raises OutputWedged once the far end has stopped reading; never returns."""
        window_s = self._deadlines.wedged_s
        clock = asyncio.get_running_loop()
        moved, moved_at_s = 0, clock.time()
        while True:
            await asyncio.sleep(window_s / _LOOKS_PER_WINDOW)
            progress = link.progress()
            if not progress.backlog_bytes or progress.bytes_total - moved >= _WEDGED_BELOW_BYTES:
                moved, moved_at_s = progress.bytes_total, clock.time()
            elif clock.time() - moved_at_s >= window_s:
                raise OutputWedged(
                    f"{self._name}: the server stopped reading: {progress.backlog_bytes} bytes wait, "
                    f"and fewer than {_WEDGED_BELOW_BYTES} left in {window_s:g} s"
                )


class _Link(asyncio.Protocol):
    """Moves bytes between the transport and the publisher; remembers why the connection ended."""

    def __init__(self, publisher: RtmpPublisher, name: str) -> None:
        self._publisher = publisher
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._tcp: socket.socket | None = None
        self._failure: OutputError | None = None
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()
        self._written_bytes = 0
        self._progress = OutputProgress()
        self.is_writable = True

    @property
    def state(self) -> State:
        return self._publisher.state

    async def until(self, is_reached: Callable[[], bool]) -> None:
        """Wait for a condition on this link. Raises OutputError when the connection ends before."""
        while self._failure is None:
            if is_reached():
                return
            self._changed.clear()
            await self._changed.wait()
        raise self._failure

    def send(self, units: Iterable[AccessUnit], sequence: TagSequence) -> list[AccessUnit]:
        """Write units with the headers they need, at once; those that have a place in the broadcast."""
        if self._failure is not None:
            return []  # `until` is about to say why
        sent = [unit for unit in units if self._write(sequence.tags(unit))]
        self._flush()
        return sent

    def _write(self, tags: Sequence[Tag]) -> bool:
        for kind, timestamp_ms, body in tags:
            if kind == "script":
                self._publisher.send_metadata(timestamp_ms, body)
            else:
                self._publisher.send_media(kind, timestamp_ms, body)
        return bool(tags)

    def progress(self) -> OutputProgress:
        transport, tcp = self._transport, self._tcp
        # A transport that fails forgets what it had not sent, which would look like progress: so what was seen stands.
        if self._failure is None and transport is not None and tcp is not None and tcp.fileno() >= 0:
            # SIOCOUTQ, tcp(7): what the far end has not acknowledged. TIOCOUTQ is the same number.
            (unacknowledged_bytes,) = struct.unpack("i", fcntl.ioctl(tcp.fileno(), termios.TIOCOUTQ, bytes(4)))
            unsent_bytes = transport.get_write_buffer_size() + unacknowledged_bytes
            self._progress = OutputProgress(max(0, self._written_bytes - unsent_bytes), unsent_bytes)
        return self._progress

    def give_up(self, failure: OutputError) -> None:
        """End the connection, without what has not left yet."""
        self._fail(failure)
        if self._transport is not None:
            self._transport.abort()

    async def close(self, deadline_s: float) -> None:
        """Unpublish and close; what cannot leave within the deadline is given up."""
        transport = self._transport
        if transport is None:
            return
        try:
            async with asyncio.timeout(deadline_s):
                if self.state is State.LIVE and self._failure is None:
                    self._publisher.unpublish()
                    self._flush()
                    # A socket closed with bytes of the server unread resets the connection, and the tail of the
                    # broadcast is lost: so the server closes first. TLS cannot end one direction alone.
                    end = transport.write_eof if transport.can_write_eof() else transport.close
                    end()
                else:
                    transport.abort()
                await self._lost.wait()
        except TimeoutError:
            transport.abort()
            await self._lost.wait()
        finally:
            transport.abort()

    # ------------------------------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # asyncio hands out a stand-in for the socket, with these methods of it; TLS forgets it on closing.
        self._tcp = tcp = cast(socket.socket, transport.get_extra_info("socket"))
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        # Writable means that the kernel has everything; not 0, because asyncio's TLS pauses at the limit and not above.
        # TLS has a buffer of its own below, of 64 KiB and out of reach, which counts as the kernel.
        transport.set_write_buffer_limits(high=1)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._failure is not None:
            return
        try:
            for event in self._publisher.receive_data(data):
                match event:
                    case Refused(request, words, True):
                        self._fail(OutputLost(f"{self._name}: {request}: {shown_words(words)}"))
                    case Refused(request, words):
                        self._fail(OutputRejected(f"{self._name}: {request}: {shown_words(words)}"))
                    case Ended(words):
                        self._fail(OutputLost(f"{self._name}: the server ended the broadcast: {shown_words(words)}"))
                    case Published():
                        pass
        except RemoteProtocolError as error:
            self._fail(OutputLost(f"{self._name}: {error}"), error)
        self._flush()
        self._changed.set()

    def eof_received(self) -> None:
        self.progress()
        if self.state is State.PUBLISHING:
            self._fail(
                OutputRejected(
                    f"{self._name}: the server closed the connection at the publish request without a word; "
                    "it probably refuses the stream key: check the key, and that the server knows it"
                )
            )
        else:
            self._fail(OutputLost(f"{self._name}: the server closed the connection before {self.state.value}"))

    def connection_lost(self, exc: Exception | None) -> None:
        reason = getattr(exc, "strerror", None) or exc or "connection closed"
        hint = "; if this comes again, the stream key is refused" if self.state is State.PUBLISHING else ""
        self._fail(OutputLost(f"{self._name}: {reason} before {self.state.value}{hint}"), exc)
        self._lost.set()

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self._changed.set()

    def _flush(self) -> None:
        data = self._publisher.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._written_bytes += len(data)
            self._transport.write(data)

    def _fail(self, failure: OutputError, cause: Exception | None = None) -> None:
        if self._failure is None:
            self._failure = failure
            failure.__cause__ = cause or failure.__cause__
        self._changed.set()


def shown_words(words: str) -> str:
    """What a server has said, fit to be shown: without secrets, in one line, at most `_MAX_WORDS` characters."""
    return "".join(c if c.isprintable() else " " for c in mask(words))[:_MAX_WORDS]


def _common(error: OSError) -> OSError:
    """What every address of a name answered, if it was the same; asyncio joins several errors into one text."""
    numbers = set(re.findall(r"\[Errno (\d+)\]", str(error)))
    if error.errno is not None or len(numbers) != 1:
        return error
    number = int(numbers.pop())
    return OSError(number, os.strerror(number))


async def _race(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run until the first of them ends, and raise what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
