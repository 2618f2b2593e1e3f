import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bridge.config import NavTalkConfig
from bridge.errors import (
    BridgeError,
    ConfigError,
    OutputRejected,
    ProviderRejected,
    ProviderUnavailable,
    RemoteProtocolError,
)
from bridge.ops.hostile_sessions import MAX_PARTS
from bridge.ops.sessions_api import MAX_FOLLOWERS
from bridge.outputs.compliance import Objection
from bridge.redact import Secret
from tests.unit.ops.fakes import JPEG, PNG, FakeDaemon, FakeOutput, api
from tests.unit.test_trend import STATUS

VERBS = [
    ("POST", "say", {"text": "Hello."}, ("say", "Hello.")),
    ("POST", "interrupt", None, ("interrupt",)),
    ("POST", "history", {"text": "I am Ann."}, ("history", "I am Ann.")),
    ("POST", "listening", {"on": True}, ("listening", True)),
    ("POST", "listening", {"on": False}, ("listening", False)),
    ("POST", "slate", {"on": True, "reason": "break"}, ("slate", True, "break")),
    ("POST", "slate", {"on": False}, ("slate", False, "")),
    ("POST", "mute", {"on": True}, ("mute", True)),
    ("POST", "tools/call_1", {"output": "from nine"}, ("tool", "call_1", "from nine")),
    ("POST", "outputs/twitch/start", None, ("start", "twitch")),
    ("POST", "outputs/twitch/stop", None, ("stop", "twitch")),
    ("POST", "outputs/twitch/restart", None, ("restart", "twitch")),
    ("DELETE", "outputs/twitch", None, ("remove", "twitch")),
]


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def client(daemon: FakeDaemon) -> AsyncIterator[httpx.AsyncClient]:
    async with api(daemon) as client:
        yield client


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["type"]) == (status, "about:blank") and document["title"]
    return document


# ---------------------------------------------------------------------------------------------- looking


async def test_the_trend_of_a_session_is_its_columns(daemon: FakeDaemon, client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/sessions/leo/trend")).json()["age_s"] == []
    daemon.leo.trend.look(lambda: STATUS)
    trend = (await client.get("/v1/sessions/leo/trend")).json()
    assert trend.pop("age_s")[0] < 60
    assert trend == {
        "added_latency_p99_s": [0.001235],
        "av_offset_s": [None],
        "video_bps": [2.5e6],
        "fps": [30.0],
        "freezes": [2],
        "queue_s": [0.0],
    }
    problem(await client.get("/v1/sessions/mia/trend"), 404)


async def test_events_are_streamed_from_after_the_last_one_that_is_known(
    daemon: FakeDaemon, client: httpx.AsyncClient
) -> None:
    events = daemon.leo.events
    for text in ("one", "two", "three"):
        events.note("user_transcript", text=text)
    events.close()
    everything = await client.get("/v1/sessions/leo/events", headers={"Last-Event-ID": "0-0"})
    assert everything.headers["content-type"].startswith("text/event-stream")
    first, *_ = everything.text.split("\n\n")
    lines = dict(line.split(": ", 1) for line in first.splitlines())
    assert lines["event"] == "user_transcript"
    assert json.loads(lines["data"]) == {"at": "2027-01-15T08:00:00.000+00:00", "text": "one"}
    rest = await client.get("/v1/sessions/leo/events", headers={"Last-Event-ID": lines["id"]})
    assert rest.text.count("event: user_transcript") == 2
    assert '"one"' not in rest.text
    assert events.n_followers == 0


async def test_a_session_has_so_many_followers_at_most(daemon: FakeDaemon, client: httpx.AsyncClient) -> None:
    daemon.leo.events.n_followers = MAX_FOLLOWERS
    problem(await client.get("/v1/sessions/leo/events"), 503)
    problem(await client.get("/v1/sessions/nobody/events"), 404)


async def test_sessions_are_listed_with_what_viewers_see(client: httpx.AsyncClient) -> None:
    (leo,) = (await client.get("/v1/sessions")).json()
    assert (leo["name"], leo["state"], leo["on_air"], leo["is_muted"]) == ("leo", "live", "live", False)
    assert leo["capabilities"] == ["history", "image", "interrupt", "listening", "say", "tools"]
    assert leo["media"]["fps"] == 25.0
    assert (leo["outputs"][0]["name"], leo["outputs"][0]["state"]) == ("twitch", "publishing")
    detail = (await client.get("/v1/sessions/leo")).json()
    del detail["config"]
    assert leo == detail


async def test_what_is_no_part_of_a_view_is_not_shown(client: httpx.AsyncClient) -> None:
    assert "canary" not in (await client.get("/v1/sessions")).text


async def test_a_secret_in_an_error_is_masked(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    Secret("live_canary_77")
    daemon.leo.now.error = "refused at rtmp://host/app/live_canary_78"
    daemon.leo.now.outputs = (FakeOutput("x", last_error="the server says live_canary_77"),)
    shown = (await client.get("/v1/sessions/leo")).text
    assert "canary" not in shown and "rtmp://host/app/***" in shown


async def test_what_a_platform_objects_to_is_shown(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    objection = Objection(rule="sound.codec", weight="reject", text="sound codec: opus", source="https://example.com")
    daemon.leo.now.outputs = (FakeOutput("x", objections=(objection,)),)
    (shown,) = (await client.get("/v1/sessions/leo")).json()["outputs"][0]["objections"]
    assert shown == {
        "rule": "sound.codec",
        "weight": "reject",
        "text": "sound codec: opus",
        "source": "https://example.com",
    }


async def test_a_session_that_there_is_not_is_404(client: httpx.AsyncClient) -> None:
    for method, verb in (("GET", ""), ("POST", "/interrupt"), ("PUT", "/outputs/x")):
        answer = await client.request(method, f"/v1/sessions/mia{verb}", json={} if method == "PUT" else None)
        assert problem(answer, 404)["detail"] == "there is no session mia"


async def test_a_path_or_a_method_that_there_is_not_is_a_problem_document_too(client: httpx.AsyncClient) -> None:
    problem(await client.get("/v2"), 404)
    problem(await client.get("/v1/sessions/"), 404)
    problem(await client.delete("/v1/sessions"), 405)


# ---------------------------------------------------------------------------------------------- the hand


@pytest.mark.parametrize(("method", "verb", "body", "told"), VERBS, ids=lambda value: str(value)[:20])
async def test_a_verb_reaches_the_session(
    client: httpx.AsyncClient, daemon: FakeDaemon, method: str, verb: str, body: Any, told: tuple[Any, ...]
) -> None:
    answer = await client.request(method, f"/v1/sessions/leo/{verb}", json=body)
    assert (answer.status_code, answer.content) == (204, b"")
    assert daemon.leo.told == [told]


@pytest.mark.parametrize(("method", "verb", "body", "told"), VERBS, ids=lambda value: str(value)[:20])
async def test_a_session_that_has_ended_takes_no_verb(
    client: httpx.AsyncClient, daemon: FakeDaemon, method: str, verb: str, body: Any, told: tuple[Any, ...]
) -> None:
    daemon.runs = False
    daemon.leo.now.error = "no licence"
    answer = await client.request(method, f"/v1/sessions/leo/{verb}", json=body)
    assert problem(answer, 409)["detail"] == "session leo does not run: no licence"


@pytest.mark.parametrize(("media_type", "picture"), [("image/png", PNG), ("image/jpeg; x=y", JPEG)])
@pytest.mark.parametrize(("query", "wants_answer"), [("", False), ("?reply=true", True)])
async def test_an_image_reaches_the_session(
    client: httpx.AsyncClient, daemon: FakeDaemon, media_type: str, picture: bytes, query: str, wants_answer: bool
) -> None:
    path = f"/v1/sessions/leo/image{query}"
    answer = await client.post(path, content=picture, headers={"content-type": media_type})
    assert answer.status_code == 204
    assert daemon.leo.told == [("image", picture, media_type.partition(";")[0], wants_answer)]


async def test_what_is_no_image_is_refused(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    path = "/v1/sessions/leo/image"
    problem(await client.post(path, content=PNG, headers={"content-type": "image/jpeg"}), 422)
    problem(await client.post(path, content=PNG, headers={"content-type": "image/gif"}), 415)
    problem(await client.post(path, content=PNG), 415)
    problem(await client.post(path, json={"image": "x"}), 415)
    problem(await client.post(f"{path}?reply=perhaps", content=PNG, headers={"content-type": "image/png"}), 422)
    assert not daemon.leo.told


@pytest.mark.parametrize("verb", ["say", "interrupt", "image", "history", "listening"])
async def test_a_verb_that_the_service_lacks_is_409_even_while_it_is_away(
    client: httpx.AsyncClient, daemon: FakeDaemon, verb: str
) -> None:
    daemon.leo.now.capabilities = frozenset()
    daemon.leo.error = ProviderUnavailable("away")
    bodies: dict[str, dict[str, Any]] = {
        "say": {"json": {"text": "x"}},
        "history": {"json": {"text": "x"}},
        "image": {"content": PNG, "headers": {"content-type": "image/png"}},
        "listening": {"json": {"on": True}},
    }
    answer = await client.post(f"/v1/sessions/leo/{verb}", **bodies.get(verb, {}))
    assert problem(answer, 409)["detail"] == f"the avatar service of session leo has no {verb}"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProviderRejected("the service takes no text"), 409),
        (ProviderUnavailable("the avatar is not connected at the moment"), 503),
        (ConfigError("cannot be"), 422),
        (OutputRejected("cannot be"), 422),
        (RemoteProtocolError("broken"), 502),
    ],
)
async def test_an_error_says_who_must_act(
    client: httpx.AsyncClient, daemon: FakeDaemon, error: BridgeError, status: int
) -> None:
    daemon.leo.error = error
    answer = await client.post("/v1/sessions/leo/say", json={"text": "x"})
    assert problem(answer, status)["detail"] == str(error)


async def test_a_bug_is_not_shown(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    daemon.leo.error = ZeroDivisionError("sk_canary")
    document = problem(await client.post("/v1/sessions/leo/interrupt"), 500)
    assert "canary" not in json.dumps(document)


async def test_a_tool_call_that_does_not_wait_is_404(client: httpx.AsyncClient) -> None:
    problem(await client.post("/v1/sessions/leo/tools/call_2", json={"output": "x"}), 404)


async def test_draining_twice_does_not_abort(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    for _ in range(2):
        assert (await client.post("/v1/drain")).status_code == 202
    assert daemon.n_stops == 1


# ---------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("verb", "body", "pointer", "detail"),
    [
        ("say", {}, "#/text", "is missing"),
        ("say", {"text": ""}, "#/text", "string should have at least 1 character"),
        ("say", {"text": 5}, "#/text", "should be a valid string"),
        ("say", {"text": "x", "voice": "y"}, "#/voice", "unknown key"),
        ("say", {"text": "x", "a/b~\n": 1}, "#/a~1b~0_", "unknown key"),
        ("slate", {"on": "yes"}, "#/on", "should be a valid boolean"),
        ("slate", {"on": 1}, "#/on", "should be a valid boolean"),
        ("slate", {"on": True, "reason": 201 * "x"}, "#/reason", "string should have at most 200 characters"),
        ("mute", {}, "#/on", "is missing"),
        ("history", {"text": ""}, "#/text", "string should have at least 1 character"),
        ("history", {"text": 8001 * "x"}, "#/text", "string should have at most 8000 characters"),
        ("listening", {"on": None}, "#/on", "should be a valid boolean"),
        ("mute", [True], "#", "must be a JSON object; Content-Type is application/json"),
        ("tools/call_1", {"output": {}}, "#/output", "should be a valid string"),
    ],
)
async def test_a_wrong_body_is_422_and_names_the_field(
    client: httpx.AsyncClient, daemon: FakeDaemon, verb: str, body: Any, pointer: str, detail: str
) -> None:
    document = problem(await client.post(f"/v1/sessions/leo/{verb}", json=body), 422)
    assert document["errors"] == [{"pointer": pointer, "detail": detail}]
    assert not daemon.leo.told


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_json_of_another_content_type_is_not_read(
    client: httpx.AsyncClient, daemon: FakeDaemon, content_type: str
) -> None:
    # Those are what a page of another site may send without asking first.
    answer = await client.post("/v1/sessions/leo/mute", content=b'{"on": true}', headers={"content-type": content_type})
    problem(answer, 422)
    assert not daemon.leo.told


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"", b'{"on": tru', b"[" * 100_000, b'{"a":' * 50_000])
async def test_what_is_no_json_is_a_problem(client: httpx.AsyncClient, daemon: FakeDaemon, body: bytes) -> None:
    answer = await client.post("/v1/sessions/leo/mute", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code)
    assert not daemon.leo.told


async def test_what_was_sent_is_not_sent_back(client: httpx.AsyncClient) -> None:
    for body in ({"text": ["canary_9"]}, {"canary": "canary_9"}, {"text": {"a": "canary_9"}}):
        assert "canary_9" not in (await client.post("/v1/sessions/leo/say", json=body)).text


# ---------------------------------------------------------------------------------------------- outputs


async def test_an_output_is_added_and_replaced(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    body = {"url": "rtmps://live.example.com/app", "stream_key": "live_canary_5", "keyframe_s": 1}
    added = await client.put("/v1/sessions/leo/outputs/backup", json=body)
    assert (added.status_code, added.json()["name"], added.json()["state"]) == (201, "backup", "connecting")
    assert "canary" not in added.text
    replaced = await client.put("/v1/sessions/leo/outputs/backup", json=body | {"keyframe_s": 4})
    assert replaced.status_code == 200
    (_, name, config), (_, _, second) = daemon.leo.told
    assert (name, config.key.reveal(), config.keyframe_s, second.keyframe_s) == ("backup", "live_canary_5", 1, 4)


@pytest.mark.parametrize("name", ["A", "a_b", "-a", 64 * "a", "%2e%2e", "a%00", "ü"])
async def test_the_name_of_an_output_is_a_label(client: httpx.AsyncClient, daemon: FakeDaemon, name: str) -> None:
    answer = await client.put(f"/v1/sessions/leo/outputs/{name}", json={"url": "rtmp://live.example.com/app/key"})
    problem(answer, 422)
    assert not daemon.leo.told


async def test_a_session_has_so_many_outputs_at_most(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    body = {"url": "rtmp://live.example.com/app/key"}
    for number in range(1, MAX_PARTS):
        assert (await client.put(f"/v1/sessions/leo/outputs/o{number}", json=body)).status_code == 201
    answer = await client.put("/v1/sessions/leo/outputs/another", json=body)
    assert (answer.status_code, len(daemon.leo.now.outputs)) == (503, MAX_PARTS)
    assert f"as many as {MAX_PARTS} outputs" in answer.json()["detail"]
    assert (await client.put("/v1/sessions/leo/outputs/o1", json=body | {"keyframe_s": 4})).status_code == 200


async def test_an_output_that_there_is_not_is_404(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    for method, verb in (("DELETE", ""), ("POST", "/start"), ("POST", "/stop"), ("POST", "/restart")):
        answer = await client.request(method, f"/v1/sessions/leo/outputs/nobody{verb}")
        assert problem(answer, 404)["detail"] == "session leo has no output nobody"
    assert not daemon.leo.told


# ---------------------------------------------------------------------------------------------- sessions

MIA: dict[str, Any] = {
    "avatar": {"url": "wss://live.example.com/chat", "license": "sk_canary_mia", "name": "Mia"},
    "inputs": {"host": {"url": "whip:"}},
    "outputs": {"twitch": {"url": "rtmp://live.example.com/app", "stream_key": "live_canary_mia"}},
}
PATCH = {"Content-Type": "application/merge-patch+json"}


async def test_a_session_is_put_shown_patched_and_removed(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    begun = await client.put("/v1/sessions/mia", json=MIA)
    assert (begun.status_code, begun.json()["name"]) == (201, "mia")
    assert begun.json()["overridden"] and begun.json()["config"]["avatar"]["license"] == "***"
    assert (await client.put("/v1/sessions/mia", json=MIA)).status_code == 200

    patch = json.dumps({"avatar": {"voice": "sage"}})
    patched = await client.patch("/v1/sessions/mia", content=patch, headers=PATCH)
    assert patched.status_code == 200 and patched.json()["config"]["avatar"]["voice"] == "sage"
    mia = daemon.definitions["mia"].config
    assert isinstance(mia.avatar, NavTalkConfig) and mia.avatar.license_key.reveal() == "sk_canary_mia"

    shown = await client.get("/v1/sessions/mia")
    assert "canary" not in begun.text + patched.text + shown.text
    removed = await client.delete("/v1/sessions/mia")
    assert (removed.status_code, removed.content) == (204, b"")
    problem(await client.get("/v1/sessions/mia"), 404)


async def test_a_session_of_the_file_is_overridden_by_a_patch(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    assert not (await client.get("/v1/sessions/leo")).json()["overridden"]
    outputs = {"outputs": {"backup": {"url": "rtmp://live.example.com/app/live_canary_7"}}}
    patched = await client.patch("/v1/sessions/leo", json=outputs)
    assert patched.status_code == 200 and "canary" not in patched.text
    assert patched.json()["overridden"] and set(patched.json()["config"]["outputs"]) == {"twitch", "backup"}
    ((verb, name, _),) = daemon.leo.told
    assert (verb, name) == ("add", "backup")
    assert (await client.get("/v1/sessions")).json()[0]["overridden"]


async def test_what_is_no_session_is_a_problem_that_names_the_field(client: httpx.AsyncClient) -> None:
    wrong = problem(await client.put("/v1/sessions/mia", json=MIA | {"inputs": {"host": {"url": "pcm:-"}}}), 422)
    assert [error["pointer"] for error in wrong["errors"]] == ["#/inputs/host/url"]
    problem(await client.patch("/v1/sessions/leo", json={"avatar": {"url": "wss://127.0.0.1/"}}), 422)
    problem(await client.patch("/v1/sessions/leo", json=[{"op": "remove", "path": "/avatar"}]), 422)
    problem(await client.put("/v1/sessions/mia", content=b"{", headers={"Content-Type": "application/json"}), 400)
    problem(await client.put("/v1/sessions/mia", content=b"x" * ((1 << 20) + 1)), 413)


# Upper case, dots, ends of lines and strings, scripts that look alike, forms that are normalized to ASCII, what turns
# around or is not seen, digits of other scripts, what is no UTF-8.
TRICKS = [
    *("A", "a_b", "-a", "a-", 64 * "a", "%2e%2e", "a.b", "a%00", "a%0A", "%0Aa", "a%0D%0A", "a%20", "%20", "a%7F"),
    *("%C3%BC", "u%CC%88", "%D0%B0", "%EF%BC%A1", "%F0%9D%92%82", "%E2%84%AA", "%C4%B1", "%C3%9F", "%EF%AC%81"),
    *("%E2%80%AEa", "a%E2%80%8B", "a%C2%AD", "a%EF%B8%8F", "%EF%BB%BFa", "%D9%A1", "%E2%91%A0", "%F0%9F%91%A4"),
    *("%FF", "%ED%A0%80", "%C0%AE", "a%25", "a%3Fb", "a%23b", "a%5Cb", "a%22", "a%3Cb%3E"),
]


@pytest.mark.parametrize("name", TRICKS)
async def test_the_name_of_a_session_is_a_label(client: httpx.AsyncClient, daemon: FakeDaemon, name: str) -> None:
    for method, body in (("PUT", MIA), ("PATCH", {}), ("DELETE", None)):
        problem(await client.request(method, f"/v1/sessions/{name}", json=body), 422)
    assert set(daemon.definitions) == {"leo"}


async def test_there_are_so_many_sessions_at_most(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    daemon.has_room = False
    problem(await client.put("/v1/sessions/mia", json=MIA), 503)
    assert (await client.put("/v1/sessions/leo", json=MIA)).status_code == 200


async def test_a_daemon_that_drains_begins_nothing(client: httpx.AsyncClient, daemon: FakeDaemon) -> None:
    daemon.is_draining = True
    problem(await client.put("/v1/sessions/mia", json=MIA), 503)
    problem(await client.patch("/v1/sessions/leo", json={}), 503)
    assert set(daemon.definitions) == {"leo"}


async def test_a_session_that_there_is_not_is_neither_patched_nor_removed(client: httpx.AsyncClient) -> None:
    problem(await client.patch("/v1/sessions/mia", json={}), 404)
    problem(await client.delete("/v1/sessions/mia"), 404)


# ---------------------------------------------------------------------------------------------- what it says of itself


async def test_the_openapi_document_knows_every_route(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/v1/sessions", "/v1/drain", "/v1/sessions/{name}/slate", "/metrics", "/readyz"} <= set(document["paths"])
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["description"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    body = document["paths"]["/v1/sessions/{name}/outputs/{output}"]["put"]["requestBody"]
    keys = body["content"]["application/json"]["schema"]["properties"]
    assert {"url", "stream_key"} <= set(keys) and not [key for key in keys if re.search("_(file|env|credential)$", key)]
    session = document["paths"]["/v1/sessions/{name}"]
    assert {"avatar", "inputs", "outputs"} <= set(
        session["put"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    )
    assert set(session["patch"]["requestBody"]["content"]) == {"application/merge-patch+json"}
    assert not re.search('"[a-z_]+_(file|env|credential)"', json.dumps(session["put"]))


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sessions/leo", "DELETE, GET, PATCH, PUT"),
        ("/v1/sessions/leo/outputs/twitch", "DELETE, PUT"),
        ("/v1/sessions", "GET"),
        ("/docs", "GET"),
    ],
)
async def test_a_method_that_a_path_lacks_is_told_all_that_it_has(
    client: httpx.AsyncClient, path: str, methods: str
) -> None:
    answer = await client.request("TRACE", path)
    problem(answer, 405)
    assert answer.headers["allow"] == methods


async def test_what_only_the_file_may_say_of_a_slate_is_not_described(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]["/v1/sessions/{name}"]["put"]["requestBody"]
    slate = described["content"]["application/json"]["schema"]["properties"]["slate"]
    assert set(slate["properties"]) == {"picture", "after_s"}


async def test_the_page_shows_the_api_and_runs_nothing(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert "/v1/sessions/{name}/slate" in page.text
    assert "<script" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]
