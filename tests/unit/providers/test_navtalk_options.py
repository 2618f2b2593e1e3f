"""What the NavTalk provider puts into its URL, and how it wants to be fed."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from bridge.config import IceConfig, NavTalkConfig
from bridge.net.ice import IceServer, IceSettings
from bridge.protocols import navtalk
from bridge.providers import ice_settings, open_provider
from bridge.providers.navtalk import NavTalkProvider
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.redact import Secret

URL = "wss://service.example/wss/v2/realtime-chat"


def options(**given: Any) -> NavTalkOptions:
    return NavTalkOptions(
        **({"url": Secret.url(URL), "license": Secret("sk navtalk/1&2"), "name": "navtalk.Leo"} | given)
    )


def url_of(given: NavTalkOptions) -> str:
    return navtalk.with_query(given.url.reveal(), given.request_query)


def query(**given: Any) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url_of(options(**given))).query))


def test_every_value_of_the_query_is_encoded() -> None:
    url = url_of(options(name="Leo & Ann/ü"))
    assert url == f"{URL}?name=Leo%20%26%20Ann%2F%C3%BC&license=sk%20navtalk%2F1%262"


def test_an_avatar_id_wins_over_a_name() -> None:
    assert query(avatar_id="a-1") == {"avatarId": "a-1", "license": "sk navtalk/1&2"}


def test_an_avatar_that_speaks_is_asked_for_with_audio_back() -> None:
    assert query(role="speak")["audioBack"] == "true"


def test_the_transparency_mode_replaces_audio_back() -> None:
    asked = query(role="speak", query={"model": "transparency"})
    assert asked["model"] == "transparency"
    assert "audioBack" not in asked


def test_the_transparency_mode_is_seen_in_the_url_too() -> None:
    url = Secret.url(f"{URL}?model=transparency")
    assert options(role="speak", url=url).is_transparent
    assert "audioBack" not in query(role="speak", url=url)
    assert not options(role="speak", url=url, query={"model": "standard"}).is_transparent


def test_further_parameters_win_but_never_over_the_licence() -> None:
    asked = query(role="speak", query={"audioBack": "false", "license": "other"})
    assert asked["audioBack"] == "false"
    assert asked["license"] == "sk navtalk/1&2"


def test_a_query_of_the_configured_url_is_kept() -> None:
    assert query(url=Secret.url(f"{URL}?region=eu"))["region"] == "eu"


def test_parameters_of_the_configured_url_stay_in_order_also_repeated_ones() -> None:
    url = Secret.url(f"{URL}?fault=loss:2&region=eu&fault=bad-json&blank=&name=other&license=other")
    asked = parse_qsl(urlsplit(url_of(options(url=url))).query, keep_blank_values=True)
    assert asked == [
        *(("fault", "loss:2"), ("region", "eu"), ("fault", "bad-json"), ("blank", "")),
        *(("name", "navtalk.Leo"), ("license", "sk navtalk/1&2")),
    ]


def test_the_options_show_no_secret() -> None:
    shown = repr(options(query={"token": "hunter2hunter2"}))
    assert "sk navtalk" not in shown
    assert "hunter2" not in shown


def test_messages_are_20_ms_live_and_64_ms_buffered() -> None:
    assert (options().pacing.live_samples, options().pacing.buffered_samples) == (480, 1536)


@pytest.mark.parametrize(("role", "tail_s"), [("conversation", 0.75), ("speak", 0.25)])
def test_the_tail_of_silence_depends_on_who_listens(role: str, tail_s: float) -> None:
    assert options(role=role).pacing.tail_s == tail_s


def test_the_front_door_opens_navtalk(tmp_path: Path) -> None:
    (tmp_path / "license").write_text("sk_navtalk_1\n")
    config = NavTalkConfig.model_validate({"license_file": str(tmp_path / "license"), "name": "navtalk.Leo"})
    assert isinstance(open_provider(config, IceSettings()), NavTalkProvider)


def test_what_is_configured_about_ice_reaches_the_network() -> None:
    turn = {"urls": "turn:t:3478", "username": "u", "credential": Secret("turn-password")}
    config = IceConfig.model_validate({"interfaces": ["lo"], "servers": [turn, {"urls": ["stun:a", "stun:b"]}]})
    assert ice_settings(config) == IceSettings(
        ("lo",),
        (IceServer(("turn:t:3478",), "u", Secret("turn-password")), IceServer(("stun:a", "stun:b"))),
    )
    config = IceConfig.model_validate({"public_address": "203.0.113.7", "udp_ports": "50000-50100"})
    assert ice_settings(config) == IceSettings(public_address="203.0.113.7", udp_ports=range(50_000, 50_101))
    assert config.model_dump(mode="json")["udp_ports"] == "50000-50100"
