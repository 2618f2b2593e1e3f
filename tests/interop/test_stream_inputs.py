"""Live sound that other programs send, through source and chain to what an avatar service gets."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bridge.config import InputConfig
from bridge.dsp.chain import SpeechChain
from bridge.errors import SourceRejected
from bridge.inputs import open_source
from bridge.inputs.runner import RetryingSource
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.ports import AudioSource
from bridge.track_reception import TrackReception
from tests.conftest import require_program, unavailable
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

TONE_HZ = 997
TONE = ("-re", "-f", "lavfi", "-i", f"aevalsrc=0.25*sin(2*PI*{TONE_HZ}*t):s=48000")
HEARD_S = 1.0


class Listener:
    """Runs a source through a chain, as a session does, inside its `async with`."""

    def __init__(self, source: AudioSource) -> None:
        self.pcm = np.empty(0, np.int16)
        self._source = source
        self._chain = SpeechChain()
        self._heard = asyncio.Condition()

    async def __aenter__(self) -> "Listener":
        self._running = asyncio.create_task(self._source.run(self._take))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._running.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(self._running, return_exceptions=True)

    async def _take(self, block: AudioBlock) -> None:
        self.pcm = np.concatenate((self.pcm, self._chain.push(block)))
        async with self._heard:
            self._heard.notify_all()

    async def hears(self, seconds: float) -> np.ndarray:
        """The next so many seconds. Raises what the source raises."""
        start, n_samples = len(self.pcm), round(seconds * AVATAR_RATE_HZ)
        waiting = asyncio.create_task(self._wait(start + n_samples))
        try:
            await asyncio.wait((waiting, self._running), timeout=15, return_when=asyncio.FIRST_COMPLETED)
            if self._running.done():
                self._running.result()
            assert waiting.done(), f"heard {(len(self.pcm) - start) / AVATAR_RATE_HZ:.1f} s"
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return self.pcm[start : start + n_samples]

    async def _wait(self, n_samples: int) -> None:
        async with self._heard:
            await self._heard.wait_for(lambda: len(self.pcm) >= n_samples)


def is_tone(pcm: np.ndarray) -> bool:
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))) ** 2
    peak = int(np.argmax(spectrum))
    is_pure = spectrum[max(0, peak - 5) : peak + 6].sum() > 0.98 * spectrum.sum()
    return bool(is_pure and abs(peak * AVATAR_RATE_HZ / len(pcm) - TONE_HZ) < 3)


def source_of(url: str, folder: Path = Path("/")) -> AudioSource:
    """What runs once, without who tries again."""
    source = opened(url, folder)
    return source.source if isinstance(source, RetryingSource) else source


def opened(url: str, folder: Path) -> AudioSource:
    return open_source("host", InputConfig(url=url), folder, UrlPolicy(), IceSettings(), TrackReception)


@contextmanager
def running(*command: str, **options: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(  # type: ignore[call-overload]
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            pipe.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another program does, and says nothing of."""
    for _ in range(200):
        if is_so():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it has not happened within 10 s")


def ffmpeg(*arguments: str) -> Sequence[str]:
    return (require_program("ffmpeg"), "-v", "error", "-nostdin", *TONE, *arguments)


@pytest.mark.peer
async def test_rtmp_stream_is_pulled_and_goes_on_when_its_publisher_comes_back(tmp_path: Path) -> None:
    if reason := why_unavailable():
        unavailable(reason)
    with NginxRtmp(tmp_path) as server:
        url = f"{server.rtmp_url}/tone"
        async with Listener(source_of(url)) as listener:
            for _ in range(2):
                with running(*ffmpeg("-c:a", "aac", "-f", "flv", url)):
                    # The first third of a second is the filters' and the codec's beginning.
                    assert is_tone((await listener.hears(HEARD_S))[AVATAR_RATE_HZ // 3 :])


@pytest.fixture(scope="module")
def rtsp_url() -> Iterator[str]:
    script = Path(__file__).with_name("rtsp_server.py")
    with running("/usr/bin/python3", "-I", str(script)) as server:
        port = server.stdout.readline().strip() if server.stdout else ""
        if not port:
            unavailable("GStreamer's RTSP server is missing (Debian: gir1.2-gst-rtsp-server-1.0 python3-gi)")
        yield f"rtsp://127.0.0.1:{port}"


@pytest.mark.peer
@pytest.mark.parametrize("path", ["/opus", "/pcmu", "/closed"])
async def test_rtsp_stream_is_pulled(rtsp_url: str, path: str) -> None:
    url = rtsp_url.replace("//", "//user:secret@" if path == "/closed" else "//") + path
    async with Listener(source_of(url)) as listener:
        assert is_tone((await listener.hears(HEARD_S))[AVATAR_RATE_HZ // 3 :])


@pytest.mark.peer
@pytest.mark.parametrize(("path", "answer"), [("/closed", "401 Unauthorized"), ("/nothing", "404 Not Found")])
async def test_rtsp_server_that_refuses_is_quoted(rtsp_url: str, path: str, answer: str) -> None:
    async with Listener(source_of(rtsp_url + path)) as listener:
        with pytest.raises(SourceRejected, match=f"input host: rtsp://127.0.0.1:.*the server refuses: .*{answer}"):
            await listener.hears(1)


@pytest.mark.peer
@pytest.mark.parametrize("codec", ["-c:a pcm_mulaw -ar 8000", "-c:a libopus", "-c:a aac"])
async def test_rtp_is_heard_as_a_session_description_says(codec: str, tmp_path: Path, free_port: int) -> None:
    port = free_port & ~1  # RTCP is one above
    description = tmp_path / "call.sdp"
    send = ffmpeg(*codec.split(), "-f", "rtp", "-sdp_file", str(description), f"rtp://127.0.0.1:{port}")
    with running(*send):
        await until(lambda: description.exists() and "m=audio" in description.read_text())
        async with Listener(source_of("sdp:call.sdp", tmp_path)) as listener:
            assert is_tone((await listener.hears(HEARD_S))[AVATAR_RATE_HZ // 3 :])


@pytest.mark.peer
@pytest.mark.parametrize("container", ["mp3", "matroska"])
async def test_http_stream_of_ffmpeg_is_heard(container: str, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/live"
    with running(*ffmpeg("-f", container, "-listen", "1", url)):
        # It listens a little later.
        async with Listener(opened(url, Path("/"))) as listener:
            assert is_tone((await listener.hears(HEARD_S))[AVATAR_RATE_HZ // 3 :])


@pytest.mark.peer
async def test_raw_samples_of_ffmpeg_come_through_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    url = "pcm:fifo?rate=44100&channels=2&format=s24le"
    async with Listener(source_of(url, tmp_path)) as listener:
        for _ in range(2):
            with running(*ffmpeg("-ar", "44100", "-ac", "2", "-f", "s24le", "-y", str(tmp_path / "fifo"))):
                assert is_tone((await listener.hears(HEARD_S))[AVATAR_RATE_HZ // 3 :])


@pytest.mark.peer
async def test_pulseaudio_source_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_program("parec", "pulseaudio-utils")
    socket = tmp_path / "server"
    daemon = (
        *(require_program("pulseaudio"), "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"),
        *(
            "--load=module-null-sink sink_name=tone",
            f"--load=module-native-protocol-unix auth-anonymous=1 socket={socket}",
        ),
    )
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    monkeypatch.setenv("PULSE_SERVER", f"unix:{socket}")
    with running(*daemon, env=home):
        await until(socket.exists)
        with running(*ffmpeg("-f", "pulse", "-device", "tone", "tone")):
            async with Listener(source_of("pulse:tone.monitor?channels=2")) as listener:
                await listener.hears(0.5)  # until the tone plays
                assert is_tone(await listener.hears(HEARD_S))
        async with Listener(source_of("pulse:nothing")) as listener:
            with pytest.raises(SourceRejected, match=r"input host: pulse:nothing: .*No such entity"):
                await listener.hears(1)


@pytest.mark.peer
async def test_alsa_device_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_program("arecord", "alsa-utils")
    raw = tmp_path / "tone.raw"
    tone = 0.25 * np.sin(2 * np.pi * TONE_HZ * np.arange(3 * 48_000) / 48_000)
    raw.write_bytes((tone * 32_767).astype("<i2").tobytes())
    configuration = tmp_path / "asound.conf"
    configuration.write_text(
        f"pcm.tone {{ type file; slave.pcm null; file /dev/null; infile {raw}; format raw }}\n"
        "pcm.null { type null }\n"
    )
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(configuration))
    async with Listener(source_of("alsa:tone")) as listener:
        assert is_tone(await listener.hears(HEARD_S))
    async with Listener(source_of("alsa:nothing")) as listener:
        with pytest.raises(SourceRejected, match=r"input host: alsa:nothing: .*No such (file|device)"):
            await listener.hears(1)
