"""RTP packets and sender reports as plain values, and the circles their numbers live on (RFC 3550)."""

from dataclasses import dataclass
from typing import NamedTuple

from bridge.media.clock import NS_PER_S


class RtpPacket(NamedTuple):
    """One RTP packet, decrypted, without its header extensions and padding.

    sequence_number and rtp_timestamp are as on the wire (16 and 32 bits); a retransmission has been unwrapped to the
    packet it repeats (RFC 4588 §4), with `is_retransmission` set. captured_ntp_ns is as in `ReceivedUnit`.
    """

    ssrc: int
    payload_type: int
    sequence_number: int
    rtp_timestamp: int
    marker: bool
    payload: bytes
    arrival_ns: int
    is_retransmission: bool = False
    captured_ntp_ns: int = 0


@dataclass(frozen=True, slots=True)
class SenderReport:
    """The pair that ties a track's RTP clock to the sender's wall clock (RFC 3550 §6.4.1).

    ntp_q32  NTP time as 32.32 fixed point seconds; 0 means that the sender had none, and is to be ignored.
    """

    ssrc: int
    ntp_q32: int
    rtp_timestamp: int
    arrival_ns: int

    @property
    def ntp_ns(self) -> int:
        return self.ntp_q32 * NS_PER_S >> 32


def sequence_distance(newer: int, older: int) -> int:
    """Signed steps from `older` to `newer` on the 2**16 circle: -32768 to 32767 (RFC 3550 §A.1)."""
    return (newer - older + 2**15) % 2**16 - 2**15


class RtpUnwrapper:
    """Extend 32-bit RTP timestamps to an ever-growing tick count (RFC 3550 §5.1).

    The first timestamp maps to itself; every further one is taken as the nearest to the newest seen, so that a late
    packet steps back and does not wrap forward.
    """

    def __init__(self) -> None:
        self._newest: int | None = None

    def unwrap(self, rtp_timestamp: int) -> int:
        ticks = self.nearest(rtp_timestamp)
        if self._newest is None or ticks > self._newest:
            self._newest = ticks
        return ticks

    def nearest(self, rtp_timestamp: int) -> int:
        """Unwrap without moving: for sender reports, which may run ahead of the media."""
        if self._newest is None:
            return rtp_timestamp
        return self._newest + (rtp_timestamp - self._newest + 2**31) % 2**32 - 2**31
