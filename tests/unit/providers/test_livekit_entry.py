"""What opens a room: given, minted and renewed tokens."""

import base64

import pytest

from bridge.errors import ProviderRejected
from bridge.protocols.livekit_token import Grant, mint, read
from bridge.providers.livekit_entry import TOKEN_LIFETIME_S, Entry, MintedToken
from bridge.redact import Secret

URL = Secret.url("wss://rooms.example")
API_SECRET = "the api secret, of 32 characters or more"
NOW_S = 1_800_000_000.0


def token_until(expires_s: float) -> str:
    return mint(Grant("us", "studio", expires_s=int(expires_s)), "key", API_SECRET, NOW_S)


def given(expires_s: float) -> Entry:
    return Entry(URL, Secret(token_until(expires_s)), lambda: NOW_S)


def test_a_given_token_is_used_as_it_is() -> None:
    entry = given(NOW_S + 60)
    assert entry.token("here") == entry.source


def test_a_given_token_that_has_expired_is_for_the_operator_to_replace() -> None:
    with pytest.raises(ProviderRejected, match="has expired 3600 s ago: give a new one, or api_key"):
        given(NOW_S - 3600).token("here")


def test_a_given_token_that_is_none_is_refused() -> None:
    with pytest.raises(ProviderRejected, match="no JWT"):
        Entry(URL, Secret("something else")).token("here")


def test_a_token_that_expires_in_the_middle_is_replaced_by_what_the_server_has_sent() -> None:
    now_s = NOW_S
    entry = Entry(URL, Secret(token_until(NOW_S + 10)), lambda: now_s)
    renewed = token_until(NOW_S + 600)
    entry.renew(renewed)
    now_s += 300
    assert entry.token("here").reveal() == renewed
    now_s += 300
    with pytest.raises(ProviderRejected, match="expired"):
        entry.token("here")


def test_garbage_for_a_renewed_token_changes_nothing() -> None:
    entry = given(NOW_S + 60)
    entry.renew("garbage, nothing but garbage")
    assert entry.token("here") == entry.source


@pytest.mark.parametrize("expires_s", ["Infinity", "-Infinity", "NaN", "1" + 400 * "0"])
def test_a_renewed_token_that_ends_at_no_time_changes_nothing(expires_s: str) -> None:
    entry = given(NOW_S + 60)
    head, _, signature = token_until(NOW_S + 60).split(".")
    claims = base64.urlsafe_b64encode(f'{{"sub": "us", "exp": {expires_s}}}'.encode()).rstrip(b"=").decode()
    entry.renew(f"{head}.{claims}.{signature}")
    assert entry.token("here") == entry.source


def test_tokens_are_minted_for_each_connection() -> None:
    source = MintedToken("key", Secret(API_SECRET), Grant("us", "studio", "agent", may_publish=False))
    grant = read(Entry(URL, source, lambda: NOW_S).token("here").reveal())
    assert (grant.identity, grant.room, grant.kind, grant.may_publish) == ("us", "studio", "agent", False)
    assert grant.expires_s == NOW_S + TOKEN_LIFETIME_S


def test_no_token_shows() -> None:
    entry = given(NOW_S + 60)
    entry.renew(token_until(NOW_S + 120))
    assert "eyJ" not in repr(entry)
