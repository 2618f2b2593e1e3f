import copy
import json
import pickle
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bridge import redact
from bridge.redact import MASK, Secret, mask, redact_url

# Long enough never to occur by chance, with characters that URLs, JSON and regular expressions give a meaning.
canaries = st.text(string.ascii_letters + string.digits + "-_.~!$*+()|^[]{}", min_size=12, max_size=40)


class Model(BaseModel):
    key: Secret


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_kept", set())
    monkeypatch.setattr(redact, "_passing", type(redact._passing)())
    monkeypatch.setattr(redact, "_pattern", None)


@given(canaries)
def test_no_way_of_showing_a_secret_shows_it(canary: str) -> None:
    secret = Secret(canary)
    model = Model(key=secret)
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>10}",
        "%s" % secret,  # noqa: UP031
        str([secret]),
        str({"a": secret}),
        repr(model),
        str(model.model_dump(mode="json")),
        model.model_dump_json(),
        str(Model.model_json_schema()),
        repr(ValueError(secret)),
    ]
    assert not [text for text in shown if canary in text]
    assert secret.reveal() == canary


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret("not for other processes"))


def test_a_copy_of_a_secret_is_the_secret() -> None:
    secret = Secret("the same value")
    assert copy.copy(secret) is secret and copy.deepcopy([secret])[0] is secret
    assert secret == Secret("the same value") != Secret("another value")
    assert len({secret, Secret("the same value")}) == 1


URLS = {
    "wss://transfer.navtalk.ai/wss/v2/realtime-chat?license={}&name=navtalk.Leo": "wss://transfer.navtalk.ai/wss/v2/"
    "realtime-chat?license=***&name=navtalk.Leo",
    "rtmp://live.example/app/{}": "rtmp://live.example/app/***",
    "rtmps://live.example:443/app/instance/{}": "rtmps://live.example:443/app/***",
    "rtmp://live.example/app/{}@{}": "rtmp://live.example/app/***",
    "rtmp://user:{}@live.example/app": "rtmp://***@live.example/app",
    "rtmp://us@er:{}@live.example/app": "rtmp://***@live.example/app",
    "rtsp://{}@camera.example:554/stream": "rtsp://***@camera.example:554/stream",
    "whip+https://ingest.example/whip/{}": "whip+https://ingest.example/***",
    "whip+https://ingest.example/{}/whip": "whip+https://ingest.example/***",
    "https://host.example/a?token={}": "https://host.example/a?token=***",
    "https://host.example/a?{}": "https://host.example/a?***",
    "https://host.example/a#{}": "https://host.example/a#***",
    "rtmp://live.example/app?auth={}": "rtmp://live.example/app?auth=***",
    "http://user:pass/{}@host.example/": "http://***",
    "file:recording.mp4": "file:recording.mp4",
    "rtmp://live.example/app": "rtmp://live.example/app",
    "ws://127.0.0.1:8811/wss": "ws://127.0.0.1:8811/wss",
    "http://[::1]:8080/metrics": "http://[::1]:8080/metrics",
    "no url at all": "no url at all",
    "": "",
}


@pytest.mark.parametrize("template", URLS)
def test_what_grants_access_is_masked_and_the_rest_of_a_url_stays(template: str) -> None:
    assert redact_url(template.replace("{}", "sk_canary_123456")) == URLS[template]
    assert redact_url(URLS[template]) == URLS[template]


@given(canaries, st.sampled_from([url for url in URLS if "{}" in url]))
def test_no_url_shows_a_canary_wherever_it_stands(canary: str, template: str) -> None:
    for form in (canary, quote(canary, safe="")):
        url = template.replace("{}", form)
        assert form not in redact_url(url)
        secret = Secret.url(url)
        assert form not in str(secret) and secret.reveal() == url
        # What libraries make of a URL they were given: its parts, in texts of their own.
        if "{}@{}" not in template and not template.startswith("http://user"):
            assert canary not in mask(f"refused '{canary}' at {url}")


@given(st.text(max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    mask(text)
    redact_url(text)


@given(st.text(max_size=60))
def test_redacting_twice_changes_nothing(rest: str) -> None:
    once = redact_url(f"rtmp://{rest}")
    assert redact_url(once) == once


@given(canaries)
def test_a_secret_is_masked_in_any_text_also_as_it_stands_in_a_query(canary: str) -> None:
    Secret(canary)
    assert canary not in mask(f"before{canary}after")
    assert quote(canary, safe="") not in mask(f"GET /x?y={quote(canary, safe='')} failed")


@pytest.mark.parametrize(
    "secret", ['quote"canary\\slash', "both\"canary'quotes", "tab\tcanary", "canary-é-ß", "a canary\x7f"]
)
def test_a_secret_is_masked_as_json_and_python_quote_it(secret: str) -> None:
    Secret(secret)
    for text in (json.dumps(secret), json.dumps([secret], ensure_ascii=False), repr(secret), str([secret])):
        assert "canary" not in mask(text), text


def test_a_secret_that_begins_with_another_one_is_masked_whole() -> None:
    Secret("first-part")
    Secret("first-part-and-second")
    assert mask("got first-part-and-second") == f"got {MASK}"


def test_short_values_are_left_alone_so_that_texts_stay_readable() -> None:
    Secret("live")
    assert mask("session live") == "session live"


def test_the_oldest_secrets_of_services_are_forgotten_first() -> None:
    for number in range(redact._MOST_PASSING + 50):
        Secret(f"secret-number-{number}", is_passing=True)
    assert len(redact._passing) == redact._MOST_PASSING
    assert mask("secret-number-0") == "secret-number-0"
    assert mask(f"secret-number-{number}") == MASK


def test_the_operators_secrets_are_never_forgotten() -> None:
    Secret("the licence")
    Secret("the key", is_passing=True)
    Secret("the key")
    Secret.url("rtmp://host/app/a-stream-key")
    for number in range(redact._MOST_PASSING + 50):
        Secret(f"secret-number-{number}", is_passing=True)
        Secret("the licence", is_passing=True)
    assert mask("the licence, the key, a-stream-key") == f"{MASK}, {MASK}, {MASK}"


def test_a_url_in_a_text_is_redacted_even_if_nobody_knows_it() -> None:
    assert mask("OSError: rtmp://h/app/k3y-never-seen: refused") == "OSError: rtmp://h/app/***: refused"
