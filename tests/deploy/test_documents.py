"""What the operator's guide says is so."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from bridge.ops.metrics import PREFIX, Metrics

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "deploy" / "README.md").read_text()
THREATS = (ROOT / "deploy" / "SECURITY.md").read_text()


def test_every_metric_is_explained() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    explained = set(re.findall(r"`(\w+)(?:\{\w+\})?`", GUIDE))
    ours = {metric.name.removeprefix(PREFIX) for metric in registry.collect() if metric.name.startswith(PREFIX)}
    assert {name for name in ours if not {name, f"{name}_total"} & explained} == set()


def test_every_file_that_is_named_is_there() -> None:
    for folder, name in re.findall(r"`(deploy|tests|config)/([\w./@-]+)`", GUIDE + THREATS):
        assert (ROOT / folder / name).exists(), f"{folder}/{name}"
    listed = re.findall(r"\| `(tests/\S+?)/?`((?: `test_\w+\.py`)*) \|", THREATS)
    for first, others in listed:
        for path in (first, *(f"{Path(first).parent}/{name}" for name in re.findall(r"test_\w+\.py", others))):
            assert (ROOT / path).exists(), path
