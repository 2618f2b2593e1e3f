"""Clocks: integer nanoseconds on every timeline, RTP ticks on the wire.

Three clocks exist. Arrival and deadlines: `time.monotonic_ns` of this process. The sender's: RTP ticks per
track, tied to NTP by sender reports. Session time: nanoseconds since the session began, the only one outputs see.
"""

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
VIDEO_CLOCK_HZ = 90_000  # RFC 6184 §8.2.1
OPUS_CLOCK_HZ = 48_000  # RFC 7587 §4.1: always 48 kHz on RTP, whatever the encoder's rate
G711_RATE_HZ = 8_000  # RFC 3551 §4.5.14: samples, and ticks of RTP
AVATAR_RATE_HZ = 24_000  # NavTalk and HeyGen ask for 24 kHz mono PCM16


def ticks_to_ns(ticks: int, clock_rate_hz: int) -> int:
    """Convert absolute ticks to nanoseconds, rounding down: the error stays below 1 ns and never adds up."""
    return ticks * NS_PER_S // clock_rate_hz


def ns_to_ticks(ns: int, clock_rate_hz: int) -> int:
    """Convert nanoseconds to the nearest tick; inverts `ticks_to_ns` exactly, as a tick is longer than 2 ns."""
    return (ns * clock_rate_hz + NS_PER_S // 2) // NS_PER_S
