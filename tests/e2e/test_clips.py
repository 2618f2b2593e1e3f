"""Clips of video generation, from the local service: ordered, rendered, downloaded, and put to use."""

import asyncio
import base64
import io
import itertools
import json
import os
import signal
import wave
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pytest

from bridge.clip import run_clip
from bridge.config import ClipConfig
from bridge.errors import ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar import clips
from bridge.local_avatar.faults import Fault
from bridge.net.clips import MOST_FRUITLESS, Clip, ClipService
from bridge.net.url_policy import UrlPolicy
from bridge.protocols.navtalk_clips import SOUNDS, VISUALS, Order, Sound, Status, Task, Visual
from bridge.redact import Secret
from tests.e2e import recorded
from tests.e2e.listening import PATIENCE_S, failure_of, local_avatar, running
from tests.e2e.processes import COMMAND, LICENSE, SPEECH, Daemon, Program, Setting
from tests.unit.inputs.web import Request, web

FAULTS = ("rest-status", "clip-status", "clip-fails", "clip-breaks")
GREETING_SAMPLES = 36_000
GREETING = Order("character_name", "navtalk.Leo", "content", "Hello, I am Leo.", "nova")


def greeting() -> bytes:
    """The beginning of the shipped sample, as a WAV file."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(recorded.SPEECH_RATE_HZ)
        samples = recorded.sound(SPEECH)[:GREETING_SAMPLES]
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return sound.getvalue()


@asynccontextmanager
async def clip_service(*faults: str, **options: Any) -> AsyncIterator[str]:
    parsed = [Fault.parse(text) for text in faults]
    async with local_avatar(services=("navtalk-clips",), faults=parsed, **options) as url:
        yield url


def service_at(url: str, license: str = LICENSE, policy: UrlPolicy | None = None, **options: Any) -> ClipService:
    async def soon(delay_s: float) -> None:
        await asyncio.sleep(delay_s / 20)

    given = {"deadline_s": PATIENCE_S, "max_bytes": 10_000_000, "sleep": soon} | options
    return ClipService(url, Secret(license), policy or UrlPolicy(), **given)


@pytest.mark.parametrize(("visual", "sound"), [*itertools.product(VISUALS, SOUNDS)])
async def test_each_combination_becomes_a_clip_that_says_it(visual: Visual, sound: Sound, tmp_path: Path) -> None:
    speech = greeting()

    async def answer(request: Request) -> None:
        await request.say("HTTP/1.1 200 OK", body=speech)

    async with web(answer) as site, clip_service(size_px=(96, 160), fps=10) as url, asyncio.timeout(PATIENCE_S):
        said = {"audio_url": site.url("/a"), "audio_base64": base64.b64encode(speech).decode(), "content": "Hello."}
        tasks: list[Task] = []
        clip = Clip(service_at(url), Order(visual, "https://x/y", sound, said[sound]), tmp_path / "clips" / "a.mp4")
        await clip.fetch(tasks.append)
    statuses = [task.status for task in tasks]
    assert (statuses[0], statuses[-1]) == (Status.STARTED, Status.DONE)
    picture, heard = recorded.tracks(clip.path)
    assert (picture.codec, heard.codec) == ("h264", "aac")
    assert recorded.n_pictures(clip.path) == len(picture.packets) > 5
    assert abs(picture.end_s - heard.end_s) < 0.25
    if sound != "content":
        # It begins a quarter of a second in.
        assert recorded.likeness(recorded.sound(clip.path), recorded.sound(SPEECH)[:GREETING_SAMPLES]) > 0.9
    assert names_in(clip.path.parent) == ["a.mp4"]


async def test_a_flash_and_its_beep_are_as_close_in_a_clip_as_they_are_live(tmp_path: Path) -> None:
    sound = base64.b64encode(greeting()).decode()
    async with clip_service(flash=True, size_px=(96, 160)) as url, asyncio.timeout(PATIENCE_S):
        clip = Clip(service_at(url), Order("character_name", "x", "audio_base64", sound), tmp_path / "a.mp4")
        await clip.fetch()
    with av.open(str(clip.path)) as container:
        flashes_s = [float(f.time or 0) for f in container.decode(video=0) if f.to_ndarray(format="gray").mean() > 200]
    heard = recorded.sound(clip.path)
    n = np.arange(240)
    tone = np.exp(2j * np.pi * 1000 * n / 24_000)
    assert flashes_s
    for flash_s in flashes_s[:3]:
        at = round(flash_s * 24_000)
        near = np.abs(np.convolve(heard[at - 960 : at + 1200], tone, "valid"))
        onset_s = (np.argmax(near > near.max() / 2) + len(n) / 2 - 960) / 24_000
        assert abs(onset_s) < 0.01


async def test_a_clip_that_is_there_is_not_ordered_again(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("kept")
    await Clip(service_at("http://127.0.0.1:1"), GREETING, path).fetch()
    assert path.read_text() == "kept"


async def test_a_download_that_breaks_off_goes_on_where_it_did(tmp_path: Path) -> None:
    async with clip_service("clip-breaks", "clip-status", size_px=(96, 160)) as url, asyncio.timeout(PATIENCE_S):
        tasks: list[Task] = []
        reached: list[tuple[int, int]] = []
        clip = Clip(service_at(url), GREETING, tmp_path / "a.mp4")
        await clip.fetch(tasks.append, lambda done, size: reached.append((done, size)))
    assert Task(Status.UNKNOWN, tasks[0].task_id, message="queued_on_gpu") in tasks
    assert recorded.n_pictures(clip.path) > 5
    size = clip.path.stat().st_size
    assert reached == sorted(reached) and reached[-1] == (size, size)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        ("401", ProviderRejected, "check the licence"),
        ("402", ProviderRejected, "top up the account"),
        ("429", ProviderUnavailable, "not available now (HTTP 429)"),
        ("503", ProviderUnavailable, "not available now (HTTP 503)"),
    ],
)
async def test_a_refusal_in_html_says_who_must_act(status: str, kind: type, words: str) -> None:
    async with clip_service(f"rest-status:{status}") as url:
        error = await failure_of(render(url))
    assert type(error) is kind
    assert words in str(error)
    assert "<" not in str(error) and LICENSE not in str(error)


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def render(url: str, **options: Any) -> None:
    with TemporaryDirectory() as directory:
        await Clip(service_at(url, **options), GREETING, Path(directory) / "a.mp4").fetch()


async def test_a_wrong_licence_is_rejected_in_the_services_words() -> None:
    async with clip_service(license=Secret("sk_another")) as url:
        error = await failure_of(render(url))
    assert isinstance(error, ProviderRejected)
    assert 'refused (HTTP 401 "Invalid license key"): check the licence' in str(error)


async def test_what_cannot_be_rendered_is_rejected_and_not_ordered_again() -> None:
    async with clip_service("clip-fails") as url:
        error = await failure_of(render(url))
    assert isinstance(error, ProviderRejected)
    assert '"no face was found"' in str(error)


async def test_nobody_there_is_unavailable() -> None:
    error = await failure_of(render("http://127.0.0.1:1"))
    assert isinstance(error, ProviderUnavailable)
    assert "Connection refused" in str(error)


@asynccontextmanager
async def scripted(submit: Any, status: Any = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A service that gives these bodies: its URL, and what was asked."""
    asked: list[str] = []

    async def answer(request: Request) -> None:
        asked.append(request.path)
        body = submit if request.path.startswith("/generate") else status
        text = body if isinstance(body, str) else json.dumps(body)
        await request.say("HTTP/1.1 200 OK", body=text.encode())

    async with web(answer) as site:
        yield site.url(""), asked


async def test_a_clip_that_is_not_ready_in_time_is_given_up() -> None:
    async with scripted({"status": "started", "task_id": "t"}, {"status": "processing"}) as (url, asked):
        error = await failure_of(render(url, deadline_s=2))
    assert isinstance(error, ProviderUnavailable)
    assert "not rendered the clip within 2 s (task t)" in str(error)
    assert f"/query_status?license={LICENSE}&task_id=t" in asked


async def test_an_answer_that_is_a_page_breaks_the_protocol() -> None:
    async with scripted("<html>Welcome</html>") as (url, _):
        error = await failure_of(render(url))
    assert isinstance(error, RemoteProtocolError)
    assert "no JSON" in str(error)


async def test_two_hosts_may_share_the_work() -> None:
    async with (
        scripted({"status": "started", "task_id": "t"}, "pictures") as (url, ordered),
        scripted("", {"status": "done", "video_url": "/v.mp4"}) as (status_url, asked),
    ):
        await render(url, status_url=status_url)
    assert ordered == ["/generate", "/v.mp4"]
    assert asked == [f"/query_status?license={LICENSE}&task_id=t"]


async def test_an_order_whose_answer_comes_too_slowly_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.net.clips.ANSWER_TIMEOUT_S", 0.1)

    async def answer(request: Request) -> None:
        await asyncio.Event().wait()

    async with web(answer) as site:
        error = await failure_of(render(site.url(""), deadline_s=0.3))
    assert isinstance(error, ProviderUnavailable)
    assert "not rendered the clip within 0.3 s (task not begun)" in str(error)


@pytest.mark.parametrize("message", ["[/face] is bad", "\x1b[2Jcleared"])
async def test_the_services_words_are_no_commands_to_a_terminal(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # that is: a terminal
    async with scripted({"status": "failed", "task_id": "t", "message": message}) as (url, _):
        config = ClipConfig(url=Secret.url(url), license=Secret(LICENSE), character_name="x", content="y")
        error = await failure_of(run_clip(config, tmp_path / "a.mp4"))
    assert isinstance(error, ProviderRejected) and "could not render the clip" in str(error)
    assert "\x1b" not in str(error) and "\x1b[2Jcleared" not in capfd.readouterr().err


async def test_what_is_rendered_is_not_ordered_again_when_it_cannot_be_downloaded(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: Request) -> None:
        asked.append(request.path)
        if request.path == "/generate":
            await request.say("HTTP/1.1 200 OK", body=b'{"status": "done", "video_url": "/v.mp4"}')
        elif asked.count("/v.mp4") <= MOST_FRUITLESS:
            await request.say("HTTP/1.1 503 Service Unavailable")
        else:
            await request.say("HTTP/1.1 200 OK", body=b"pictures")

    async with web(answer) as site, asyncio.timeout(PATIENCE_S):
        clip = Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4")
        assert isinstance(await failure_of(clip.fetch()), ProviderUnavailable)
        await clip.fetch()
    assert clip.path.read_bytes() == b"pictures"
    assert asked.count("/generate") == 1


class Studio:
    """A service that gives the task "t" to each order, says what it is told to say of it, and has one clip."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.say: dict[str, str] = {"status": "processing"}
        self.status = "HTTP/1.1 200 OK"
        self.ordered = asyncio.Event()
        self.polled = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def n_orders(self) -> int:
        return self.asked.count("/generate")

    async def answer(self, request: Request) -> None:
        self.asked.append(request.path)
        if request.path == "/generate":
            self.ordered.set()
            await self.may_answer.wait()
            await request.say("HTTP/1.1 200 OK", body=b'{"status": "started", "task_id": "t"}')
        elif request.path.startswith("/query_status"):
            await request.say(self.status, body=json.dumps(self.say).encode())
            self.polled.set()
        else:
            await request.say("HTTP/1.1 200 OK", body=b"pictures")

    def has_rendered(self) -> None:
        self.say = {"status": "done", "video_url": "/v.mp4"}


async def begin(studio: Studio, clip: Clip) -> None:
    """Order it, and be cancelled while it is rendered, as a program is that ends."""
    async with running(clip.fetch()):
        await studio.polled.wait()
    studio.polled.clear()


async def test_an_order_outlives_the_program_that_placed_it(tmp_path: Path) -> None:
    studio = Studio()
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        await begin(studio, Clip(service_at(site.url("")), GREETING, tmp_path / "clips" / "a.mp4"))
        assert names_in(tmp_path / "clips") == [".a.mp4.task"]
        assert os.stat(tmp_path / "clips" / ".a.mp4.task").st_mode & 0o777 == 0o600
        studio.has_rendered()
        tasks: list[Task] = []
        again = Clip(service_at(site.url("")), GREETING, tmp_path / "clips" / "a.mp4")
        await again.fetch(tasks.append)
    assert again.path.read_bytes() == b"pictures"
    assert studio.n_orders == 1
    assert [(task.status, task.task_id) for task in tasks] == [(Status.DONE, "t")]
    assert names_in(tmp_path / "clips") == ["a.mp4"]


async def test_who_is_told_to_end_while_it_orders_waits_for_what_has_to_be_paid(tmp_path: Path) -> None:
    studio = Studio()
    studio.may_answer.clear()
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        fetching = asyncio.create_task(Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch())
        await studio.ordered.wait()
        fetching.cancel()
        asyncio.get_running_loop().call_soon(studio.may_answer.set)
        await asyncio.wait([fetching])
        assert fetching.cancelled()
        studio.has_rendered()
        await Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch()
    assert studio.n_orders == 1


async def test_a_clip_that_was_not_ready_in_time_is_asked_about_again_and_not_ordered(tmp_path: Path) -> None:
    studio = Studio()
    async with web(studio.answer) as site:
        clip = Clip(service_at(site.url(""), deadline_s=2.0), GREETING, tmp_path / "a.mp4")
        assert "(task t)" in str(await failure_of(clip.fetch()))
        studio.has_rendered()
        await clip.fetch()
    assert studio.n_orders == 1


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:70]),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.unlink(),
        lambda path: os.utime(path, (0, 0)),
    ],
    ids=["cut short", "no text", "lost", "more than a day old"],
)
async def test_a_receipt_that_is_of_no_use_does_not_stand_in_the_way(damage: Damage, tmp_path: Path) -> None:
    studio = Studio()
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        await begin(studio, Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4"))
        damage(tmp_path / ".a.mp4.task")
        studio.has_rendered()
        await Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch()
    assert studio.n_orders == 2
    assert names_in(tmp_path) == ["a.mp4"]


async def test_another_order_for_the_same_file_is_placed(tmp_path: Path) -> None:
    studio = Studio()
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        await begin(studio, Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4"))
        studio.has_rendered()
        other = Order("character_name", "navtalk.Leo", "content", "Good bye.")
        await Clip(service_at(site.url("")), other, tmp_path / "a.mp4").fetch()
    assert studio.n_orders == 2


async def test_a_task_that_the_service_has_forgotten_is_ordered_again(tmp_path: Path) -> None:
    studio = Studio()
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        await begin(studio, Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4"))
        studio.status = "HTTP/1.1 404 Not Found"
        assert "HTTP 404" in str(await failure_of(Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch()))
    assert studio.n_orders == 2


@pytest.mark.parametrize(("status", "words"), [("401 No", "check the licence"), ("503 Busy", "not available now")])
async def test_a_task_that_cannot_be_asked_about_now_stays_ordered(status: str, words: str, tmp_path: Path) -> None:
    studio = Studio()
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        await begin(studio, Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4"))
        studio.status = f"HTTP/1.1 {status}"
        assert words in str(await failure_of(Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch()))
        studio.status = "HTTP/1.1 200 OK"
        studio.has_rendered()
        await Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch()
    assert studio.n_orders == 1


async def test_what_has_failed_is_ordered_anew_by_the_next_start(tmp_path: Path) -> None:
    studio = Studio()
    studio.say = {"status": "failed", "message": "no face was found"}
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        clip = Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4")
        assert "no face was found" in str(await failure_of(clip.fetch()))
        assert names_in(tmp_path) == []
        studio.has_rendered()
        await clip.fetch()
    assert studio.n_orders == 2


async def test_an_order_whose_receipt_cannot_be_kept_goes_on_all_the_same(tmp_path: Path) -> None:
    studio = Studio()
    (tmp_path / "taken").write_text("a file, where a directory is to be")
    path = tmp_path / "taken" / "a.mp4"
    async with web(studio.answer) as site, asyncio.timeout(PATIENCE_S):
        studio.has_rendered()
        clip = Clip(service_at(site.url("")), GREETING, path)
        assert "cannot be kept" in str(await failure_of(clip.fetch()))
        (tmp_path / "taken").unlink()
        await clip.fetch()
    assert path.read_bytes() == b"pictures"
    assert studio.n_orders == 1


@pytest.mark.parametrize("page", ["HTTP/1.1 503 Service Unavailable", "HTTP/1.1 429 Too Many Requests", ""])
async def test_a_question_that_gets_no_answer_is_asked_again(page: str, tmp_path: Path) -> None:
    studio = Studio()
    n_pages = 2

    async def answer(request: Request) -> None:
        nonlocal n_pages
        if request.path.startswith("/query_status") and n_pages:
            n_pages -= 1
            await request.say(page or "HTTP/1.1 200 OK", body=b"<html>Back soon</html>")
        else:
            await studio.answer(request)

    studio.has_rendered()
    async with web(answer) as site, asyncio.timeout(PATIENCE_S):
        await Clip(service_at(site.url("")), GREETING, tmp_path / "a.mp4").fetch()
    assert (studio.n_orders, n_pages) == (1, 0)


async def test_a_download_that_trickles_is_given_up(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            await request.send(b"x")
            await asyncio.sleep(0.02)

    async with web(answer) as site:
        service = service_at(site.url(""), deadline_s=0.5)
        error = await failure_of(service.download(site.url("/v.mp4"), tmp_path / "a.mp4"))
    assert isinstance(error, ProviderUnavailable)
    assert "not downloaded within 0.5 s" in str(error)
    assert names_in(tmp_path) == []


async def test_what_two_want_at_once_is_ordered_once(tmp_path: Path) -> None:
    async with scripted({"status": "done", "video_url": "/v.mp4"}, "pictures") as (url, asked):
        wanted = [Clip(service_at(url), GREETING, tmp_path / "a.mp4") for _ in range(2)]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(clip.fetch() for clip in wanted))
    assert wanted[0].path.exists()
    assert asked == ["/generate", "/v.mp4"]


async def test_the_local_service_takes_no_more_orders_than_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MOST_CLIPS", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def sound(order: Order) -> None:
        begun.set()
        await go_on.wait()
        raise ValueError("nothing is said")

    monkeypatch.setattr(clips, "_sound", sound)
    async with clip_service() as url, asyncio.timeout(PATIENCE_S):
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(failure_of(render(url)))
            await begun.wait()
            assert "HTTP 429" in str(await failure_of(render(url)))
            go_on.set()
        assert "nothing is said" in str(first.result())
        assert "nothing is said" in str(await failure_of(render(url)))


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://127.0.0.1:9/x.mp4", "file:///etc/passwd"])
async def test_a_clip_that_lies_where_no_stranger_may_lead_us_is_not_fetched(url: str, tmp_path: Path) -> None:
    error = await failure_of(service_at("https://clips.example").download(url, tmp_path / "a.mp4"))
    assert isinstance(error, ProviderRejected)
    assert names_in(tmp_path) == []


async def test_a_clip_larger_than_allowed_is_not_kept(tmp_path: Path) -> None:
    async with clip_service(size_px=(96, 160)) as url, asyncio.timeout(PATIENCE_S):
        clip = Clip(service_at(url, max_bytes=1000), GREETING, tmp_path / "a.mp4")
        error = await failure_of(clip.fetch())
    assert "larger than 1000 bytes" in str(error)
    # It is paid: with a larger limit it is downloaded and not ordered again.
    assert names_in(tmp_path) == [".a.mp4.task"]


# ---------------------------------------------------------------------------------------------- the product


@asynccontextmanager
async def clip_program(directory: Path, *options: str) -> AsyncIterator[tuple[str, Path]]:
    license_file = directory / "clips.license"
    license_file.write_text(LICENSE)
    command = (*COMMAND, "avatar", "--listen", "127.0.0.1:0", "--services", "navtalk-clips", "--size", "96x160")
    async with Program(*command, "--license-file", license_file, *options) as service:
        yield await service.said(), license_file


async def test_the_command_renders_a_clip_and_prints_where_it_is(tmp_path: Path) -> None:
    async with clip_program(tmp_path) as (url, license_file):
        order = ("--character", "girl2", "--text", "Good evening.", "--url", url, "--license-file", license_file)
        async with Program(*COMMAND, "clip", "out.mp4", *order, cwd=tmp_path) as made:
            assert await made.exit_status() == 0, made.everything()
        assert made.stdout == ["out.mp4"]
        assert made.stderr[0] == "clip started" and made.stderr[-1] == "clip done"
        assert recorded.n_pictures(tmp_path / "out.mp4") > 10
        async with Program(*COMMAND, "clip", "out.mp4", *order, cwd=tmp_path) as again:
            assert await again.exit_status() == 2
        assert "out.mp4 exists" in again.everything()


async def test_a_command_that_was_killed_goes_on_with_what_it_has_ordered(tmp_path: Path) -> None:
    studio = Studio()
    (tmp_path / "clips.license").write_text(LICENSE)
    async with web(studio.answer) as site, asyncio.timeout(2 * PATIENCE_S):
        command = (*COMMAND, "clip", "out.mp4", "--character", "girl2", "--text", "Good evening.")
        command += ("--url", site.url(""), "--license-file", str(tmp_path / "clips.license"))
        async with Program(*command, cwd=tmp_path) as killed:
            await studio.polled.wait()
            killed.send(signal.SIGKILL)
            await killed.exit_status()
        studio.has_rendered()
        async with Program(*command, cwd=tmp_path) as again:
            assert await again.exit_status() == 0, again.everything()
    assert studio.n_orders == 1
    assert sorted(names_in(tmp_path)) == ["clips.license", "out.mp4"]


async def test_a_clip_is_what_the_avatar_hears_and_what_stands_in_for_it(tmp_path: Path) -> None:
    async with clip_program(tmp_path) as (url, license_file):
        rendering: Mapping[str, Any] = {
            "url": url,
            "license_file": str(license_file),
            "character_name": "girl2",
            "content": "Good evening, and welcome to the programme.",
        }
        setting = Setting(tmp_path, "ws://127.0.0.1:1/wss/v2/realtime-chat")
        setting.hears("clip:", rendering=rendering).slate(picture="clip", rendering=rendering)
        recording = setting.recording()
        async with Daemon(setting.write()) as daemon:
            await daemon.logged("slate_clip_ready")
            await daemon.metric_reaches(1.0, "slate_seconds_total")
            assert await daemon.stop() == 0
    assert len(names_in(tmp_path / "recordings" / "clips")) == 1
    assert recorded.n_pictures(recording) > 25
