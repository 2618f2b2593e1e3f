"""Datagrams that no honest peer sends: random, cut short, and forged as well as anybody can without the keys."""

import random
import struct
from collections.abc import Callable

from aioice import stun

# What aioice and aiortc know, and what they do not.
_STUN_TYPES = (0x0001, 0x0011, 0x0101, 0x0111, 0x0003, 0x3FFF)
_STUN_ATTRIBUTES = (*stun.ATTRIBUTES_BY_TYPE, 0x0000, 0x7FFF, 0xFFFF)
_DTLS_TYPES = (20, 21, 22, 23, 24, 25, 26, 32, 63)
_RTCP_TYPES = range(200, 208)
LARGEST = 1_800


class Forger:
    """Draws datagrams, the same ones for a seed. `ssrcs`: of streams that flow, for forgeries of those."""

    def __init__(self, seed: int, ssrcs: tuple[int, ...] = ()) -> None:
        self._random = random.Random(seed)
        self._ssrcs = ssrcs
        self.kinds: dict[str, Callable[[], bytes]] = {
            "random": self.noise,
            "stun": self.stun,
            "dtls": self.dtls,
            "srtp": self.srtp,
            "rtcp": self.rtcp,
            "cut": self.cut,
        }

    def pick(self) -> tuple[str, bytes]:
        """One of any kind, with the kind's name."""
        name = self._random.choice(list(self.kinds))
        return name, self.kinds[name]()

    def noise(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 11, 12, 20, 100, 1_200, 1_500, 1_501, LARGEST)))

    def stun(self) -> bytes:
        """A well-formed header; attributes that lie about their length, are huge, or no text, or no address."""
        body = b""
        for _ in range(self._random.randrange(6)):
            kind, size = self._random.choice(_STUN_ATTRIBUTES), self._random.choice((0, 1, 4, 8, 20, 64, 700))
            told = self._random.choice((size, size, size, size + 1, 0xFFFF))
            body += struct.pack("!HH", kind, told) + self._random.randbytes(size + -size % 4)
        told = self._random.choice((len(body), len(body), len(body), 0, 0xFFFC))
        header = struct.pack("!HHI", self._random.choice(_STUN_TYPES), told, 0x2112A442)
        return header + self._random.randbytes(12) + body

    def dtls(self) -> bytes:
        """Records with sound headers and garbage inside, of the epoch before the keys and the one after."""
        records = b""
        for _ in range(self._random.randrange(1, 3)):
            body = self._random.randbytes(self._random.choice((0, 2, 40, 600)))
            told = self._random.choice((len(body), len(body), len(body) + 1, 0xFFFF))
            version = self._random.choice((0xFEFF, 0xFEFD, 0xFEFC, 0x0303))
            epoch, number = self._random.choice((0, 1, 2, 0xFFFF)), self._random.getrandbits(47)
            kind = self._random.choice(_DTLS_TYPES)
            records += struct.pack("!BHHHIH", kind, version, epoch, number >> 32, number & 0xFFFFFFFF, told) + body
        return records

    def srtp(self) -> bytes:
        """A header of a stream that flows, or not; sources, extensions and padding that reach past the end."""
        first = 0x80 | self._random.choice((0, 0x10, 0x20, 0x0F, 0x3F))
        second = self._random.choice((96, 98, 111, 127)) | self._random.choice((0, 0x80))
        header = struct.pack("!BBHII", first, second, self._number(16), self._number(32), self._ssrc())
        return header + self._random.randbytes(self._random.choice((0, 3, 16, 60, 1_000, 1_480)))

    def rtcp(self) -> bytes:
        header = struct.pack("!BBHI", 0x80 | self._number(5), self._random.choice(_RTCP_TYPES), 6, self._ssrc())
        body = self._random.randbytes(self._random.choice((4, 20, 24, 100, 1_000)))
        return header + body + struct.pack("!I", self._number(31) | self._random.choice((0, 1 << 31)))

    def cut(self) -> bytes:
        kind = self._random.choice((self.stun, self.dtls, self.srtp, self.rtcp))
        whole = kind()
        return whole[: self._random.randrange(len(whole))]

    def plain_rtcp(self) -> bytes:
        """What a far end that has the keys may encrypt: packets whose contents are no RTCP."""
        packets = b""
        for _ in range(self._random.randrange(1, 4)):
            body = self._random.randbytes(4 * self._random.randrange(9))
            told = self._random.choice((len(body) // 4, len(body) // 4, 0xFFFF))
            packets += struct.pack("!BBH", 0x80 | self._number(6), self._random.choice(_RTCP_TYPES), told) + body
        return packets.ljust(8, b"\0")

    def plain_rtp(self) -> bytes:
        """Likewise, with any SSRC, contents and extensions."""
        first = 0x80 | self._random.choice((0, 0x10, 0x20, 0x0F, 0x3F))
        header = struct.pack("!BBHII", first, self._number(7), self._number(16), self._number(32), self._ssrc())
        return header + self._random.randbytes(self._random.randrange(60))

    def _number(self, n_bits: int) -> int:
        return self._random.getrandbits(n_bits)

    def _ssrc(self) -> int:
        return self._random.choice((*self._ssrcs, self._number(32)))
