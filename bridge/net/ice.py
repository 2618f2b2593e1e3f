"""Where ICE looks for a way to the peer: local interfaces, STUN and TURN servers (RFC 8445).

aioice chooses its local addresses and ports by itself, knows one STUN and one TURN server, and says nothing about those
that do not work. `gather_with` replaces its gathering for one connection, and this file is the only place that does.
"""

import asyncio
import copy
import errno
import ipaddress
import random
import socket
import ssl
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aioice.ice
import ifaddr
import structlog
from aioice import Candidate, Connection, stun, turn
from aioice.candidate import candidate_foundation, candidate_priority
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
    "aioice.ice:server_reflexive_candidate",
    "aioice.candidate:candidate_foundation",
    "aioice.candidate:candidate_priority",
    "aioice.stun:TransactionFailed",
    "aioice.turn:UDP_SOCKET_BUFFER_SIZE",
    "aiortc.rtcicetransport:candidate_from_aioice",
    "aiortc.rtcicetransport:connection_kwargs",
    "aiortc.rtcicetransport:parse_stun_turn_uri",
    "aiortc.sdp:candidate_to_sdp",
)

_SCHEMES = frozenset({"stun", "stuns", "turn", "turns"})
# A TURN server over TLS has answered after five round trips: TCP, TLS, two requests to allocate, and one for a lost
# packet, at 600 ms. What has not answered by then is blocked on this way.
SERVER_TIMEOUT_S = 3.0
# Once there is a relay, others are waited for this much longer: a firewall that lets one way through blocks the next
# without a word.
FURTHER_RELAYS_S = 0.5
# UDP, TCP and TLS of one server: whatever a firewall leaves.
MAX_RELAYS = 3

# Of equal pairs ICE tries the one that was there first. A relay over UDP adds the least delay; one over TLS passes the
# most firewalls.
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
    public_address  what host candidates of its family say in place of their own: a NAT maps it to us one to one, ports
                    included. None: there is none.
    udp_ports   for the sockets of host candidates, one for each connection and address. None: any free ones.
    policy      judges the addresses and the servers that a far end names, which is a stranger's. None: it is not.
    """

    interfaces: tuple[str, ...] = ()
    servers: tuple[IceServer, ...] = ()
    public_address: str | None = None
    udp_ports: range | None = None
    policy: UrlPolicy | None = None

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

    def may_reach(self, address: str) -> bool:
        """Whether ICE may try this address of a far end's."""
        try:
            if self.policy is not None:
                self.policy.check_address(address)
        except UrlRefused:
            return False
        return True

    async def trusted(self, named: Sequence[IceServer]) -> Sequence[IceServer]:
        """What may be asked of the servers that a far end, or who configured it, has named."""
        return named if self.policy is None else await judged(named, self.policy)

    def rtc_servers(self, from_service: Sequence[IceServer] = ()) -> list[RTCIceServer]:
        """The servers that can be used, relays first; what is none for us is left out.

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


class PortsTaken(Exception):
    """No port of the range is free. The message says what to do."""


def limit_to_addresses(connection: Connection, addresses: Sequence[str]) -> None:
    """Make an ICE connection that has not gathered yet take these host addresses, and ask no server."""
    gather_with(connection, IceSettings(), (), addresses)


def gather_with(
    connection: Connection,
    settings: IceSettings,
    servers: Sequence[RTCIceServer],
    chosen: Sequence[str] | None = None,
) -> None:
    """Make an ICE connection that has not gathered yet do it as the settings say; on the chosen addresses, None: on
    aioice's choice.

    Gathering then raises PortsTaken; a server that does not work is a warning that names it.
    """

    async def gather_here(component: int, addresses: Sequence[str], **_: Any) -> list[Candidate]:
        here = addresses if chosen is None else chosen
        return await _gather(connection, component, here, settings, servers)

    # On the instance: two peers of one process may differ.
    setattr(connection, "get_component_candidates", gather_here)  # noqa: B010  mypy refuses to assign to a method


async def add_relays(connection: Connection, servers: Sequence[RTCIceServer]) -> list[str]:
    """Relayed candidates on TURN servers that became known after gathering, as attributes for the far end.

    Each is tried with the far end's candidates as soon as it is there, also while the connection is being made.
    """

    async def add(server: RTCIceServer) -> Candidate:
        relay = await _relay(connection, 1, server)
        for remote in connection._remote_candidates:
            connection._pair_remote_candidate(remote)
        connection.sort_check_list()
        return relay

    relays = await _ask([(server, add(server)) for server in _relays(servers)])
    return [f"candidate:{candidate_to_sdp(candidate_from_aioice(relay))}" for relay in relays]


async def _gather(
    connection: Connection,
    component: int,
    addresses: Sequence[str],
    settings: IceSettings,
    servers: Sequence[RTCIceServer],
) -> list[Candidate]:
    """Host candidates, and with what the servers answer in time server-reflexive and relayed ones."""
    hosts: list[aioice.ice.StunProtocol] = []
    is_exhausted = False
    for address in addresses:
        try:
            hosts.append(await _bind(connection, component, address, settings.udp_ports))
        except PortsTaken as error:
            is_exhausted = True
            log.warning("ice_ports_taken", error=str(error))
        except OSError as error:
            log.info("ice_address_unusable", address=address, error=error.strerror)
    if is_exhausted and not hosts:
        raise PortsTaken(f"ice.udp_ports: every port of {_shown(settings.udp_ports)} is in use: widen the range")
    own = [_announced(host.local_candidate, settings.public_address) for host in hosts]
    # One is enough, for it tells an address that no other would tell differently; aioice asks over IPv4.
    telling = [server for server in servers if "stun_server" in connection_kwargs([server])][:1]
    in_ipv4 = [host for host in hosts if ":" not in host.local_candidate.host]
    reflexive, relayed = await asyncio.gather(
        _ask([(server, _reflexive(host, server)) for server in telling for host in in_ipv4]),
        _ask([(server, _relay(connection, component, server)) for server in _relays(servers)]),
    )
    return [*own, *reflexive, *relayed]


async def _bind(connection: Connection, component: int, address: str, ports: range | None) -> aioice.ice.StunProtocol:
    """A socket for a host candidate. Raises OSError, PortsTaken."""
    # Not in turn: far ends and NATs remember for a while who had a port before.
    tried = [0] if ports is None else random.sample(ports, len(ports))
    loop = asyncio.get_running_loop()
    for port in tried:
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: aioice.ice.StunProtocol(connection), local_addr=(address, port)
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE and ports is not None:
                continue
            raise
        connection._protocols.append(protocol)
        opened = transport.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, turn.UDP_SOCKET_BUFFER_SIZE)
        host, bound = transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = Candidate(
            candidate_foundation("host", "udp", host),
            component,
            "udp",
            candidate_priority(component, "host"),
            host,
            bound,
            "host",
        )
        return protocol
    raise PortsTaken(f"ice.udp_ports: every port of {_shown(ports)} is in use on {address}")


def _announced(candidate: Candidate, public_address: str | None) -> Candidate:
    """A host candidate as the far end is to know it."""
    if public_address is None or (":" in public_address) != (":" in candidate.host):
        return candidate
    announced = copy.copy(candidate)
    announced.host = public_address
    return announced


def _shown(ports: range | None) -> str:
    return f"{ports[0]}-{ports[-1]}" if ports else ""


def _relays(servers: Sequence[RTCIceServer]) -> list[RTCIceServer]:
    return [server for server in servers if "turn_server" in connection_kwargs([server])][:MAX_RELAYS]


async def _ask(asked: Sequence[tuple[RTCIceServer, Coroutine[Any, Any, Candidate]]]) -> list[Candidate]:
    """The candidates that servers give in time, in their order; each server that gives none is named in a warning."""
    if not asked:
        return []
    tasks = [(str(server.urls), asyncio.create_task(asking)) for server, asking in asked]
    waiting = {task for _, task in tasks}
    loop = asyncio.get_running_loop()
    until_s = loop.time() + SERVER_TIMEOUT_S
    try:
        while waiting and (left_s := until_s - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in done):
                until_s = min(until_s, loop.time() + FURTHER_RELAYS_S)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    found = {url for url, task in tasks if not task.cancelled() and task.exception() is None}
    failed = {url: task for url, task in tasks if url not in found}
    for url, task in failed.items():
        log.warning("ice_server_unusable", server=url, error=_explain(None if task.cancelled() else task.exception()))
    return [task.result() for url, task in tasks if not task.cancelled() and task.exception() is None]


def _explain(error: BaseException | None) -> str:
    """Why a server is of no use, and who has to do what."""
    match error:
        case None | TimeoutError() | stun.TransactionTimeout():
            return f"it does not answer within {SERVER_TIMEOUT_S:g} s: it is away, or a firewall blocks the way to it"
        case stun.TransactionFailed():
            code, words = error.response.attributes.get("ERROR-CODE", (0, ""))
            advice = ": check username and credential" if code in (401, 403, 441) else ""
            return f"it refuses ({code} {words}){advice}"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted by this system's authorities: {error.verify_message}"
        case ConnectionRefusedError():
            return "nobody listens at this address"
        case ssl.SSLError():
            return f"TLS failed ({error.reason}): does the port take it?"
        case socket.gaierror():
            return f"its name cannot be resolved: {error.strerror}"
        case _:
            return str(error) or type(error).__name__


async def _reflexive(host: aioice.ice.StunProtocol, server: RTCIceServer) -> Candidate:
    candidate, _ = await aioice.ice.server_reflexive_candidate(host, connection_kwargs([server])["stun_server"])
    return candidate


async def _relay(connection: Connection, component: int, server: RTCIceServer) -> Candidate:
    options = connection_kwargs([server])
    if options["turn_ssl"]:
        # Reading the system's certificates takes long enough to be heard in other sessions.
        options["turn_ssl"] = await asyncio.to_thread(ssl.create_default_context)
    candidate, protocol = await aioice.ice.relayed_candidate(
        component=component,
        hide_related_address=False,
        protocol_factory=lambda: aioice.ice.StunProtocol(connection),
        **options,
    )
    connection._protocols.append(protocol)
    return candidate


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
