"""Whatever goes wrong, nothing that the bridge writes, answers or shows the system holds one of its secrets.

`Program` looks at all that a process has written when it ends.
"""

import asyncio
import contextlib
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from playwright.async_api import Page, Request
from starlette.types import Receive, Scope, Send

from bridge.local_avatar.navtalk import NavTalkService
from bridge.net.http_server import serve_app
from tests.browser.chromium import chromium_page, record_microphone
from tests.conftest import require_program
from tests.e2e.evil import WAYS, EvilService, evil_rtmp, self_signed
from tests.e2e.listening import running
from tests.e2e.processes import (
    COMMAND,
    LICENSE,
    PATIENCE_S,
    SPEECH,
    Avatar,
    Daemon,
    Program,
    arguments_of,
    assert_no_canary,
    descendants,
)

# What looks different in a URL, in JSON and in Python. Each piece holds the word that is looked for, so that half a
# secret is found too, and something besides, so that it is the piece that has to be hidden.
SECRETS = {
    "LICENCE": 'sk_canary/"2canary\\3canary é',
    "SUBSTITUTED": "sub canary$&4canary<5canary>",
    "USER": "user/canary@6canary",
    "TOKEN": "token?canary#7canary%418canary",
    "QUERY": "query'canary;9canary",
    "LITERAL": "literal'canary;16canary",
    "TURN": "turn canary|10canary",
    "KEY": "key-canary/11canary?token=12canary",
    "KEY_IN_URL": "in-url-canary/14canary?token=15canary",
}
# Those that only some outputs and webhooks have.
MORE_SECRETS = {"PASSPHRASE": "pass canary=phrase 17canary", "SIGNING": "signing canary+18canary"}
# A token has letters and digits, and is masked by nothing but its being known.
OPERATOR = "operator_19canary_token"


def avatar_config(number: int, url: str) -> dict[str, Any]:
    """An avatar that is given every secret there is, the licence in one way or another. `url` has no path yet."""
    scheme, _, rest = url.partition("://")
    token, user = (quote(SECRETS[name], safe="") for name in ("TOKEN", "USER"))
    licences = ({"license_file": "licence"}, {"license_env": "LICENCE"}, {"license": "${LICENCE}"})
    return {
        "url": f"{scheme}://{user}:{user}@{rest}{NavTalkService.PATH}?token={token}&{token}",
        "name": "navtalk.Leo",
        "query": {"session_token": "${QUERY}", "other": SECRETS["LITERAL"]},
        "prompt": "${SUBSTITUTED}",
        "ice_servers": [{"urls": "turn:127.0.0.1:9", "username": "bridge", "credential_env": "TURN"}],
        **licences[number % 3],
    }


def rtmp_outputs(urls: Sequence[str]) -> dict[str, Any]:
    """Every server with the key in a file, in the URL and in the file of the URL."""
    outputs: dict[str, Any] = {}
    for number, url in enumerate(urls):
        Path(f"url{number}").write_text(f"{url}/{SECRETS['KEY_IN_URL']}")
        outputs[f"key{number}"] = {"url": url, "stream_key_file": "key"}
        outputs[f"env{number}"] = {"url": url, "stream_key_env": "KEY"}
        outputs[f"url{number}"] = {"url": f"{url}/${{KEY_IN_URL}}"}
        outputs[f"file{number}"] = {"url_file": f"url{number}"}
    return outputs


def write_config(sessions: dict[str, Any], level: str = "debug", format: str = "json") -> Path:
    """A configuration with these sessions, in the working directory."""
    for name, secret in (SECRETS | MORE_SECRETS).items():
        Path(name.lower()).write_text(secret)
    for name, session in sessions.items():
        session.setdefault("inputs", {"speech": {"url": f"file:{SPEECH}", "loop": True}})
        session.setdefault("outputs", {"archive": {"url": f"file:{name}.mp4"}})
    config = {
        "http": {"listen": "127.0.0.1:0"},
        "log": {"level": level, "format": format},
        "drain_s": 4.5,
        "ice": {"interfaces": ["lo"]},
        "storage": {"dir": "recordings", "min_free": 0},
        "sessions": sessions,
    }
    path = Path("bridge.yaml")
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextlib.asynccontextmanager
async def evil_avatars() -> AsyncIterator[tuple[EvilService, dict[str, str]]]:
    """Every avatar service that misbehaves: URLs by what they do."""
    service = EvilService(*SECRETS.values())
    async with service.listening() as plain, service.listening(self_signed(Path())) as tls:
        avatars = {way: f"ws://{plain}/{way}" for way in WAYS}
        avatars |= {"untrusted": f"wss://{tls}/fails", "no-tls": f"wss://{plain}/fails", "nobody": "ws://127.0.0.1:9"}
        yield service, avatars


@contextlib.asynccontextmanager
async def evil_servers() -> AsyncIterator[list[str]]:
    """Every RTMP server that misbehaves."""
    keys = SECRETS["KEY"], SECRETS["KEY_IN_URL"]
    async with (
        evil_rtmp("connect", keys[0]) as refusing,
        evil_rtmp("publish", keys[1]) as rejecting,
        evil_rtmp("connect", *keys, tls=self_signed(Path())) as untrusted,
    ):
        yield [f"rtmp://{refusing}/live", f"rtmp://{rejecting}/live", f"rtmps://{untrusted}/live"]


async def assert_nothing_shows(daemon: Daemon, address: str) -> None:
    """Look at what the daemon answers, and at what the system tells everybody about its processes."""

    def answer(path: str, host: str) -> str:
        request = urllib.request.Request(f"http://{address}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return f"{answer.headers} {answer.read().decode()}"
        except urllib.error.HTTPError as refusal:
            with refusal:
                return f"{refusal.headers} {refusal.read().decode()}"

    paths = ("/metrics", "/readyz", "/healthz", "/nothing-there", "/v1/sessions", "/docs")
    for host in ("localhost", "example.com"):
        for path in paths:
            assert_no_canary(await asyncio.to_thread(answer, path, host))
    for pid in {daemon.pid, *descendants(daemon.pid)}:
        assert_no_canary(arguments_of(pid))


@pytest.mark.parametrize(("level", "format"), [("debug", "json"), ("info", "console")])
async def test_a_daemon_keeps_what_services_repeat_or_refuse_to_itself(level: str, format: str) -> None:
    async with evil_avatars() as (service, avatars):
        hanging = avatars["fails"].replace("fails", "hangs")
        sessions: dict[str, Any] = {
            name: {"avatar": avatar_config(number, url)}
            for number, (name, url) in enumerate((avatars | {"hangs": hanging}).items())
        }
        # What one session knows, another one's service might repeat.
        sessions["hangs"]["outputs"] = rtmp_outputs(["rtmp://127.0.0.1:9/live"])
        async with Daemon(write_config(sessions, level, format), environ=SECRETS) as daemon:

            def have_ended() -> bool:
                ended = [line for line in daemon.stderr if "avatar_lost" in line or "session_ended" in line]
                return all(
                    any(re.search(rf'session(=|": "){name}(?![\w-])', line) for line in ended) for name in avatars
                )

            await daemon.until(have_ended, "end of every session")
            await service.came.wait()
            await daemon.until(lambda: any("http_listening" in line for line in daemon.stderr), "HTTP side")
            (address,) = re.findall(r"http_listening.*?(127\.0\.0\.1:\d+)", "\n".join(daemon.stderr))
            await assert_nothing_shows(daemon, address)
            # One of them is connecting.
            assert await daemon.stop() == 1


async def test_a_daemon_keeps_what_rtmp_servers_repeat_to_itself(avatar: Avatar, tmp_path: Path) -> None:
    (tmp_path / "accepted").write_text(LICENSE)
    async with evil_servers() as urls:
        good = {"url": avatar.url, "license_file": "accepted", "name": "navtalk.Leo", "role": "speak"}
        outputs = rtmp_outputs(urls)
        # One that is well, so that the session goes on.
        leo = {"avatar": good, "outputs": outputs | {"archive": {"url": "file:leo.mp4"}}}
        async with Daemon(write_config({"leo": leo}), environ=SECRETS) as daemon:

            def have_ended() -> bool:
                return all(
                    daemon.events("output_rejected", output=name) or daemon.events("output_lost", output=name)
                    for name in outputs
                )

            await daemon.until(have_ended, "end of every output")
            listening = await daemon.logged("http_listening")
            await assert_nothing_shows(daemon, listening["address"])
            await daemon.stop()


class Hooks:
    """The operator's HTTP server. messages: what it was sent, but for the signature. types: of these."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.types: set[str] = set()
        self.changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        headers = [(name, value) for name, value in scope["headers"] if name != b"webhook-signature"]
        self.messages.append(f"{headers} {body.decode()}")
        self.types.add(json.loads(body)["type"])
        self.changed.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": SECRETS["USER"].encode()})

    async def heard(self, type: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while type not in self.types:
                self.changed.clear()
                await self.changed.wait()


class Traffic:
    """All that a page sends and gets, but for the header that its user's token belongs into."""

    def __init__(self, page: Page) -> None:
        self._finished: list[Request] = []
        self._said: list[str] = []
        page.on("requestfinished", lambda request: self._finished.append(request))
        page.on("console", lambda message: self._said.append(message.text))

    async def everything(self) -> str:
        parts = list(self._said)
        for request in self._finished:
            answer = await request.response()
            assert answer is not None
            sent = {name: value for name, value in request.headers.items() if name != "authorization"}
            parts += [request.url, str(sent), request.post_data or "", str(answer.headers), await answer.text()]
        return "\n".join(parts)


async def follow(client: httpx.AsyncClient, session: str, lines: list[str]) -> None:
    async with client.stream("GET", f"/v1/sessions/{session}/events", timeout=None) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)


@pytest.mark.peer
async def test_who_operates_a_daemon_is_told_and_shown_no_secret(avatar: Avatar, tmp_path: Path) -> None:
    require_program("ffmpeg")
    microphone = record_microphone(tmp_path / "microphone.wav", silence_s=0.5, speech_s=0.1, end_s=1.0)
    (tmp_path / "accepted").write_text(LICENSE)
    (tmp_path / "operator").write_text(OPERATOR)
    hooks, lines = Hooks(), list[str]()
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as free:
        hook = {
            "url": f"http://127.0.0.1:{listening.getsockname()[1]}/hook?token={quote(SECRETS['TOKEN'], safe='')}",
            "secret_file": "signing",
        }
        srt_port = free.getsockname()[1]
        told = hook | {"events": ["state", "output", "avatar_transcript", "tool_call", "tool_result"]}
        city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        async with (
            evil_avatars() as (_, avatars),
            evil_servers() as urls,
            running(serve_app(hooks, listening)),
            chromium_page(microphone, 1200, 1000) as page,
        ):
            leo = {
                "avatar": {
                    "url": avatar.url,
                    "license_file": "accepted",
                    "name": "navtalk.Leo",
                    "tools": [{"name": "get_weather", "parameters": city, "webhook": hook}],
                },
                "outputs": rtmp_outputs(urls)
                | {
                    "archive": {"url": "file:leo.mp4"},
                    "relay": {"url": f"srt://127.0.0.1:{srt_port}?mode=listener", "passphrase_file": "passphrase"},
                    "studio": {"url": f"whip+http://127.0.0.1:9/{SECRETS['KEY']}", "token_file": "key"},
                },
                "webhooks": [told],
            }
            evil = {"avatar": avatar_config(1, avatars["repeats"]), "webhooks": [told]}
            config = write_config({"leo": leo, "evil": evil})
            free.close()
            keys = yaml.safe_load(config.read_text())
            keys["http"]["tokens"] = [{"file": "operator", "scopes": ["read", "control", "ingest", "view"]}]
            keys["secrets"] = {"named": {"file": "key", "hosts": ["127.0.0.1"]}}
            keys["url_policy"] = {"allow": ["127.0.0.1"]}
            config.write_text(yaml.safe_dump(keys))
            async with Daemon(config, environ=SECRETS) as daemon:
                origin = f"http://{(await daemon.logged('http_listening'))['address']}"
                traffic = Traffic(page)
                await page.goto(origin)
                await page.get_by_label("Access token").fill(OPERATOR)
                await page.get_by_role("button", name="Open").click()
                headers = {"Authorization": f"Bearer {OPERATOR}"}
                async with (
                    httpx.AsyncClient(base_url=origin, headers=headers, trust_env=False, timeout=PATIENCE_S) as client,
                    running(follow(client, "leo", lines)),
                    running(follow(client, "evil", lines)),
                ):
                    await daemon.logged("on_air_live", session="leo")
                    await page.locator("#session").select_option("leo")
                    await page.get_by_text("on air: live").wait_for()
                    said = []
                    for text in (f"Get weather in {LICENSE} please.", f"It is {SECRETS['USER']} today."):
                        said.append(await client.post("/v1/sessions/leo/say", json={"text": text}))
                    for type in ("tool_call", "tool_result", "avatar_transcript", "output"):
                        await hooks.heard(type)
                    said += await answers(client)
                    for answer in said:
                        assert_no_canary(f"{answer.headers} {answer.text}")
                    assert_no_canary(await traffic.everything())
                    await page.get_by_text("get_weather was asked for").wait_for()
                    assert_no_canary(await page.content())
                    children = descendants(daemon.pid)
                    assert any("srt:" in arguments_of(pid) for pid in children)
                    for pid in {daemon.pid, *children}:
                        assert_no_canary(arguments_of(pid))
                await daemon.stop()
    assert any("get_weather" in line for line in lines)
    assert_no_canary("\n".join((*lines, *hooks.messages)))


async def answers(client: httpx.AsyncClient) -> list[httpx.Response]:
    """What the API says to whoever asks for everything, writes secrets, and writes them where they do not belong."""
    outputs = "/v1/sessions/leo/outputs"
    bodies: list[dict[str, Any]] = [
        {"url": "rtmp://127.0.0.1:9/live", "stream_key": SECRETS["KEY"]},
        {"url": f"rtmp://127.0.0.1:9/live/{SECRETS['KEY_IN_URL']}"},
        {"url": "rtmp://127.0.0.1:9/live", "stream_key": {"secret": "named"}},
        {"url": "rtmp://127.0.0.1:9/live", "stream_key": {"secret": SECRETS["KEY"]}},
        {"url": f"rtmp://user:{SECRETS['KEY']}@127.0.0.1:99999/live"},
        {"url": f"rtmp://10.0.0.1/{SECRETS['KEY']}", "stream_key": SECRETS["KEY"]},
        {"url": f"srt://127.0.0.1:9?passphrase={quote(MORE_SECRETS['PASSPHRASE'], safe='')}"},
        {"url": "rtmp://127.0.0.1:9/live", "preset": SECRETS["KEY"], "bitrate": SECRETS["TOKEN"]},
    ]
    found = [await client.put(f"{outputs}/put{number}", json=body) for number, body in enumerate(bodies)]
    avatar = {"service": "navtalk", "name": "navtalk.Leo", "license": SECRETS["LICENCE"], "role": SECRETS["TOKEN"]}
    found += [
        await client.put("/v1/sessions/mia", json={"avatar": avatar}),
        await client.patch("/v1/sessions/leo", json={"outputs": {"put0": {"stream_key": [SECRETS["KEY"]]}}}),
        await client.post(f"/v1/sessions/leo/tools/{quote(SECRETS['TOKEN'], safe='')}", json={"output": "ok"}),
        await client.post("/v1/sessions/leo/slate", json={"on": True, "reason": SECRETS["LICENCE"]}),
        await client.get("/v1/sessions", headers={"Authorization": f"Bearer {SECRETS['QUERY'].partition(' ')[0]}"}),
        await client.get("/v1/sessions", headers={"Host": "example.com"}),
    ]
    paths = (
        *("/v1/sessions", "/v1/sessions/leo", "/v1/sessions/evil", "/v1/sessions/leo/trend", "/v1/sessions/nobody"),
        *("/metrics", "/readyz", "/healthz", "/docs", "/openapi.json", "/", "/page.js"),
    )
    return found + [await client.get(path) for path in paths]


async def test_check_keeps_the_configuration_and_what_far_ends_repeat_to_itself() -> None:
    async with evil_avatars() as (_, avatars), evil_servers() as urls:
        sessions: dict[str, Any] = {
            name: {"avatar": avatar_config(number, url)} for number, (name, url) in enumerate(avatars.items())
        }
        sessions["fails"]["outputs"] = rtmp_outputs(urls)
        async with Program(*COMMAND, "check", write_config(sessions), "--connect", environ=SECRETS) as check:
            assert await check.exit_status(60) == 1
    failed = [line for line in check.stdout if line.startswith("FAILED")]
    assert len(failed) == len(avatars) + 4 * len(urls), check.everything()


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize(
    "where", ["bridge.providers.websocket.connect", "bridge.daemon.HttpServer", "bridge.ops.api._serve"]
)
async def test_a_bug_that_strikes_where_secrets_are_is_shown_without_them(
    where: str, format: str, tmp_path: Path
) -> None:
    launcher = tmp_path / "launcher.py"
    module, _, name = where.rpartition(".")
    launcher.write_text(f"""
import sys, {module}, bridge.cli

def broken(*arguments, **options):
    import os
    secrets = [os.environ[name] for name in {list(SECRETS)}]
    try:
        raise KeyError(*secrets, *arguments)
    except KeyError as error:
        error.add_note(str(secrets))
        raise RuntimeError(f"it broke at {{arguments}} {{secrets}} {{' '.join(secrets)}}") from error

{module}.{name} = broken
bridge.cli.main()
""")
    # Nobody is there, so the session goes on until the bug has struck.
    leo = {"avatar": avatar_config(0, "ws://127.0.0.1:9"), "outputs": rtmp_outputs(["rtmp://127.0.0.1:9/live"])}
    config = write_config({"leo": leo}, format=format)
    async with Program(*COMMAND[:1], launcher, "run", config, environ=SECRETS) as program:
        await program.until(lambda: "it broke at" in program.everything(), "traceback")
        if program.status is None:
            await program.stop()


MISTAKES = {
    "the licence itself": 'license: "{LICENCE}"',
    "no YAML": "license: '{LICENCE}': {LICENCE}",
    "a key that is unknown": "licence: '{LICENCE}'",
    "two ways": "license: '${{LICENCE}}', license_env: LICENCE",
    "no text": "license: ['${{LICENCE}}']",
    "a mapping": "license_file: {{'{LICENCE}': 1}}",
    "no such file": "license_file: 'nowhere/${{LICENCE}}'",
    "malformed port": "url: 'wss://user:${{KEY}}@host:99999/?token={TOKEN}'",
    "malformed host": "url: 'wss://user:{KEY}@:1/?token={TOKEN}'",
    "no WebSocket": "url: 'https://user:${{LICENCE}}@host/?token={TOKEN}'",
    "no choice": "role: '${{LICENCE}}'",
    "no number": "tool_deadline_s: '${{LICENCE}}'",
    "no name": "tools: [{{name: '${{TOKEN}}'}}]",
    "no TURN server": "ice_servers: [{{urls: 'turn:host', credential: '{TURN}'}}]",
}


@pytest.mark.parametrize("command", ["check", "run"])
async def test_a_mistake_in_the_line_of_a_secret_is_named_without_it(command: str, tmp_path: Path) -> None:
    secrets = {name: secret.replace("'", "") for name, secret in SECRETS.items()}

    async def complaint(mistake: str, line: str) -> None:
        path = tmp_path / f"{mistake.replace(' ', '-')}.yaml"
        path.write_text(f"sessions:\n  leo:\n    avatar: {{{line.format_map(secrets)}}}\n")
        async with Program(*COMMAND, command, path, environ=secrets) as program:
            assert await program.exit_status() == 2, mistake
        assert any(line.startswith(f"avatar-bridge: {path}:3: ") for line in program.stderr), program.everything()

    for mistake, line in MISTAKES.items():
        await complaint(mistake, line)


async def test_the_demo_shows_a_key_from_a_file_to_nobody() -> None:
    async with evil_servers() as (_, url, _):
        rtmp_outputs([url])
        command = (*COMMAND, "demo", "--output", "@url0", "--record", "demo.mp4", "--seconds", "2")
        async with Program(*command) as demo:
            await demo.logged("output_rejected")
            for pid in {demo.pid, *descendants(demo.pid)}:
                assert_no_canary(arguments_of(pid))
            await demo.exit_status()
    assert any("rejected" in line for line in demo.stdout)
