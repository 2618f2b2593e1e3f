"""What the server knows of the services that it imitates."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from bridge.local_avatar.options import LocalAvatarOptions
from bridge.net.ice import IceSettings

if TYPE_CHECKING:  # services without a REST interface need not import what serves one
    from starlette.routing import BaseRoute


# Serves a client of a WebSocket until that one has left.
Handler = Callable[[ServerConnection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class House:
    """What all services have in common.

    stun_port  where clients are told their address, on the host that they reached.
    tasks      end with the server.
    """

    options: LocalAvatarOptions
    ice: IceSettings
    stun_port: int
    tasks: asyncio.TaskGroup


class Service(Protocol):
    """One service of the cloud, for any number of clients.

    sockets  who serves its WebSockets, by a pattern for the end of the path.
    routes   of its REST interface, if it has one.
    """

    @property
    def sockets(self) -> Mapping[str, Handler]: ...

    @property
    def routes(self) -> "Sequence[BaseRoute]": ...

    def urls(self, sockets: str, web: str) -> Sequence[str]:
        """What a client is configured with; `sockets` and `web` are where the two listen, as ws://… and http://…, from
        now on.
        """


@runtime_checkable
class Doorkeeper(Protocol):
    """A service that refuses clients before their WebSocket is open."""

    def refusal(self, request: Request) -> tuple[HTTPStatus, str] | None:
        """Why a client is not let in; None: it is."""
