from hmac import compare_digest
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.config import HttpConfig, TokenConfig
from bridge.ops import access
from bridge.ops.access import Access
from bridge.ops.guesses import BURST
from bridge.ops.problems import Problem
from bridge.redact import Secret
from tests.unit.ops.fakes import FakeDaemon, api

LOOKER, OPERATOR, VIEWER = "looker_0123456789abc", "operator_0123456789abc", "viewer_0123456789abc"
TOKENS = {LOOKER: ("read",), OPERATOR: ("read", "control"), VIEWER: ("view", "ingest")}
GUARDED = HttpConfig(tokens=tuple(TokenConfig(file=Secret(token), scopes=scopes) for token, scopes in TOKENS.items()))  # type: ignore[arg-type]
OPEN = HttpConfig()


def headers(**values: str) -> list[tuple[bytes, bytes]]:
    pairs = {"host": "127.0.0.1:8080"} | {name.replace("_", "-"): value for name, value in values.items()}
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs.items()]


def status(http: HttpConfig, method: str, path: str = "/v1/sessions", **values: str) -> int:
    """What is answered; 200: it is let through."""
    try:
        Access(http).check(method, path, headers(**values))
    except Problem as problem:
        return problem.status
    return 200


# ---------------------------------------------------------------------------------------------- Host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8080", "LOCALHOST:80", "[::1]"])
def test_the_names_of_loopback_are_ours(host: str) -> None:
    assert status(OPEN, "GET", host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil.localhost", "", "127.0.0.1@evil.example", "localhost:"),
        *("localhost, evil.example", "localhost/", "127.0.0.1:x", "[::1", "::1", "localhost.", "127.1", "0.0.0.0"),
        *("localhost#", "*", "localhost:80:80", "locälhost", "localhost:123456"),
    ],
)
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    assert status(OPEN, "GET", host=host) == 400
    assert status(OPEN, "GET", "/healthz", host=host) == 400


def test_a_request_with_two_hosts_or_none_is_refused() -> None:
    for pairs in ([], [*headers(), (b"host", b"localhost")]):
        with pytest.raises(Problem, match="Host"):
            Access(OPEN).check("GET", "/", pairs)


def test_the_file_says_which_hosts_are_ours() -> None:
    http = HttpConfig(allowed_hosts=("Bridge.example.com",))
    assert status(http, "GET", host="bridge.EXAMPLE.com:443") == 200
    assert status(http, "GET", host="localhost") == 400


# ---------------------------------------------------------------------------------------------- Origin


@pytest.mark.parametrize("origin", ["http://localhost:8080", "https://127.0.0.1", "http://[::1]:3000"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_our_own_pages_may_call(method: str, origin: str) -> None:
    assert status(OPEN, method, origin=origin, sec_fetch_site="same-origin") == 200


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "https://localhost.evil.example", "file://", "http://localhost/x", "", "localhost"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_a_page_from_elsewhere_is_refused_on_loopback_too(method: str, origin: str) -> None:
    assert status(OPEN, method, origin=origin) == 403
    assert status(GUARDED, method, origin=origin, authorization=f"Bearer {OPERATOR}") == 403


@pytest.mark.parametrize(("site", "expected"), [("cross-site", 403), ("same-site", 403), ("none", 200), ("", 403)])
def test_another_sites_page_may_change_nothing(site: str, expected: int) -> None:
    # same-site is any other program of this machine that serves pages.
    assert status(OPEN, "POST", sec_fetch_site=site) == expected
    assert status(OPEN, "GET", sec_fetch_site=site) == 200


# ---------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("token", "looking", "changing"), [(LOOKER, 200, 403), (OPERATOR, 200, 200), (VIEWER, 403, 403), ("x", 401, 401)]
)
def test_a_token_opens_what_its_scopes_say(token: str, looking: int, changing: int) -> None:
    for path in (
        "/v1/sessions",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/nowhere",
        "/healthz/",
        "//healthz",
        "/Healthz",
    ):
        assert status(GUARDED, "GET", path, authorization=f"Bearer {token}") == looking
        assert status(GUARDED, "HEAD", path, authorization=f"Bearer {token}") == looking
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "X"):
        assert status(GUARDED, method, authorization=f"Bearer {token}") == changing


@pytest.mark.parametrize("path", ["whip/host", "whip/host/some-publication", "pcm/pipe"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST", "PATCH", "DELETE"])
def test_media_is_sent_in_with_the_scope_for_it_alone(path: str, method: str) -> None:
    path = f"/v1/sessions/leo/{path}"
    for token, expected in ((VIEWER, 200), (OPERATOR, 403), (LOOKER, 403)):
        assert status(GUARDED, method, path, authorization=f"Bearer {token}") == expected
    assert status(GUARDED, method, path) == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_an_orchestrator_needs_no_token(path: str) -> None:
    assert status(GUARDED, "GET", path) == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Basic {LOOKER}", LOOKER, f"Bearer {LOOKER} x", f"Bearer {LOOKER[:-1]}", "Bearer \xff"],
)
def test_what_is_no_token_of_ours_opens_nothing(authorization: str) -> None:
    assert status(GUARDED, "GET", authorization=authorization) == 401


def test_the_scheme_is_read_in_any_case() -> None:
    assert status(GUARDED, "GET", authorization=f"bEARER {LOOKER}") == 200


def test_a_refusal_says_what_is_missing() -> None:
    with pytest.raises(Problem) as missing:
        Access(GUARDED).check("GET", "/v1/sessions", headers())
    assert missing.value.headers == {"WWW-Authenticate": "Bearer"}
    with pytest.raises(Problem) as lacking:
        Access(GUARDED).check("POST", "/v1/drain", headers(authorization=f"Bearer {LOOKER}"))
    assert lacking.value.headers == {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="control"'}
    assert LOOKER not in lacking.value.detail


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_a_guess_opens_nothing(guess: str) -> None:
    if guess.strip() not in TOKENS:
        assert status(GUARDED, "GET", authorization=f"Bearer {guess}") == 401


@pytest.mark.parametrize("token", [LOOKER, OPERATOR, VIEWER, "nonsense", LOOKER[:-1] + "x"])
def test_every_token_is_compared_in_constant_time_whichever_it_is(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    guarded = Access(GUARDED)
    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    with pytest.raises(Problem):
        guarded.check("POST", "/v1/drain", headers(authorization=f"Bearer {token}", sec_fetch_site="none", host="x"))
    assert not compared
    try:
        guarded.check("POST", "/v1/drain", headers(authorization=f"Bearer {token}"))
    except Problem:
        pass
    assert compared == [(32, 32)] * len(TOKENS)


# ---------------------------------------------------------------------------------------------- the application


async def get(client: httpx.AsyncClient, path: str, token: str = "") -> int:
    return (await client.get(path, headers={"authorization": f"Bearer {token}"} if token else {})).status_code


async def test_a_guarded_application_is_closed_but_for_health() -> None:
    daemon = FakeDaemon()
    async with api(daemon, http=GUARDED) as client:
        assert [await get(client, path) for path in ("/healthz", "/readyz")] == [200, 200]
        for path in ("/v1/sessions", "/metrics", "/openapi.json", "/docs", "/nowhere"):
            assert await get(client, path) == 401
            assert await get(client, path, LOOKER) == (404 if path == "/nowhere" else 200)
        assert (await client.post("/v1/drain")).status_code == 401
        refused = await client.post("/v1/drain", headers={"authorization": f"Bearer {LOOKER}"})
        assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
        assert daemon.n_stops == 0
        assert (await client.post("/v1/drain", headers={"authorization": f"Bearer {OPERATOR}"})).status_code == 202


async def test_a_refused_request_reaches_no_route() -> None:
    daemon = FakeDaemon()
    async with api(daemon) as client:
        for hostile in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = await client.post("/v1/drain", headers=hostile)
            assert answer.status_code in (400, 403)
    assert daemon.n_stops == 0


async def test_every_hand_on_the_broadcast_is_logged_and_no_look() -> None:
    async with api(FakeDaemon(), http=GUARDED) as client:
        with capture_logs() as logged:
            await get(client, "/v1/sessions", LOOKER)
            await client.post("/v1/drain", headers={"authorization": f"Bearer {OPERATOR}"})
            await client.post("/v1/sessions/leo/mute", headers={"authorization": f"Bearer {LOOKER}"})
    calls: list[dict[str, Any]] = [dict(entry) for entry in logged if entry["event"] == "api_call"]
    assert [(call["method"], call["path"], call["status"]) for call in calls] == [
        ("POST", "/v1/drain", 202),
        ("POST", "/v1/sessions/leo/mute", 403),
    ]


async def test_the_openapi_document_says_that_a_token_is_needed() -> None:
    async with api(FakeDaemon(), Path("recordings"), GUARDED) as client:
        document = (await client.get("/openapi.json", headers={"authorization": f"Bearer {LOOKER}"})).json()
    assert document["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


# ---------------------------------------------------------------------------------------------- guessing


def answer(access: Access, token: str | None, host: str = "203.0.113.9") -> int:
    try:
        access.check("GET", "/v1/sessions", headers(**({"authorization": f"Bearer {token}"} if token else {})), host)
    except Problem as problem:
        return problem.status
    return 200


def test_who_guesses_too_often_waits_and_nobody_else_does() -> None:
    access = Access(GUARDED)
    with capture_logs() as logged:
        statuses = [answer(access, f"guess_{n:016}") for n in range(BURST + 3)]
    assert statuses == [401] * BURST + [429] * 3
    # Else it would learn from an answer that it has found one.
    assert answer(access, LOOKER) == 429
    assert answer(access, LOOKER, "203.0.113.10") == 200
    assert [(entry["event"], entry["client"]) for entry in logged] == [("api_guesses_limited", "203.0.113.9")]


def test_a_wait_is_announced() -> None:
    access = Access(GUARDED)
    for n in range(BURST):
        answer(access, f"guess_{n:016}")
    with pytest.raises(Problem) as limited:
        access.check("GET", "/metrics", headers(authorization=f"Bearer {LOOKER}"), "203.0.113.9")
    assert limited.value.headers == {"Retry-After": "3"}


def test_no_token_at_all_is_no_guess() -> None:
    access = Access(GUARDED)
    assert [answer(access, None) for _ in range(BURST + 1)] == [401] * (BURST + 1)
    assert answer(access, LOOKER) == 200


def test_who_waits_may_still_ask_whether_we_are_alive() -> None:
    access = Access(GUARDED)
    for n in range(BURST + 1):
        answer(access, f"guess_{n:016}")
    access.check("GET", "/healthz", headers(), "203.0.113.9")


def test_a_sender_of_sound_may_not_guess_more() -> None:
    access = Access(GUARDED)
    for n in range(BURST):
        with pytest.raises(Problem) as refused:
            access.check_sender([f"guess_{n:016}"], "203.0.113.9")
        assert refused.value.status == 401
    with pytest.raises(Problem) as limited:
        access.check_sender([VIEWER], "203.0.113.9")
    assert limited.value.status == 429


async def test_the_application_counts_guesses_by_where_they_come_from() -> None:
    async with api(FakeDaemon(), http=GUARDED) as client:
        assert [await get(client, "/v1/sessions", f"guess_{n:016}") for n in range(BURST)] == [401] * BURST
        limited = await client.get("/v1/sessions", headers={"authorization": f"Bearer {LOOKER}"})
        assert (limited.status_code, limited.headers["content-type"]) == (429, "application/problem+json")
        assert limited.headers["retry-after"] == "3"
        assert await get(client, "/healthz") == 200
