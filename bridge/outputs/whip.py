"""Publishing to a WHIP server (RFC 9725): access units of the session's timeline as WebRTC media."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import replace

from bridge.errors import OutputError, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceServer, IceSettings, judged
from bridge.net.race import race
from bridge.net.url_policy import UrlPolicy
from bridge.outputs.whip_session import WhipSession
from bridge.outputs.whip_signalling import WhipSignalling
from bridge.outputs.whip_succession import Room, Succession
from bridge.ports import OutputListener, OutputProgress
from bridge.protocols import whip
from bridge.protocols.whip_sdp import H264Profile, picture_profile
from bridge.redact import Secret, redact_url


class WhipOutput:
    """One broadcast to a WHIP server: H.264 and Opus, as they are.

    The offer waits for the first keyframe, because it names the profile that the pictures have. When the media
    connection is up, what has waited meanwhile is forgotten and a keyframe asked for: viewers start in the present.
    The server's requests for keyframes (PLI, FIR) go to the listener.

    Every session is deleted on every way out. One whose server falls silent is replaced by another, first made beside
    it where the server takes two publishers, else after its end: `whip_succession`.
    """

    audio_codec = Codec.OPUS

    def __init__(
        self,
        url: str,
        token: Secret | None = None,
        ice: IceSettings | None = None,
        *,
        keyframe_s: float | None = 2.0,
        policy: UrlPolicy | None = None,
        is_strange: bool = False,
        strange_ice_servers: Sequence[IceServer] = (),
        tls: ssl.SSLContext | None = None,
        room: Room | None = None,
    ) -> None:
        """Raises ConfigError if the URL is none for WHIP. `policy` says where else its server may lead us; None: to
        public hosts. `is_strange`: the URL itself has to pass it, too. So have `strange_ice_servers`, which are used
        besides those of `ice`. `tls` replaces the system's trust. `room` is shared by all attempts at one server.
        """
        self.keyframe_s = keyframe_s
        self._endpoint = whip.parse_url(url, token.reveal() if token else None)
        self._name = redact_url(url)
        self._ice = ice or IceSettings()
        self._policy = policy or UrlPolicy()
        self._is_strange = is_strange
        self._strange_ice_servers = strange_ice_servers
        self._tls = tls
        self._room = room or Room()
        self._succession: Succession | None = None

    def progress(self) -> OutputProgress:
        return OutputProgress(self._succession.payload_bytes_sent if self._succession else 0)

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Publish until `units` is finished. Raises OutputRejected, OutputLost, RemoteProtocolError: `ports.Output`."""
        keyframe = await _first_keyframe(units)
        if keyframe is None:
            return
        try:
            pictures = picture_profile(keyframe.codec_config)
            await self._publish(pictures, units, listener)
        except (OutputError, RemoteProtocolError) as error:
            error.args = (f"{self._name}: {error}",)
            raise

    async def _publish(self, pictures: H264Profile, units: LiveQueue, listener: OutputListener) -> None:
        # Reading the system's certificates takes long enough to be heard in other sessions.
        tls = self._tls if self._tls is not None else await asyncio.to_thread(ssl.create_default_context)
        strange = await judged(self._strange_ice_servers, self._policy)
        ice = replace(self._ice, servers=(*self._ice.servers, *strange))

        def open_session() -> WhipSession:
            signalling = WhipSignalling(self._endpoint, self._name, tls, self._policy, is_strange=self._is_strange)
            return WhipSession(signalling, ice, pictures, listener.on_keyframe_request)

        async with Succession(open_session, listener, self._room, self._name) as succession:
            self._succession = succession
            await succession.connect()
            units.restart()
            listener.on_published()
            await race(_send(succession, units, listener), succession.run())


async def _send(succession: Succession, units: LiveQueue, listener: OutputListener) -> None:
    def send(unit: AccessUnit) -> None:
        if succession.send(unit):
            listener.on_written(unit)

    def send_at_once(unit: AccessUnit) -> bool:
        if succession.has_heir:
            return False  # a change of sessions is this output's own affair, not that of whoever puts
        send(unit)
        return True

    units.express = send_at_once
    try:
        while (unit := await units.get()) is not None:
            send(unit)
    finally:
        units.express = None


async def _first_keyframe(units: LiveQueue) -> AccessUnit | None:
    while (unit := await units.get()) is not None:
        if unit.codec_config:
            return unit
    return None
