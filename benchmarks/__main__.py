"""`python -m benchmarks`: all of them, and `benchmarks/RESULTS.md` written anew."""

import datetime
from collections.abc import Mapping
from pathlib import Path

from benchmarks import capacity, ingest, lipsync, loss, passthrough, resample, siege, soak, startup
from benchmarks.processes import ending_properly
from benchmarks.report import Findings, machine

BENCHMARKS = (passthrough, loss, capacity, lipsync, startup, resample, ingest, siege, soak)
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    found: dict[str, Findings] = {}
    for benchmark in BENCHMARKS:
        name = Path(benchmark.__file__).stem
        found[name] = benchmark.measure()
        found[name].show()
    RESULTS.write_text(results_page(found))


def results_page(found: Mapping[str, Findings]) -> str:
    """The page: machine, date, figures and how to repeat each."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = ["# Benchmark results", f"{today}, {machine()}.", "`make bench` measures all of this again."]
    for name, findings in found.items():
        rows = [" | ".join(("", *row, "")).strip() for row in (("figure", "value", "bound"), *findings.rows())]
        rows.insert(1, "|---|---:|---|")
        parts += [f"## {findings.title}", f"`python -m benchmarks.{name}`", "\n".join(rows), *findings.notes]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    with ending_properly():
        main()
