"""Sessions of strangers: they may broadcast what is public to what is public, and never see or redirect a secret."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.config import NavTalkConfig, OutputConfig, SecretConfig, SessionConfig, ToolConfig, WebhookConfig
from bridge.config_origin import Definition, StrangeParts
from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile_sessions import MAX_PARTS, HostileSessions, merged, shown
from bridge.ops.problems import Problem
from bridge.redact import Secret
from tests.unit.ops.fakes import LEO, resolve

WSS = "wss://live.example.com/chat"
MIA: dict[str, Any] = {
    "avatar": {"url": WSS, "license": "sk_canary_mia", "name": "Mia", "query": {"key": "canary_query"}},
    "inputs": {"host": {"url": "whip:"}},
    "outputs": {"twitch": {"url": "rtmp://live.example.com/app", "stream_key": "live_canary_mia"}},
    "webhooks": [{"url": "https://live.example.com/hook", "secret": "canary_signing"}],
}
ROOM = {"url": WSS, "api_key": "key", "api_secret": "canary_of_a_room"}
ROOMS: dict[str, dict[str, Any]] = {
    "livekit": ROOM | {"service": "livekit", "room": "studio"},
    "heygen": {"service": "heygen", "url": "https://live.example.com", "api_key": "canary_key", "avatar_id": "a"},
    "liveavatar": {
        "service": "liveavatar",
        "url": "https://live.example.com",
        "api_key": "canary_key",
        "avatar_id": "a",
        "room": ROOM | {"name": "studio"},
    },
}
ALL = StrangeParts(True, frozenset({"host"}), frozenset({"twitch"}), True)
READING = ("_file", "_env", "_credential")


@pytest.fixture
def sessions(tmp_path: Path) -> HostileSessions:
    (tmp_path / "key").write_text("canary_named_key")
    secrets = {"key": SecretConfig.model_validate({"file": str(tmp_path / "key"), "hosts": ["live.example.com"]})}
    return HostileSessions(tmp_path, UrlPolicy(["studio.lan"], resolve=resolve), secrets)


def avatar(**keys: Any) -> dict[str, Any]:
    return MIA | {"avatar": MIA["avatar"] | keys}


async def refusal(
    sessions: HostileSessions, body: dict[str, Any], now: Definition | None = None
) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(Problem) as caught:
        await sessions.read(body, now)
    assert caught.value.status == 422
    assert "canary" not in bytes(caught.value.response().body).decode()
    return [(tuple(keys), message) for keys, message in caught.value.mistakes]


async def test_a_session_is_read_and_all_of_it_is_strange(sessions: HostileSessions) -> None:
    mia = await sessions.read(MIA)
    assert mia.strange == ALL
    assert isinstance(mia.config.avatar, NavTalkConfig)
    assert mia.config.avatar.license_key.reveal() == "sk_canary_mia"
    key = mia.config.outputs["twitch"].key
    assert key is not None and key.reveal() == "live_canary_mia"
    assert mia.config.webhooks[0].key == Secret("canary_signing")


async def test_what_is_shown_has_the_shape_of_the_configuration_and_no_secret(sessions: HostileSessions) -> None:
    mia = await sessions.read(MIA)
    told = shown(mia.config)
    assert "canary" not in json.dumps(told) and "canary" not in repr(mia)
    assert told["avatar"] == {"url": WSS, "license": "***", "name": "Mia", "query": {"key": "***"}}
    assert told["outputs"] == {"twitch": {"url": "rtmp://live.example.com/app", "stream_key": "***"}}
    assert "canary" not in json.dumps(shown(LEO.config))


@pytest.mark.parametrize(
    ("body", "keys", "words"),
    [
        ({}, ("avatar",), "is missing"),
        (MIA | {"outputs": {}}, ("outputs",), "must not be empty"),
        (MIA | {"sessions": {}}, ("sessions",), "unknown key"),
        (MIA | {"outputs": {"../x": {"url": "whep:"}}}, ("outputs", "../x"), "a name has"),
        (MIA | {"outputs": {"\u202ex": {"url": "whep:"}}}, ("outputs", "\u202ex"), "a name has"),
        (avatar(nme="x"), ("avatar", "nme"), "did you mean `name`?"),
        (avatar(url="wss://127.0.0.1/x"), ("avatar", "url"), "is this machine"),
        (avatar(url="wss://inside.example.com/x"), ("avatar", "url"), "is private"),
        (avatar(url="wss://169.254.169.254/x"), ("avatar", "url"), "metadata"),
        (avatar(license="${HOME}"), ("avatar", "license"), "${} is only"),
        (avatar(history_file="/etc/canary"), ("avatar", "history_file"), "only for the configuration file"),
        (avatar(ice_servers=[{"urls": "stun:10.0.0.1"}]), ("avatar", "ice_servers", 0, "urls"), "is private"),
        (
            avatar(tools=[{"name": "f", "webhook": {"url": "http://127.0.0.1:8009/x"}}]),
            ("avatar", "tools", 0, "webhook", "url"),
            "is this machine",
        ),
        (
            avatar(service="navtalk-legacy", signal_url="wss://inside.example.com/x"),
            ("avatar", "signal_url"),
            "is private",
        ),
        (
            MIA | {"avatar": ROOMS["livekit"] | {"url": "https://inside.example.com"}},
            ("avatar", "url"),
            "is private",
        ),
        (MIA | {"avatar": ROOMS["heygen"] | {"url": "http://127.0.0.1"}}, ("avatar", "url"), "is this machine"),
        (
            MIA | {"avatar": ROOMS["liveavatar"] | {"room": ROOM | {"name": "x", "url": "ws://inside.example.com"}}},
            ("avatar", "room", "url"),
            "is private",
        ),
        (MIA | {"inputs": {"a": {"url": "pcm:-"}}}, ("inputs", "a", "url"), "pcm: is only for"),
        (MIA | {"inputs": {"a": {"url": "alsa:default"}}}, ("inputs", "a", "url"), "alsa: is only for"),
        (MIA | {"inputs": {"a": {"url": "pulse:"}}}, ("inputs", "a", "url"), "pulse: is only for"),
        (MIA | {"inputs": {"a": {"url": "file:../x.wav"}}}, ("inputs", "a", "url"), "below storage.dir"),
        (MIA | {"inputs": {"a": {"url": "clip:", "rendering": {}}}}, ("inputs", "a", "rendering"), "is only for"),
        (MIA | {"slate": {"picture": "image", "image": "/etc/canary"}}, ("slate", "image"), "is only for"),
        (MIA | {"slate": {"picture": "clip", "clip": "/etc/canary"}}, ("slate", "clip"), "is only for"),
        (MIA | {"slate": {"picture": "clip", "rendering": {}}}, ("slate", "rendering"), "is only for"),
        (MIA | {"outputs": {"a": {"url": "rtmp://10.1.1.1/a/canary"}}}, ("outputs", "a", "url"), "is private"),
        (MIA | {"outputs": {"a": {"url": "file:../x.mp4"}}}, ("outputs", "a"), "below storage.dir"),
        (MIA | {"webhooks": [{"url": "http://[::1]/hook"}]}, ("webhooks", 0, "url"), "is this machine"),
        (MIA | {"webhooks": [{"url": "http://studio.lan:25/"}]}, ("webhooks", 0, "url"), "port 25"),
        (MIA | {"webhooks": [{"url": "http://live.example.com/"}] * (MAX_PARTS + 1)}, ("webhooks",), "more than"),
    ],
)
async def test_what_no_stranger_may_have_is_refused(
    sessions: HostileSessions, body: dict[str, Any], keys: tuple[str | int, ...], words: str
) -> None:
    found = await refusal(sessions, body)
    assert [message for place, message in found if place == keys and words in message], found


@pytest.mark.parametrize(
    "key",
    sorted(
        {
            key
            for model in (NavTalkConfig, OutputConfig, WebhookConfig, ToolConfig)
            for key in model.model_fields
            if key.endswith(READING)
        }
    ),
)
async def test_no_key_of_any_part_reads_this_machine(sessions: HostileSessions, key: str) -> None:
    for body, place in (
        (avatar(**{key: "/etc/canary"}), ("avatar", key)),
        (MIA | {"outputs": {"x": {key: "/etc/canary"}}}, ("outputs", "x", key)),
        (MIA | {"webhooks": [{key: "/etc/canary"}]}, ("webhooks", 0, key)),
        (MIA | {"inputs": {"x": {key: "/etc/canary"}}}, ("inputs", "x", key)),
    ):
        assert (await refusal(sessions, body))[0][0] == place
        # Nor as a patch.
        assert (await refusal(sessions, {place[0]: body[str(place[0])]}, LEO))[0][0] == place


async def test_secrets_may_be_named_and_go_to_their_hosts_alone(sessions: HostileSessions) -> None:
    named = {"secret": "key"}
    mia = await sessions.read(
        avatar(license=named, tools=[{"name": "f", "webhook": {"url": "https://live.example.com/f", "secret": named}}])
        | {"webhooks": [{"url": "https://live.example.com/h", "secret": named}]}
    )
    assert mia.config.webhooks[0].key == Secret("canary_named_key")
    for body, keys in (
        (avatar(license=named, url="wss://studio.lan/x"), ("avatar", "license")),
        (MIA | {"webhooks": [{"url": "https://studio.lan/h", "secret": named}]}, ("webhooks", 0, "secret")),
        (
            MIA | {"outputs": {"x": {"url": "rtmp://studio.lan/app", "stream_key": named}}},
            ("outputs", "x", "stream_key"),
        ),
    ):
        ((place, message),) = await refusal(sessions, body)
        assert place == keys and "only for live.example.com" in message


async def test_schemas_of_tools_may_speak_of_secrets(sessions: HostileSessions) -> None:
    parameters = {"type": "object", "properties": {"secret": {"type": "string"}}}
    mia = await sessions.read(avatar(tools=[{"name": "f", "parameters": parameters}]))
    assert mia.config.avatar.tools[0].parameters == parameters


@pytest.mark.parametrize("service", ROOMS)
async def test_avatars_in_rooms_are_read_too(sessions: HostileSessions, service: str) -> None:
    mia = await sessions.read(MIA | {"avatar": ROOMS[service]})
    assert mia.config.avatar.service == service and mia.strange == ALL
    assert "canary" not in json.dumps(shown(mia.config))


async def test_what_a_rooms_secret_makes_is_for_its_service_as_well(sessions: HostileSessions) -> None:
    named = {"secret": "key"}
    here = ROOMS["liveavatar"] | {"room": ROOM | {"name": "studio", "api_secret": named}}
    await sessions.read(MIA | {"avatar": here})
    for wrong, keys in (
        # A token that is made with it would go to that service.
        (here | {"url": "https://studio.lan"}, ("avatar", "room", "api_secret")),
        (here | {"room": here["room"] | {"url": "wss://studio.lan"}}, ("avatar", "room", "api_secret")),
        (here | {"url": "https://studio.lan", "api_key": named, "room": None}, ("avatar", "api_key")),
        (ROOMS["livekit"] | {"url": "wss://studio.lan", "api_secret": named}, ("avatar", "api_secret")),
        (ROOMS["heygen"] | {"url": "https://studio.lan", "api_key": named}, ("avatar", "api_key")),
    ):
        ((place, message),) = await refusal(sessions, MIA | {"avatar": wrong})
        assert place == keys and "only for live.example.com" in message


@pytest.mark.parametrize("service", ROOMS)
async def test_no_patch_leads_an_avatar_in_a_room_elsewhere(sessions: HostileSessions, service: str) -> None:
    now = await sessions.read(MIA | {"avatar": ROOMS[service]})
    scheme = "wss" if service == "livekit" else "https"
    ((place, message),) = await refusal(sessions, {"avatar": {"url": f"{scheme}://studio.lan"}}, now)
    assert place == ("avatar", "url") and "another host" in message
    patched = await sessions.read({"avatar": {"max_session_s": 60}}, now)
    assert patched.config.avatar.max_session_s == 60
    # Another service of the same host is none that got the secret for this one.
    await refusal(sessions, {"avatar": {"room": {"url": "wss://studio.lan"}}}, now)


# ---------------------------------------------------------------------------------------------- patches


async def test_a_patch_touches_what_it_names(sessions: HostileSessions) -> None:
    added = {"url": "rtmp://live.example.com/app/live_canary_added"}
    patched = await sessions.read({"outputs": {"more": added}}, LEO)
    # What the operator wrote may lead to this machine and stays as it was.
    assert patched.config.avatar is LEO.config.avatar
    assert patched.config.inputs["question"] is LEO.config.inputs["question"]
    assert patched.config.outputs["twitch"] is LEO.config.outputs["twitch"]
    assert patched.strange == StrangeParts(outputs=frozenset({"more"}))
    again = await sessions.read({"outputs": {"more": None}}, patched)
    assert again == LEO


async def test_secrets_that_are_left_out_stay(sessions: HostileSessions) -> None:
    patched = await sessions.read({"avatar": {"voice": "sage"}, "outputs": {"twitch": {"keyframe_s": 1.0}}}, LEO)
    assert isinstance(patched.config.avatar, NavTalkConfig)
    assert patched.config.avatar.license_key.reveal() == "sk_canary_leo"
    key = patched.config.outputs["twitch"].key
    assert key is not None and key.reveal() == "live_canary_leo" and key.hosts == {"live.example.com"}
    assert patched.strange == StrangeParts(avatar=True, outputs=frozenset({"twitch"}))
    dropped = await sessions.read({"avatar": {"voice": None}}, patched)
    assert isinstance(dropped.config.avatar, NavTalkConfig) and dropped.config.avatar.voice is None


async def test_no_patch_sends_a_secret_elsewhere(sessions: HostileSessions) -> None:
    ((place, message),) = await refusal(sessions, {"outputs": {"twitch": {"url": "rtmp://studio.lan/app"}}}, LEO)
    assert place == ("outputs", "twitch", "stream_key") and "only for live.example.com" in message
    await refusal(sessions, {"outputs": {"twitch": {"backup_url": "rtmp://studio.lan/app"}}}, LEO)
    ((place, message),) = await refusal(sessions, {"avatar": {"url": WSS}}, LEO)
    assert place == ("avatar", "url") and "another host" in message
    # A step in between is of no use.
    between = await sessions.read({"outputs": {"twitch": {"keyframe_s": 1.0}}}, LEO)
    await refusal(sessions, {"outputs": {"twitch": {"url": "rtmp://studio.lan/app"}}}, between)


async def test_no_patch_shows_a_relays_password_to_viewers(sessions: HostileSessions) -> None:
    server = {"urls": "turn:live.example.com", "username": "x", "credential": Secret("canary_turn")}
    output = OutputConfig.model_validate(
        {"url": "whip+https://live.example.com/x", "token": Secret("canary_token"), "ice_servers": [server]}
    )
    now = Definition(LEO.config.model_copy(update={"outputs": {"studio": output}}))
    await refusal(sessions, {"outputs": {"studio": {"url": "whep:", "token": None}}}, now)


async def test_a_secret_that_is_given_replaces_one_from_a_file(sessions: HostileSessions, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("live_canary_old")
    output = OutputConfig.model_validate(
        {"url": Secret.url("rtmp://live.example.com/app"), "stream_key_file": str(tmp_path / "old")}
    )
    now = Definition(LEO.config.model_copy(update={"outputs": {"twitch": output}}))
    patched = await sessions.read({"outputs": {"twitch": {"stream_key": "live_canary_new"}}}, now)
    key = patched.config.outputs["twitch"].key
    assert key is not None and key.reveal() == "live_canary_new"


async def test_a_patch_of_what_is_of_this_machine_alone_is_refused(sessions: HostileSessions) -> None:
    ((place, message),) = await refusal(sessions, {"inputs": {"question": {"gain_db": 3}}}, LEO)
    assert place == ("inputs", "question", "url") and "only for the configuration file" in message


async def test_a_session_that_has_more_parts_from_the_file_can_be_patched_but_not_grown(
    sessions: HostileSessions,
) -> None:
    output, tool = LEO.config.outputs["twitch"], ToolConfig(name="t", parameters={})
    outputs = {f"o{number}": output for number in range(MAX_PARTS + 2)}
    avatar = LEO.config.avatar.model_copy(
        update={
            "url": Secret.url(WSS),
            "tools": tuple(tool.model_copy(update={"name": f"t{n}"}) for n in range(MAX_PARTS + 2)),
        }
    )
    now = Definition(LEO.config.model_copy(update={"outputs": outputs, "avatar": avatar}))
    patched = await sessions.read({"outputs": {"o1": {"keyframe_s": 1.0}}, "avatar": {"voice": "sage"}}, now)
    assert len(patched.config.outputs) == len(patched.config.avatar.tools) == MAX_PARTS + 2
    fewer = await sessions.read({"outputs": {"o1": None}}, now)
    assert len(fewer.config.outputs) == MAX_PARTS + 1
    added = {"url": "rtmp://live.example.com/app/key"}
    for grown in (now, fewer):
        ((place, message),) = await refusal(sessions, {"outputs": {"more": added}}, grown)
        assert place == ("outputs",) and f"more than {MAX_PARTS}" in message


# RFC 7396, appendix A, as far as a patch is an object.
@pytest.mark.parametrize(
    ("value", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_are_merged_as_rfc_7396_shows(value: Any, patch: Any, result: Any) -> None:
    assert merged(value, patch) == result


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["${X}", "file:x.mp4", "whip:", WSS, "rtmp://a", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("url a image".split()), inner),
    max_leaves=6,
)
keys = st.sampled_from([*SessionConfig.model_fields, "x"])
part_keys = st.sampled_from([*NavTalkConfig.model_fields, *OutputConfig.model_fields, "twitch", "question"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(body=st.dictionaries(keys, json_values | st.dictionaries(part_keys, json_values, max_size=2), max_size=3))
async def test_any_body_is_a_session_or_a_problem(sessions: HostileSessions, body: dict[str, Any]) -> None:
    for now in (None, LEO):
        try:
            assert isinstance(await sessions.read(body, now), Definition)
        except Problem as problem:
            assert problem.status == 422 and problem.mistakes
