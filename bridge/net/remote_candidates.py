"""The candidates that a far end names, in its descriptions and trickled (RFC 8838): which of them ICE gets to try."""

from collections import deque
from collections.abc import Awaitable, Callable

from aiortc import RTCIceCandidate

from bridge.net.sdp import Description, is_usable, parse_candidate

# A check list holds at most 100 pairs (RFC 8445 §6.1.2.5).
MAX_REMOTE_CANDIDATES = 100


class RemoteCandidates:
    """Each address is tried once; those that come before the description wait for it.

    may_try    whether ICE may check an address.
    addresses  those that it checks.
    rejected   candidates that were malformed, of no use or surplus, dropped.
    """

    def __init__(self, may_try: Callable[[str], bool]) -> None:
        self.addresses: set[tuple[str, int]] = set()
        self.rejected = 0
        self._may_try = may_try
        self._early: deque[tuple[str, str | None, int | None]] = deque()
        self._description: Description | None = None
        self._bundle_mid: str | None = None
        self._add: Callable[[RTCIceCandidate], Awaitable[None]]

    async def follow(
        self, description: Description, bundle_mid: str | None, add: Callable[[RTCIceCandidate], Awaitable[None]]
    ) -> None:
        """Take what a description names, then what has waited for it.

        bundle_mid  the section whose transport serves all bundled ones.  add: gives a candidate to ICE.
        """
        self._description, self._bundle_mid, self._add = description, bundle_mid, add
        for candidate, mid, index in description.candidates:
            await self._try(candidate, mid, index)
        while self._early:
            await self.take(*self._early.popleft())

    async def take(self, candidate: str, sdp_mid: str | None, sdp_mline_index: int | None) -> None:
        """Take one that was trickled; an empty one, the end mark, needs nothing."""
        if not candidate.strip():
            return
        if self._description is not None:
            await self._try(parse_candidate(candidate), sdp_mid, sdp_mline_index)
        elif len(self._early) < MAX_REMOTE_CANDIDATES:
            self._early.append((candidate, sdp_mid, sdp_mline_index))
        else:
            self.rejected += 1

    async def _try(self, candidate: RTCIceCandidate | None, mid: str | None, index: int | None) -> None:
        if candidate is None or not is_usable(candidate) or not self._may_try(candidate.ip):
            self.rejected += 1
            return
        address = (candidate.ip, candidate.port)
        if address in self.addresses:
            return  # bundled sections repeat theirs
        if len(self.addresses) >= MAX_REMOTE_CANDIDATES:
            self.rejected += 1
            return
        self.addresses.add(address)
        # aiortc would drop candidates for any section but the one that leads the bundle.
        candidate.sdpMid = self._bundle_mid or mid or self._mid_at(index or 0)
        await self._add(candidate)

    def _mid_at(self, index: int) -> str:
        """The section that has this index in the description; empty: none."""
        outline = self._description.outline if self._description is not None else ()
        return outline[index].mid if 0 <= index < len(outline) else ""
