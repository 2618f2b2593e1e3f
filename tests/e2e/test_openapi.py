"""Schemathesis against a daemon on air: whatever the API's description allows, and whatever it does not, is answered
as described.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.e2e.processes import COMMAND, LICENSE, SMALL, Daemon, Program, Setting, Show
from tests.net import namespace

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = (sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()")
SEED, MAX_EXAMPLES = 9, 5
# A stream of events has no end, and draining ends the daemon: both have tests of their own.
LEFT_OUT = ("/v1/drain", "/v1/sessions/{name}/events")
# What a schema cannot say: URLs must lead to hosts that there are, names must be of what there is, and SDP is not JSON.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 406, 409, 412, 415, 422, 428, 429, "5xx"]
[[operations]]
include-operation-id = "show_session"
parameters = { name = "leo" }
[[operations]]
include-path = "/v1/sessions/{name}"
parameters = { name = "mia" }
[[operations]]
# Every key of every part of a session would be most of the time: outputs are covered below.
include-operation-id = "put_session"
phases = { coverage = { enabled = false } }
parameters = { name = "mia" }
[[operations]]
include-path = "/v1/sessions/{name}/outputs/{output}"
parameters = { name = "leo", output = "spare" }
[[operations]]
include-path-regex = '^/v1/sessions/\\{name\\}/(?!whep/|outputs/\\{output\\}$)'
parameters = { name = "leo", output = "archive", input = "host" }
[[operations]]
include-path-regex = '/whep/'
parameters = { name = "leo", output = "preview" }
"""


async def test_the_api_is_as_it_is_described(tmp_path: Path, show: Show) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        unavailable("schemathesis is not installed (tests/peers/requirements.lock)")
    if reason := namespace.why_unavailable():
        pytest.skip(reason)
    # Without a way to any other network: sessions that are made up here would go to their avatar's service.
    with namespace.Namespace() as alone:
        async with Program(*alone.command("ip", "link", "set", "lo", "up")) as ip:
            assert await ip.exit_status() == 0
        licence = tmp_path / "avatar.license"
        licence.write_text(LICENSE)
        avatar_command = (*COMMAND, "avatar", "--listen", "127.0.0.1:0", "--license-file", str(licence), *SMALL)
        async with Program(*alone.command(*avatar_command)) as avatar:
            setting = Setting(tmp_path, await avatar.said(), max_sessions=4)
            setting.inputs({"host": {"url": "whip:"}, "line": {"url": "ws:"}}).recording()
            async with Daemon(setting.write(), within=alone.command()) as daemon:
                await daemon.logged("on_air_live")
                address = (await daemon.logged("http_listening"))["address"]
                left_out = [word for path in LEFT_OUT for word in ("--exclude-path", path)]
                limits = ("--seed", str(SEED), "--max-examples", str(MAX_EXAMPLES), "--continue-on-failure")
                command = (*SCHEMATHESIS, "run", f"http://{address}/openapi.json", *left_out, *limits)
                (tmp_path / "schemathesis.toml").write_text(SETTINGS)
                environ = {
                    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
                    "SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks",
                }
                async with Program(*alone.command(*command), cwd=tmp_path, environ=environ) as tester:
                    status = await tester.exit_status(300)
                print(tester.everything())
                assert status == 0
                assert await daemon.stop() == 0
    show(next(line for line in reversed(tester.stdout) if line.strip()))
