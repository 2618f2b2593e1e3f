"""RTP as a sender would make it, one packet at a time, with time in milliseconds."""

from collections.abc import Iterable, Sequence

from bridge.media.clock import NS_PER_MS
from bridge.media.rtp import RtpPacket

SSRC = 0x1234
H264_TYPE = 102
OPUS_TYPE = 111

# Made by x264: constrained baseline, level 3.1, 1280x720 and 720x1280.
SPS = bytes.fromhex("6742c01fda014016e840000003004000000ca3c60ca8")
TALL_SPS = bytes.fromhex("6742c01fda02d0286840000003004000000ca3c60ca8")
PPS = bytes.fromhex("68ce0fc8")
# Slices whose header begins with first_mb_in_slice 0, slice_type 7 and pic_parameter_set_id 0, and one that goes on
# with macroblock 1.
IDR = b"\x65\x88\x80" + bytes(range(200))
IDR_GOES_ON = b"\x65\x42\x20" + bytes(range(200))
SLICE = b"\x61\x88" + bytes(range(100))
# 20 ms, SILK wideband, one frame (RFC 6716 table 2, configuration 9).
OPUS_20_MS = bytes([9 << 3]) + b"voice"


def ms(time_ms: float) -> int:
    return round(time_ms * NS_PER_MS)


def packet(
    sequence_number: int,
    at_ms: float = 0,
    *,
    timestamp: int = 0,
    payload: bytes = b"\x61\x88",
    marker: bool = False,
    ssrc: int = SSRC,
    payload_type: int = H264_TYPE,
) -> RtpPacket:
    return RtpPacket(
        ssrc, payload_type, sequence_number & 0xFFFF, timestamp & 0xFFFFFFFF, marker, payload, ms(at_ms), False
    )


def fu_a(nal: bytes, n_packets: int) -> list[bytes]:
    """RFC 6184 §5.8: a NAL unit in fragments."""
    indicator, nal_type, body = nal[0] & 0xE0 | 28, nal[0] & 0x1F, nal[1:]
    size = -(-len(body) // n_packets)
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    flags = [0] * len(chunks)
    flags[0] |= 0x80
    flags[-1] |= 0x40
    return [bytes([indicator, flag | nal_type]) + chunk for flag, chunk in zip(flags, chunks, strict=True)]


def stap_a(*nals: bytes) -> bytes:
    """RFC 6184 §5.7.1: several NAL units in one packet."""
    return b"\x78" + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def exp_golomb(number: int) -> str:
    """H.264 §9.1."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def packed(bits: str) -> bytes:
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def with_ids(nal: bytes, header_bytes: int, *ids: int) -> bytes:
    """A parameter set whose leading ids, all 0 so far, are these."""
    bits = "".join(f"{byte:08b}" for byte in nal[header_bytes:]).rstrip("0")
    assert bits.startswith("1" * len(ids))
    return nal[:header_bytes] + packed("".join(map(exp_golomb, ids)) + bits[len(ids) :])


def sps_with_id(number: int, sps: bytes = SPS) -> bytes:
    return with_ids(sps, 4, number)


def pps_with_ids(number: int, sequence_set: int) -> bytes:
    return with_ids(PPS, 1, number, sequence_set)


def idr_with_pps(number: int, first_mb: int = 0) -> bytes:
    """An IDR slice that refers to that PPS."""
    return b"\x65" + packed(exp_golomb(first_mb) + exp_golomb(7) + exp_golomb(number) + "1") + bytes(range(1, 100))


def avcc(*nals: bytes) -> bytes:
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)


KEYFRAME = (stap_a(SPS, PPS), *fu_a(IDR, 3))
PICTURE = tuple(fu_a(SLICE, 2))


class Sender:
    """Numbers the packets of a track. Every unit takes `unit_ms`; its packets arrive when it is sent."""

    def __init__(
        self,
        *,
        sequence_number: int = 1000,
        timestamp: int = 5000,
        clock_hz: int = 90_000,
        unit_ms: float = 40,
        ssrc: int = SSRC,
        payload_type: int = H264_TYPE,
        at_ms: float = 0,
    ) -> None:
        self.sequence_number = sequence_number
        self.timestamp = timestamp
        self.at_ms = at_ms
        self._unit_ms = unit_ms
        self._unit_ticks = round(unit_ms * clock_hz / 1000)
        self._ssrc = ssrc
        self._payload_type = payload_type

    def unit(self, payloads: Sequence[bytes], *, marked: bool = True) -> list[RtpPacket]:
        packets = []
        for index, payload in enumerate(payloads):
            packets.append(
                packet(
                    self.sequence_number,
                    self.at_ms,
                    timestamp=self.timestamp,
                    payload=payload,
                    marker=marked and index == len(payloads) - 1,
                    ssrc=self._ssrc,
                    payload_type=self._payload_type,
                )
            )
            self.sequence_number += 1
        self.timestamp += self._unit_ticks
        self.at_ms += self._unit_ms
        return packets

    def keyframe(self) -> list[RtpPacket]:
        return self.unit(KEYFRAME)

    def picture(self) -> list[RtpPacket]:
        return self.unit(PICTURE)

    def pictures(self, count: int) -> list[RtpPacket]:
        return [packet for _ in range(count) for packet in self.picture()]


def opus_sender(**options: int) -> Sender:
    return Sender(clock_hz=48_000, unit_ms=20, payload_type=OPUS_TYPE, **options)


def numbers(packets: Iterable[RtpPacket]) -> list[int]:
    return [packet.sequence_number for packet in packets]
