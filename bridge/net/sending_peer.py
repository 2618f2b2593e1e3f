"""The peer that sends an avatar: ready access units in, RTP packets out."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

from aiortc import RTCBundlePolicy, RTCDtlsTransport, RTCRtpTransceiver
from aiortc.sdp import MediaDescription

from bridge.errors import BridgeError, LocalProtocolError, OutputLost
from bridge.media.access_unit import Codec, Kind
from bridge.net.aiortc_sender import EncodedSender, RtpOrigin, SenderClock, install_encoded_sender
from bridge.net.codecs import h264_preferences, preferences
from bridge.net.data_channels import DataChannels
from bridge.net.hearing import LOOK_S, Hearing, keep_consent
from bridge.net.ice import IceServer, IceSettings, add_relays
from bridge.net.impairment import Impairment
from bridge.net.packetize import VP8_PICTURE_IDS, packetize_h264, packetize_vp8
from bridge.net.peer_connection import Peer
from bridge.net.sdp import (
    Description,
    Section,
    candidates_of,
    offered_codecs,
    unusable,
    without_candidates,
    without_extension,
)
from bridge.protocols.header_extension import CAPTURE_TIME_URI


class SendingPeer(Peer):
    """Offers one video and one Opus track, or answers an offer to receive them, and sends units that are ready.

    `codec` is that of the video, H264 or VP8; `profile_level_id` says what H.264 pictures really are: one of
    `codecs.H264_PROFILE_LEVEL_IDS`. `on_keyframe_request` is called for each PLI and FIR, unthrottled. `lost` is the
    error that `run` raises. `tells_capture`: it captures the pictures itself, and offers to say when.
    `data`: channels that it makes besides.

    For tests and faults: where the numbers start (`RtpOrigin`), the clock, `impairment` of the network
    (`net.impairment`), how much longer pictures travel (`video_delay_s`), and `first_report_s`, how long after the
    first unit of a track its sender reports begin; `math.inf`: never.
    """

    def __init__(
        self,
        ice: IceSettings,
        on_keyframe_request: Callable[[], None],
        *,
        codec: Codec = Codec.H264,
        profile_level_id: str = "42e01f",
        video_origin: RtpOrigin | None = None,
        audio_origin: RtpOrigin | None = None,
        clock: SenderClock | None = None,
        impairment: Impairment | None = None,
        first_report_s: float = 0.0,
        video_delay_s: float = 0.0,
        lost: type[BridgeError] = OutputLost,
        tells_capture: bool = False,
        data: DataChannels | None = None,
    ) -> None:
        super().__init__(ice, lost, data)
        self._tells_capture = tells_capture
        self._codecs: dict[Kind, Codec] = {"audio": Codec.OPUS, "video": codec}
        self._profile_level_id = profile_level_id
        self._on_keyframe_request = on_keyframe_request
        self._origins = {"audio": audio_origin, "video": video_origin}
        self._clock = clock or SenderClock()
        self._impairment = impairment
        self._first_report_s = first_report_s
        self._delays_s = {"audio": 0.0, "video": video_delay_s}
        self._senders: dict[Kind, EncodedSender] = {}
        self._hearing = Hearing(time.monotonic_ns())
        self._picture_id = secrets.randbelow(VP8_PICTURE_IDS)

    async def offer(self, ice_servers: Sequence[IceServer] = (), *, candidates: bool = True) -> str:
        """An offer to send, audio section first, with all our candidates in it, or none: `candidates` gives them.

        With data channels the first offer has those alone; `publish` and a further offer add the tracks.
        """
        self._open(ice_servers, RTCBundlePolicy.MAX_BUNDLE)
        if self._data is None:
            self.publish(is_on=True)
        sdp = await self._describe()
        for connection in self._connections:  # one: all sections are bundled
            keep_consent(connection, self._hearing)
        return sdp if candidates else without_candidates(sdp)

    def candidates(self) -> list[tuple[str, str, int]]:
        """What an offer without candidates leaves to trickling: candidate attribute, mid, index of the section."""
        if self._pc is None or self._pc.localDescription is None:
            raise LocalProtocolError("candidates before a description")
        return candidates_of(self._pc.localDescription.sdp)

    async def add_relays(self, servers: Sequence[IceServer]) -> list[str]:
        """Try TURN servers that the answer to our offer has named; their candidates, for the far end to try."""
        return await add_relays(self._connections[0], self._ice.rtc_servers(servers))

    def publish(self, *, is_on: bool) -> None:
        """From the next offer on both tracks are sent, or not any more; those that come again begin anew."""
        assert self._pc is not None
        if not self._senders:
            for kind in self._codecs:
                self._add_transceiver(kind)
            return
        for transceiver in filter(self._carries, self._pc.getTransceivers()):
            transceiver.direction = "sendonly" if is_on else "inactive"
        for kind in self._senders if is_on else ():
            self.restart_stream(kind)

    async def renegotiate(self) -> str:
        """A further offer on the same connection; `accept` takes its answer."""
        if not self.is_stable:
            raise LocalProtocolError("a further offer before the answer to the first one")
        return await self._describe()

    @property
    def payload_bytes_sent(self) -> int:
        """Bytes of media handed to the network, without headers and repetitions."""
        return sum(sender.payload_bytes_sent for sender in self._senders.values())

    @property
    def is_silent(self) -> bool:
        """Whether the far end of the connection that we offered seems not to hear us: `net.hearing`."""
        return self._hearing.is_silent(time.monotonic_ns())

    async def silent(self) -> None:
        """Wait until the far end seems not to hear us."""
        await self._until(is_silent=True)

    async def heard(self) -> None:
        """Wait until the far end seems to hear us again."""
        await self._until(is_silent=False)

    async def _until(self, *, is_silent: bool) -> None:
        while self.is_silent is not is_silent:  # noqa: ASYNC110  it comes of time that passes
            await asyncio.sleep(LOOK_S)

    def send_video(self, nals: Iterable[bytes], pts_ns: int, captured_ns: int | None = None) -> bool:
        """Send one H.264 picture: its NAL units, SPS and PPS before an IDR picture, as `media.h264` splits them.

        Like `send_vp8` and `send_audio`, drops the unit while the connection is not up: live media does not wait.
        Returns whether it has left.

        captured_ns  when the picture was captured, by the clock's monotonic time; for a peer that `tells_capture`.
        """
        return self._send_unit("video", packetize_h264(nals), pts_ns, captured_ns)

    def send_vp8(self, frame: bytes, pts_ns: int, captured_ns: int | None = None) -> bool:
        """Send one VP8 frame."""
        self._picture_id = (self._picture_id + 1) % VP8_PICTURE_IDS
        return self._send_unit("video", packetize_vp8(frame, self._picture_id), pts_ns, captured_ns)

    def send_audio(self, packet: bytes, pts_ns: int) -> bool:
        """Send one Opus packet."""
        return self._send_unit("audio", [packet], pts_ns)

    def restart_stream(self, kind: Kind) -> None:
        """From the next unit on the track is another RTP stream: SSRC, sequence number and timestamp start afresh."""
        if kind in self._senders:
            self._senders[kind].restart(RtpOrigin())

    def shift_timestamps(self, kind: Kind, ticks: int) -> None:
        """From the next unit on the track's RTP timestamps are off by so much more."""
        if kind in self._senders:
            self._senders[kind].shift_timestamps(ticks)

    def _amended(self, sdp: str) -> str:
        return sdp if self._tells_capture else without_extension(sdp, CAPTURE_TIME_URI)

    def _send_unit(self, kind: Kind, payloads: Sequence[bytes], pts_ns: int, captured_ns: int | None = None) -> bool:
        sender = self._senders.get(kind)
        if sender is None or not sender.is_sending:
            return False
        try:
            sender.send_unit(payloads, pts_ns, captured_ns)
        except ConnectionError:
            self._gone.set()
            return False
        self._hearing.sent(time.monotonic_ns())
        return True

    def _takes(self, section: Section) -> bool:
        return self._codecs["video" if section.kind == "video" else "audio"] in map(str.lower, section.codecs)

    def _wants(self, media: MediaDescription) -> bool:
        codec = self._codecs["video" if media.kind == "video" else "audio"]
        return media.direction in ("recvonly", "sendrecv") and codec in map(str.lower, offered_codecs(media))

    def _carries(self, transceiver: RTCRtpTransceiver) -> bool:
        return isinstance(transceiver.sender, EncodedSender)

    def _add_transceiver(self, kind: Kind, offered: MediaDescription | None = None) -> None:
        assert self._pc is not None
        transceiver = self._pc.addTransceiver(kind, "sendonly")
        sender = self._senders[kind] = self._make_sender(kind, transceiver.receiver.transport)
        install_encoded_sender(transceiver, sender)
        codec = self._codecs[kind]
        # Fragments need packetization mode 1 (RFC 6184 §6.3).
        transceiver.setCodecPreferences(
            h264_preferences([self._profile_level_id], ["1"]) if codec is Codec.H264 else preferences(codec)
        )

    def _make_sender(self, kind: Kind, transport: RTCDtlsTransport) -> EncodedSender:
        return EncodedSender(
            kind,
            transport,
            self._clock,
            # RFC 3711 §9.1: a stream that takes another one's place has an SSRC of its own, as both have one key.
            self._origins.pop(kind, None) or RtpOrigin(),
            self._on_keyframe_request,
            self._impairment,
            self._first_report_s,
            self._delays_s[kind],
            lambda: self._hearing.reported(time.monotonic_ns()),
        )

    def _check_codecs(self, description: Description, what: str) -> None:
        if self._data is not None and not self._senders:
            return  # data alone so far
        codec = self._codecs["video"]
        names = description.codecs("video")
        if codec not in (name.lower() for name in names):
            raise unusable(
                f"the {what} takes no {codec.upper()} video, only {', '.join(dict.fromkeys(names)) or 'none'}"
            )
