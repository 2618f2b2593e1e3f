"""Whatever goes wrong, nothing that the bridge writes, answers or shows the system holds one of its secrets.

`Program` looks at all that a process has written when it ends.
"""

import asyncio
import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from bridge.local_avatar.server import NAVTALK_PATH
from tests.e2e.evil import WAYS, EvilService, evil_rtmp, self_signed
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


def avatar_config(number: int, url: str) -> dict[str, Any]:
    """An avatar that is given every secret there is, the licence in one way or another. `url` has no path yet."""
    scheme, _, rest = url.partition("://")
    token, user = (quote(SECRETS[name], safe="") for name in ("TOKEN", "USER"))
    licences = ({"license_file": "licence"}, {"license_env": "LICENCE"}, {"license": "${LICENCE}"})
    return {
        "url": f"{scheme}://{user}:{user}@{rest}{NAVTALK_PATH}?token={token}&{token}",
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
    for name, secret in SECRETS.items():
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
    "where", ["bridge.providers.navtalk.connect", "bridge.daemon.HttpServer", "bridge.ops.api._serve"]
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
