"""How many wrong tokens a client may show, so that guessing and noise have a price."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

# An operator with the wrong file, and a dashboard beside it that asks every second.
BURST = 20
# Then one in this time. A token of 16 characters has 2^96 values: what is limited is noise and load.
REGAIN_S = 3.0
# Some 300 bytes each: 1.2 MiB, whoever comes from however many addresses. The one that failed longest ago makes room.
MOST_CLIENTS = 4096


class Guesses:
    """Wrong tokens by client: of IPv4 an address, of IPv6 a network of 64 bits, which one household has to itself.

    The same one again is no guess: it is a dashboard that asks every second with a token that is no more.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # When the last of its wrong tokens will be forgotten, and that one; the client that failed last is at the end.
        self._settled: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def wait_s(self, host: str) -> float:
        """How long this client has to wait before its next token is looked at; 0 if it need not."""
        settled_s, _ = self._settled.get(_client(host), (-math.inf, b""))
        return max(0.0, settled_s - self._now_s() - (BURST - 1) * REGAIN_S)

    def count(self, host: str, token: bytes) -> None:
        """It has shown a wrong one, of which this is a digest."""
        client, now_s = _client(host), self._now_s()
        settled_s, last = self._settled.get(client, (now_s, b""))
        if token == last:
            return
        self._settled[client] = max(now_s, settled_s) + REGAIN_S, token
        self._settled.move_to_end(client)
        if len(self._settled) > MOST_CLIENTS:
            self._settled.popitem(last=False)


def _client(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # no network between us
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
