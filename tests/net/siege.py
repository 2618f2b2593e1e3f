"""A live line between two peers, and everything that can be fired at it, for a while."""

import asyncio
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aioice import stun
from aiortc.rtp import RtcpPacket

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.net.aiortc_sender import RtpOrigin
from bridge.net.peer_connection import Peer
from tests.net.forgery import Forger
from tests.net.loopback import Line, connected_line

VIDEO_SSRC, AUDIO_SSRC = 0x0A0B0C0D, 0x01020304
PICTURE_NS = 20 * NS_PER_MS
PACKETS_PER_PICTURE = 8
# After each volley the event loop has a turn to read it: what the kernel drops from a full buffer nobody can count.
VOLLEY = 16
# Memory settles: pools, the first of everything, what aiortc keeps of a hand-shake.
SETTLE_S = 1.0
# On loopback, what was sent has arrived by then, even if the machine is busy.
UNDER_WAY_S = 0.2


@dataclass
class Siege:
    """What was fired and what came of it. fired: by who fires and what; rejected: by reason, both ends.

    harmless       of the fired: what may be read and means nothing, such as a STUN indication.
    longest_gap_s  between two packets of pictures.  grown_bytes: resident memory, from after it has settled.
    """

    seconds: float
    fired: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    harmless: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    longest_gap_s: float = 0.0
    grown_bytes: int = 0
    is_up: bool = False
    _is_over: bool = False

    async def run(self, seed: int) -> None:
        """Fire at both ends for `seconds`, from a stranger's socket and from those of the ends themselves."""
        video, audio = RtpOrigin(ssrc=VIDEO_SSRC), RtpOrigin(ssrc=AUDIO_SSRC)
        async with connected_line(video_origin=video, audio_origin=audio) as line:
            family = socket.AF_INET6 if ":" in _address(line.receiving)[0] else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as stranger:
                stranger.setblocking(False)
                flowing = asyncio.create_task(self._flow(line))
                firing = asyncio.create_task(self._fire(line, stranger, Forger(seed, (VIDEO_SSRC, AUDIO_SSRC))))
                await asyncio.sleep(SETTLE_S)
                before_bytes = _rss_bytes()
                await asyncio.sleep(self.seconds)
                self.grown_bytes = _rss_bytes() - before_bytes
                firing.cancel()
                await asyncio.gather(firing, return_exceptions=True)
                self._is_over = True
                await flowing
            self.is_up = line.sending.is_connected and line.receiving.is_connected
            self.rejected = line.sending.datagrams_rejected + line.receiving.datagrams_rejected
            if not firing.cancelled() and (error := firing.exception()) is not None:
                raise error

    async def _flow(self, line: Line) -> None:
        """Pictures, and what arrives of them, to the last."""
        sink = await line.tracks.sink("video")
        payloads = [b"\x61" + bytes(1_000)] * PACKETS_PER_PICTURE
        number, began_s = 0, time.monotonic()
        last_s: float | None = None
        while not self._is_over:
            line.sending.send_video(payloads, number * PICTURE_NS)
            self.sent_packets += PACKETS_PER_PICTURE
            number += 1
            await asyncio.sleep(max(0.0, began_s + number * PICTURE_NS / NS_PER_S - time.monotonic()))
            for packet in sink.packets:
                arrival_s = packet.arrival_ns / NS_PER_S
                self.longest_gap_s = max(self.longest_gap_s, arrival_s - (last_s or arrival_s))
                last_s = arrival_s
            self.received_packets += len(sink.packets)
            sink.packets.clear()
        await asyncio.sleep(UNDER_WAY_S)
        self.received_packets += len(sink.packets)

    async def _fire(self, line: Line, stranger: socket.socket, forger: Forger) -> None:
        ends: list[tuple[str, Peer, Peer]] = [
            ("at the receiver", line.sending, line.receiving),
            ("at the sender", line.receiving, line.sending),
        ]
        while True:
            for where, near, far in ends:
                address = _address(far)
                for _ in range(VOLLEY):
                    name, datagram = forger.pick()
                    stranger.sendto(datagram, address)
                    self._note(f"{name} from a stranger {where}", datagram)
                await asyncio.sleep(0.002)
                for _ in range(VOLLEY):
                    name, datagram = forger.pick()
                    if datagram:  # asyncio sends no empty ones
                        _transport(near).sendto(datagram, address)
                        self._note(f"{name} from the peer's address {where}", datagram)
                await asyncio.sleep(0.002)
                plain = forger.plain_rtcp()
                _transport(near).sendto(_protected(near, plain), address)
                self.fired[f"authentic rtcp from the peer {where}"] += 1
                self.harmless += _is_readable(RtcpPacket.parse, plain)

    def _note(self, what: str, datagram: bytes) -> None:
        self.fired[what] += 1
        self.harmless += _is_readable(stun.parse_message, datagram)


def _protected(near: Peer, plain: bytes) -> bytes:
    """RTCP with the peer's keys. What libsrtp keeps for its SSRC goes again: the memory measured is the far end's."""
    session, ssrc = _dtls(near)._tx_srtp, int.from_bytes(plain[4:8], "big")
    protected: bytes = session.protect_rtcp(plain)
    if ssrc:  # of bodies that are empty: it comes again, and its numbers go on
        session.remove_stream(ssrc)
    return protected


def _is_readable(parse: Callable[[bytes], object], data: bytes) -> bool:
    try:
        parse(data)
    except (ValueError, IndexError, struct.error):
        return False
    return True


def _pair(peer: Peer) -> Any:
    (connection,) = peer._connections
    return connection._nominated[1]


def _transport(peer: Peer) -> Any:
    return _pair(peer).protocol.transport


def _address(peer: Peer) -> tuple[str, int]:
    candidate = _pair(peer).local_candidate
    return candidate.host, candidate.port


def _dtls(peer: Peer) -> Any:
    assert peer._pc is not None
    return peer._pc.getTransceivers()[0].receiver.transport


def _rss_bytes() -> int:
    # proc(5): the second number is the resident set, in pages.
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
