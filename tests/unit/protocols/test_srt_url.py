"""SRT's addresses: what is taken, what is refused, and that nothing secret shows."""

import pytest

from bridge.errors import ConfigError
from bridge.protocols.srt_url import is_listener, parse_url

PASSPHRASE = "canary-passphrase"


def test_a_bare_address_is_called_with_srt_s_own_latency() -> None:
    address = parse_url("srt://live.example:9000")
    assert (address.host, address.port, address.mode, address.latency_ms) == ("live.example", 9000, "caller", 120)
    assert address.secrets == {}
    assert not is_listener("srt://live.example:9000")


def test_parameters_are_read_and_secrets_kept_apart() -> None:
    url = "srt://[::1]:9000?mode=listener&latency=2000&pbkeylen=32"
    address = parse_url(url, PASSPHRASE)
    assert (address.host, address.mode, address.latency_ms) == ("::1", "listener", 2000)
    assert address.secrets == {"pbkeylen": "32", "passphrase": PASSPHRASE}
    assert is_listener(url)
    assert address.url(address.host) == "srt://[::1]:9000"
    assert "canary" not in repr(address)


def test_a_stream_id_may_hold_whatever_is_escaped() -> None:
    address = parse_url("srt://host:1?streamid=%23!::r=live/canary,m=publish&passphrase=in%20the%20url%3D")
    assert address.secrets == {"streamid": "#!::r=live/canary,m=publish", "passphrase": "in the url="}


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("srt://host", "must be srt://HOST:PORT"),
        ("srt://:9000", "must be srt://HOST:PORT"),
        ("srt://user:canary@host:9000", "must be srt://HOST:PORT"),
        ("srt://host:9000/canary", "must be srt://HOST:PORT"),
        ("srt://host:99999", "malformed"),
        ("srt://host:9000?streamid=#!::r=canary", "%23"),
        ("srt://host:9000?canary=1", "none of mode, latency"),
        ("srt://host:9000?latency=1&latency=2", "latency twice"),
        ("srt://host:9000?mode=rendezvous", "mode must be caller or listener"),
        ("srt://host:9000?latency=-1", "latency must be 0 to 10000"),
        ("srt://host:9000?latency=10001", "latency must be 0 to 10000"),
        ("srt://host:9000?pbkeylen=8&passphrase=canary-passphrase", "pbkeylen must be 16, 24 or 32"),
        ("srt://host:9000?pbkeylen=16", "no passphrase"),
        ("srt://host:9000?passphrase=canary", "10 to 79 bytes"),
        ("srt://host:9000?streamid=", "1 to 512 bytes"),
        ("srt://host:9000?streamid=canary%0Amode%3Dlistener", "control characters"),
        ("srt://host:9000?mode=listener&streamid=canary", "only a caller"),
    ],
)
def test_what_is_wrong_is_named_without_a_secret(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_url(url)
    assert "canary" not in str(caught.value)


def test_a_passphrase_stands_in_one_place() -> None:
    with pytest.raises(ConfigError, match="has a passphrase already"):
        parse_url(f"srt://host:9000?passphrase={PASSPHRASE}", PASSPHRASE)
