"""Publishing to a WHIP server (RFC 9725): access units of the session's timeline as WebRTC media."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import replace

from bridge.errors import OutputError, OutputLost, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.h264 import parameter_sets, split_avcc
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceServer, IceSettings, judged
from bridge.net.race import race
from bridge.net.sending_peer import SendingPeer
from bridge.net.url_policy import UrlPolicy
from bridge.outputs.whip_signalling import WhipSignalling
from bridge.ports import OutputListener, OutputProgress
from bridge.protocols import whip
from bridge.protocols.whip_sdp import (
    H264Profile,
    candidate_fragment,
    check_answer,
    picture_profile,
    publishing_offer,
)
from bridge.redact import Secret, redact_url

# Direct ways are found within a few round trips, or not at all; relays cost the server, and delay.
DIRECT_S = 1.0


class WhipOutput:
    """One WHIP session: H.264 and Opus, as they are.

    The offer waits for the first keyframe, because it names the profile that the pictures have. When the media
    connection is up, what has waited meanwhile is forgotten and a keyframe asked for: viewers start in the present.
    The server's requests for keyframes (PLI, FIR) go to the listener.

    The session is deleted on every way out, before the next one is made: most servers take one publisher per URL. A
    lost media connection has been silent for the 30 s of RFC 7675 by then, so a new session beside it would keep
    nothing on air.
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
    ) -> None:
        """Raises ConfigError if the URL is none for WHIP. `policy` says where else its server may lead us; None: to
        public hosts. `is_strange`: the URL itself has to pass it, too. So have `strange_ice_servers`, which are used
        besides those of `ice`. `tls` replaces the system's trust.
        """
        self.keyframe_s = keyframe_s
        self._endpoint = whip.parse_url(url, token.reveal() if token else None)
        self._name = redact_url(url)
        self._ice = ice or IceSettings()
        self._policy = policy or UrlPolicy()
        self._is_strange = is_strange
        self._strange_ice_servers = strange_ice_servers
        self._tls = tls
        self._peer: SendingPeer | None = None

    def progress(self) -> OutputProgress:
        return OutputProgress(self._peer.payload_bytes_sent if self._peer else 0)

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
        async with (
            SendingPeer(ice, listener.on_keyframe_request, profile_level_id=pictures.known_id) as peer,
            WhipSignalling(self._endpoint, self._name, tls, self._policy, is_strange=self._is_strange) as signalling,
        ):
            self._peer = peer
            offer = publishing_offer(await peer.offer(), pictures)
            answer = await signalling.post(offer, f"{pictures} and Opus")
            check_answer(answer, pictures)
            await peer.accept(answer)
            await race(_connect(peer, signalling, offer), peer.run())
            if not peer.is_connected:
                await peer.run()  # raises why
            units.restart()
            listener.on_published()
            await race(_send(peer, pictures, units, listener), peer.run())


async def _connect(peer: SendingPeer, signalling: WhipSignalling, offer: str) -> None:
    """Wait for the media connection; where it finds no way at once, try the server's relays too."""
    try:
        async with asyncio.timeout(DIRECT_S):
            await peer.connected()
    except TimeoutError:
        await race(_relay(peer, signalling, offer), peer.connected())


async def _relay(peer: SendingPeer, signalling: WhipSignalling, offer: str) -> None:
    candidates = await peer.add_relays(await signalling.ice_servers())
    if candidates:
        await signalling.trickle(candidate_fragment(offer, candidates))
    await peer.connected()


async def _send(peer: SendingPeer, pictures: H264Profile, units: LiveQueue, listener: OutputListener) -> None:
    while (unit := await units.get()) is not None:
        if unit.codec is Codec.OPUS:
            has_left = await peer.send_audio(unit.payload, unit.pts_ns)
        else:
            has_left = await peer.send_video(_nals(unit, pictures), unit.pts_ns)
        if has_left:
            listener.on_written(unit)


def _nals(unit: AccessUnit, pictures: H264Profile) -> list[bytes]:
    """The NAL units of a picture, parameter sets before a keyframe. Raises OutputLost when it is not as negotiated."""
    nals = list(split_avcc(unit.payload))
    if not unit.codec_config:
        return nals
    now = picture_profile(unit.codec_config)
    if not pictures.covers(now):
        raise OutputLost(f"profile changed from {pictures} to {now}: that takes another offer")
    sequence_sets, picture_sets = parameter_sets(unit.codec_config)
    return [*sequence_sets, *picture_sets, *nals]


async def _first_keyframe(units: LiveQueue) -> AccessUnit | None:
    while (unit := await units.get()) is not None:
        if unit.codec_config:
            return unit
    return None
