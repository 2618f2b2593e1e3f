"""What is shipped for Prometheus and Grafana, read by Prometheus' own tools and run against a real broadcast."""

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from bridge.ops.metrics import Metrics
from tests.conftest import require_program
from tests.e2e.processes import PATIENCE_S, Avatar, Program, Setting
from tests.interop.nginx_rtmp import NginxRtmp

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


def rules_of(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS, RECORDED = rules_of("alerts.rules.yml"), rules_of("recording.rules.yml")
DASHBOARD = json.loads((DEPLOY / "grafana" / "avatar-bridge.json").read_text())
# A name of ours, of a rule of ours, or of the process collector.
_NAME = re.compile(r"[a-z_]+:avatar_bridge_\w+:\w+|avatar_bridge_\w+|process_\w+")


def panel_queries() -> Iterator[tuple[str, str]]:
    """Title and expression."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def families() -> set[str]:
    """Names of series as a scrape has them."""
    registry = CollectorRegistry()
    Metrics(registry)
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    return {f"{family.name}{suffix}" for family in registry.collect() for suffix in suffixes} | {
        rule["record"] for rule in RECORDED
    }


def promtool(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    tool = require_program("promtool", "prometheus")
    return subprocess.run([tool, *words], input=stdin, capture_output=True, text=True, check=False, cwd=PROMETHEUS)


# ---------------------------------------------------------------------------------------------- as written


def test_every_alert_says_what_is_wrong_for_whom_and_in_one_line_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"].keys() == {"summary", "runbook"}
        assert "\n" not in alert["annotations"]["runbook"].strip()


def test_every_alert_is_tested() -> None:
    tests = (PROMETHEUS / "alerts.test.yml").read_text()
    for alert in ALERTS:
        # Once while it is quiet, once when it fires.
        assert tests.count(f'alertname="{alert["alert"]}"') == 2, alert["alert"]


def test_every_name_in_a_query_is_one_that_the_daemon_exports() -> None:
    exported = families()
    asked = [*(rule["expr"] for rule in (*RECORDED, *ALERTS)), *(expression for _, expression in panel_queries())]
    for expression in asked:
        assert set(_NAME.findall(expression)) <= exported, expression


def test_panels_lie_beside_each_other() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


# ---------------------------------------------------------------------------------------------- by its own tools


@pytest.mark.peer
def test_promtool_accepts_configuration_and_rules() -> None:
    for words in (("config", "prometheus.yml"), ("rules", "recording.rules.yml", "alerts.rules.yml")):
        checked = promtool("check", *words)
        assert checked.returncode == 0 and "warning" not in checked.stderr.lower(), checked.stdout + checked.stderr


@pytest.mark.peer
def test_every_alert_is_quiet_while_all_is_well_and_fires_when_it_is_not() -> None:
    tested = promtool("test", "rules", "alerts.test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


# ---------------------------------------------------------------------------------------------- against a broadcast


class Prometheus:
    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client

    async def get(self, path: str, **query: str) -> Any:
        answer = (await self._client.get(f"{self._url}/api/v1/{path}", params=query)).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return answer["data"]

    async def query(self, expression: str) -> list[Any]:
        return list((await self.get("query", query=expression))["result"])

    async def until(self, expression: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not (await self._is_ready() and await self.query(expression)):  # noqa: ASYNC110  in another process
                await asyncio.sleep(0.1)

    async def _is_ready(self) -> bool:
        """It listens before it answers queries: until then with 503, and no JSON."""
        try:
            return (await self._client.get(f"{self._url}/-/ready")).is_success
        except httpx.TransportError:
            return False


@pytest.mark.peer
async def test_prometheus_finds_what_dashboard_and_rules_ask_for(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    prometheus = require_program("prometheus")
    http_port, own_port = free_ports(2)
    setting = Setting(tmp_path, avatar.url, http={"listen": f"127.0.0.1:{http_port}"}).rtmp("live", nginx.rtmp_url)
    setting.recording()
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    settings["rule_files"] = [str(PROMETHEUS / name) for name in settings["rule_files"]]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{http_port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    options = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb")
    async with setting.daemon() as daemon:
        await daemon.metric_reaches(25, "added_latency_seconds_count", output="live")
        scrape = await daemon.get("/metrics")
        async with (
            Program(prometheus, *options, f"--web.listen-address=127.0.0.1:{own_port}"),
            httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client,
        ):
            server = Prometheus(f"http://127.0.0.1:{own_port}", client)
            await server.until("count_over_time(session:avatar_bridge_freeze_seconds:ratio_5m[1m]) >= 3")
            seen = set(re.findall(r"^(\w+)[{ ]", scrape, re.MULTILINE))
            for title, expression in panel_queries():
                asked = expression.replace("$__rate_interval", "1m").replace("$session", ".*").replace("$output", ".*")
                found = await server.query(asked)
                # What never happened in this run has no series; of all else there is something to see.
                has_happened = all(name in seen or ":" in name for name in _NAME.findall(expression))
                assert found or not has_happened, f"{title}: {asked}"
            rules = [rule for group in (await server.get("rules"))["groups"] for rule in group["rules"]]
            assert len(rules) == len(ALERTS) + len(RECORDED)
            assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
            firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
            assert firing == []
        assert await daemon.stop() == 0
    linted = await asyncio.to_thread(promtool, "check", "metrics", stdin=scrape)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")
