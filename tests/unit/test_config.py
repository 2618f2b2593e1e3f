import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge.config import (
    Address,
    Config,
    IceServer,
    InputConfig,
    NavTalkConfig,
    NavTalkLegacyConfig,
    OutputConfig,
    parse_address,
)
from bridge.config_file import load_config, show_config
from bridge.errors import ConfigError
from bridge.net.url_policy import UrlPolicy
from bridge.protocols.navtalk_clips import Order
from bridge.redact import Secret, mask

KEY = "sk_navtalk_canary"
ENVIRON = {"NAVTALK": KEY, "STREAM": "live_canary_key", "PORT": "8099"}

GOOD = """\
sessions:
  leo:
    avatar:
      name: navtalk.Leo
      license: ${NAVTALK}
    inputs:
      question: {url: "file:question.wav"}
    outputs:
      twitch: {url: "rtmp://live.example/app/live"}
"""

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load_text(text: str | bytes, environ: Mapping[str, str] = ENVIRON) -> Config:
        Path("bridge.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config("bridge.yaml", environ)

    return load_text


def mistakes(load: Load, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert KEY not in str(caught.value)
    return str(caught.value).splitlines()


def test_a_short_configuration_gets_the_defaults(load: Load) -> None:
    config = load(GOOD)
    session = config.sessions["leo"]
    assert config.http.listen == ("127.0.0.1", 8080)
    assert config.storage.min_free == 2**30
    assert session.avatar.license_key.reveal() == KEY
    assert session.avatar.url.reveal() == "wss://transfer.navtalk.ai/wss/v2/realtime-chat"
    assert session.outputs["twitch"].keyframe_s == 2.0
    assert session.outputs["twitch"].audio_bitrate == 128_000


# Each with the text that takes the place of a line of GOOD, and the message.
WRONG: dict[str, tuple[str, str, str]] = {
    "unknown key": (
        "name: navtalk.Leo",
        "nmae: navtalk.Leo",
        "bridge.yaml:4: sessions.leo.avatar.nmae: unknown key; did you mean `name`?",
    ),
    "unknown key at the top": ("sessions:\n", "sesions: {}\nsessions:\n", "bridge.yaml:1: sesions: unknown key; did"),
    "unknown key, nothing near": (
        "outputs:\n",
        "outputs:\n      x: {url: 'file:x.ts', zzz: 1}\n",
        "bridge.yaml:9: sessions.leo.outputs.x.zzz: unknown key; there is url, url_file, stream_key",
    ),
    "unknown key in a list": (
        "sessions:\n",
        "ice: {servers: [{urls: 'stun:a', usernam: b}]}\nsessions:\n",
        "bridge.yaml:1: ice.servers.0.usernam: unknown key; did you mean `username`?",
    ),
    "a name for a public address": (
        "sessions:\n",
        "ice: {public_address: bridge.example}\nsessions:\n",
        "bridge.yaml:1: ice.public_address: must be an IP address, such as 203.0.113.7",
    ),
    "a public address that is everybody's": (
        "sessions:\n",
        "ice: {public_address: '0.0.0.0'}\nsessions:\n",
        "bridge.yaml:1: ice.public_address: is no address of one machine",
    ),
    "a range of ports that runs backwards": (
        "sessions:\n",
        "ice: {udp_ports: 50100-50000}\nsessions:\n",
        "bridge.yaml:1: ice.udp_ports: must be FIRST-LAST, such as 50000-50100, within 1024 and 65535",
    ),
    "a single port": (
        "sessions:\n",
        "ice: {udp_ports: 50100}\nsessions:\n",
        "bridge.yaml:1: ice.udp_ports: must be FIRST-LAST, such as 50000-50100, within 1024 and 65535",
    ),
    "missing key": ("    inputs:\n      question:", "    outputs2:\n      question:", "leo.inputs: is missing"),
    "no choice": (
        "name: navtalk.Leo",
        "name: navtalk.Leo\n      role: speek",
        "bridge.yaml:5: sessions.leo.avatar.role: must be one of conversation, speak; did you mean `speak`?",
    ),
    "out of range": (
        '"file:question.wav"',
        '"file:question.wav", gain_db: 99',
        "bridge.yaml:7: sessions.leo.inputs.question.gain_db: should be less than or equal to 40",
    ),
    "not a number": ('"file:question.wav"', '"file:q", gain_db: loud', "gain_db: should be a valid number"),
    "not finite": ('"file:question.wav"', '"file:q", gain_db: .nan', "gain_db: should be a finite number"),
    "duplicate session": (
        "sessions:\n",
        "sessions:\n  leo: {}\n",
        "bridge.yaml:3: sessions.leo: duplicate key, first on line 2",
    ),
    "bad name": ("  leo:\n", "  Leo_1:\n", "bridge.yaml:2: sessions.Leo_1: a name has 1 to 63 characters of a-z"),
    "literal secret": (
        "license: ${NAVTALK}",
        "license: sk_navtalk_canary",
        "bridge.yaml:5: sessions.leo.avatar.license: a secret must not stand in the file",
    ),
    "no secret": (
        "license: ${NAVTALK}",
        "voice: ash",
        "sessions.leo.avatar: one of license, license_file, license_env",
    ),
    "two secrets": (
        "license: ${NAVTALK}",
        "license: ${NAVTALK}\n      license_env: HOME",
        "sessions.leo.avatar: license and license_env exclude each other",
    ),
    "secret file missing": (
        "license: ${NAVTALK}",
        "license_file: /nowhere/key",
        "bridge.yaml:5: sessions.leo.avatar.license_file: cannot read /nowhere/key: No such file or directory",
    ),
    "secret file is a directory": ("license: ${NAVTALK}", "license_file: /", "cannot read /: Is a directory"),
    "secret variable missing": (
        "license: ${NAVTALK}",
        "license_env: NO_SUCH_NAME",
        "license_env: environment variable NO_SUCH_NAME is not set",
    ),
    "no credentials": ("license: ${NAVTALK}", "license_credential: navtalk", "CREDENTIALS_DIRECTORY is not set"),
    "variable missing": (
        "${NAVTALK}",
        "${NAVTALC}",
        "bridge.yaml:5: sessions.leo.avatar.license: environment variable NAVTALC is not set",
    ),
    "variable without end": ("navtalk.Leo", "${NAVTALK", "bridge.yaml:4: sessions.leo.avatar.name: a ${ without"),
    "no avatar": ("name: navtalk.Leo", "voice: ash", "bridge.yaml:3: sessions.leo.avatar: name or avatar_id is needed"),
    "colon in a user name": (
        "name: navtalk.Leo",
        "name: x\n      url: wss://us%3Aer:secret@x/y",
        "bridge.yaml:5: sessions.leo.avatar.url: holds a user name with a colon",
    ),
    "avatar url": ("name: navtalk.Leo", "name: x\n      url: https://x/y", "avatar.url: must be wss://HOST/PATH"),
    "no input": ('      question: {url: "file:question.wav"}', "      {}", "inputs: must not be empty"),
    "no output": ('      twitch: {url: "rtmp://live.example/app/live"}', "      {}", "outputs: must not be empty"),
    "input scheme": (
        "file:question.wav",
        "jack:hw0",
        "question.url: jack: is no input of this version; there is file:",
    ),
    "output scheme": ("rtmp://live.example/app/live", "udp://h:1", "twitch.url: udp: is no output of this version"),
    "no url": ("rtmp://live.example/app/live", "twitch", "twitch.url: must be a URL"),
    "recording suffix": (
        "rtmp://live.example/app/live",
        "file:x.avi",
        "twitch.url: file:x.avi must end in .mp4, .mkv, .flv, .ts",
    ),
    "no application": ("rtmp://live.example/app/live", "rtmp://live.example", "url: must be rtmp://HOST/APP"),
    "absolute recording": (
        "rtmp://live.example/app/live",
        "file:/tmp/x.mp4",
        "bridge.yaml:9: sessions.leo.outputs.twitch: file:/tmp/x.mp4 must stay below storage.dir",
    ),
    "recording outside": ("rtmp://live.example/app/live", "file:../x.mp4", "outputs.twitch: file:../x.mp4 must stay"),
    "recording outside by its start": ("rtmp://live.example/app/live", "file:{start:/x}.mp4", "must stay below"),
    "unknown brace": (
        "rtmp://live.example/app/live",
        "file:{begin}.mp4",
        "bridge.yaml:9: sessions.leo.outputs.twitch.url: file:{begin}.mp4: only {start:FORMAT} can stand in braces",
    ),
    "port too high": (
        "rtmp://live.example/app/live",
        "rtmp://h:99999/app/live",
        "bridge.yaml:9: sessions.leo.outputs.twitch.url: has a malformed host or port",
    ),
    "port that is none": ("rtmp://live.example", "rtmp://h:abc", "twitch.url: has a malformed host or port"),
    "user info": ("rtmp://live.example", "rtmp://user@h", "twitch.url: the RTMP URL holds user info"),
    "no stream key": (
        "rtmp://live.example/app/live",
        "rtmp://live.example/app",
        "bridge.yaml:9: sessions.leo.outputs.twitch: the RTMP URL needs an application and a stream key",
    ),
    "avatar port": (
        "name: navtalk.Leo",
        "name: x\n      url: ws://h:99999/x",
        "bridge.yaml:5: sessions.leo.avatar.url: has a malformed host or port",
    ),
    "avatar host": ("name: navtalk.Leo", "name: x\n      url: ws://a..b/x", "avatar.url: has a malformed host or port"),
    "avatar host too long": ("name: navtalk.Leo", f"name: x\n      url: ws://{'a' * 64}/x", "has a malformed host"),
    "avatar brackets": ("name: navtalk.Leo", "name: x\n      url: 'ws://[::1/x'", "has a malformed host or port"),
    "no avatar host": ("name: navtalk.Leo", "name: x\n      url: ws://:80/x", "names no host"),
    "key for a file": (
        'url: "rtmp://live.example/app/live"',
        "url: 'file:x.mp4', stream_key: '${STREAM}'",
        "twitch: file: has no stream key",
    ),
    "output without url": (
        'url: "rtmp://live.example/app/live"',
        "keyframe_s: 2",
        "twitch: one of url, url_file is needed",
    ),
    "listen": ("sessions:\n", "http: {listen: 8080}\nsessions:\n", "bridge.yaml:1: http.listen: must be HOST:PORT"),
    "public listen": (
        "sessions:\n",
        "http: {listen: '0.0.0.0:8080'}\nsessions:\n",
        "bridge.yaml:1: http: tokens are needed where listen is no loopback address; see also metrics.listen",
    ),
    "turn without credential": (
        "sessions:\n",
        "ice: {servers: [{urls: 'turn:a'}]}\nsessions:\n",
        "bridge.yaml:1: ice.servers.0: a TURN server needs username and credential",
    ),
    "list for a mapping": ("sessions:\n", "http: []\nsessions:\n", "bridge.yaml:1: http: must be a mapping of keys"),
    "date that is none": ("navtalk.Leo", "2026-13-01", "bridge.yaml:4: sessions.leo.avatar.name: month must be in"),
    "not YAML": ("sessions:\n", "sessions: {\n", "bridge.yaml:3: not YAML: "),
    "own alias": ("sessions:\n", "sessions: &a\n  x: *a\n", "bridge.yaml:1: sessions.x: an alias refers to what holds"),
    "control character": ("navtalk.Leo", "\0", "bridge.yaml: not YAML: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_named_with_file_line_key_and_what_to_do(load: Load, case: str) -> None:
    right, wrong, message = WRONG[case]
    assert right in GOOD
    found = mistakes(load, GOOD.replace(right, wrong))
    assert any(message in line for line in found), found
    assert all(line.startswith("bridge.yaml") for line in found)


def test_every_mistake_of_a_file_is_reported_in_its_order(load: Load) -> None:
    text = GOOD.replace("name:", "nmae:").replace("file:q", "jack:q").replace("rtmp://live.example/app/live", "nothing")
    lines = [int(line.split(":")[1]) for line in mistakes(load, "log: {level: loud}\n" + text)]
    assert lines == sorted(lines) and len(lines) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "sessions: is missing"),
        (b"just text", "must be a mapping of keys"),
        (b"\xff\xfe\xfd", "not UTF-8 text"),
        (b"a: " * 2000, "not YAML"),
        (b"[" * 5000, "nested too deeply"),
        (b"x" * (1 << 20) + b"x", "larger than 1 MiB"),
    ],
    ids=["empty", "text", "binary", "colons", "brackets", "huge"],
)
def test_a_file_that_is_no_configuration_is_refused(load: Load, content: bytes, message: str) -> None:
    assert message in mistakes(load, content)[0]


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^/nowhere/bridge\.yaml: No such file or directory$"):
        load_config("/nowhere/bridge.yaml")


def test_a_byte_order_mark_is_no_mistake(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + GOOD.encode()).sessions


def test_a_lone_dollar_is_itself_and_two_are_one(load: Load) -> None:
    prompt = "      prompt: costs $5, not $${NAVTALK} or $$7\n    inputs:"
    assert load(GOOD.replace("    inputs:", prompt)).sessions["leo"].avatar.prompt == "costs $5, not ${NAVTALK} or $7"


def test_a_number_may_come_from_the_environment(load: Load) -> None:
    config = load("http: {listen: '127.0.0.1:${PORT}'}\n" + GOOD)
    assert config.http.listen.port == 8099


def test_merge_keys_and_anchors_work_and_override(load: Load) -> None:
    merged = GOOD.split("    outputs:")[0] + (
        "    outputs:\n      a: &a {url: 'file:a.mp4', keyframe_s: 4}\n      b: {<<: *a, url: 'file:b.mp4'}\n"
    )
    b = load(merged).sessions["leo"].outputs["b"]
    assert (b.keyframe_s, b.address.reveal()) == (4.0, "file:b.mp4")


def test_keys_are_text_whatever_yaml_thinks_of_them(load: Load) -> None:
    assert set(load(GOOD.replace("  leo:", "  on:")).sessions) == {"on"}
    assert set(load(GOOD.replace("  leo:", "  1:")).sessions) == {"1"}


def test_what_was_substituted_counts_as_secret(load: Load) -> None:
    load(GOOD.replace("navtalk.Leo", "a ${STREAM}"))
    assert mask("published live_canary_key") == "published ***"


def test_values_of_the_avatars_query_are_masked_but_for_harmless_ones(load: Load) -> None:
    load(
        GOOD.replace(
            "license: ${NAVTALK}",
            "license: ${NAVTALK}\n      role: speak\n      query: {token: tok_canary, model: transparency}",
        )
    )
    assert mask("refused tok_canary for transparency") == "refused *** for transparency"


def test_a_secret_is_read_from_a_file_and_its_line_end_is_not_part_of_it(load: Load, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    avatar = load(GOOD.replace("license: ${NAVTALK}", "license_file: key")).sessions["leo"].avatar
    assert avatar.license_key.reveal() == KEY
    assert str(avatar.license_key) == "key"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "key is empty"),
        ("\n", "key is empty"),
        ("a\nb\n", "more than one line"),
        ("x" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_a_secret_is_refused(load: Load, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "key").write_text(content)
    assert message in mistakes(load, GOOD.replace("license: ${NAVTALK}", "license_file: key"))[0]


def test_a_secret_comes_from_a_systemd_credential(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "navtalk").write_text(KEY)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = GOOD.replace("license: ${NAVTALK}", "license_credential: navtalk")
    assert load(text).sessions["leo"].avatar.license_key.reveal() == KEY
    assert "must be the name" in mistakes(load, text.replace("navtalk\n", "../navtalk\n"))[0]


def test_a_secret_comes_from_the_environment(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVTALK_KEY", KEY)
    text = GOOD.replace("license: ${NAVTALK}", "license_env: NAVTALK_KEY")
    assert load(text).sessions["leo"].avatar.license_key.reveal() == KEY


def test_secrets_that_api_calls_may_name_stand_beside_the_sessions_with_their_hosts(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("key", "studio"):
        (tmp_path / name).write_text(f"{KEY}-{name}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("TURN", f"{KEY}-turn")
    config = load(
        "secrets:\n"
        "  twitch: {file: key, hosts: [Live.Twitch.TV., '[2001:DB8::1]']}\n"
        "  STUDIO_1: {credential: studio, hosts: [10.0.0.1]}\n"
        f"  turn: {{env: TURN, hosts: [turn.example]}}\n{GOOD}"
    )
    values = {name: secret.value for name, secret in config.secrets.items()}
    assert {name: value.reveal() for name, value in values.items()} == {
        "twitch": f"{KEY}-key",
        "STUDIO_1": f"{KEY}-studio",
        "turn": f"{KEY}-turn",
    }
    assert values["twitch"].hosts == {"live.twitch.tv", "2001:db8::1"}
    shown = show_config(config)
    assert KEY not in shown and "file: key" in shown and "- live.twitch.tv" in shown


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("x: {file: key}", ".x.hosts: is missing"),
        ("x: {file: key, hosts: []}", ".x.hosts: must not be empty"),
        ("x: {hosts: [a.example]}", ".x: one of file, env, credential is needed"),
        ("x: {file: key, env: KEY_CANARY, hosts: [a.example]}", "file and env exclude each other"),
        ("x: {env: NOWHERE, hosts: [a.example]}", "environment variable NOWHERE is not set"),
        ("x y: {file: key, hosts: [a.example]}", "has 1 to 63 characters of A-Z"),
        *(
            (f"x: {{file: key, hosts: ['{host}']}}", "neither a host's name nor an address")
            for host in ("rtmp://a.example", "a.example:443", "a.example/app", "*.example", "", "127.1", "10.0.0.0/8")
        ),
    ],
)
def test_a_secret_without_a_place_or_hosts_is_refused(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, message: str
) -> None:
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("KEY_CANARY", KEY)
    mistake, *_ = mistakes(load, f"secrets:\n  {secret}\n{GOOD}")
    assert message in mistake and mistake.startswith("bridge.yaml:2: ")
    assert KEY not in mistake


PLAIN = '{url: "rtmp://live.example/app/live"}'


def test_an_rtmp_output_has_a_backup_with_the_same_key_and_says_whom_it_trusts(load: Load) -> None:
    pin = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    config = load(
        GOOD.replace(
            PLAIN,
            "{url: 'rtmps://a.example/app', backup_url: 'rtmp://b.example/app', stream_key: '${STREAM}', "
            f"autostart: false, tls_ca_file: ca.pem, tls_pin_sha256: ['{pin}']}}",
        )
    )
    output = config.sessions["leo"].outputs["twitch"]
    assert [url.reveal() for url in output.addresses] == ["rtmps://a.example/app", "rtmp://b.example/app"]
    assert (output.autostart, str(output.tls_ca_file), output.tls_pin_sha256) == (False, "ca.pem", (pin,))


@pytest.mark.parametrize(
    "keys, words",
    [
        ("url: 'rtmp://a.example/app/key', backup_url: 'file:x.mp4'", "is one of them itself"),
        ("url: 'file:x.mp4', backup_url: 'file:y.mp4'", "backup_url is for rtmp: and rtmps: alone"),
        ("url: 'rtmp://a.example/app/key', backup_url: 'rtmp://b.example/app'", "an application and a stream key"),
        ("url: 'rtmp://a.example/app/key', tls_ca_file: ca.pem", "for rtmps: alone"),
        ("url: 'rtmps://a.example/app/key', tls_pin_sha256: [abc]", "no SHA-256 in base64"),
        ("url: 'rtmps://a.example/app/key', tls_pin_sha256: [YWJj]", "no SHA-256 in base64"),
    ],
)
def test_what_an_rtmp_output_cannot_do_is_named(load: Load, keys: str, words: str) -> None:
    (found,) = mistakes(load, GOOD.replace(PLAIN, f"{{{keys}}}"))
    assert words in found


def test_a_stream_key_stays_beside_its_url_and_neither_is_shown(load: Load) -> None:
    text = GOOD.replace(
        '{url: "rtmp://live.example/app/live"}', "{url: 'rtmp://live.example/app/live/', stream_key: '${STREAM}'}"
    )
    output = load(text).sessions["leo"].outputs["twitch"]
    assert output.key is not None and output.key.reveal() == "live_canary_key"
    assert "live_canary_key" not in repr(output)


def test_a_url_comes_from_a_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("rtmp://live.example/app/a-key-in-a-file\n")
    output = (
        load(GOOD.replace('url: "rtmp://live.example/app/live"', "url_file: url")).sessions["leo"].outputs["twitch"]
    )
    assert output.address.reveal() == "rtmp://live.example/app/a-key-in-a-file"
    assert str(output.address) == "rtmp://live.example/app/***"
    assert output.scheme == "rtmp"


def test_the_effective_configuration_shows_defaults_and_no_secret(load: Load) -> None:
    text = GOOD.replace("rtmp://live.example/app/live", "rtmp://live.example/app/a-canary-key")
    text = text.replace("license: ${NAVTALK}", "license: ${NAVTALK}\n      query: {model: x, token: canary-token}")
    config = load("ice: {servers: [{urls: 'turn:t', username: u, credential: '${STREAM}'}]}\n" + text)
    shown = show_config(config)
    assert "canary" not in shown and "canary" not in repr(config)
    assert "min_free: 1073741824" in shown and "model: x" in shown and "rtmp://live.example/app/***" in shown


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        InputConfig(url=Secret.url("file:x")).loop = True  # type: ignore[misc]


def test_parts_are_made_in_code_too() -> None:
    avatar = NavTalkConfig(url=Secret.url("ws://127.0.0.1:1/x"), license=Secret("anything"), name="navtalk.Leo")
    assert avatar.license_key.reveal() == "anything"
    assert OutputConfig(url=Secret.url("file:/tmp/x.mp4")).scheme == "file"
    assert IceServer(urls=("stun:a:3478",)).password is None


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:8080", ("::1", 8080)), ("localhost:65535", ("localhost", 65_535))],
)
def test_an_address_is_read_and_shown_the_same_way(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text
    assert parse_address(text).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "127.example.com", "::", "localhost.example"])
def test_only_addresses_of_this_machine_and_localhost_are_loopback(host: str) -> None:
    assert not Address(host, 1).is_loopback
    assert Address("127.8.9.10", 1).is_loopback


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", ":80", "host:65536", "a b:1", "::1:80", "http://h:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("${X}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_file_gives_a_configuration_or_a_documented_error(load: Load, content: bytes) -> None:
    with pytest.raises(ConfigError):
        load(content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["http", "log", "ice", "storage", "drain_s", "sessions", "metrics"]), value=yaml_values)
def test_any_value_of_a_key_gives_a_configuration_or_a_documented_error(load: Load, key: str, value: Any) -> None:
    import yaml

    try:
        load(GOOD + yaml.safe_dump({key: value}, allow_unicode=True))
    except ConfigError as error:
        assert str(error).startswith("bridge.yaml")


def test_importing_the_configuration_loads_nothing_heavy() -> None:
    program = "import bridge.config_file, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"numpy", "scipy", "av", "aiortc", "fastapi", "uvicorn", "structlog", "prometheus_client", "asyncio"}
    assert heavy.isdisjoint(loaded.stdout.split())


AVATAR = "      license: ${NAVTALK}\n"


def with_avatar(*lines: str) -> str:
    return GOOD.replace(AVATAR, AVATAR + "".join(f"      {line}\n" for line in lines))


def test_a_tool_is_what_its_service_is_told_without_the_default(load: Load) -> None:
    tool = "{name: hours, description: When, parameters: {type: object, properties: {}}, default: at nine}"
    (hours,) = load(with_avatar(f"tools: [{tool}]")).sessions["leo"].avatar.tools
    assert hours.default == "at nine"
    parameters = {"type": "object", "properties": {}}
    assert hours.function == {"type": "function", "name": "hours", "description": "When", "parameters": parameters}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("tools: [{name: a}, {name: a}]", "name of its own"),
        ("tools: [{name: two words}]", "pattern"),
        ("tools: [{name: a, weebhook: x}]", "unknown key"),
        ('shapes: {input_text: {type: t, data: {content: "text"}}}', "{text}"),
        ('shapes: {input_image: {data: {content: "{image}"}}}', "type"),
        ("shapes: {input_audio: {type: t}}", "input_text"),
        ("tool_deadline_s: 0", "greater than 0"),
    ],
)
def test_mistakes_in_tools_and_shapes_are_named(load: Load, line: str, complaint: str) -> None:
    assert complaint in "\n".join(mistakes(load, with_avatar(line)))


@pytest.mark.parametrize(
    "line",
    ["tools: [{name: hours}]", "history_file: said.jsonl", 'shapes: {input_text: {type: t, content: "{text}"}}'],
)
def test_a_mirror_refuses_what_only_a_conversation_obeys(load: Load, line: str) -> None:
    (complaint,) = mistakes(load, with_avatar("role: speak", line))
    assert f"avatar: {line.partition(':')[0]}: of no use to the role speak" in complaint
    load(with_avatar("role: conversation", line))


@pytest.mark.parametrize(
    "line",
    [
        "query: {model: transparency}",
        "query: {audioBack: 'true'}",
        'url: "wss://x/y?region=eu&model=transparency"',
        'url: "wss://x/y?audioBack=true"',
    ],
)
def test_a_mirror_is_no_conversation(load: Load, line: str) -> None:
    (complaint,) = mistakes(load, with_avatar(line))
    assert "asks for a mirror" in complaint
    load(with_avatar("role: speak", line))


def test_a_query_wins_over_that_of_the_url(load: Load) -> None:
    load(with_avatar('url: "wss://x/y?model=transparency"', "query: {model: standard}"))


def test_two_inputs_cannot_share_standard_input(load: Load) -> None:
    one = GOOD.replace("file:question.wav", "pcm:-?rate=8000")
    other = one.partition("sessions:\n")[2].replace("  leo:", "  mia:").replace("pcm:-?rate=8000", "pcm:-")
    assert load(one).sessions["leo"].inputs["question"].url.reveal() == "pcm:-?rate=8000"
    assert "there is one standard input" in "\n".join(mistakes(load, one + other))


@pytest.mark.parametrize("keys", ["loop: true", "start_s: 3"])
def test_only_what_has_an_end_is_looped_or_begun_later(load: Load, keys: str) -> None:
    text = GOOD.replace('{url: "file:question.wav"}', f'{{url: "rtsp://cam.example/x", {keys}}}')
    (found,) = mistakes(load, text)
    assert found.endswith("loop and start_s are for file:, http:, https:, clip: alone")


@pytest.mark.parametrize(
    ("keys", "mistake"),
    [
        ("air_delay_ms: 100", "air_delay_ms and air_duck_db are for inputs with on_air: true"),
        ("air_duck_db: -20", "air_delay_ms and air_duck_db are for inputs with on_air: true"),
        ("to_avatar: false", "nobody hears it: on_air or to_avatar has to be true"),
        ("on_air: true, air_delay_ms: 10001", "less than or equal to 10000"),
    ],
)
def test_what_viewers_hear_is_said_in_full(load: Load, keys: str, mistake: str) -> None:
    text = GOOD.replace('{url: "file:question.wav"}', f'{{url: "whip:", {keys}}}')
    (found,) = mistakes(load, text)
    assert mistake in found


def test_music_is_for_viewers_alone(load: Load) -> None:
    music = '{url: "file:question.wav", on_air: true, to_avatar: false, air_duck_db: -20}'
    (source,) = load(GOOD.replace('{url: "file:question.wav"}', music)).sessions["leo"].inputs.values()
    assert (source.on_air, source.to_avatar, source.air_duck_db, source.air_delay_ms) == (True, False, -20.0, 0.0)


def test_two_sessions_cannot_share_a_history(load: Load) -> None:
    one = with_avatar("history_file: ./said.jsonl")
    other = one.partition("sessions:\n")[2].replace("  leo:", "  lea:").replace("./said", "said")
    assert "history_file" in "\n".join(mistakes(load, one + other))


# ---------------------------------------------------------------------------------------------- access


def http(load: Load, tmp_path: Path, text: str, token: str = "0123456789abcdef") -> Config:
    (tmp_path / "token").write_text(f"{token}\n")
    return load(f"http: {text.replace('TOKEN', str(tmp_path / 'token'))}\n{GOOD}")


def test_an_address_beyond_loopback_is_listened_on_with_tokens(load: Load, tmp_path: Path) -> None:
    config = http(load, tmp_path, "{listen: '0.0.0.0:8080', tokens: [{file: TOKEN, scopes: [read]}]}")
    (token,) = config.http.tokens
    assert (token.file.reveal(), token.scopes) == ("0123456789abcdef", ("read",))
    assert "0123456789abcdef" not in show_config(config)


@pytest.mark.parametrize("token", ["short", "fifteen_letters", "with a blank in it", "=0123456789abcdef", 600 * "a"])
def test_what_is_no_token_is_refused_without_being_shown(load: Load, tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.tokens\.0\.file: .*holds no token") as caught:
        http(load, tmp_path, "{tokens: [{file: TOKEN, scopes: [read]}]}", token)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("[{file: TOKEN, scopes: []}]", "scopes: must not be empty"),
        ("[{file: TOKEN, scopes: [write]}]", "must be one of read, control, ingest, view"),
        ("[{file: TOKEN}]", "scopes: is missing"),
        ("[{file: TOKEN, scopes: [read]}, {file: TOKEN, scopes: [view]}]", "two files hold the same token"),
    ],
)
def test_a_token_needs_scopes_and_is_there_once(load: Load, tmp_path: Path, tokens: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        http(load, tmp_path, f"{{tokens: {tokens}}}")


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "10.1.2.3", "'[::1]'", "fd00::/8", "studio.lan", "x", "host_1.lan."])
def test_networks_addresses_and_names_can_be_let_through(load: Load, entry: str) -> None:
    assert UrlPolicy(load(f"url_policy: {{allow: [{entry}]}}\n{GOOD}").url_policy.allow)


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "'*'", "http://host", "'127.1'", "0x7f.1", "''", "a b", "'1'", "ü.example"]
)
def test_what_names_no_place_cannot_be_let_through(load: Load, entry: str) -> None:
    with pytest.raises(ConfigError, match=r"url_policy\.allow\.0: .*neither a network"):
        load(f"url_policy: {{allow: [{entry}]}}\n{GOOD}")


# ---------------------------------------------------------------------------------------------- further services


LEGACY = GOOD.replace("    avatar:\n", "    avatar:\n      service: navtalk-legacy\n")


def test_the_older_interface_has_two_addresses_of_its_own(load: Load) -> None:
    avatar = (
        load(LEGACY.replace("navtalk.Leo", "navtalk.Leo\n      session: {temperature: 0.7}")).sessions["leo"].avatar
    )
    assert isinstance(avatar, NavTalkLegacyConfig)
    assert avatar.url.reveal() == "wss://api.navtalk.ai/api/realtime-api"
    assert avatar.signal_url.reveal() == "wss://api.navtalk.ai/iwebrtc"
    assert (avatar.signal_user_id, avatar.signal_create, avatar.session) == ("license", True, {"temperature": 0.7})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "signal_user_id: leo",
            "bridge.yaml:5: sessions.leo.avatar.signal_user_id: must be license, session or literal:",
        ),
        ("signal_url: https://x/y", "bridge.yaml:5: sessions.leo.avatar.signal_url: must be wss://HOST/PATH"),
        ("avatar_id: x", "bridge.yaml:5: sessions.leo.avatar.avatar_id: unknown key; there is "),
        (
            "signal_ur: wss://x/y",
            "bridge.yaml:5: sessions.leo.avatar.signal_ur: unknown key; did you mean `signal_url`?",
        ),
        ("query: {audioBack: 'true'}", "audioBack=true asks for a mirror"),
    ],
)
def test_a_mistake_in_the_older_interface_is_explained(load: Load, line: str, complaint: str) -> None:
    (found,) = mistakes(load, LEGACY.replace("      name:", f"      {line}\n      name:"))
    assert complaint in found


def test_a_service_that_there_is_not_is_named_with_those_that_there_are(load: Load) -> None:
    text = GOOD.replace("    avatar:\n", "    avatar:\n      service: navtalk-legaci\n")
    (found,) = mistakes(load, text)
    assert found.startswith("bridge.yaml:4: sessions.leo.avatar.service: must be one of navtalk, navtalk-legacy")
    assert found.endswith("did you mean `navtalk-legacy`?")


@pytest.mark.parametrize("avatar", ["[]", "navtalk", "null"])
def test_an_avatar_that_is_no_mapping_is_said_to_be_none(load: Load, avatar: str) -> None:
    text = re.sub(r"    avatar:\n.*\n.*\n", f"    avatar: {avatar}\n", GOOD)
    assert "sessions.leo.avatar: must be a mapping of keys" in mistakes(load, text)[0]


CLIP = "{license: '${NAVTALK}', character_name: girl2, content: Hello.}"


def with_clip(clip: str, url: str = "clip:") -> str:
    return GOOD.replace('{url: "file:question.wav"}', f'{{url: "{url}", rendering: {clip}}}')


def test_a_clip_is_an_order(load: Load) -> None:
    rendering = load(with_clip(CLIP)).sessions["leo"].inputs["question"].rendering
    assert rendering is not None
    assert rendering.order() == Order("character_name", "girl2", "content", "Hello.")
    assert rendering.url.reveal() == "https://app.navtalk.ai"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (with_clip("null"), "url: clip: and rendering go together"),
        (with_clip(CLIP, "file:x.wav"), "url: clip: and rendering go together"),
        (with_clip(CLIP, "clip:x"), "clip: has nothing behind it"),
        (with_clip(CLIP.replace("content", "voice")), "one of audio_url, audio_file, content is needed"),
        (with_clip(CLIP.replace("content", "image_url: https://x/y, content")), "exclude each other"),
        (with_clip(CLIP.replace("content", "video_url: x, content")), "video_url: must be a URL"),
        (with_clip(CLIP.replace("content", "url: 'wss://x/y', content")), "rendering.url: must be https://HOST/PATH"),
        (with_clip(CLIP.replace("content", "status_url: 'http:///y', content")), "status_url: must be https://HOST"),
        (with_clip(CLIP.replace("content: Hello.", "audio_url: 'ftp://x/y'")), "audio_url: must be https://HOST/PATH"),
        (with_clip(CLIP.replace("content: Hello.", "audio_file: /nowhere")), "cannot read /nowhere"),
        (
            with_clip(CLIP.replace("content: Hello.", "audio_url: 'https://x/y', voice: a")),
            "voice is for content alone",
        ),
    ],
)
def test_a_mistake_in_a_clip_is_explained(load: Load, text: str, complaint: str) -> None:
    assert complaint in mistakes(load, text)[0]


@pytest.mark.parametrize("key", ["url", "status_url"])
@pytest.mark.parametrize("behind", ["?key=sk_canary_query", "#sk_canary_query", "?"])
def test_a_key_in_the_address_of_a_rest_interface_is_refused_and_not_repeated(
    load: Load, key: str, behind: str
) -> None:
    (found,) = mistakes(load, with_clip(CLIP.replace("content", f"{key}: 'https://x/y{behind}', content")))
    assert f"rendering.{key}: takes no query (?…) and no fragment (#…)" in found
    assert "sk_canary_query" not in found + mask(behind)


def test_what_the_service_is_to_fetch_may_be_signed_and_shows_no_signature(load: Load) -> None:
    url = "https://cdn.example.com/a.mp3?X-Signature=sk_canary_signature"
    rendering = load(with_clip(CLIP.replace("content: Hello.", f"audio_url: '{url}'"))).sessions["leo"].inputs
    shown = rendering["question"].model_dump_json()
    assert "https://cdn.example.com/a.mp3?X-Signature=***" in shown and "sk_canary_signature" not in shown
    assert "sk_canary_signature" not in mask(f"cannot fetch {url}")
    assert rendering["question"].rendering is not None
    assert rendering["question"].rendering.order().said == url


def test_a_slate_is_a_files_clip_or_a_rendered_one(load: Load) -> None:
    slate = f"    slate: {{picture: clip, rendering: {CLIP}}}\n    inputs:"
    assert load(GOOD.replace("    inputs:", slate)).sessions["leo"].slate.rendering is not None
    both = slate.replace("picture: clip", "picture: clip, clip: x.mp4")
    assert "clip and rendering exclude each other" in mistakes(load, GOOD.replace("    inputs:", both))[0]
