"""Debian's Chromium with the page of this directory, alone on 127.0.0.1, and what the page has seen."""

import asyncio
import contextlib
import functools
import http.server
import os
import threading
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from playwright.async_api import Page, async_playwright

from tests.conftest import require_program
from tests.e2e.processes import COMMAND, LICENSE, PATIENCE_S, SPEECH, Program

MICROPHONE_HZ = 48_000  # what Chromium's devices run at: the page's AudioContext makes 24 kHz of it
POLL_MS = 50  # WebRTC's statistics announce no change
_DIRECTORY = Path(__file__).parent
FLAGS = (
    # The microphone is a file, and is allowed.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # ICE on loopback, with addresses instead of names that multicast DNS would have to resolve.
    "--allow-loopback-in-peer-connection",
    # Only the last list of its kind counts, so playwright's is said again as far as it keeps the network quiet.
    "--disable-features=WebRtcHideLocalIpsWithMdns,MediaRouter,OptimizationHints,Translate",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    # Nobody is contacted: no name resolves, no service of the vendor's is asked.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
)


def record_microphone(path: Path, *, silence_s: float, speech_s: float, end_s: float) -> Path:
    """A WAV file of silence, then speech from its beginning, then silence: PCM16, mono, MICROPHONE_HZ, `end_s` long."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=MICROPHONE_HZ)
    with av.open(str(SPEECH)) as source:
        frames = [out for frame in source.decode(audio=0) for out in resampler.resample(frame)]
    speech = np.concatenate([frame.to_ndarray()[0] for frame in frames])[: round(speech_s * MICROPHONE_HZ)]
    sound = np.zeros(round(end_s * MICROPHONE_HZ), np.int16)
    start = round(silence_s * MICROPHONE_HZ)
    sound[start : start + len(speech)] = speech
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MICROPHONE_HZ)
        file.writeframes(sound.tobytes())
    return path


class VendorFlow:
    """The page's session. `events`, `types` and `media` are what it has seen until they are asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def start(self, url: str, *, flow: str = "VendorFlow", **settings: Any) -> Self:
        """Connect to an avatar service as this class of the page does; the settings are the page's own."""
        defaults = {"license": LICENSE, "name": "navtalk.Leo", "voice": "cedar", "prompt": "Be kind."}
        rest = {"tools": [], "history": [], "toolOutput": ""}
        given = {"url": url, **defaults, **rest, **settings}
        await self.page.evaluate(f"(settings) => {{ window.flow = new {flow}(settings); }}", given)
        return self

    async def look(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression, or of the promise that it is; `argument` is its `argument`."""
        return await self.page.evaluate(f"(argument) => {expression}", argument)

    async def until(self, claim: str, argument: Any = None, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a JavaScript expression, which may await, is true."""
        loop = f"async (argument) => {{ while (!({claim})) await new Promise((go) => setTimeout(go, {POLL_MS})); }}"
        try:
            async with asyncio.timeout(timeout_s):
                await self.page.evaluate(loop, argument)
        except TimeoutError:
            seen = await self.look("[flow.events.map(({ type }) => type), flow.problems, flow.closed]")
            raise AssertionError(f"not within {timeout_s:g} s: {claim} ({argument}); the page has {seen}") from None

    async def event(self, type_name: str, n_times: int = 1) -> dict[str, Any]:
        """The data of the so manieth event of this type, once it is there."""
        found = "flow.events.filter(({ type }) => type === argument[0])"
        await self.until(f"{found}.length >= argument[1]", [type_name, n_times])
        data: dict[str, Any] = await self.look(f"{found}[argument[1] - 1].data", [type_name, n_times])
        return data

    async def pictures(self, n_pictures: int = 1) -> None:
        """Wait until the newest peer has decoded so many pictures."""
        claim = "flow.peers.length && (await flow.media()).video?.framesDecoded >= argument"
        await self.until(claim, n_pictures)

    async def media(self) -> dict[str, dict[str, Any]]:
        """WebRTC's inbound-rtp statistics of the newest peer, by kind."""
        found: dict[str, dict[str, Any]] = await self.look("flow.media()")
        return found


@contextlib.asynccontextmanager
async def chromium_page(microphone: Path, width_px: int = 360, height_px: int = 640) -> AsyncIterator[Page]:
    """A browser's only page; its microphone hears the WAV file once, then silence."""
    executable = require_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable,
            args=[*FLAGS, f"--use-file-for-fake-audio-capture={microphone}%noloop"],
        )
        try:
            yield await browser.new_page(viewport={"width": width_px, "height": height_px})
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def vendor_flow(microphone: Path) -> AsyncIterator[VendorFlow]:
    """A browser that shows the page of this directory; its microphone hears the WAV file once, then silence."""
    with serving(_DIRECTORY) as origin:
        async with chromium_page(microphone) as page:
            await page.goto(f"{origin}/vendor_flow.html")
            yield VendorFlow(page)


@contextlib.asynccontextmanager
async def avatar_service(directory: Path, *options: str) -> AsyncIterator[tuple[Program, str]]:
    """`avatar-bridge avatar` with these options, and its URL."""
    license_file = directory / "browser.license"
    license_file.write_text(LICENSE)
    command = (*COMMAND, "avatar", "--listen", "127.0.0.1:0", "--license-file", license_file, *options)
    async with Program(*command) as avatar:
        try:
            yield avatar, await avatar.said()
        finally:
            print(avatar.everything())  # pytest shows it beside a failure


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """The origin of a directory's pages. Loopback is a secure context, without which there is no microphone."""
    handler = functools.partial(_QuietHandler, directory=os.fspath(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="page-server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        # It tells versions of a file apart by the second.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass
