"""Which URLs of strangers may be connected to: those in API calls, redirects, Location, Link and tcUrl.

Whoever makes us connect picks an address that we can reach and they cannot: this machine, its neighbours, the cloud's
metadata service (server-side request forgery). So scheme and port must be expected ones, a name is resolved once, every
address of it is judged, and the caller connects to what was judged, not to the name again (DNS rebinding).
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.errors import ConfigError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

RESOLVE_TIMEOUT_S = 5.0
MAX_URL_CHARACTERS = 4096

DEFAULT_PORTS: Mapping[str, int] = {
    **{"http": 80, "ws": 80, "whip+http": 80},
    **{"https": 443, "wss": 443, "whip+https": 443, "rtmps": 443},
    "rtmp": 1935,
    "rtsp": 554,
    "srt": 9000,  # by custom: its URLs always name a port
    **{"stun": 3478, "turn": 3478, "stuns": 5349, "turns": 5349},
}
# RFC 7064 and RFC 7065: no // before the host, and nothing but a query behind the port.
_WITHOUT_SLASHES = frozenset({"stun", "stuns", "turn", "turns"})
# Below 1024 live services of the system: mail, DNS, SMB. Above, these are refused that browsers do not speak HTTP to,
# because what listens there acts on lines of text (https://fetch.spec.whatwg.org/#port-blocking).
_LOW_PORTS = frozenset({80, 443})
_BAD_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
)

# Where clouds hand credentials to whoever asks from the machine. Never let through, whatever the file allows.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google, OpenStack and others
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google
            "169.254.170.2",  # AWS ECS
            "169.254.170.23",  # AWS EKS
            "fd00:ec2::23",  # AWS EKS
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "168.63.129.16",  # Azure's host agent
        ),
    )
)
# What is no public host, by the first network that fits: the IANA special-purpose registries (RFC 6890) and what they
# leave out. IPv6 is global only in 2000::/3.
_NOT_PUBLIC: Sequence[tuple[IpNetwork, str]] = tuple(
    (ipaddress.ip_network(network), kind)
    for kind, networks in {
        "this machine": "0.0.0.0/8 127.0.0.0/8 ::/127",
        "link-local": "169.254.0.0/16 fe80::/10",
        "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
        "shared by a provider's customers": "100.64.0.0/10",
        "multicast": "224.0.0.0/4 ff00::/8",
        "reserved": "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 "
        "2001:db8::/32 3fff::/20 5f00::/16",
        "another address in disguise": "::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2001::/32 "
        "2002::/16",
        "of no public host": "2001::/23 ::/3 4000::/2 8000::/1",
    }.items()
    for network in networks.split()
)
# IPv4 addresses inside IPv6 ones: where the 32 bits begin, counted from the left (RFC 4291 §2.5.5, RFC 2765 §2.1,
# RFC 6052 §2.1, RFC 3056 §2).
_DISGUISES: Sequence[tuple[ipaddress.IPv6Network, int]] = (
    (ipaddress.IPv6Network("::/96"), 96),
    (ipaddress.IPv6Network("::ffff:0:0/96"), 96),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 96),
    (ipaddress.IPv6Network("64:ff9b::/96"), 96),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 96),
    (ipaddress.IPv6Network("2002::/16"), 16),
)
_EVERYTHING: Sequence[IpNetwork] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))

_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
# https://url.spec.whatwg.org/#ends-in-a-number-checker: resolvers read such a name as an address, in many spellings.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


class UrlRefused(ConfigError):
    """A URL that must not be connected to. The message names its host at most."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says about where it leads. `host`: lower case, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PinnedUrl:
    """A URL that may be connected to, at these addresses and no others; `host` is for TLS and the Host header."""

    url: str = field(repr=False)
    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]


def parse_target(url: str, schemes: frozenset[str]) -> Target:
    """Where a URL leads, if it leads everybody to the same place. Raises UrlRefused.

    URL libraries disagree about what is malformed, so that is refused: one that judges and one that connects must not
    read different hosts.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise UrlRefused(f"has more than {MAX_URL_CHARACTERS} characters")
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise UrlRefused(
            "holds blanks, backslashes or other characters than ASCII; write an international name as xn--"
        )
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme not in schemes or scheme not in DEFAULT_PORTS:
        raise UrlRefused(f"must begin with {', '.join(f'{known}:' for known in sorted(schemes))}")
    if scheme not in _WITHOUT_SLASHES:
        if not rest.startswith("//"):
            raise UrlRefused(f"must be {scheme}://HOST")
        rest = rest[2:]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if authority.count("@") > 1:
        raise UrlRefused("has more than one @ before its path; write one in a password as %40")
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", authority.rpartition("@")[2].lower())
    if not match:
        raise UrlRefused("has a malformed host or port")
    port = int(match[3] or DEFAULT_PORTS[scheme])
    if port not in (*_LOW_PORTS, DEFAULT_PORTS[scheme]) and (port < 1024 or port > 65_535 or port in _BAD_PORTS):
        raise UrlRefused(f"port {port} is none that media or web servers use")
    return Target(scheme, _check_host(match[1], match[2]), port)


def _check_host(ipv6: str | None, name: str | None) -> str:
    if ipv6 is not None:
        try:
            return str(ipaddress.IPv6Address(ipv6))
        except ValueError:
            raise UrlRefused("has a malformed IPv6 address") from None
    host = (name or "").removesuffix(".")
    if _ENDS_IN_NUMBER.fullmatch(host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UrlRefused("an IPv4 address is written as four decimal numbers") from None
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise UrlRefused("has a malformed host name")
    return host


def why_not_public(address: IpAddress, allowed: Iterable[IpNetwork] = ()) -> str:
    """Why an address must not be connected to, as a word or two; empty: it may be.

    An address in another one's disguise has to be allowed in both shapes.
    """
    if address in _METADATA:
        return "a cloud's metadata service"
    inner = next(_disguised(address), None)
    if inner in _METADATA:
        return "a cloud's metadata service"
    allowed = tuple(allowed)
    if not any(address in network for network in allowed):
        for network, kind in _NOT_PUBLIC:
            if address in network:
                return kind
    return why_not_public(inner, allowed) if inner is not None else ""


def _disguised(address: IpAddress) -> Iterator[ipaddress.IPv4Address]:
    if int(address) > 1:  # :: and ::1 are themselves
        for network, first_bit in _DISGUISES:
            if address in network:
                yield ipaddress.IPv4Address(int(address) >> (96 - first_bit) & 0xFFFF_FFFF)


class UrlPolicy:
    """Judges URLs. `allow`: networks (CIDR), addresses and host names that the operator's file lets through."""

    def __init__(self, allow: Iterable[str] = (), *, resolve: Resolve | None = None) -> None:
        """Raises ConfigError for what is neither network nor name."""
        self._networks: list[IpNetwork] = []
        self._names: set[str] = set()
        self._resolve = resolve or _resolve
        for entry in allow:
            if (network := _network(entry)) is not None:
                self._networks.append(network)
            else:
                self._names.add(_checked_name(entry))

    async def check(self, url: str, *, schemes: frozenset[str]) -> PinnedUrl:
        """Raises UrlRefused; OSError, TimeoutError among them, if the name has no address for now."""
        target = parse_target(url, schemes)
        try:
            addresses: Sequence[str] = (str(ipaddress.ip_address(target.host)),)
        except ValueError:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                addresses = await self._resolve(target.host, target.port)
        for address in addresses:
            self._judge(target.host, address)
        if not addresses:
            raise OSError(f"{target.host} has no address")
        return PinnedUrl(url, target.scheme, target.host, target.port, tuple(addresses))

    def check_address(self, address: str) -> None:
        """Judge a bare address. Raises UrlRefused; ValueError for what is none."""
        self._judge(address, address)

    def _judge(self, host: str, address: str) -> None:
        allowed = _EVERYTHING if host in self._names else self._networks
        # A link-local address may come with the interface it belongs to.
        if kind := why_not_public(ipaddress.ip_address(address.partition("%")[0]), allowed):
            where = host if host == address else f"{host} has the address {address}, which"
            hint = "" if "metadata" in kind else "; url_policy.allow in the configuration would let it through"
            raise UrlRefused(f"{where} is {kind}{hint}")


def _network(entry: str) -> IpNetwork | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _checked_name(entry: str) -> str:
    name = entry.lower().removesuffix(".")
    if _ENDS_IN_NUMBER.fullmatch(name) or not _HOST_NAME.fullmatch(name):
        raise ConfigError(f"{entry} is neither a network such as 192.168.1.0/24 nor the name of a host")
    return name


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[4][0]) for address in found))
