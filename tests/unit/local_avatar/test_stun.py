"""The STUN server tells the address that a request came from, and answers nothing else."""

import pytest
from aioice import stun

from bridge.local_avatar.stun import StunServer, answer_binding

TRANSACTION = b"0123456789ab"


def request(kind: stun.Class = stun.Class.REQUEST) -> bytes:
    return bytes(stun.Message(stun.Method.BINDING, kind, transaction_id=TRANSACTION))


@pytest.mark.parametrize("address", [("127.0.0.1", 40_000), ("2001:db8::7", 1)])
def test_the_answer_holds_the_address_of_who_asks(address: tuple[str, int]) -> None:
    answer = stun.parse_message(answer_binding(request(), *address))
    assert (answer.message_method, answer.message_class) == (stun.Method.BINDING, stun.Class.RESPONSE)
    assert answer.transaction_id == TRANSACTION
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == address


@pytest.mark.parametrize(
    "datagram",
    [b"", bytes(20), request()[:-1], request() + b"\0", request(stun.Class.INDICATION)],
    ids=["empty", "zeros", "short", "long", "indication"],
)
def test_anything_else_is_not_answered(datagram: bytes) -> None:
    assert answer_binding(datagram, "127.0.0.1", 1) == b""


def test_the_server_answers_where_the_request_came_from() -> None:
    class Transport:
        def __init__(self) -> None:
            self.sent: list[tuple[bytes, tuple[str, int]]] = []

        def sendto(self, data: bytes, address: tuple[str, int]) -> None:
            self.sent.append((data, address))

    transport, server = Transport(), StunServer()
    server.connection_made(transport)  # type: ignore[arg-type]
    for datagram in (b"noise", request()):
        server.datagram_received(datagram, ("127.0.0.1", 9))
    assert transport.sent == [(answer_binding(request(), "127.0.0.1", 9), ("127.0.0.1", 9))]
