"""One RTMP connection: moves bytes between an asyncio transport and `protocols.rtmp`."""

import asyncio
import fcntl
import ipaddress
import os
import re
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import structlog

from bridge.errors import OutputError, OutputLost, OutputRejected, RemoteProtocolError
from bridge.media.access_unit import AccessUnit
from bridge.net.tls import Trust, explain, spki_pin
from bridge.ports import OutputProgress
from bridge.protocols.flv import Tag, TagSequence
from bridge.protocols.rtmp import Ended, Published, ReconnectAsked, Refused, RtmpPublisher, State
from bridge.protocols.rtmp_address import RtmpAddress
from bridge.redact import MASK, mask, redact_url

# What the kernel may hold beyond what is in flight: 0.17 s of a 6 Mb/s stream. The next unit is taken from the queue
# once the last one is all there: the queue drops whole GOPs; bytes handed over cannot be.
_UNSENT_BYTES = 131_072
# What it may hold in all: 2 s, an output's queue, of the 6.2 Mb/s that platforms take at most. A far end that stops
# reading has no more than this still to come that is old. Linux takes it down to net.core.wmem_max, by default 208 KiB:
# enough for that rate over a round trip of 0.27 s.
_SEND_BUFFER_BYTES = 1_550_000
_MAX_WORDS = 200
# RFC 8305 §5: how long one address of a name is waited for before the next one is tried beside it.
_NEXT_ADDRESS_S = 0.25

log = structlog.get_logger()


class RtmpLink(asyncio.Protocol):
    """One connection to publish on. It remembers why it ended, and what its server asked for."""

    def __init__(self, address: RtmpAddress, trust: Trust, *, chunk_bytes: int, waits: bool = False) -> None:
        """`waits`: it publishes only at `publish`."""
        self.address = address
        self.name = f"{redact_url(address.tc_url)}/{MASK}"
        self._publisher = RtmpPublisher(address, chunk_bytes=chunk_bytes, waits=waits)
        self._trust = trust
        self._transport: asyncio.Transport | None = None
        self._tcp: socket.socket | None = None
        self._failure: OutputError | None = None
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()
        self._written_bytes = 0
        self._progress = OutputProgress()
        self.is_writable = True
        self._awaiting_kernel: list[Callable[[], object]] = []
        # The tcUrl at which the server wants the broadcast; empty: at the one it has.
        self.asked_to_reconnect: str | None = None

    @property
    def state(self) -> State:
        return self._publisher.state

    @property
    def has_asked_to_publish(self) -> bool:
        return self._publisher.has_asked_to_publish

    async def connect(self, at: Sequence[str], deadline_s: float) -> None:
        """Connect to the first of these addresses that takes us. Raises OutputRejected, OutputLost."""
        try:
            async with asyncio.timeout(deadline_s):
                tls = None
                if self.address.is_tls:
                    # Reading the system's certificates takes long enough to be heard in other sessions.
                    tls = await asyncio.to_thread(self._context)
                await self._connect_to_one(at, tls)
        except TimeoutError:
            raise OutputLost(f"{self.name}: no connection within {deadline_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise OutputRejected(f"{self.name}: the server's certificate is refused: {explain(error)}") from None
        except UnicodeError:
            raise OutputRejected(f"{self.name}: the host name is malformed") from None
        except OSError as error:
            cause = _common(error)
            hint = "; does the server speak TLS at this port?" if isinstance(cause, ssl.SSLError) else ""
            raise OutputLost(f"{self.name}: cannot connect: {cause.strerror or cause}{hint}") from cause

    def _context(self) -> ssl.SSLContext:
        try:
            return self._trust.context()
        except OSError as error:
            why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            raise OutputRejected(f"{self.name}: tls_ca_file {self._trust.ca_file}: {why}") from None

    async def _connect_to_one(self, at: Sequence[str], tls: ssl.SSLContext | None) -> None:
        for address in at:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: self,
                    address,
                    self.address.port,
                    ssl=tls,
                    server_hostname=self.address.host if tls else None,
                    # Where a race of addresses is called off asyncio forgets to close a socket: none without need.
                    happy_eyeballs_delay=_NEXT_ADDRESS_S if _is_name(address) else None,
                )
            except ssl.SSLError:
                raise
            except OSError:
                if address == at[-1]:
                    raise
            else:
                return

    def publish(self) -> None:
        """Ask for the broadcast that has waited."""
        self._publisher.publish()
        self._flush()

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

    def when_writable(self, act: Callable[[], object]) -> None:
        """Call `act` once the kernel has all that was sent, maybe at once; never if the connection ends before."""
        if self.is_writable:
            act()
        else:
            self._awaiting_kernel.append(act)

    def progress(self) -> OutputProgress:
        """Bytes count as left once the far end has acknowledged them."""
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
        self._abort()

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
                    self._abort()
                await self._lost.wait()
        except OSError as error:
            # The deadline, or a far end that has reset the connection before anybody was told.
            log.info("rtmp_closed_early", server=self.name, error=error.strerror or f"not within {deadline_s:g} s")
            self._abort()
            await self._lost.wait()
        finally:
            self._abort()

    def _abort(self) -> None:
        # An asyncio transport that has closed because its last bytes had left fails when it is aborted after that.
        if self._transport is not None and not self._lost.is_set():
            self._transport.abort()

    # ------------------------------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # asyncio hands out a stand-in for the socket, with these methods of it; TLS forgets it on closing.
        self._tcp = tcp = cast(socket.socket, transport.get_extra_info("socket"))
        if (pin := self._wrong_pin(transport)) is not None:
            words = f"its key is {pin}, and tls_pin_sha256 does not name it; if the server has a new key, put it there"
            self.give_up(OutputRejected(f"{self.name}: the server is not the one that is expected: {words}"))
            return
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        # Writable means that the kernel has everything; not 0, because asyncio's TLS pauses at the limit and not above.
        # TLS has a buffer of its own below, of 64 KiB and out of reach, which counts as the kernel.
        transport.set_write_buffer_limits(high=1)
        self._flush()

    def _wrong_pin(self, transport: asyncio.Transport) -> str | None:
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        return None if certificate is None or self._trust.accepts(certificate) else spki_pin(certificate)

    def data_received(self, data: bytes) -> None:
        if self._failure is not None:
            return
        try:
            for event in self._publisher.receive_data(data):
                match event:
                    case Refused(request, words, True):
                        self._fail(OutputLost(f"{self.name}: {request}: {shown_words(words)}"))
                    case Refused(request, words):
                        self._fail(OutputRejected(f"{self.name}: {request}: {shown_words(words)}"))
                    case Ended(words):
                        self._fail(OutputLost(f"{self.name}: the server ended the broadcast: {shown_words(words)}"))
                    case ReconnectAsked(tc_url):
                        self.asked_to_reconnect = tc_url
                    case Published():
                        pass
        except RemoteProtocolError as error:
            self._fail(OutputLost(f"{self.name}: {error}"), error)
        self._flush()
        self._changed.set()

    def eof_received(self) -> None:
        self.progress()
        if self.state is State.PUBLISHING:
            self._fail(
                OutputRejected(
                    f"{self.name}: the server closed the connection at the publish request without a word; "
                    "it probably refuses the stream key: check the key, and that the server knows it"
                )
            )
        else:
            self._fail(OutputLost(f"{self.name}: the server closed the connection before {self.state.value}"))

    def connection_lost(self, exc: Exception | None) -> None:
        reason = getattr(exc, "strerror", None) or exc or "connection closed"
        hint = "; if this comes again, the stream key is refused" if self.state is State.PUBLISHING else ""
        self._fail(OutputLost(f"{self.name}: {reason} before {self.state.value}{hint}"), exc)
        self._lost.set()

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        acts, self._awaiting_kernel = self._awaiting_kernel, []
        for act in acts:
            act()
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


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _common(error: OSError) -> OSError:
    """What every address of a name answered, if it was the same; asyncio joins several errors into one text."""
    numbers = set(re.findall(r"\[Errno (\d+)\]", str(error)))
    if error.errno is not None or len(numbers) != 1:
        return error
    number = int(numbers.pop())
    return OSError(number, os.strerror(number))


def shown_words(words: str) -> str:
    """What a server has said, fit to be shown: without secrets, in one line, at most `_MAX_WORDS` characters."""
    return "".join(c if c.isprintable() else " " for c in mask(words))[:_MAX_WORDS]
