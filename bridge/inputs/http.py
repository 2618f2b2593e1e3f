"""`http:` and `https:` files, stations and playlists."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import urljoin, urlsplit

from bridge.errors import SourceLost, SourceRejected
from bridge.inputs.blocking_reader import BlockingReader
from bridge.inputs.decoding import Blocks, Decoder, play
from bridge.inputs.playlist import Playlist
from bridge.media.audio import AudioBlock
from bridge.net.http_body import HttpBody, origin
from bridge.net.tls import Trust
from bridge.net.url_policy import UrlPolicy
from bridge.ports import AudioSource
from bridge.protocols import playlist
from bridge.redact import redact_url

# What FFmpeg may read to find out what it has. It stops as soon as it knows: a station is heard as early with 32 KiB as
# with this, but in 32 KiB of a picture at 5 Mb/s no sound need be. Of what is nothing, 1 MiB is a minute of 128 kb/s.
_PROBE_BYTES = 1 << 20

# And for how long: what is known at once, such as raw samples, would be read for five seconds all the same.
_ANALYSIS_US = "500000"


class HttpSource:
    """Plays what a URL gives: a file, a station without end, or a playlist of those.

    FFmpeg is given bytes and no way to open anything itself. A file that is lost is gone on with where it broke off
    when it is run again; a station is heard as it is then.

    is_strange  the URL is not of the operator's file: it is judged by the policy, as everything it leads to.
    loop        of a file or a list: starts over at its end.  start_s: where in it the first run begins.
    """

    is_live = False  # a server waits while we do not read, and what it buffers rides out the network

    def __init__(
        self,
        name: str,
        url: str,
        policy: UrlPolicy,
        *,
        is_strange: bool = False,
        loop: bool = False,
        start_s: float = 0.0,
        may_be_playlist: bool = True,
    ) -> None:
        self.name = name
        self._url = url
        self._policy = policy
        self._is_strange = is_strange
        self._loop = loop
        self._start_s = start_s
        self._may_be_playlist = may_be_playlist
        self._label = f"input {name}: {redact_url(url)}"

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceLost, SourceRejected."""
        tls = await asyncio.to_thread(Trust().context)
        decoder = Decoder(self._start_s)
        while True:
            async with HttpBody(self._label, self._url, tls, self._policy, is_strange=self._is_strange) as body:
                if self._may_be_playlist and _is_playlist(body):
                    entries = await self._read_entries(body)
                    open_entry = partial(self._open_entry, body.url)
                    songs = Playlist(
                        self.name, self._label, entries, open_entry, loop=self._loop, start_s=self._start_s
                    )
                else:
                    await self._play(body, decoder, emit)
                    songs = None
            if songs is not None:
                try:
                    await songs.run(emit)
                finally:
                    if songs.has_played:
                        self._start_s = 0.0  # the next run goes on as a loop does
                return
            if not self._loop:
                return

    async def _play(self, body: HttpBody, decoder: Decoder, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        start_s, played_s = self._start_s, 0.0

        async def take(block: AudioBlock) -> None:
            nonlocal played_s
            await emit(block)
            played_s += block.duration_s

        reader = BlockingReader(body)
        try:
            await play(self.name, self._blocks(body, reader, decoder), take, interrupt=reader.interrupt)
        except SourceLost:
            if body.size_bytes:
                self._start_s = start_s + played_s
            raise
        self._start_s = 0.0

    def _blocks(self, body: HttpBody, reader: BlockingReader, decoder: Decoder) -> Blocks:
        """Runs in the decoding thread."""
        import av

        played_s = decoder.played_s
        try:
            options = {"protocol_whitelist": "none", "probesize": str(_PROBE_BYTES), "analyzeduration": _ANALYSIS_US}
            container = av.open(reader, "r", options=options, metadata_errors="ignore")
        except av.FFmpegError as error:
            kind = body.headers.get("content-type", "")
            what = f", which the server calls {kind[:60]}," if kind.isprintable() and kind else ""
            raise SourceRejected(f"{self._label}{what} cannot be decoded ({error.strerror})") from None
        with container:
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                raise SourceRejected(f"{self._label} has no sound in it")
            # Where it breaks off it ends, as a file does.
            with suppress(av.FFmpegError):
                # FFmpeg forgets what it has read already, before it finds that it cannot go back.
                yield from decoder.blocks(container, stream, can_seek=body.is_seekable)
        decoder.check_played(self._label, played_s)

    async def _read_entries(self, body: HttpBody) -> Sequence[str]:
        content = b""
        while (piece := await body.read(playlist.MAX_PLAYLIST_BYTES)) and len(content) <= playlist.MAX_PLAYLIST_BYTES:
            content += piece
        text = playlist.decode_text(content[: playlist.MAX_PLAYLIST_BYTES])
        if playlist.is_hls(text):
            raise SourceRejected(f"{self._label} is an HLS playlist, which cannot be played; name a stream or a file")
        return playlist.parse_playlist(text)

    def _open_entry(self, base_url: str, entry: str, start_s: float) -> AudioSource:
        url = urljoin(base_url, entry)
        if urlsplit(url).scheme not in ("http", "https"):
            raise SourceRejected(f"{self._label} names {redact_url(url)}, which is neither http: nor https:")
        return HttpSource(
            self.name,
            url,
            self._policy,
            is_strange=self._is_strange or origin(url) != origin(self._url),
            start_s=start_s,
            may_be_playlist=False,
        )


def _is_playlist(body: HttpBody) -> bool:
    media_type = body.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in playlist.MEDIA_TYPES:
        return True
    is_named_so = PurePosixPath(urlsplit(body.url).path).suffix.lower() in playlist.SUFFIXES
    return is_named_so and not media_type.startswith(("audio/", "video/"))
