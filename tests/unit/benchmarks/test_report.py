import json

import pytest

from benchmarks.__main__ import results_page
from benchmarks.report import Findings, percentile

FINDINGS = Findings(
    title="a benchmark",
    figures={"fast_ms": 0.51234567, "slow_ms": 7.0, "gst_ms": None, "beats": 20},
    at_most={"fast_ms": 1.0, "slow_ms": 5.0, "gst_ms": 1.0},
    notes=["gst: not here."],
)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


def test_only_a_bound_that_was_measured_can_be_broken() -> None:
    bounds = {name: bound for name, _, bound in FINDINGS.rows()}
    assert bounds == {"fast_ms": "≤ 1", "slow_ms": "≤ 5  NOT KEPT", "gst_ms": "≤ 1", "beats": ""}


def test_a_bound_may_be_a_least_value() -> None:
    findings = Findings(title="", figures={"few": 19, "many": 20}, at_least={"few": 20, "many": 20})
    assert {name: bound for name, _, bound in findings.rows()} == {"few": "≥ 20  NOT KEPT", "many": "≥ 20"}


def test_the_last_line_is_one_object_of_figures(capsys: pytest.CaptureFixture[str]) -> None:
    FINDINGS.show()
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"fast_ms": 0.5123, "slow_ms": 7.0, "gst_ms": None, "beats": 20}


def test_the_page_of_results_says_how_to_repeat_each() -> None:
    page = results_page({"quick": FINDINGS})
    assert "`python -m benchmarks.quick`" in page
    assert "| fast_ms | 0.5123 | ≤ 1 |" in page
    assert "| gst_ms | not measured | ≤ 1 |" in page
    assert "gst: not here." in page
