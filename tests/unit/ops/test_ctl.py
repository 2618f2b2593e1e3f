import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge import cli
from bridge.ops import client
from tests.unit.ops.fakes import JPEG, PNG

Result = tuple[int, str, str]
Run = Callable[..., Result]
SESSION: dict[str, Any] = {
    "name": "leo",
    "state": "live",
    "error": "",
    "on_air": "slate",
    "slate_reason": "break",
    "slate_cause": "operator",
    "is_muted": True,
    "overridden": True,
    "capabilities": ["image", "say"],
    "media": {"fps": 25.0, "video_bps": 9e5, "added_latency_s": 0.0012, "av_offset_s": None},
    "outputs": [
        {
            "name": "twitch",
            "protocol": "rtmp",
            "state": "backing_off",
            "bytes_total": 5_000_000,
            "reconnects": {"reset": 2},
            "last_error": "[Errno 104] reset",
            "objections": [
                {
                    "rule": "video.profile",
                    "weight": "reject",
                    "text": "profile: high; Twitch asks for main or baseline",
                    "source": "https://example.com",
                }
            ],
        }
    ],
}


class Daemon:
    """Answers every request with `answer`, and keeps the requests."""

    def __init__(self) -> None:
        self.answer: httpx.Response | Exception = httpx.Response(204)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def request(self) -> httpx.Request:
        (request,) = self.requests
        return request


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    daemon, real = Daemon(), httpx.AsyncClient
    monkeypatch.setattr(
        client.httpx, "AsyncClient", lambda **_: real(transport=httpx.MockTransport(daemon), trust_env=False)
    )
    return daemon


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `ctl` in this process: exit status, standard output, standard error."""

    def run_line(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["avatar-bridge", "ctl", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exited:
            cli.main()
        shown = capsys.readouterr()
        return exited.value.code or 0, shown.out, shown.err  # type: ignore[return-value]

    return run_line


@pytest.mark.parametrize(
    ("line", "method", "path", "body"),
    [
        ("say leo Hello!", "POST", "sessions/leo/say", {"text": "Hello!"}),
        ("interrupt leo", "POST", "sessions/leo/interrupt", None),
        ("history leo Ann", "POST", "sessions/leo/history", {"text": "Ann"}),
        ("listening leo on", "POST", "sessions/leo/listening", {"on": True}),
        ("listening leo off", "POST", "sessions/leo/listening", {"on": False}),
        ("slate leo on --reason break", "POST", "sessions/leo/slate", {"on": True, "reason": "break"}),
        ("slate leo off", "POST", "sessions/leo/slate", {"on": False, "reason": ""}),
        ("mute leo on", "POST", "sessions/leo/mute", {"on": True}),
        ("mute leo off", "POST", "sessions/leo/mute", {"on": False}),
        ("tool leo call_1 ok", "POST", "sessions/leo/tools/call_1", {"output": "ok"}),
        ("output start leo twitch", "POST", "sessions/leo/outputs/twitch/start", None),
        ("output stop leo twitch", "POST", "sessions/leo/outputs/twitch/stop", None),
        ("output restart leo twitch", "POST", "sessions/leo/outputs/twitch/restart", None),
        ("output remove leo twitch", "DELETE", "sessions/leo/outputs/twitch", None),
        ("session remove leo", "DELETE", "sessions/leo", None),
        ("drain", "POST", "drain", None),
    ],
)
def test_a_command_is_a_call(run: Run, daemon: Daemon, line: str, method: str, path: str, body: Any) -> None:
    assert run(*line.split()) == (0, "", "")
    assert (daemon.request.method, str(daemon.request.url)) == (method, f"http://127.0.0.1:8080/v1/{path}")
    assert (json.loads(daemon.request.content) if daemon.request.content else None) == body
    assert "authorization" not in daemon.request.headers


@pytest.mark.parametrize(("verb", "path"), [("health", "healthz"), ("ready", "readyz"), ("metrics", "metrics")])
def test_what_probes_and_prometheus_read_is_printed_as_it_is(run: Run, daemon: Daemon, verb: str, path: str) -> None:
    daemon.answer = httpx.Response(200, text="# HELP up\nup 1.0\n")
    assert run(verb) == (0, "# HELP up\nup 1.0\n", "")
    assert str(daemon.request.url) == f"http://127.0.0.1:8080/{path}"


def test_who_is_not_ready_says_why_with_status_1(run: Run, daemon: Daemon) -> None:
    daemon.answer = httpx.Response(503, text="session leo: the avatar is away\n")
    assert run("ready") == (1, "", "avatar-bridge: session leo: the avatar is away\n")


def test_metrics_of_an_address_of_their_own_are_not_looked_for_elsewhere(run: Run, daemon: Daemon) -> None:
    daemon.answer = httpx.Response(404, json={"detail": "nothing is at /metrics"})
    assert run("metrics") == (2, "", "avatar-bridge: nothing is at /metrics\n")
    daemon.answer = httpx.Response(200, html="<p>Welcome to nginx!</p>")
    status, _, told = run("metrics")
    assert status == 1 and "is --url right?" in told


def test_a_trend_is_shown_by_its_extremes_and_told_whole_as_json(run: Run, daemon: Daemon) -> None:
    trend = {"age_s": [4.0, 2.0, 0.1], "fps": [25.0, 0.0, 24.0], "av_offset_s": [None, None, None]}
    daemon.answer = httpx.Response(200, json=trend)
    status, shown, _ = run("trend", "leo")
    assert status == 0
    assert "4" in shown.splitlines()[0] and "fps 0 25 24" in " ".join(shown.split()) and "av_offset_s" not in shown
    assert daemon.request.url.path == "/v1/sessions/leo/trend"
    assert json.loads(run("--json", "trend", "leo")[1]) == trend


def test_names_are_no_paths(run: Run, daemon: Daemon) -> None:
    run("interrupt", "../../x?y#z")
    assert str(daemon.request.url) == "http://127.0.0.1:8080/v1/sessions/..%2F..%2Fx%3Fy%23z/interrupt"


def test_text_may_come_from_standard_input(run: Run, daemon: Daemon) -> None:
    run("say", "leo", "-", stdin="Grüß Gott\n".encode())
    assert json.loads(daemon.request.content) == {"text": "Grüß Gott"}


@pytest.mark.parametrize(("picture", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
def test_an_image_comes_from_a_file_or_standard_input(
    run: Run, daemon: Daemon, tmp_path: Path, picture: bytes, media_type: str
) -> None:
    (tmp_path / "picture").write_bytes(picture)
    assert run("image", "leo", str(tmp_path / "picture"), "--reply")[0] == 0
    assert run("image", "leo", "-", stdin=picture)[0] == 0
    from_file, from_stdin = daemon.requests
    assert from_file.content == from_stdin.content == picture
    assert from_file.headers["content-type"] == media_type
    assert (from_file.url.query, from_stdin.url.query) == (b"reply=true", b"reply=false")


@pytest.mark.parametrize("content", [b'{"url": "rtmp://h/a", "keyframe_s": 1}', b"url: rtmp://h/a\nkeyframe_s: 1\n"])
def test_an_output_comes_from_a_file_or_standard_input(
    run: Run, daemon: Daemon, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "output").write_bytes(content)
    assert run("output", "add", "leo", "twitch", str(tmp_path / "output"))[0] == 0
    assert run("output", "add", "leo", "twitch", "-", stdin=content)[0] == 0
    for request in daemon.requests:
        assert (request.method, request.url.path) == ("PUT", "/v1/sessions/leo/outputs/twitch")
        assert json.loads(request.content) == {"url": "rtmp://h/a", "keyframe_s": 1}
        assert request.headers["content-type"] == "application/json"


def test_a_token_comes_from_a_file_or_standard_input(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary_token_1\n")
    run("--token-file", str(tmp_path / "token"), "drain")
    run("--token-file", "-", "drain", stdin=b"canary_token_1\n")
    assert [request.headers["authorization"] for request in daemon.requests] == 2 * ["Bearer canary_token_1"]


@pytest.mark.parametrize(
    ("line", "stdin", "message"),
    [
        (("--url", "ftp://x", "drain"), b"", "--url: must be http://"),
        (("--url", "http://user:canary@x", "drain"), b"", "a token goes into --token-file"),
        (("--url", "nonsense", "drain"), b"", "--url: must be"),
        (("--token-file", "/nowhere", "drain"), b"", "--token-file: cannot read /nowhere"),
        (("--token-file", "-", "drain"), b"", "--token-file: standard input holds no token"),
        (("--token-file", "-", "say", "leo", "-"), b"canary_token_1", "standard input holds the token already"),
        (("--url", "https://x", "--ca-file", "/nowhere", "drain"), b"", "--ca-file: cannot use /nowhere"),
        (("image", "leo", "/nowhere"), b"", "cannot read /nowhere"),
        (("image", "leo", "-"), (8 << 20) * b"x" + b"x", "has more than"),
        (("output", "add", "leo", "x", "-"), b"canary: [", "is neither YAML nor JSON"),
        (("output", "add", "leo", "x", "-"), b"- canary", "holds no keys of an output"),
        (("slate", "leo", "perhaps"), b"", "on"),
        (("slate", "leo"), b"", "on|off"),
        (("nonsense",), b"", "No such command"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    run: Run, daemon: Daemon, line: tuple[str, ...], stdin: bytes, message: str
) -> None:
    status, out, err = run(*line, stdin=stdin)
    assert (status, out) == (2, "") and message in err and "canary" not in err
    assert not daemon.requests


@pytest.mark.parametrize(
    ("status", "exit_status"), [(401, 2), (403, 2), (404, 2), (413, 2), (422, 2), (409, 1), (500, 1), (503, 1)]
)
def test_a_refusal_is_told_in_the_daemons_words(run: Run, daemon: Daemon, status: int, exit_status: int) -> None:
    daemon.answer = httpx.Response(status, json={"title": "x", "status": status, "detail": "there is no session leo"})
    assert run("interrupt", "leo") == (exit_status, "", "avatar-bridge: there is no session leo\n")


@pytest.mark.parametrize(
    ("status", "content"),
    [(502, b"<html>"), (502, b"[]"), (502, b"\xff"), (404, b"{}"), (404, b"null"), (200, b"<html>"), (302, b"")],
)
def test_an_answer_of_something_else_is_named(run: Run, daemon: Daemon, status: int, content: bytes) -> None:
    daemon.answer = httpx.Response(status, content=content)
    exit_status, _, err = run("drain")
    assert exit_status == 1 and f"says HTTP {status}" in err and "not avatar-bridge" in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (httpx.ConnectError("All connection attempts failed"), "cannot connect to http://127.0.0.1:8080"),
        (httpx.ReadTimeout("x"), "has not answered in time"),
        (httpx.RemoteProtocolError("x"), "the connection to http://127.0.0.1:8080 broke"),
    ],
)
def test_a_daemon_that_is_not_there_is_status_1(run: Run, daemon: Daemon, error: Exception, message: str) -> None:
    daemon.answer = error
    status, out, err = run("drain")
    assert (status, out) == (1, "") and message in err


def test_sessions_and_a_status_are_tables(run: Run, daemon: Daemon) -> None:
    daemon.answer = httpx.Response(200, json=[SESSION])
    status, out, _ = run("sessions")
    assert status == 0 and all(word in out for word in ("leo", "live", "slate (break), muted", "0 of 1"))
    daemon.answer = httpx.Response(200, json=SESSION)
    status, out, _ = run("status", "leo")
    assert status == 0
    assert all(
        word in out
        for word in ("image, say", "by API calls", "25.0 fps", "900 kbit/s", "1.2 ms", "twitch", "5.0", "[Errno 104]")
    )
    assert "reject" in out and "profile: high; Twitch asks for main" in out


def test_json_is_what_the_api_answers(run: Run, daemon: Daemon) -> None:
    daemon.answer = httpx.Response(200, json=[SESSION])
    assert json.loads(run("--json", "sessions")[1]) == [SESSION]
    daemon.answer = httpx.Response(204)
    assert json.loads(run("--json", "drain")[1]) == {}


def test_no_sessions_are_no_failure(run: Run, daemon: Daemon) -> None:
    daemon.answer = httpx.Response(200, json=[])
    assert run("sessions") == (0, "", "")


@pytest.mark.parametrize(
    ("verb", "method", "media_type"),
    [("put", "PUT", "application/json"), ("patch", "PATCH", "application/merge-patch+json")],
)
def test_a_session_is_read_from_a_file(
    run: Run, daemon: Daemon, tmp_path: Path, verb: str, method: str, media_type: str
) -> None:
    file = tmp_path / "mia.yaml"
    file.write_text("avatar: {name: Mia, voice: null}\n")
    daemon.answer = httpx.Response(200, json={"name": "mia"})
    assert run("session", verb, "mia", str(file)) == (0, "", "")
    assert (daemon.request.method, str(daemon.request.url)) == (method, "http://127.0.0.1:8080/v1/sessions/mia")
    assert json.loads(daemon.request.content) == {"avatar": {"name": "Mia", "voice": None}}
    assert daemon.request.headers["content-type"] == media_type
    status, _, said = run("session", verb, "mia", "-", stdin=b"[]")
    assert status == 2 and "holds no keys of a session" in said


def test_what_others_wrote_gives_the_terminal_no_orders(run: Run, daemon: Daemon) -> None:
    orders = "\x1b]52;c;Zm9v\x07Hi\x1b[2J\x9b2J\r\n"
    data = json.dumps({"at": "2026-01-01T00:00:00+00:00", "text": orders})
    daemon.answer = httpx.Response(200, content=f"event: user_transcript\ndata: {data}\n\n".encode())
    status, heard, _ = run("events", "leo")
    assert status == 0 and "Hi" in heard
    daemon.answer = httpx.Response(200, json=[SESSION | {"error": orders}])
    status, listed, _ = run("sessions")
    assert status == 0 and "Hi" in listed
    for line in (heard + listed).splitlines():
        assert line.isprintable()
