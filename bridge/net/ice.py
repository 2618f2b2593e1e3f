"""Where ICE looks for a way to the peer: local interfaces, STUN and TURN servers (RFC 8445).

aioice has no setting for its local addresses: it takes all but loopback. `limit_to_addresses` gives one connection
another choice, and this file is the only place that does.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import aioice.ice
import ifaddr
import structlog
from aioice import Candidate, Connection
from aiortc import RTCIceServer
from aiortc.rtcicetransport import candidate_from_aioice, connection_kwargs, parse_stun_turn_uri
from aiortc.sdp import candidate_to_sdp

from bridge.errors import ConfigError
from bridge.net.url_policy import PinnedUrl, UrlPolicy, UrlRefused
from bridge.redact import Secret

PRIVATE_NAMES = (
    "aioice.ice:Connection._pair_remote_candidate",
    "aioice.ice:Connection._protocols",
    "aioice.ice:Connection._remote_candidates",
    "aioice.ice:Connection.get_component_candidates",
    "aioice.ice:Connection.sort_check_list",
    "aioice.ice:StunProtocol",
    "aioice.ice:relayed_candidate",
    "aiortc.rtcicetransport:candidate_from_aioice",
    "aiortc.rtcicetransport:connection_kwargs",
    "aiortc.rtcicetransport:parse_stun_turn_uri",
    "aiortc.sdp:candidate_to_sdp",
)

_SCHEMES = frozenset({"stun", "stuns", "turn", "turns"})
# A TURN server answers in two round trips; what has not answered by then is blocked on this way.
RELAY_TIMEOUT_S = 5.0
# UDP, TCP and TLS of one server: whatever a firewall leaves.
MAX_LATE_RELAYS = 3

# aiortc uses the first STUN and the first TURN server of its list. A relay over UDP adds the least delay; one over
# TLS passes the most firewalls, which is for the operator to ask for by listing nothing else.
_PREFERENCE = {("turn", "udp"): 0, ("turn", "tcp"): 1, ("turns", "tcp"): 2, ("stun", None): 3}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IceServer:
    """STUN or TURN server, as services hand them out (W3C RTCIceServer).

    urls  one server under several addresses: `turn:host:port?transport=udp`, `stun:host` (RFC 7064, RFC 7065).
    """

    urls: tuple[str, ...]
    username: str = ""
    credential: Secret | None = None


@dataclass(frozen=True, slots=True)
class IceSettings:
    """What the operator says about ICE.

    interfaces  names whose addresses become host candidates; empty: all addresses but loopback. `("lo",)` keeps every
                packet on this machine.
    servers     used beside those that a service sends.
    """

    interfaces: tuple[str, ...] = ()
    servers: tuple[IceServer, ...] = ()

    def host_addresses(self) -> list[str] | None:
        """Addresses for host candidates, None for aioice's own choice. Raises ConfigError on an unknown interface."""
        if not self.interfaces:
            return None
        adapters = {adapter.name: adapter for adapter in ifaddr.get_adapters()}
        addresses: list[str] = []
        for name in self.interfaces:
            if name not in adapters:
                raise ConfigError(f"ice.interfaces: there is no interface {name!r}, only {', '.join(sorted(adapters))}")
            for ip in adapters[name].ips:
                if isinstance(ip.ip, str):
                    addresses.append(ip.ip)
                elif ip.ip[2] == 0:  # a scoped (link-local) address cannot be bound by its text alone
                    addresses.append(ip.ip[0])
        return addresses

    def rtc_servers(self, from_service: Sequence[IceServer] = ()) -> list[RTCIceServer]:
        """The servers that aiortc can use, relays first; what it would refuse is left out.

        On loopback alone only servers on loopback remain: any other would be asked from another interface.
        """
        addresses = self.host_addresses()
        is_loopback_only = addresses is not None and all(ipaddress.ip_address(a).is_loopback for a in addresses)
        ranked: list[tuple[int, RTCIceServer]] = []
        for server in (*from_service, *self.servers):
            for url in server.urls:
                rank = _rank(url, is_loopback_only)
                if rank is not None:
                    credential = server.credential.reveal() if server.credential else None
                    ranked.append((rank, RTCIceServer(url, server.username or None, credential)))
        ranked.sort(key=lambda pair: pair[0])
        return [server for _, server in ranked]


async def judged(servers: Sequence[IceServer], policy: UrlPolicy) -> list[IceServer]:
    """Servers that strangers have named: what `policy` lets through, with the address it saw in the name's place."""
    kept: list[IceServer] = []
    for server in servers:
        urls: list[str] = []
        for url in server.urls:
            try:
                urls.append(_pinned(await policy.check(url, schemes=_SCHEMES)))
            except (UrlRefused, OSError) as error:
                log.warning("ice_server_refused", error=str(error))
        if urls:
            kept.append(replace(server, urls=tuple(urls)))
    return kept


def _pinned(url: PinnedUrl) -> str:
    if url.scheme == "turns":
        # aioice verifies the certificate for the host in the URL, so the name stays and is resolved again. A neighbour
        # that it leads to by then has no certificate for it.
        return url.url
    # aiortc reads no IPv6 address in a URL; where there is no other, `rtc_servers` leaves the URL out.
    address = next((a for a in url.addresses if ":" not in a), f"[{url.addresses[0]}]")
    _, question_mark, query = url.url.partition("?")
    return f"{url.scheme}:{address}:{url.port}{question_mark}{query}"


def limit_to_addresses(connection: Connection, addresses: Sequence[str]) -> None:
    """Make an ICE connection that has not gathered yet take these host addresses instead of aioice's choice."""

    async def gather_here(component: int, **_: Any) -> list[Candidate]:
        return await Connection.get_component_candidates(connection, component, list(addresses))

    # On the instance: two peers of one process may differ.
    setattr(connection, "get_component_candidates", gather_here)  # noqa: B010  mypy refuses to assign to a method


async def add_relays(connection: Connection, servers: Sequence[RTCIceServer]) -> list[str]:
    """Relayed candidates on TURN servers that became known after gathering, as attributes for the far end.

    Each is tried with the far end's candidates as soon as it is there, also while the connection is being made.
    """
    relays = [options for server in servers if "turn_server" in (options := connection_kwargs([server]))]
    tasks = [asyncio.create_task(_add_relay(connection, options)) for options in relays[:MAX_LATE_RELAYS]]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, timeout=RELAY_TIMEOUT_S)
        return [task.result() for task in tasks if task.done() and task.exception() is None]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _add_relay(connection: Connection, options: dict[str, Any]) -> str:
    candidate, protocol = await aioice.ice.relayed_candidate(
        component=1,
        hide_related_address=False,
        protocol_factory=lambda: aioice.ice.StunProtocol(connection),
        **options,
    )
    connection._protocols.append(protocol)
    for remote in connection._remote_candidates:
        connection._pair_remote_candidate(remote)
    connection.sort_check_list()
    return f"candidate:{candidate_to_sdp(candidate_from_aioice(candidate))}"


def _rank(url: str, is_loopback_only: bool) -> int | None:
    try:
        parsed = parse_stun_turn_uri(url)
    except ValueError:
        return None
    if is_loopback_only and not _is_loopback(parsed["host"]):
        return None
    return _PREFERENCE.get((parsed["scheme"], parsed.get("transport")))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
