import asyncio
import io
import random
import ssl
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.errors import SourceLost, SourceRejected
from bridge.inputs.http import HttpSource
from bridge.inputs.runner import RetryingSource
from bridge.net import http_body
from bridge.net.backoff import Backoff
from bridge.net.url_policy import UrlPolicy
from tests.interop.certificates import make_certificate
from tests.unit.inputs.test_file import RATE_HZ, joined, play, ramp
from tests.unit.inputs.test_pcm import Heard
from tests.unit.inputs.web import Request, serving, web

STRICT = UrlPolicy()
LOOSE = UrlPolicy(["127.0.0.0/8"])


def wav(samples: np.ndarray, *, is_endless: bool = False) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(samples.astype("<i2").tobytes())
    data = bytearray(file.getvalue())
    if is_endless:
        data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    return bytes(data)


def titled(sound: bytes, interval: int) -> bytes:
    """Sound with ICY titles between it, most of them empty."""
    pieces = [sound[start : start + interval] for start in range(0, len(sound), interval)]
    title = b"StreamTitle='Rauschen';".ljust(32, b"\0")
    return b"".join(piece + (b"\2" + title if number % 3 == 0 else b"\0") for number, piece in enumerate(pieces))


def retried(source: HttpSource) -> RetryingSource:
    async def at_once(delay_s: float) -> None:
        pass

    return RetryingSource(source, backoff=Backoff(0.1, 0.1, random.Random(1)), sleep=at_once)


@pytest.mark.parametrize("gives_parts", [True, False])
async def test_file_is_played_once_or_looped_from_where_it_is_to_start(gives_parts: bool) -> None:
    async with web(serving(wav(ramp(3 * RATE_HZ)), gives_parts=gives_parts)) as site:
        blocks = await play(HttpSource("song", site.url("/q.wav"), STRICT))
        assert np.array_equal(joined(blocks)[:, 0], ramp(3 * RATE_HZ))
        source = HttpSource("song", site.url("/q.wav"), STRICT, loop=True, start_s=2.5)
        looped = joined(await play(source, limit_samples=RATE_HZ))
    assert np.array_equal(looped[:RATE_HZ, 0], np.tile(ramp(3 * RATE_HZ), 2)[int(2.5 * RATE_HZ) :][:RATE_HZ])


async def test_file_whose_index_is_at_its_end_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "q.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        noise = np.random.default_rng(1).uniform(-0.5, 0.5, (1, 960_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, "fltp", "mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    async with web(serving(path.read_bytes())) as site:
        blocks = await play(HttpSource("song", site.url("/q.mp4"), STRICT))
        assert sum(block.duration_s for block in blocks) == pytest.approx(20, abs=0.05)
        assert len(site.requests) > 1


@pytest.mark.parametrize("gives_parts", [True, False])
async def test_file_goes_on_where_the_connection_broke(gives_parts: bool) -> None:
    body = wav(ramp(5 * RATE_HZ))
    whole = serving(body, gives_parts=gives_parts)

    async def answer(request: Request) -> None:
        if not logs:
            # It gives half of what it has promised.
            request.cut_at = len(body) // 2 - (request.first_byte if gives_parts else 0)
        await whole(request)

    with capture_logs() as logs:
        async with web(answer) as site:
            samples = joined(await play(retried(HttpSource("song", site.url("/q.wav"), STRICT))))
    assert np.array_equal(samples[:, 0], ramp(5 * RATE_HZ))
    assert [entry["event"] for entry in logs] == ["input_lost"]
    assert "input song: http://127.0.0.1:" in logs[0]["error"]


@pytest.mark.parametrize(
    "first_lines",
    [
        ("ICY 200 OK", "icy-name: Rauschen", "icy-metaint: 1000"),
        ("HTTP/1.0 200 OK", "icy-br: 128", "icy-metaint:1000"),
        ("HTTP/1.1 200 OK", "Content-Type: audio/wav", "ice-audio-info: x", "icy-pub: 1", "icy-metaint: 1000"),
    ],
)
async def test_station_is_heard_without_its_titles_and_again_after_a_loss(first_lines: tuple[str, ...]) -> None:
    sound = wav(ramp(5 * RATE_HZ), is_endless=True)

    async def answer(request: Request) -> None:
        assert "icy-metadata" not in request.headers
        await request.say(*first_lines, body=titled(sound, 1_000), is_whole=False)

    async with web(answer) as site:
        with capture_logs() as logs:
            source = retried(HttpSource("radio", site.url("/;"), STRICT))
            async with asyncio.timeout(5):
                samples = joined(await play(source, limit_samples=5 * RATE_HZ + 1))[:, 0]
    # What was still on its way to a piece when it broke off is lost.
    assert np.array_equal(samples[: 3 * RATE_HZ], ramp(3 * RATE_HZ))
    assert logs[0]["event"] == "input_lost" and logs[0]["error"].endswith("the station has closed the connection")


async def test_station_that_stalls_is_lost_and_one_that_is_called_off_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(request: Request) -> None:
        await request.say("ICY 200 OK", body=wav(ramp(5 * RATE_HZ), is_endless=True), is_whole=False)
        await asyncio.Event().wait()

    async with web(answer) as site:
        heard = Heard()
        playing = asyncio.create_task(HttpSource("radio", site.url("/"), STRICT).run(heard.emit))
        await heard.samples(RATE_HZ // 2)
        playing.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(playing, return_exceptions=True)
        monkeypatch.setattr(http_body, "READ_TIMEOUT_S", 0.05)
        with pytest.raises(SourceLost, match=r"nothing has come for 0\.05 s"):
            await play(HttpSource("radio", site.url("/"), STRICT))


async def test_every_redirect_is_judged_and_connected_to_as_judged() -> None:
    async def answer(request: Request) -> None:
        if request.path == "/away":
            await request.say("HTTP/1.1 302 Found", f"Location: {site.url('/q.wav', host='127.0.0.2')}")
        elif request.path == "/home":
            await request.say("HTTP/1.1 301 Moved Permanently", "Location: /q.wav")
        elif request.path == "/round":
            await request.say("HTTP/1.1 307 Temporary Redirect", "Location: /round")
        else:
            await serving(wav(ramp(100)))(request)

    async with web(answer) as site:
        assert len(await play(HttpSource("song", site.url("/home"), STRICT))) == 1
        assert len(await play(HttpSource("song", site.url("/away"), LOOSE))) == 1
        n_requests = len(site.requests)
        with pytest.raises(SourceRejected, match=r"leads elsewhere, where the URL 127\.0\.0\.2 is this machine"):
            await play(HttpSource("song", site.url("/away"), STRICT))
        assert len(site.requests) == n_requests + 1
        with pytest.raises(SourceRejected, match=r"the URL 127\.0\.0\.1 is this machine"):
            await play(HttpSource("song", site.url("/q.wav"), STRICT, is_strange=True))
        assert len(site.requests) == n_requests + 1
        assert len(await play(HttpSource("song", site.url("/q.wav"), LOOSE, is_strange=True))) == 1
        with pytest.raises(SourceRejected, match="redirects more than 5 times"):
            await play(HttpSource("song", site.url("/round"), STRICT))


async def test_https_is_verified_and_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: Request) -> None:
        if request.path == "/plain":
            await request.say("HTTP/1.1 302 Found", "Location: http://127.0.0.1:9/q.wav")
        else:
            await serving(wav(ramp(100)))(request)

    make_certificate(tmp_path / "server.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "server.pem")
    async with web(answer, tls) as site:
        with pytest.raises(SourceRejected, match="certificate is refused: self-signed certificate"):
            await play(HttpSource("song", site.url("/q.wav"), STRICT))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        assert len(await play(HttpSource("song", site.url("/q.wav"), STRICT))) == 1
        with pytest.raises(SourceRejected, match="the server leads from https to http://127"):
            await play(HttpSource("song", site.url("/plain"), STRICT))


async def test_strange_name_is_resolved_once_for_judge_and_connection() -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with web(serving(wav(ramp(100)))) as site:
        policy = UrlPolicy(["127.0.0.1"], resolve=resolve)
        url = site.url("/q.wav", host="station.invalid")
        assert len(await play(HttpSource("song", url, policy, is_strange=True))) == 1
        assert asked == ["station.invalid"]
        assert site.requests[0].headers["host"] == f"station.invalid:{site.port}"


async def test_user_info_goes_to_its_own_origin_alone() -> None:
    async def answer(request: Request) -> None:
        if request.path == "/away":
            await request.say("HTTP/1.1 302 Found", f"Location: {site.url('/q.wav', host='127.0.0.2')}")
        else:
            await serving(wav(ramp(100)))(request)

    async with web(answer) as site:
        url = site.url("/away").replace("//", "//user:p%40ss@")
        await play(HttpSource("song", url, LOOSE))
    assert site.requests[0].headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert "authorization" not in site.requests[1].headers


@pytest.mark.parametrize(
    ("status", "error"), [(404, SourceRejected), (401, SourceRejected), (503, SourceLost), (429, SourceLost)]
)
async def test_refusals_are_told_from_bad_moments(status: int, error: type[Exception]) -> None:
    async with web(lambda request: request.say(f"HTTP/1.1 {status} Whatever")) as site:
        with pytest.raises(error, match=f"input radio: http://127.0.0.1:.* the server answers HTTP {status}"):
            await play(HttpSource("radio", site.url("/"), STRICT))
    with pytest.raises(SourceLost, match="cannot connect: Connection refused"):
        await play(HttpSource("radio", site.url("/"), STRICT))


@pytest.mark.parametrize(
    ("list_url", "media_type", "text"),
    [
        ("/listen.pls", "audio/x-scpls", "[playlist]\r\nFile1={site}/dead\r\nFile2={site}/q.wav\r\n"),
        ("/listen.m3u", "text/plain", "dead\n{site}/q.wav\n"),
        ("/listen", "audio/x-mpegurl; charset=utf-8", "file:///etc/hostname\n/q.wav\n"),
    ],
)
async def test_playlist_of_stations_is_read(list_url: str, media_type: str, text: str) -> None:
    async def answer(request: Request) -> None:
        match request.path:
            case "/q.wav":
                await serving(wav(ramp(100)))(request)
            case "/dead":
                await request.say("HTTP/1.1 404 Not Found")
            case _:
                body = text.format(site=site.url("")).encode()
                await request.say("HTTP/1.1 200 OK", f"Content-Type: {media_type}", body=body)

    async with web(answer) as site:
        with capture_logs() as logs:
            assert np.array_equal(joined(await play(HttpSource("radio", site.url(list_url), STRICT)))[:, 0], ramp(100))
    assert [entry["event"] for entry in logs] == ["playlist_entry_skipped"]


SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
LISTS: dict[str, Callable[[str], str]] = {
    "HLS": lambda url: f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
    "HLS of files": lambda url: "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:/etc/hostname\n#EXT-X-ENDLIST\n",
    "concat": lambda url: f"ffconcat version 1.0\nfile {url}\n",
    "SDP": lambda url: SDP,
}


@pytest.mark.parametrize("name", LISTS)
async def test_what_is_fetched_makes_ffmpeg_open_nothing(name: str, tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        body = LISTS[name](site.url("/secret", host="127.0.0.2")).encode()
        await request.say("HTTP/1.1 200 OK", "Content-Type: audio/mpeg", body=body)

    async with web(answer) as site:
        with pytest.raises(SourceRejected, match="which the server calls audio/mpeg, cannot be decoded"):
            await play(HttpSource("radio", site.url("/"), LOOSE))
        assert [request.path for request in site.requests] == ["/"]


async def test_hls_is_refused_by_name() -> None:
    body = LISTS["HLS"]("http://127.0.0.2/").encode()
    async with web(serving(body, "Content-Type: application/vnd.apple.mpegurl")) as site:
        with pytest.raises(SourceRejected, match="is an HLS playlist, which cannot be played"):
            await play(HttpSource("radio", site.url("/live"), LOOSE))
