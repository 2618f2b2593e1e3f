"""Parts that API calls have written are told so where they are opened; the operator's own are not."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bridge import distribution as distribution_module
from bridge import session as session_module
from bridge.config import InputConfig, NavTalkConfig, OutputConfig, SessionConfig, StorageConfig
from bridge.config_origin import NONE_STRANGE, StrangeParts
from bridge.events import EventLog
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.ops.metrics import Metrics
from bridge.redact import Secret
from bridge.session import Session
from bridge.trend import Trend

STRANGE = StrangeParts(avatar=True, inputs=frozenset({"theirs"}), outputs=frozenset({"theirs"}))


@pytest.mark.parametrize(("strange", "theirs"), [(STRANGE, True), (NONE_STRANGE, False)])
async def test_what_strangers_wrote_is_judged_where_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, strange: StrangeParts, theirs: bool
) -> None:
    told: dict[str, bool] = {}
    policies: list[UrlPolicy | None] = []
    places = {
        "open_source": session_module,
        "open_output": distribution_module,
        "open_provider": session_module,
    }
    real_source, real_output, real_provider = (getattr(module, name) for name, module in places.items())

    def open_source(name: str, *arguments: Any, is_strange: bool) -> Any:
        told[f"input {name}"] = is_strange
        return real_source(name, *arguments, is_strange=is_strange)

    def open_output(name: str, *arguments: Any, is_strange: bool) -> Any:
        told[f"output {name}"] = is_strange
        return real_output(name, *arguments, is_strange=is_strange)

    def open_provider(config: Any, ice: IceSettings, history: Any, policy: UrlPolicy | None) -> Any:
        policies.append(policy)
        return real_provider(config, ice, history, policy)

    for opener in (open_source, open_output, open_provider):
        monkeypatch.setattr(places[opener.__name__], opener.__name__, opener)
    source = InputConfig(url=Secret.url("https://live.example.com/radio"))
    output = OutputConfig(url=Secret.url("rtmp://live.example.com/app/key"))
    config = SessionConfig(
        avatar=NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo"),
        inputs={"own": source, "theirs": source},
        outputs={"own": output, "theirs": output},
    )
    policy = UrlPolicy()
    Session(
        "leo",
        config,
        ice=IceSettings(),
        storage=StorageConfig(dir=tmp_path),
        policy=policy,
        metrics=Metrics(CollectorRegistry()).session("leo", "navtalk"),
        events=EventLog(),
        trend=Trend(),
        strange=strange,
    )
    assert told == {"input own": False, "input theirs": theirs, "output own": False, "output theirs": theirs}
    assert policies == [policy if theirs else None]
