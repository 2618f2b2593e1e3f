from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.config import IceServer, NavTalkConfig, OutputConfig, WebhookConfig
from bridge.net.url_policy import UrlPolicy
from bridge.ops.hostile import HostileOutputs, hostile_schema
from bridge.ops.problems import Problem
from bridge.redact import Secret
from tests.unit.ops.fakes import resolve

# From the models, so that a key that is new is tested too.
READING_KEYS = sorted(
    {
        key
        for model in (OutputConfig, IceServer, NavTalkConfig, WebhookConfig)
        for key in model.model_fields
        if key.endswith(("_file", "_env", "_credential"))
    }
)
SECRET_KEYS = [
    key
    for key, field in OutputConfig.model_fields.items()
    if Secret.__name__ in str(field.annotation) and key not in READING_KEYS
]

GOOD = {"url": "rtmp://live.example.com/app/live_canary_1"}


@pytest.fixture
def outputs(tmp_path: Path) -> HostileOutputs:
    return HostileOutputs(tmp_path, UrlPolicy(["studio.lan"], resolve=resolve), {})


async def refusal(outputs: HostileOutputs, body: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(Problem) as caught:
        await outputs.read(body)
    assert caught.value.status == 422
    assert "canary" not in bytes(caught.value.response().body).decode()
    return [(tuple(keys), message) for keys, message in caught.value.mistakes]


async def test_secrets_stand_there_as_they_are_and_are_not_shown(outputs: HostileOutputs) -> None:
    output = await outputs.read({"url": "rtmps://live.example.com/app", "stream_key": "live_canary_2"})
    assert output.key is not None and output.key.reveal() == "live_canary_2"
    assert "canary" not in f"{output!r} {output.model_dump_json()}"
    whip = await outputs.read({"url": "whip+https://live.example.com/x", "token": "canary_token"})
    assert whip.bearer is not None and whip.bearer.reveal() == "canary_token"


@pytest.mark.parametrize(
    "key",
    ["url_file", "stream_key_file", "stream_key_env", "stream_key_credential", "token_file", "token_env", "x_file"],
)
async def test_no_key_may_read_this_machine(outputs: HostileOutputs, tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_text("canary_secret")
    (mistake,) = await refusal(outputs, GOOD | {key: str(tmp_path / "secret")})
    assert mistake[0] == (key,) and "only for the configuration file" in mistake[1]


async def test_no_key_at_any_depth_may_read_this_machine(outputs: HostileOutputs) -> None:
    servers = [{"urls": "turn:live.example.com", "username": "x", "credential_file": "/etc/canary"}]
    (mistake,) = await refusal(outputs, {"url": "whip+https://live.example.com/x", "ice_servers": servers})
    assert mistake[0] == ("ice_servers", 0, "credential_file")


@pytest.mark.parametrize("key", ["logo_file", "font_file"])
async def test_no_overlay_may_show_this_machine(outputs: HostileOutputs, key: str) -> None:
    (mistake,) = await refusal(outputs, GOOD | {"overlay": {key: "/etc/canary"}})
    assert mistake[0] == ("overlay", key)


async def test_an_output_may_have_a_preset_and_words_over_it(outputs: HostileOutputs) -> None:
    output = await outputs.read(GOOD | {"preset": "generic", "overlay": {"text": "Live", "captions": True}})
    assert output.preset == "generic" and output.overlay is not None and output.overlay.captions


@pytest.mark.parametrize(
    "url", ["srt://127.0.0.1:9000", "srt://0.0.0.0:9000?mode=listener", "srt://live.example.com:22"]
)
async def test_srt_leads_to_public_hosts_alone(outputs: HostileOutputs, url: str) -> None:
    ((keys, _),) = await refusal(outputs, {"url": url, "passphrase": "canary-passphrase"})
    assert keys == ("url",)


async def test_streams_stay_below_the_directory_and_are_led_by_no_link(outputs: HostileOutputs, tmp_path: Path) -> None:
    assert (await outputs.read({"url": "hls:web/leo"})).scheme == "hls"
    ((keys, _),) = await refusal(outputs, {"url": "hls:../leo"})
    assert keys == ("url",)


async def test_a_name_that_no_file_can_have_is_no_matter_of_hosts(outputs: HostileOutputs) -> None:
    (mistake,) = await refusal(outputs, {"url": f"file:{'x' * 300}.mp4"})
    assert mistake == (("url",), "cannot write there: File name too long")


@pytest.mark.parametrize("key", READING_KEYS)
async def test_each_key_that_reads_this_machine_is_refused(outputs: HostileOutputs, tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_text("canary_secret")
    for place in (str(tmp_path / "secret"), "PATH", "", None, ["x"], {"secret": "x"}):
        found = await refusal(outputs, GOOD | {key: place})
        assert ((key,), "is only for the configuration file; give the secret itself, without the ending") in found
        server = {"urls": "turn:live.example.com", "username": "x", "credential": "y", key: place}
        (mistake,) = await refusal(outputs, GOOD | {"ice_servers": [server]})
        assert mistake[0] == ("ice_servers", 0, key)


@pytest.mark.parametrize("key", [*OutputConfig.model_fields])
async def test_each_key_takes_nothing_from_the_environment(outputs: HostileOutputs, key: str) -> None:
    for value in ("${PATH}", ["${PATH}"], {"urls": "${PATH}"}):
        found = await refusal(outputs, GOOD | {key: value})
        if key not in READING_KEYS:
            assert [message for _, message in found] == ["${} is only for the configuration file"]


@pytest.mark.parametrize("key", SECRET_KEYS)
async def test_each_secret_is_taken_as_it_is_and_never_shown(outputs: HostileOutputs, key: str) -> None:
    body = {
        "url": {"url": "rtmp://live.example.com/app/live_canary_3"},
        "backup_url": GOOD | {"backup_url": "rtmp://live.example.com/b/live_canary_3"},
        "stream_key": {"url": "rtmp://live.example.com/app", "stream_key": "live_canary_3"},
        "token": {"url": "whip+https://live.example.com/x", "token": "live_canary_3"},
        "passphrase": {"url": "srt://live.example.com:9000", "passphrase": "live_canary_3"},
    }[key]
    output = await outputs.read(body)
    assert "live_canary_3" in getattr(output, key).reveal()
    assert "canary" not in f"{output!r} {output.model_dump_json()} {hostile_schema(OutputConfig)}"


@pytest.mark.parametrize("text", ["${HOME}", "x${PATH}y", "${", "$${HOME}"])
@pytest.mark.parametrize("key", ["url", "stream_key", "nonsense"])
async def test_nothing_is_taken_from_the_environment(outputs: HostileOutputs, key: str, text: str) -> None:
    assert await refusal(outputs, GOOD | {key: text}) == [((key,), "${} is only for the configuration file")]


async def test_a_key_that_there_is_not_is_named_with_the_nearest(outputs: HostileOutputs) -> None:
    assert await refusal(outputs, GOOD | {"strem_key": "canary"}) == [
        (("strem_key",), "unknown key; did you mean `stream_key`?")
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": 5},
        {"url": "x"},
        {"url": ["rtmp://live.example.com/a/canary"]},
        GOOD | {"keyframe_s": 0},
        GOOD | {"keyframe_s": "NaN"},
        GOOD | {"audio_bitrate": "canary"},
        {"url": "pcm:-"},
        {"url": "alsa:default"},
        {"url": "gopher://live.example.com/"},
        {"url": "rtmp://live.example.com/app", "stream_key": ""},
        {"url": "rtmp://live.example.com/app", "stream_key": "two\nlines"},
        {"url": "rtmp://live.example.com/app", "stream_key": {"reveal": "canary"}},
        GOOD | {"ice_servers": [{"urls": "stun:live.example.com"}]},
        {"url": {"url": {"url": {"url": {"url": {"url": {"url": {"url": {"url": {"url": 1}}}}}}}}}},
    ],
)
async def test_what_is_no_output_is_refused(outputs: HostileOutputs, body: dict[str, Any]) -> None:
    assert await refusal(outputs, body)


# ---------------------------------------------------------------------------------------------- where it may lead


@pytest.mark.parametrize(
    "url",
    [
        "rtmp://127.0.0.1/app/canary",
        "rtmps://localhost/app/canary",
        "rtmp://2130706433/app/canary",
        "rtmp://[::ffff:127.0.0.1]/app/canary",
        "rtmp://inside.example.com/app/canary",
        "rtmp://live.example.com:22/app/canary",
        "rtmp://missing.example.com/app/canary",
        "whip+http://169.254.169.254/latest/canary",
        "whip+https://user:canary@inside.example.com/x",
        "whip+https://live.example.com:6000/x",
    ],
)
async def test_a_url_passes_the_policy(outputs: HostileOutputs, url: str) -> None:
    ((keys, _),) = await refusal(outputs, {"url": url})
    assert keys in (("url",), ())


async def test_a_backup_passes_the_policy_too(outputs: HostileOutputs) -> None:
    ((keys, _),) = await refusal(outputs, GOOD | {"backup_url": "rtmp://10.1.2.3/app/live_canary_1"})
    assert keys == ("backup_url",)
    assert await outputs.read(GOOD | {"backup_url": "rtmp://live.example.com/b/live_canary_1", "autostart": False})


@pytest.mark.parametrize("url", ["stun:127.0.0.1", "turn:inside.example.com:3478?transport=tcp", "turns:10.0.0.1"])
async def test_ice_servers_pass_the_policy(outputs: HostileOutputs, url: str) -> None:
    servers = [
        {"urls": "stun:live.example.com"},
        {"urls": [url], "username": "x", "credential": "canary_password"},
    ]
    ((keys, _),) = await refusal(outputs, {"url": "whip+https://live.example.com/x", "ice_servers": servers})
    assert keys == ("ice_servers", 1, "urls")


async def test_the_file_can_let_a_host_through(outputs: HostileOutputs) -> None:
    assert await outputs.read({"url": "rtmp://studio.lan/app/key"})


# ---------------------------------------------------------------------------------------------- recordings


@pytest.mark.parametrize(
    "name",
    [
        *("../out.mp4", "/etc/out.mp4", "a/../../out.mp4", "//etc/out.mp4", "{start:../..}/x.mp4", "{start:/etc}.mp4"),
        *("out.sh", "out", "", ".mp4", "a\0.mp4", "a\n.mp4", "{start}.mp4", "{x:y}.mp4", "~/../../x.mp4"),
    ],
)
async def test_a_recording_stays_below_the_storage_directory(outputs: HostileOutputs, name: str) -> None:
    assert await refusal(outputs, {"url": f"file:{name}"})


async def test_a_recording_follows_no_link(outputs: HostileOutputs, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to("/tmp")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "link").symlink_to("..")
    (tmp_path / "to-a-file.mp4").symlink_to("/etc/nothing")
    for name in ("elsewhere/x.mp4", "deep/link/x.mp4", "to-a-file.mp4"):
        assert await refusal(outputs, {"url": f"file:{name}"}) == [(("url",), f"{name} leads through a link")]
    assert await outputs.read({"url": "file:deep/x-{start:%Y}.mp4"})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["${X}", "file:x.mp4", "rtmp://a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*OutputConfig.model_fields]) | st.text(max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(body=st.dictionaries(keys, json_values, max_size=4))
async def test_any_body_is_an_output_or_a_problem(outputs: HostileOutputs, body: dict[str, Any]) -> None:
    try:
        assert isinstance(await outputs.read(body), OutputConfig)
    except Problem as problem:
        assert problem.status == 422 and problem.mistakes
