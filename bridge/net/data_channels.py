"""Data channels of one peer connection, by their labels; aiortc's SCTP carries them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection
from aiortc.exceptions import InvalidStateError

from bridge.errors import ProviderUnavailable

# A third of a second of speech: what waits beyond it is not taken at the pace at which it is said.
LOW_WATER_BYTES = 16 * 1024
# A far end that takes nothing for this long has gone, or its network has.
SEND_TIMEOUT_S = 5.0


class DataChannels:
    """Sends and receives messages. `on_message` gets the label and what came, on the event loop.

    makes  the channels that this end opens, reliable and in order (True), or each message once and at once (False).
    """

    def __init__(self, on_message: Callable[[str, str | bytes], None], makes: Mapping[str, bool] | None = None) -> None:
        self._on_message = on_message
        self._makes = makes or {}
        self._channels: dict[str, RTCDataChannel] = {}
        self._is_open = asyncio.Event()

    def attach(self, connection: RTCPeerConnection) -> None:
        """Serve a connection that has not been described yet."""
        connection.on("datachannel", self._adopt)
        for label, is_reliable in self._makes.items():
            retransmits = None if is_reliable else 0
            self._adopt(connection.createDataChannel(label, maxRetransmits=retransmits, ordered=is_reliable))

    async def opened(self) -> None:
        """Wait until all channels that this end makes are open."""
        await self._is_open.wait()

    def is_open(self, label: str) -> bool:
        channel = self._channels.get(label)
        return channel is not None and channel.readyState == "open"

    def send(self, label: str, message: bytes) -> None:
        """Queue a message. Raises ProviderUnavailable where there is no such channel, or not any more."""
        channel = self._channels.get(label)
        try:
            if channel is not None:
                channel.send(message)
                return
        except InvalidStateError:
            pass
        raise ProviderUnavailable(f"the data channel {label} is not open", reason="media")

    async def drained(self, label: str) -> None:
        """Wait until little waits to be sent. Raises ProviderUnavailable after `SEND_TIMEOUT_S`."""
        channel = self._channels.get(label)
        if channel is None or channel.bufferedAmount <= LOW_WATER_BYTES:
            return
        is_low = asyncio.Event()

        def note() -> None:
            is_low.set()

        channel.on("bufferedamountlow", note)
        channel.on("close", note)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await is_low.wait()
        except TimeoutError:
            what = f"the data channel {label} has taken nothing for {SEND_TIMEOUT_S:g} s"
            raise ProviderUnavailable(what, reason="media") from None
        finally:
            if channel.readyState != "closed":  # which forgets its listeners by itself
                channel.remove_listener("bufferedamountlow", note)
                channel.remove_listener("close", note)

    def _adopt(self, channel: RTCDataChannel) -> None:
        self._channels[channel.label] = channel
        channel.bufferedAmountLowThreshold = LOW_WATER_BYTES

        def take(message: Any) -> None:
            self._on_message(channel.label, message)

        channel.on("message", take)
        channel.on("open", self._look)
        self._look()

    def _look(self) -> None:
        if all(map(self.is_open, self._makes)):
            self._is_open.set()
