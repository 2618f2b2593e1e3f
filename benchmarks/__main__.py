"""`python -m benchmarks`: all of them, and `benchmarks/RESULTS.md` written anew."""

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import capacity, encode, ingest, lipsync, loss, passthrough, resample, siege, soak, speech, startup
from benchmarks.processes import ending_properly
from benchmarks.report import Findings, machine

# What stands behind `python -m benchmarks.` to repeat each.
BENCHMARKS: Mapping[str, Callable[[], Findings]] = {
    "passthrough": passthrough.measure,
    "encode": encode.measure,
    "loss": loss.measure,
    "capacity": capacity.measure,
    "capacity --viewers 50": lambda: capacity.measure_viewers(50),
    "capacity --api": capacity.measure_api,
    "lipsync": lipsync.measure,
    "startup": startup.measure,
    "resample": resample.measure,
    "ingest": ingest.measure,
    "speech": speech.measure,
    "siege": siege.measure,
    "soak": soak.measure,
}
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    found: dict[str, Findings] = {}
    for command, measure in BENCHMARKS.items():
        found[command] = measure()
        found[command].show()
    RESULTS.write_text(results_page(found))


def results_page(found: Mapping[str, Findings]) -> str:
    """The page: machine, date, figures and how to repeat each."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = ["# Benchmark results", f"{today}, {machine()}.", "`make bench` measures all of this again."]
    for command, findings in found.items():
        rows = [" | ".join(("", *row, "")).strip() for row in (("figure", "value", "bound"), *findings.rows())]
        rows.insert(1, "|---|---:|---|")
        parts += [f"## {findings.title}", f"`python -m benchmarks.{command}`", "\n".join(rows), *findings.notes]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    with ending_properly():
        main()
