"""Remote procedure calls between participants of a LiveKit room, for both ends."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping

from livekit.protocol import models

from bridge.errors import ProviderUnavailable
from bridge.net.race import in_time
from bridge.protocols.livekit_data import MAX_RPC_BYTES, RpcCode, rpc_ack, rpc_error, rpc_request, rpc_response

# What LiveKit's own clients wait for the word that a call has arrived, and for its result (rpc/client.rs).
ACK_TIMEOUT_S = 7.0
RESULT_TIMEOUT_S = 15.0
# Calls of a far end that answers none would pile up.
MAX_CALLS = 32


class RpcFailed(ProviderUnavailable):
    """A call came to nothing.

    code  an `RpcCode`, or an application's own number.
    """

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method} failed: {message or code} ({code})", reason="rpc")
        self.code = code


class RpcEndpoint:
    """Calls procedures of others, and answers calls.

    send      queues a packet on the reliable channel.
    handlers  by method: gets the caller's identity and the payload, gives the result. Never waits.
    """

    def __init__(
        self, send: Callable[[models.DataPacket], None], handlers: Mapping[str, Callable[[str, str], str]]
    ) -> None:
        self._send = send
        self._handlers = handlers
        self._calls: dict[str, _Call] = {}

    async def call(self, destination: str, method: str, payload: str = "") -> str:
        """Raises RpcFailed, and ProviderUnavailable where nothing can be sent."""
        if len(self._calls) >= MAX_CALLS:
            raise RpcFailed(method, RpcCode.SEND_FAILED, f"{MAX_CALLS} calls wait for their answers")
        call_id, call = secrets.token_hex(16), _Call()
        self._calls[call_id] = call
        try:
            timeout_ms = round((RESULT_TIMEOUT_S - ACK_TIMEOUT_S) * 1000)
            self._send(rpc_request(call_id, destination, method, payload, timeout_ms))
            if not await in_time(call.is_acknowledged, ACK_TIMEOUT_S):
                raise RpcFailed(method, RpcCode.CONNECTION_TIMEOUT, "nobody has taken the call")
            if not await in_time(call.is_answered, RESULT_TIMEOUT_S):
                raise RpcFailed(method, RpcCode.RESPONSE_TIMEOUT, "no answer")
        finally:
            del self._calls[call_id]
        response = call.response
        assert response is not None
        if response.HasField("error"):
            raise RpcFailed(method, response.error.code, response.error.message[:200])
        return response.payload

    def take(self, packet: models.DataPacket) -> None:
        """A packet has come; those that are no part of a call are ignored."""
        match packet.WhichOneof("value"):
            case "rpc_request":
                self._answer(packet.participant_identity, packet.rpc_request)
            case "rpc_ack":
                if call := self._calls.get(packet.rpc_ack.request_id):
                    call.is_acknowledged.set()
            case "rpc_response":
                if call := self._calls.get(packet.rpc_response.request_id):
                    call.response = packet.rpc_response
                    # An answer says that the call has arrived, whichever of both came first.
                    call.is_acknowledged.set()
                    call.is_answered.set()

    def _answer(self, caller: str, request: models.RpcRequest) -> None:
        self._reply(rpc_ack(request.id, caller))
        handler = self._handlers.get(request.method)
        if request.version != 1:
            self._reply(rpc_error(request.id, caller, RpcCode.UNSUPPORTED_VERSION))
        elif handler is None:
            self._reply(rpc_error(request.id, caller, RpcCode.UNSUPPORTED_METHOD))
        elif len(request.payload) > MAX_RPC_BYTES:
            self._reply(rpc_error(request.id, caller, RpcCode.REQUEST_TOO_LARGE))
        else:
            self._reply(rpc_response(request.id, caller, handler(caller, request.payload)))

    def _reply(self, packet: models.DataPacket) -> None:
        # Calls come over one connection and answers go over another, which may not be up yet: the caller's own deadline
        # tells it. Raised in what receives, it would end the connection that carries the media.
        with contextlib.suppress(ProviderUnavailable):
            self._send(packet)


class _Call:
    def __init__(self) -> None:
        self.is_acknowledged, self.is_answered = asyncio.Event(), asyncio.Event()
        self.response: models.RpcResponse | None = None
