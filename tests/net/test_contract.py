"""The names inside aiortc, aioice and pylibsrtp that `bridge.net` relies on: each is pinned here and missed by name."""

import ast
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from pylibsrtp import Session

import bridge.net
from bridge.net.aiortc_sender import EncodedSender
from bridge.net.guard import GuardedProtocol, UnguardedProtocol

PACKAGE = Path(bridge.__file__).parent
NET = PACKAGE / "net"


def pinned_names() -> list[str]:
    names: set[str] = set()
    for module in pkgutil.iter_modules([str(NET)]):
        names.update(getattr(importlib.import_module(f"bridge.net.{module.name}"), "PRIVATE_NAMES", ()))
    return sorted(names)


@pytest.fixture
async def instances() -> AsyncIterator[dict[str, Any]]:
    """One real object per class, as a fresh connection makes them: attributes set in `__init__` are on no class."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = pc.addTransceiver("video", "recvonly")
    dtls = transceiver.receiver.transport
    connection = dtls.transport._connection
    yield {
        "RTCPeerConnection": pc,
        "RTCRtpTransceiver": transceiver,
        "RTCRtpSender": transceiver.sender,
        "RTCRtpReceiver": transceiver.receiver,
        "RTCDtlsTransport": dtls,
        "RtpRouter": dtls._rtp_router,
        "RTCIceTransport": dtls.transport,
        "RTCIceGatherer": dtls.transport.iceGatherer,
        "Connection": connection,
        "StunProtocol": UnguardedProtocol(connection),
        "Session": Session(),
    }
    await pc.close()


@pytest.mark.parametrize("name", pinned_names())
async def test_a_name_relied_on_exists(name: str, instances: dict[str, Any]) -> None:
    module_name, _, path = name.partition(":")
    top, _, attribute = path.partition(".")
    found = getattr(importlib.import_module(module_name), top, None)
    is_there = found is not None and (
        not attribute or hasattr(found, attribute) or hasattr(instances.get(top), attribute)
    )
    assert is_there, f"{module_name} has no {path} any more, which bridge.net relies on"


def test_the_pinned_versions_are_the_ones_installed() -> None:
    assert (version("aiortc"), version("aioice")) == ("1.16.0", "0.13.0")


async def test_the_encoded_sender_has_all_that_a_connection_asks_of_a_sender(instances: dict[str, Any]) -> None:
    # Everything RTCPeerConnection, RTCRtpTransceiver and RTCDtlsTransport read from `.sender` or `self.__sender`.
    for name in ("_ssrc", "_rtx_ssrc", "_stream_id", "_track_id", "_enabled", "track"):
        assert hasattr(instances["RTCRtpSender"], name), f"RTCRtpSender has no {name} any more"
    for name in ("send", "stop", "getStats", "setTransport", "_handle_rtcp_packet"):
        assert callable(getattr(EncodedSender, name, None)), f"EncodedSender lacks {name}"


def test_every_ice_socket_of_the_process_is_guarded() -> None:
    assert importlib.import_module("aioice.ice").StunProtocol is GuardedProtocol


def sources(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


def test_nothing_outside_net_touches_aiortc_or_aioice() -> None:
    offenders = []
    for path, tree in sources(PACKAGE):
        if NET in path.parents:
            continue
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if any(module.split(".")[0] in ("aiortc", "aioice") for module in modules):
                offenders.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert offenders == []


def test_every_private_attribute_that_net_touches_is_pinned() -> None:
    pinned = {name.rpartition(".")[2] for name in pinned_names()}
    offenders = []
    for path, tree in sources(NET):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
                and node.attr not in pinned
            ):
                offenders.append(f"{path.name}:{node.lineno} {node.attr}")
    assert offenders == []
