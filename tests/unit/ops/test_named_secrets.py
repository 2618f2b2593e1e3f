"""Who calls the API uses secrets that they do not know, and cannot send them anywhere but where they belong."""

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.config import SecretConfig, StorageConfig
from bridge.errors import OutputRejected
from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile import HostileOutputs
from bridge.ops.problems import Problem
from bridge.outputs import open_output
from bridge.outputs.rtmp import RtmpOutput
from bridge.redact import mask
from tests.unit.ops.fakes import FakeDaemon, api, resolve

SECRETS = {
    "twitch": ("live_canary_key", "live.example.com"),
    "studio": ("whip+https://live.example.com/canary-endpoint?token=canary1", "live.example.com"),
    "rtmp": ("rtmp://live.example.com/app/canary-in-url", "live.example.com studio.lan"),
    "elsewhere": ("whip+https://studio.lan/canary-endpoint", "live.example.com"),
    "v6": ("canary_v6_token", "2606:2800:21f::1"),
    "file": ("file:canary.mp4", "live.example.com"),
    "strange": ("canary:what://live.example.com", "live.example.com"),
}
URL = "rtmps://live.example.com/app"
WHIP = "whip+https://live.example.com/x"


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, SecretConfig]:
    for name, (value, _) in SECRETS.items():
        (tmp_path / name).write_text(value)
    return {
        name: SecretConfig.model_validate({"file": str(tmp_path / name), "hosts": hosts.split()})
        for name, (_, hosts) in SECRETS.items()
    }


@pytest.fixture
def outputs(tmp_path: Path, secrets: dict[str, SecretConfig]) -> HostileOutputs:
    return HostileOutputs(tmp_path, UrlPolicy(["studio.lan"], resolve=resolve), secrets)


def named(name: object) -> dict[str, object]:
    return {"secret": name}


def turn(credential: object, *urls: str) -> dict[str, object]:
    return {"urls": [*urls], "username": "bridge", "credential": credential}


async def refusal(outputs: HostileOutputs, body: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(Problem) as caught:
        await outputs.read(body)
    assert caught.value.status == 422
    assert "canary" not in str(caught.value) + bytes(caught.value.response().body).decode()
    return [(tuple(keys), message) for keys, message in caught.value.mistakes]


async def test_a_named_secret_stands_wherever_one_can_be_written(outputs: HostileOutputs) -> None:
    twitch = await outputs.read({"url": URL, "stream_key": named("twitch")})
    assert twitch.key is not None and twitch.key.reveal() == "live_canary_key"
    whip = await outputs.read(
        {"url": WHIP, "token": named("twitch"), "ice_servers": [turn(named("twitch"), "turn:live.example.com:3478")]}
    )
    assert whip.bearer is not None and whip.bearer.reveal() == "live_canary_key"
    assert whip.ice_servers is not None and whip.ice_servers[0].password is not None
    assert whip.ice_servers[0].password.reveal() == "live_canary_key"
    studio = await outputs.read({"url": named("studio")})
    assert studio.address.reveal() == SECRETS["studio"][0]
    backup = await outputs.read({"url": "rtmp://live.example.com/app/own", "backup_url": named("rtmp")})
    assert [address.reveal() for address in backup.addresses][1] == SECRETS["rtmp"][0]
    for output in (twitch, whip, studio, backup):
        assert "canary" not in f"{output!r} {output.model_dump_json()}"


@pytest.mark.parametrize("url", ["rtmps://LIVE.example.com./app", "rtmp://live.example.com:1936/app?a=b"])
async def test_a_host_is_the_same_however_it_is_written(outputs: HostileOutputs, url: str) -> None:
    assert await outputs.read({"url": url, "stream_key": named("twitch")})


async def test_an_address_is_a_host_too(outputs: HostileOutputs) -> None:
    assert await outputs.read({"url": "whip+https://[2606:2800:21F:0::1]/x", "token": named("v6")})


@pytest.mark.parametrize(
    ("body", "key", "leads"),
    [
        ({"url": "rtmps://studio.lan/app", "stream_key": named("twitch")}, ("stream_key",), "url"),
        ({"url": "whip+https://studio.lan/x", "token": named("twitch")}, ("token",), "url"),
        (
            {
                "url": "whip+https://live.example.com@studio.lan/x",
                "ice_servers": [turn(named("twitch"), "turn:studio.lan")],
            },
            ("ice_servers", 0, "credential"),
            "urls.0",
        ),
        (
            {"url": URL, "backup_url": "rtmps://studio.lan/app", "stream_key": named("twitch")},
            ("stream_key",),
            "backup_url",
        ),
        (
            {"url": WHIP, "ice_servers": [turn(named("twitch"), "turn:live.example.com", "turns:studio.lan")]},
            ("ice_servers", 0, "credential"),
            "urls.1",
        ),
    ],
)
async def test_a_secret_goes_to_no_host_that_it_is_not_for(
    outputs: HostileOutputs, body: dict[str, Any], key: tuple[str | int, ...], leads: str
) -> None:
    message = f"this secret is only for live.example.com; {leads} leads elsewhere"
    assert await refusal(outputs, body) == [(key, message)]


@pytest.mark.parametrize("key", ["url", "backup_url"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elsewhere", "the secret elsewhere is a URL of a host that is none of its own"),
        ("twitch", "the secret twitch is no URL with a host"),
        ("file", "the secret file is no URL with a host"),
        ("strange", "the secret strange is no URL with a host"),
    ],
)
async def test_a_secret_that_is_no_url_of_its_hosts_is_no_place_to_publish_to(
    outputs: HostileOutputs, key: str, name: str, message: str
) -> None:
    assert await refusal(outputs, {"url": URL, "stream_key": "x", key: named(name)}) == [((key,), message)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        # Somebody who misunderstands may write the secret itself there.
        (named("live_canary_mistaken"), "no secret of that name is in the configuration; there is twitch, studio, "),
        (named(["twitch"]), "a secret is named as"),
        (named({"canary": 1}), "a secret is named as"),
        (named(None), "a secret is named as"),
        (named("twitch") | {"hosts": ["canary.example"]}, "a secret is named as"),
    ],
)
@pytest.mark.parametrize("key", ["url", "stream_key"])
async def test_what_names_no_secret_is_refused_at_its_field(
    outputs: HostileOutputs, key: str, value: object, message: str
) -> None:
    ((keys, told),) = await refusal(outputs, {"url": URL} | {key: value})
    assert keys == (key,) and told.startswith(message)


@pytest.mark.parametrize("key", ["keyframe_s", "audio_bitrate", "autostart", "tls_pin_sha256", "nonsense"])
async def test_where_no_secret_can_stand_none_is_taken(outputs: HostileOutputs, key: str) -> None:
    ((keys, _), *_) = await refusal(outputs, {"url": URL, "stream_key": "x", key: named("twitch")})
    assert keys[0] == key


async def test_the_name_of_a_user_is_no_place_for_a_secret(outputs: HostileOutputs) -> None:
    server = {"urls": "turn:live.example.com", "username": named("twitch"), "credential": "x"}
    ((keys, _),) = await refusal(outputs, {"url": WHIP, "ice_servers": [server]})
    assert keys == ("ice_servers", 0, "username")


async def test_a_body_is_no_secret(outputs: HostileOutputs) -> None:
    assert await refusal(outputs, named("studio")) == [(("secret",), "unknown key; there is " + ", ".join(_keys()))]


def _keys() -> list[str]:
    from bridge.config import OutputConfig

    return list(OutputConfig.model_fields)


async def test_where_no_secret_is_configured_none_can_be_named(tmp_path: Path) -> None:
    outputs = HostileOutputs(tmp_path, UrlPolicy(resolve=resolve), {})
    ((_, message),) = await refusal(outputs, {"url": URL, "stream_key": named("twitch")})
    assert message == "no secret of that name is in the configuration; there is none"


async def test_the_url_policy_holds_for_the_hosts_of_secrets_too(
    secrets: dict[str, SecretConfig], tmp_path: Path
) -> None:
    outputs = HostileOutputs(tmp_path, UrlPolicy(resolve=resolve), secrets)
    inside = {"url": "rtmp://studio.lan/app/x"}
    assert await refusal(outputs, inside) and await refusal(outputs, inside | {"backup_url": named("rtmp")})


async def test_an_output_of_a_named_secret_takes_it_nowhere_else(
    outputs: HostileOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("bridge.outputs.rtmp.RtmpOutput", lambda *_, **options: opened.append(options["receivers"]))
    for body in (
        {"url": URL, "stream_key": named("twitch")},
        {"url": named("rtmp")},
        {"url": URL, "stream_key": "own"},
    ):
        open_output("x", await outputs.read(body), StorageConfig(), is_strange=True)
    assert opened == [{"live.example.com"}, {"live.example.com", "studio.lan"}, None]


async def test_a_key_does_not_reach_a_host_that_its_url_does_not_lead_to() -> None:
    output = RtmpOutput(f"{URL}/x", policy=UrlPolicy(resolve=resolve), is_strange=True, receivers=frozenset({"other"}))
    with pytest.raises(OutputRejected, match="is none of the hosts that the stream key is for"):
        await output.run(None, None)  # type: ignore[arg-type]


async def test_the_api_takes_a_named_secret_and_describes_how(secrets: dict[str, SecretConfig]) -> None:
    daemon = FakeDaemon()
    async with api(daemon, secrets=secrets) as client:
        path = "/v1/sessions/leo/outputs/twitch"
        added = await client.put(path, json={"url": URL, "stream_key": named("twitch")})
        assert added.status_code == 200 and "canary" not in added.text
        ((_, _, config),) = daemon.leo.told
        assert config.key.reveal() == "live_canary_key"
        refused = await client.put(path, json={"url": "rtmp://studio.lan/app", "stream_key": named("twitch")})
        assert refused.status_code == 422 and refused.json()["errors"][0]["pointer"] == "#/stream_key"
        document = (await client.get("/openapi.json")).json()
    body = document["paths"]["/v1/sessions/{name}/outputs/{output}"]["put"]["requestBody"]
    keys = body["content"]["application/json"]["schema"]["properties"]
    for key in ("url", "backup_url", "stream_key", "token"):
        assert '"required": ["secret"]' in json.dumps(keys[key]), key
    assert '"required": ["secret"]' in json.dumps(keys["ice_servers"]) and "secret" not in json.dumps(
        keys["keyframe_s"]
    )


async def test_the_value_of_a_named_secret_is_masked_wherever_it_turns_up(secrets: dict[str, SecretConfig]) -> None:
    for value, _ in SECRETS.values():
        assert "canary" not in mask(f"the server says {value}!")


async def test_a_named_secret_is_not_shown_to_viewers(outputs: HostileOutputs) -> None:
    body: dict[str, Any] = {"url": "whep:", "max_viewers": 2}
    assert (await outputs.read(body)).max_viewers == 2
    body["ice_servers"] = [turn(named("twitch"), "turn:live.example.com")]
    ((keys, message),) = await refusal(outputs, body)
    assert keys == ("ice_servers",) and "viewers" in message
