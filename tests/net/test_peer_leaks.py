"""What opening and closing peers leaves behind: nothing."""

import asyncio
import gc
import os
import threading
from typing import Any

import pytest
from aioice import Connection
from aiortc import RTCDtlsParameters, RTCDtlsTransport

from bridge.media.access_unit import Codec
from bridge.net.peer import ReceivingPeer, SendingPeer
from tests.net.loopback import LOOPBACK, PATIENCE_S, Tracks, negotiate


def open_files() -> set[str]:
    """Sockets, pipes and files; numbers alone would name one that was closed and another that was opened alike."""
    files = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            files.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # the directory that is being listed
    return files


def timers() -> int:
    loop = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]


async def one_life(index: int) -> None:
    tracks = Tracks()
    async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving, SendingPeer(LOOPBACK, lambda: None) as sending:
        if index % 4 == 3:
            await receiving.accept(await sending.answer(await receiving.offer()))
        else:
            await negotiate(sending, receiving)
        if index % 4 == 0:
            return  # closed while it connects
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
        video = await tracks.sink("video")
        sending.send_video([b"\x41x"], 0)
        await video.arrived(1)
        video.track.feedback.send_pli()
        if index % 4 == 2:
            await sending.accept(await receiving.answer(await sending.renegotiate()))


async def test_twenty_pairs_leave_no_task_socket_timer_or_thread() -> None:
    await one_life(1)  # what is made once for the process
    gc.collect()
    before = asyncio.all_tasks(), open_files(), threading.enumerate(), timers()
    for index in range(20):
        await one_life(index)
    async with asyncio.timeout(PATIENCE_S):
        while tasks := asyncio.all_tasks() - before[0]:
            await asyncio.wait(tasks)
    gc.collect()
    assert open_files() == before[1]
    assert threading.enumerate() == before[2]
    assert timers() <= before[3]


async def test_peers_that_only_offered_leave_nothing() -> None:
    before = asyncio.all_tasks(), open_files()
    for codec in (Codec.H264, Codec.VP8):
        async with SendingPeer(LOOPBACK, lambda: None, codec=codec) as sending:
            await sending.offer(candidates=False)
        async with ReceivingPeer(LOOPBACK, Tracks().on_track) as receiving:
            await receiving.offer()
    await asyncio.sleep(0)
    gc.collect()
    assert (asyncio.all_tasks(), open_files()) == before


async def test_a_peer_that_is_closed_within_the_dtls_hand_shake_leaves_no_failed_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both_shake_hands, is_closing = asyncio.Event(), asyncio.Event()
    shaking = set()
    close_ice = Connection.close

    async def start(transport: RTCDtlsTransport, parameters: RTCDtlsParameters) -> None:
        shaking.add(transport)
        if len(shaking) == 2:
            both_shake_hands.set()
        await is_closing.wait()

    async def close(connection: Connection) -> None:
        if both_shake_hands.is_set():  # those that bundling leaves over are closed before
            is_closing.set()
            for _ in range(3):  # who has waited for it goes on
                await asyncio.sleep(0)
        await close_ice(connection)

    monkeypatch.setattr(RTCDtlsTransport, "start", start)
    monkeypatch.setattr(Connection, "close", close)
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    before = asyncio.all_tasks()
    async with (
        ReceivingPeer(LOOPBACK, Tracks().on_track) as receiving,
        SendingPeer(LOOPBACK, lambda: None) as sending,
    ):
        await negotiate(sending, receiving)
        async with asyncio.timeout(PATIENCE_S):
            await both_shake_hands.wait()
    async with asyncio.timeout(PATIENCE_S):
        while tasks := asyncio.all_tasks() - before:
            await asyncio.wait(tasks)
    del tasks
    gc.collect()
    assert not failures


@pytest.mark.parametrize("moment_ms", range(0, 60, 3))
async def test_a_peer_that_is_closed_just_as_it_connects_asks_for_no_consent_afterwards(moment_ms: int) -> None:
    before = asyncio.all_tasks()
    async with (
        ReceivingPeer(LOOPBACK, Tracks().on_track) as receiving,
        SendingPeer(LOOPBACK, lambda: None) as sending,
    ):
        await negotiate(sending, receiving)
        await asyncio.sleep(moment_ms / 1000)
    for _ in range(3):  # what was cancelled ends
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if "query_consent" in repr(task.get_coro())]
    assert not left
