"""The daemon's page in Chromium: what it shows, and what its buttons do."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import Page

from bridge.errors import ProviderUnavailable
from bridge.media.clock import NS_PER_S
from bridge.net.http_server import serve_app
from bridge.trend import Trend
from tests.browser.chromium import chromium_page, record_microphone
from tests.e2e.listening import running
from tests.e2e.processes import PATIENCE_S, Setting, Show, faulty_avatar
from tests.unit.ops.fakes import FakeDaemon, FakeOutput, app_of
from tests.unit.test_trend import MEDIA, STATUS, Clock

pytestmark = pytest.mark.peer

PAGE = Path(__file__).parents[2] / "bridge" / "ops" / "page"
# Resolves with the time since navigation began, once there is a picture on the screen.
FIRST_PICTURE = """() => new Promise((go) => document.querySelector("#preview").requestVideoFrameCallback(go))"""
TOKEN = "operator_canary_0123456789"


@pytest.fixture
def microphone(tmp_path: Path) -> Iterator[Path]:
    yield record_microphone(tmp_path / "microphone.wav", silence_s=0.5, speech_s=2.0, end_s=60.0)


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) <= 200 * 1024


async def test_the_page_shows_the_avatar_and_takes_orders(microphone: Path, tmp_path: Path, show: Show) -> None:
    (tmp_path / "operator.token").write_text(f"{TOKEN}\n")
    tokens = [{"file": str(tmp_path / "operator.token"), "scopes": ["read", "control", "ingest", "view"]}]
    async with (
        faulty_avatar(tmp_path) as (_, url),
        chromium_page(microphone, 1200, 1000) as page,
    ):
        setting = Setting(tmp_path, url, http={"listen": "127.0.0.1:0", "tokens": tokens})
        setting.sessions["leo"]["avatar"]["role"] = "conversation"
        setting.inputs({"host": {"url": "whip:", "priority": 1}}).recording()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        async with setting.daemon() as daemon:
            origin = f"http://{(await daemon.logged('http_listening'))['address']}"
            await daemon.logged("on_air_live")
            async with asyncio.timeout(2 * PATIENCE_S):
                # It has no token of its own.
                await page.goto(origin)
                await page.get_by_label("Access token").fill(TOKEN)
                await page.get_by_role("button", name="Open").click()
                await page.evaluate(FIRST_PICTURE)
                # From here on the browser knows it.
                await page.reload(wait_until="commit")
                shown_ms = await page.evaluate(FIRST_PICTURE)
                show(f"page: first picture of the preview {shown_ms:.0f} ms after navigation")

                await page.get_by_label("Say to the avatar").fill("Hello there.")
                await page.get_by_role("button", name="Send").click()
                await page.get_by_text("Avatar: ").first.wait_for()
                await page.get_by_role("button", name="Slate").click()
                await page.get_by_text("on air: slate (page)").wait_for()
                await page.get_by_role("button", name="Slate").click()
                await page.get_by_text("on air: live", exact=True).wait_for()
                await page.get_by_role("button", name="Mute", exact=True).click()
                await page.get_by_text("on air: live, muted").wait_for()
                # What is said while the button is held is heard, and answered.
                talk = page.get_by_role("button", name="Hold to talk")
                await talk.dispatch_event("pointerdown", {"pointerId": 1})
                await page.get_by_text("You: ").first.wait_for()
                await talk.dispatch_event("pointerup", {"pointerId": 1})
                await page.locator("#outputs").get_by_role("button", name="stop").click()
                await page.locator("#outputs").get_by_text("stopped").wait_for()
            await page.screenshot(path=tmp_path / "page.png", full_page=True)
            await page.set_viewport_size({"width": 360, "height": 740})
            # On a phone nothing is wider than the screen.
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            await page.screenshot(path=tmp_path / "phone.png", full_page=True)
            assert problems == []
            assert await daemon.stop() == 0


async def test_the_page_shows_hostile_words_a_refusal_and_that_the_session_is_gone(microphone: Path) -> None:
    markup = "<img src=x onerror=document.title='owned'>"
    daemon = FakeDaemon()
    daemon.leo.error = ProviderUnavailable("the avatar is away")
    daemon.leo.now.outputs = (FakeOutput("twitch", state="backing_off", last_error=markup),)
    async with page_of(daemon, microphone) as page:
        await page.locator("#outputs").get_by_text(markup).wait_for()
        daemon.leo.events.note("user_transcript", text=markup)
        await page.locator("#transcript").get_by_text(markup).wait_for()
        assert await page.title() == "avatar-bridge"

        # What went wrong stays until the next deed, however often the page looks.
        await page.get_by_role("button", name="Interrupt").click()
        await page.get_by_text("the avatar is away").wait_for()
        daemon.leo.now.state = "connecting"
        await page.get_by_text("connecting", exact=True).wait_for()
        assert await page.get_by_text("the avatar is away").is_visible()
        daemon.leo.error = None
        await page.get_by_role("button", name="Interrupt").click()
        await page.get_by_text("the avatar is away").wait_for(state="hidden")

        daemon.definitions.clear()
        await page.get_by_text("no session", exact=True).wait_for()
        assert await page.locator("#outputs tr").count() == 0
        assert await page.locator("#on-air").is_hidden()


@asynccontextmanager
async def page_of(daemon: FakeDaemon, microphone: Path) -> AsyncIterator[Page]:
    """The page, once it follows the session's events."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with (
            running(serve_app(app_of(daemon), listening)),
            chromium_page(microphone, 1200, 1000) as page,
            asyncio.timeout(PATIENCE_S),
        ):
            async with page.expect_response("**/events"):
                await page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}")
            yield page


async def test_plots_show_the_ten_minutes_before_the_page_was_opened(microphone: Path, tmp_path: Path) -> None:
    daemon, clock = FakeDaemon(), Clock()
    daemon.leo.trend = Trend(clock)
    for n in range(300):
        media = replace(MEDIA, added_latency_p99_s=0.005 if n == 100 else 0.002, fps=0.0 if 100 < n < 120 else 30.0)
        daemon.leo.trend.look(partial(replace, STATUS, media=media, freezes=n // 100))
        clock.now_ns += 2 * NS_PER_S
    daemon.leo.now.media.added_latency_p99_s = 0.0025
    async with page_of(daemon, microphone) as page:
        latency = page.locator("figure", has_text="Added latency").locator("polyline")
        await page.wait_for_function("(line) => line.points.numberOfItems > 300", arg=await latency.element_handle())
        points = [[float(x) for x in pair.split(",")] for pair in (await latency.get_attribute("points") or "").split()]
        times = [x for x, _ in points]
        # From ten minutes ago to now, and the peak is where it was.
        assert times == sorted(times) and times[0] < 5 and times[-1] > 595
        assert abs(min(points, key=lambda point: point[1])[0] - 200) < 5
        assert await page.get_by_text("2.5 ms (to 5.0)").is_visible()
        await page.screenshot(path=tmp_path / "plots.png", full_page=True)


async def test_a_page_that_comes_back_by_the_browsers_history_goes_on(microphone: Path) -> None:
    daemon = FakeDaemon()
    events = daemon.leo.events
    turn = "(type) => dispatchEvent(new PageTransitionEvent(type, { persisted: true }))"
    async with page_of(daemon, microphone) as page:
        events.note("user_transcript", text="before")
        await page.get_by_text("You: before").wait_for()
        await page.evaluate(turn, "pagehide")
        while events.n_followers:  # noqa: ASYNC110  whoever goes announces it to nobody
            await asyncio.sleep(0.02)
        events.note("user_transcript", text="meanwhile")
        async with page.expect_request("**/whep/preview"):
            await page.evaluate(turn, "pageshow")
        await page.get_by_text("You: meanwhile").wait_for()
        assert await page.get_by_text("You: before").count() == 1


async def test_a_token_that_no_header_can_hold_is_not_taken_for_a_daemon_that_is_away(microphone: Path) -> None:
    async with chromium_page(microphone) as page:
        await page.set_content((PAGE / "index.html").read_text())
        token = page.get_by_label("Access token")
        for text, is_valid in (("tok\u20ac", False), (TOKEN, True), (f" {TOKEN}", True)):
            await token.evaluate("(field, text) => { field.value = text; }", text)
            assert await token.evaluate("(field) => field.checkValidity()") is is_valid
