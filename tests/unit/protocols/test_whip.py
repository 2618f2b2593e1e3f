"""What a WHIP publisher reads from a server's headers, and what it makes of them."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ConfigError, OutputError, OutputLost, OutputRejected, RemoteProtocolError
from bridge.protocols import whip
from bridge.protocols.whip import LinkedServer, parse_url, redirected, resource, retry_after_s

HOME = "https://whip.example/live/key"
NOW_S = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


# ---------------------------------------------------------------------------------------------- the endpoint


@pytest.mark.parametrize(
    ("url", "token", "expected", "authorization"),
    [
        ("whip+https://whip.example/live/key", None, HOME, ""),
        ("whip+https://whip.example/live/key", "t0ken", HOME, "Bearer t0ken"),
        ("whip+http://host:8889/x/whip?a=b", "t", "http://host:8889/x/whip?a=b", "Bearer t"),
        ("whip+https://me:pa%20ss@whip.example/live/key", None, HOME, "Basic bWU6cGEgc3M="),
        ("whip+https://whip.example#part", None, "https://whip.example/", ""),
        ("whip+http://[::1]:80/x", None, "http://[::1]:80/x", ""),
    ],
)
def test_an_endpoint_is_read_from_its_url(url: str, token: str | None, expected: str, authorization: str) -> None:
    endpoint = parse_url(url, token)
    assert (endpoint.url, endpoint.authorization) == (expected, authorization)
    assert "key" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "token", "why"),
    [
        ("https://host/x", None, "must be whip"),
        ("whip+https:host/x", None, "must be whip"),
        ("whip+https:///canary", None, "names no host"),
        ("whip+https://host:0/canary", None, "names no host, or"),
        ("whip+https://host:99999/canary", None, "malformed host or port"),
        ("whip+https://[host/canary", None, "malformed host or port"),
        ("whip+https://host/canary path", None, "blanks"),
        ("whip+https://host/canary\r\nX: y", None, "blanks"),
        ("whip+https://a:canary@host/x", "canary", "exclude each other"),
        ("whip+https://host/x", "canary\r\nX: y", "characters"),
        ("whip+https://host/x", "canäry", "characters"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str, token: str | None, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        parse_url(url, token)
    assert "can" not in str(raised.value)


@given(st.text(), st.none() | st.text())
def test_any_url_is_an_endpoint_or_a_mistake_of_the_operator(rest: str, token: str | None) -> None:
    try:
        endpoint = parse_url(f"whip+https://{rest}", token)
    except ConfigError:
        return
    assert endpoint.url.startswith("https://")
    assert whip.origin(endpoint.url)[1]
    assert "\n" not in endpoint.url + endpoint.authorization


def test_origins_are_equal_by_scheme_host_and_port() -> None:
    assert whip.origin("https://Host/x") == whip.origin("https://host:443/y?z")
    assert whip.origin("http://host/x") != whip.origin("https://host/x")
    assert whip.origin("https://host:8443/x") != whip.origin("https://host/x")


# ---------------------------------------------------------------------------------------------- Location


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://whip.example/session/1", "https://whip.example/session/1"),
        ("/session/1", "https://whip.example/session/1"),
        ("session/1", "https://whip.example/live/session/1"),
        ("../session/1?secret=2", "https://whip.example/session/1?secret=2"),
        ("//other.example/1", "https://other.example/1"),
        ("https://user:pass@whip.example/1#part", "https://whip.example/1"),
        ("  /session/1 ", "https://whip.example/session/1"),
    ],
)
@pytest.mark.parametrize("name", ["Location", "location", "LOCATION"])
def test_a_location_is_resolved_against_the_url_of_the_answer(name: str, location: str, expected: str) -> None:
    assert resource(HOME, [("x", "y"), (name, location)]).url == expected


@pytest.mark.parametrize(
    ("location", "why"),
    [
        (None, "has no Location"),
        ("", "has no Location"),
        ("http://whip.example/canary", "leads from https to http"),
        ("ftp://host/canary", "no URL for HTTP"),
        ("javascript:canary", "no URL for HTTP"),
        ("https://[canary", "no URL for HTTP"),
        ("https://host:99999/canary", "no URL for HTTP"),
        ("https://host/a b", "no URL for HTTP"),
        ("https://host/" + "a" * 5000, "no URL for HTTP"),
    ],
)
def test_a_location_that_leads_nowhere_breaks_the_protocol(location: str | None, why: str) -> None:
    headers = [] if location is None else [("location", location)]
    with pytest.raises(RemoteProtocolError, match=why) as raised:
        resource(HOME, headers)
    assert "canary" not in str(raised.value)
    with pytest.raises(RemoteProtocolError, match=why):
        redirected(HOME, 307, headers)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_is_followed(status: int) -> None:
    assert redirected(HOME, status, [("Location", "/elsewhere")]) == "https://whip.example/elsewhere"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_change_the_method_is_the_operator_s_to_follow(status: int) -> None:
    with pytest.raises(OutputRejected, match=f"redirects with {status}.*configure the URL"):
        redirected(HOME, status, [("Location", "/elsewhere")])


@pytest.mark.parametrize(
    ("etag", "kept"), [('"one"', '"one"'), ('W/"one"', ""), ("one", ""), ('"a"b"', ""), ('""', '""'), ('"a\nb"', "")]
)
def test_a_strong_etag_is_kept_and_no_other(etag: str, kept: str) -> None:
    assert resource(HOME, [("Location", "/1"), ("ETag", etag)]).etag == kept


# ---------------------------------------------------------------------------------------------- Link


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('<stun:stun.example>; rel="ice-server"', [LinkedServer("stun:stun.example")]),
        (
            '<turn:t.example?transport=udp>; rel="ice-server"; username="u"; credential="p"; credential-type=password',
            [LinkedServer("turn:t.example?transport=udp", "u", "p")],
        ),
        (
            "<turns:t.example:443?transport=tcp>;REL=ICE-server;username=u;credential=p",
            [LinkedServer("turns:t.example:443?transport=tcp", "u", "p")],
        ),
        (
            '<stun:a>; rel="ice-server", <turn:b>; rel="ice-server"; username="a,b;c"; credential="q\\"\\\\q"',
            [LinkedServer("stun:a"), LinkedServer("turn:b", "a,b;c", 'q"\\q')],
        ),
        ('<https://x/>; rel="next", <stun:a>; rel="other ice-server"', [LinkedServer("stun:a")]),
        ('<turn:b>; rel="ice-server"', []),
        ('<turn:b>; rel="ice-server"; username="u"; credential="p"; credential-type="oauth"', []),
        ('<https://b>; rel="ice-server"', []),
        ('<turn:b c>; rel="ice-server"; username="u"; credential="p"', []),
        ("stun:a; rel=ice-server", []),
        ('<stun:a; rel="ice-server"', []),
        ('<stun:a>; rel="ice-server', []),
        ("", []),
    ],
)
def test_ice_servers_are_read_from_links(link: str, expected: list[LinkedServer]) -> None:
    assert list(whip.ice_servers([("Link", link)])) == expected


def test_several_links_are_read_and_more_than_anybody_has_are_not() -> None:
    headers = [("link", f"<stun:s{number}>; rel=ice-server") for number in range(100)]
    assert [server.url for server in whip.ice_servers(headers)] == [f"stun:s{n}" for n in range(whip.MAX_ICE_SERVERS)]


def test_a_credential_does_not_show() -> None:
    assert "canary" not in repr(whip.ice_servers([("Link", "<turn:b>;rel=ice-server;username=u;credential=canary")]))


@pytest.mark.parametrize(
    "hostile", ["<a>" + "; " * 30_000, "<a>" + ';a="\\' * 20_000, "<" * 60_000, "<a>" + ";a " * 20_000 + "="]
)
def test_a_long_link_that_almost_fits_takes_no_longer_than_one_that_fits(hostile: str) -> None:
    began_s = time.process_time()
    assert whip.ice_servers([("Link", hostile)]) == ()
    assert time.process_time() - began_s < 1.0


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "date", "expected_s"),
    [
        ("17", None, 17.0),
        (" 0 ", None, 0.0),
        ("999999", None, whip.LONGEST_RETRY_AFTER_S),
        ("9" * 10_000, None, 0.0),
        ("-5", None, 0.0),
        ("1.5", None, 0.0),
        ("soon", None, 0.0),
        (None, None, 0.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", None, 30.0),
        ("Fri, 15 Jan 2027 07:59:30 GMT", None, 0.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", "Fri, 15 Jan 2027 08:00:20 GMT", 10.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", "nonsense", 0.0),
        ("Fri, 15 Jan 2099 08:00:30 GMT", None, whip.LONGEST_RETRY_AFTER_S),
        ("Fri, 99 Jan 2027 08:00:30 GMT", None, 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str | None, date: str | None, expected_s: float) -> None:
    headers = [("Retry-After", value)] if value is not None else []
    headers += [("Date", date)] if date is not None else []
    assert retry_after_s(headers, NOW_S) == expected_s


REJECTED = [400, 401, 402, 403, 405, 406, 411, 413, 415, 418, 422, 451, 501, 505]
LOST = [100, 304, 404, 408, 409, 410, 421, 423, 425, 429, 500, 502, 503, 504, 599]


def refusal(status: int, headers: whip.Headers = (), words: str = "", *, lost_token: bool = False) -> OutputError:
    return whip.refusal(status, headers, words, "H.264 main 3.1", NOW_S, lost_token=lost_token)


@pytest.mark.parametrize("status", REJECTED)
def test_what_the_same_offer_would_meet_again_is_for_the_operator(status: int) -> None:
    error = refusal(status, words="no such luck")
    assert type(error) is OutputRejected
    assert re.match(rf"HTTP {status}: .*: no such luck$", str(error))


@pytest.mark.parametrize("status", LOST)
def test_what_may_pass_is_tried_again_when_the_server_says(status: int) -> None:
    error = refusal(status, [("retry-after", "7")])
    assert type(error) is OutputLost
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize("status", [400, 406, 415, 422])
def test_who_takes_no_offer_like_ours_is_told_of_with_what_was_offered(status: int) -> None:
    assert "offered were H.264 main 3.1" in str(refusal(status))


def test_a_refusal_after_a_redirect_that_cost_the_token_says_so() -> None:
    assert "did not get the token" in str(refusal(401, lost_token=True))
    assert "did not get the token" not in str(refusal(500, lost_token=True))


@pytest.mark.parametrize("content_type", ["application/sdp", "Application/SDP; charset=utf-8", "application/sdp;"])
def test_a_created_session_description_is_accepted(content_type: str) -> None:
    whip.check_created(201, [("Content-Type", content_type)])


@pytest.mark.parametrize(
    ("status", "content_type", "why"),
    [
        (200, "application/sdp", "with 200, where WHIP wants 201"),
        (202, "application/sdp", "with 202"),
        (201, "text/html", "content type text/html"),
        (201, None, "content type none"),
        (201, "<script>canary", "content type none"),
    ],
)
def test_what_is_no_created_session_description_breaks_the_protocol(
    status: int, content_type: str | None, why: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        whip.check_created(status, [] if content_type is None else [("content-type", content_type)])


# ---------------------------------------------------------------------------------------------- anything at all

NAMES = st.sampled_from(["Location", "ETag", "Link", "Retry-After", "Date", "Content-Type", "x"])
PIECES = st.sampled_from(
    ["<", ">", ";", ",", '"', "\\", "rel=ice-server", "username=", "turn:h", "://", "//", "[", "]", "@", ":", "%", " "]
)
VALUES = st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(HEADERS)
def test_any_headers_give_a_value_or_a_documented_error(headers: list[tuple[str, str]]) -> None:
    assert all(server.url.startswith(("stun", "turn")) for server in whip.ice_servers(headers))
    assert 0.0 <= retry_after_s(headers, NOW_S) <= whip.LONGEST_RETRY_AFTER_S
    for read in (lambda: resource(HOME, headers).url, lambda: redirected(HOME, 307, headers)):
        try:
            url = read()
        except RemoteProtocolError:
            continue
        assert url.startswith("https://") and whip.origin(url)[1] and "@" not in url.split("/")[2]


@given(st.integers(100, 999), HEADERS, st.text())
def test_any_status_has_a_meaning(status: int, headers: list[tuple[str, str]], words: str) -> None:
    assert isinstance(refusal(status, headers, words), OutputRejected | OutputLost)
