"""`rtsp:` and `rtmp:` streams that are pulled."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from bridge.errors import SourceError, SourceLost, SourceRejected
from bridge.inputs.decoding import LIVE_PIECE_S, Blocks, Decoder, play
from bridge.media.audio import AudioBlock
from bridge.net.reasons import system_reason
from bridge.net.relay import LOOPBACK, Forbidden, Relay
from bridge.net.url_policy import DEFAULT_PORTS, UrlPolicy, UrlRefused
from bridge.protocols import rtmp_address
from bridge.redact import redact_url

CONNECT_S = 10.0
# Of a hand-shake, and of whatever FFmpeg wants to see before it knows the stream.
OPEN_S = 10.0
# Packets come fifty times a second; this is as long as players wait before they connect anew.
IDLE_S = 10.0
# All of a stream is alive at its first packets: its own five seconds of analysis would be five seconds of latency.
_OPTIONS = {"fflags": "nobuffer", "probesize": "32768", "analyzeduration": "500000"}


class StreamSource:
    """Plays a live stream's sound, over TCP, through a relay of ours: we decide where it leads, and can wake FFmpeg
    when it is to end. It opens nothing else, and an RTSP server cannot lead it elsewhere.

    is_strange  the URL is not of the operator's file: its addresses are judged by the policy and used as judged.
    """

    is_live = True

    def __init__(self, name: str, url: str, policy: UrlPolicy, *, is_strange: bool = False) -> None:
        self.name = name
        self._url = url
        self._policy = policy
        self._is_strange = is_strange
        self._label = f"input {name}: {redact_url(url)}"

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver until the stream ends. Raises SourceLost, SourceRejected."""
        parts = urlsplit(self._url)
        assert parts.hostname is not None
        try:
            relay = Relay(
                await self._addresses(parts.hostname),
                parts.port or DEFAULT_PORTS[parts.scheme],
                connect_s=CONNECT_S,
                idle_s=IDLE_S,
                # FFmpeg would follow an RTSP redirect to anywhere.
                forbidden=b"location:" if parts.scheme == "rtsp" else None,
            )
            async with relay:
                try:
                    await play(self.name, self._blocks(relay.port), emit, piece_s=LIVE_PIECE_S, interrupt=relay.close)
                except SourceLost as error:
                    raise self._cause(relay, error) from None
        except OSError as error:
            raise SourceLost(f"{self._label}: cannot connect: {system_reason(error)}") from error
        raise SourceLost(f"{self._label}: the stream has ended")

    async def _addresses(self, host: str) -> Sequence[str]:
        if not self._is_strange:
            return (host,)
        try:
            return (await self._policy.check(self._url, schemes=frozenset({"rtsp", "rtmp"}))).addresses
        except UrlRefused as error:
            raise SourceRejected(f"{self._label}: the URL {error}") from None

    def _cause(self, relay: Relay, error: SourceLost) -> SourceError:
        """Why FFmpeg has found its connection at its end, if the relay knows."""
        match relay.error:
            case None:
                return error
            case Forbidden():
                return SourceRejected(f"{self._label}: the server leads elsewhere; name that URL in its place")
            case TimeoutError():
                return SourceLost(f"{self._label}: nothing has come for {IDLE_S:g} s")
        return SourceLost(f"{self._label}: the connection broke: {system_reason(relay.error)}")

    def _blocks(self, port: int) -> Blocks:
        """Runs in the decoding thread."""
        import av

        url, options = _through(port, self._url)
        refusals = (av.HTTPUnauthorizedError, av.HTTPForbiddenError, av.HTTPNotFoundError, av.HTTPBadRequestError)
        try:
            with av.open(
                url, "r", options={**_OPTIONS, **options}, timeout=OPEN_S, metadata_errors="ignore"
            ) as container:
                stream = container.streams.best("audio")
                if not isinstance(stream, av.AudioStream):
                    raise SourceRejected(f"{self._label} has no sound in it")
                yield from Decoder().blocks(container, stream)
        except refusals as error:
            raise SourceRejected(f"{self._label}: the server refuses: {error.strerror}") from None
        except (av.FFmpegError, OSError) as error:
            raise SourceLost(f"{self._label}: {error.strerror}") from None


def _through(port: int, url: str) -> tuple[str, Mapping[str, str]]:
    """What FFmpeg is to open in place of a URL, so that it connects to the relay and says what it would say anyway."""
    if url.startswith("rtmp:"):
        address = rtmp_address.parse_url(url)
        return f"rtmp://{LOOPBACK}:{port}/", {
            "protocol_whitelist": "rtmp,tcp",
            "rtmp_tcurl": address.tc_url,
            "rtmp_app": address.app,
            "rtmp_playpath": address.stream_name,
            "rtmp_live": "live",
        }
    parts = urlsplit(url)
    user_info, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user_info}{at}{LOOPBACK}:{port}").geturl(), {
        "protocol_whitelist": "tcp",
        "rtsp_transport": "tcp",
        "allowed_media_types": "audio",
    }
