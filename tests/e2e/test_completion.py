"""Completion of `ctl` in a bash that somebody types into."""

import asyncio
import os
import pty
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from bridge.config import HttpConfig, TokenConfig
from bridge.net.http_server import serve_app
from bridge.redact import Secret
from tests.conftest import require_program
from tests.e2e.listening import running
from tests.unit.ops.fakes import FakeDaemon, app_of

ROOT = Path(__file__).parents[2]
MAIN = "from bridge.cli import main; main()"
TOKEN = "completion_canary_0123456789"
# Each key press starts Python.
PATIENCE_S = 30.0


class Terminal:
    """A bash that is typed into; a context. seen: what it has shown since the last keys, without its bells."""

    def __init__(self, programs: Path, **environ: str) -> None:
        self.seen = ""
        self._environ = environ | {"PATH": f"{programs}:{os.defpath}", "PS1": "> ", "TERM": "dumb"}
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._terminal, its_end = pty.openpty()
        command = ("setsid", "--ctty", require_program("bash"), "--norc", "--noprofile", "-i")
        try:
            self._bash = await asyncio.create_subprocess_exec(
                *command, stdin=its_end, stdout=its_end, stderr=its_end, env=self._environ
            )
        finally:
            os.close(its_end)
        asyncio.get_running_loop().add_reader(self._terminal, self._read)
        await self.shows("> ")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bash.kill()
        await self._bash.wait()
        asyncio.get_running_loop().remove_reader(self._terminal)
        os.close(self._terminal)

    async def type(self, keys: str, *shown: str) -> None:
        """Press keys, and wait until all of these are there."""
        self.seen = ""
        os.write(self._terminal, keys.encode())
        await self.shows(*shown)

    async def shows(self, *texts: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not all(text in self.seen for text in texts):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{texts} are not in {self.seen!r}") from None

    def _read(self) -> None:
        self.seen += os.read(self._terminal, 4096).decode().replace("\a", "")
        self._changed.set()


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    (tmp_path / "token").write_text(TOKEN)
    # As installers write it.
    program = tmp_path / "avatar-bridge"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path[0] = {str(ROOT)!r}\n{MAIN}\n")
    program.chmod(0o755)
    http = HttpConfig(tokens=(TokenConfig(file=Secret(TOKEN), scopes=("read",)),))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with running(serve_app(app_of(FakeDaemon(), http=http), listening)):
            environ = {"AVATAR_BRIDGE_URL": url, "AVATAR_BRIDGE_TOKEN_FILE": str(tmp_path / "token")}
            async with Terminal(tmp_path, **environ) as terminal:
                await terminal.type('eval "$(_AVATAR_BRIDGE_COMPLETE=source_bash avatar-bridge)"\n', "\n> ")
                yield terminal


async def test_commands_sessions_and_outputs_are_offered_where_they_belong(terminal: Terminal) -> None:
    await terminal.type("avatar-bridge ctl sess\t", "avatar-bridge ctl session")
    await terminal.type("\t\t", "session   sessions")
    await terminal.type("\25avatar-bridge ctl mute \t", "mute leo ")
    await terminal.type("o\t\t", "off  on")
    await terminal.type("\25avatar-bridge ctl output restart le\t", "restart leo ")
    await terminal.type("tw\t", "twitch ")


async def test_a_daemon_that_is_not_there_leaves_the_line_as_it_is(terminal: Terminal) -> None:
    await terminal.type('export AVATAR_BRIDGE_URL=http://127.0.0.1:9; echo se""t\n', "set\r\n")
    await terminal.type("avatar-bridge ctl mute \t\t", "mute ")
    await terminal.type('mia\25echo do""ne\n', "done\r\n")
    assert "Traceback" not in terminal.seen and "cannot connect" not in terminal.seen
