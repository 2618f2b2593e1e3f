"""Where a server sends its publisher. (URLs of operators: test_rtmp.)"""

import pytest

from bridge.errors import ConfigError
from bridge.protocols.rtmp_address import parse_url, resolve

HERE = parse_url("rtmps://host:1936/app/one", "key?a=b")


@pytest.mark.parametrize(
    ("reference", "tc_url", "app"),
    [
        ("", "rtmps://host:1936/app/one", "app/one"),
        ("rtmp://edge/live?t=1", "rtmp://edge/live?t=1", "live?t=1"),
        ("//edge:5000/live", "rtmps://edge:5000/live", "live"),
        ("/live", "rtmps://host:1936/live", "live"),
        ("two", "rtmps://host:1936/app/two", "app/two"),
        ("../live/", "rtmps://host:1936/live", "live"),
    ],
)
def test_a_reference_is_resolved_against_the_url_that_is_known(reference: str, tc_url: str, app: str) -> None:
    found = resolve(HERE, reference)

    assert (found.tc_url, found.app, found.stream_name) == (tc_url, app, "key?a=b")
    assert found.is_tls == tc_url.startswith("rtmps")


@pytest.mark.parametrize(
    "reference",
    [
        "http://canary/app",
        "rtmp://canary",
        "rtmp://u:canary@h/app",
        "//h:99999/canary",
        "//[canary",
        "canary:80/app",
        "/" + "canary" * 1000,
    ],
)
def test_a_reference_that_leads_nowhere_is_refused_without_being_repeated(reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(HERE, reference)

    assert "canary" not in str(caught.value)
