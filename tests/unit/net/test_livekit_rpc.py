"""Remote procedure calls, with both ends in one place."""

import asyncio
from collections.abc import Callable

import pytest
from livekit.protocol import models

from bridge.errors import ProviderUnavailable
from bridge.net import livekit_rpc
from bridge.net.livekit_rpc import MAX_CALLS, RpcEndpoint, RpcFailed
from bridge.protocols.livekit_data import RpcCode


def pair(
    handlers: dict[str, Callable[[str, str], str]] | None = None,
    drops: Callable[[models.DataPacket], bool] = lambda packet: False,
) -> tuple[RpcEndpoint, RpcEndpoint]:
    """One that calls as `us`, one that answers as `worker`."""

    def to(receive: Callable[[models.DataPacket], None], sender: str) -> Callable[[models.DataPacket], None]:
        def send(packet: models.DataPacket) -> None:
            packet.participant_identity = sender
            if not drops(packet):
                asyncio.get_running_loop().call_soon(receive, packet)

        return send

    us = RpcEndpoint(lambda packet: to(worker.take, "us")(packet), {})
    worker = RpcEndpoint(lambda packet: to(us.take, "worker")(packet), handlers or {})
    return us, worker


async def test_a_call_gives_what_the_other_end_answers() -> None:
    us, _ = pair({"greet": lambda caller, payload: f"{caller} said {payload}"})
    assert await us.call("worker", "greet", "hello") == "us said hello"


async def test_a_method_that_nobody_knows_is_an_error_with_its_code() -> None:
    us, _ = pair()
    with pytest.raises(RpcFailed) as caught:
        await us.call("worker", "lk.clear_buffer")
    assert caught.value.code == RpcCode.UNSUPPORTED_METHOD


async def test_an_answer_without_the_word_before_it_will_do() -> None:
    us, _ = pair({"m": lambda caller, payload: "ok"}, drops=lambda packet: packet.HasField("rpc_ack"))
    assert await us.call("worker", "m") == "ok"


@pytest.mark.parametrize(
    "lost, code",
    [("rpc_request", RpcCode.CONNECTION_TIMEOUT), ("rpc_response", RpcCode.RESPONSE_TIMEOUT)],
)
async def test_a_call_ends_when_nothing_comes(lost: str, code: RpcCode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit_rpc, "ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(livekit_rpc, "RESULT_TIMEOUT_S", 0.06)
    us, _ = pair({"m": lambda caller, payload: "ok"}, drops=lambda packet: packet.HasField(lost))  # type: ignore[arg-type]
    with pytest.raises(RpcFailed) as caught:
        await us.call("worker", "m")
    assert caught.value.code == code


async def test_calls_that_wait_are_bounded() -> None:
    us, _ = pair(drops=lambda packet: True)
    waiting = [asyncio.create_task(us.call("worker", "m")) for _ in range(MAX_CALLS)]
    await asyncio.sleep(0)
    with pytest.raises(RpcFailed, match="wait"):
        await us.call("worker", "m")
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


def test_an_answer_to_no_call_is_ignored() -> None:
    us = RpcEndpoint(lambda packet: None, {})
    us.take(models.DataPacket(rpc_response=models.RpcResponse(request_id="x", payload="y")))
    us.take(models.DataPacket(rpc_ack=models.RpcAck(request_id="x")))


def test_a_call_of_a_version_that_nobody_here_speaks_is_refused() -> None:
    sent: list[models.DataPacket] = []
    us = RpcEndpoint(sent.append, {"m": lambda caller, payload: "ok"})
    us.take(models.DataPacket(rpc_request=models.RpcRequest(id="x", method="m", version=2)))
    assert sent[-1].rpc_response.error.code == RpcCode.UNSUPPORTED_VERSION


def test_a_call_is_heard_though_its_answer_cannot_be_sent() -> None:
    heard: list[str] = []

    def refuse(packet: models.DataPacket) -> None:
        raise ProviderUnavailable("the data channel is not open")

    us = RpcEndpoint(refuse, {"m": lambda caller, payload: heard.append(payload) or "ok"})  # type: ignore[func-returns-value]
    us.take(models.DataPacket(rpc_request=models.RpcRequest(id="x", method="m", payload="hello", version=1)))
    assert heard == ["hello"]
