"""What a benchmark found, and how it says so."""

import json
import operator
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeAlias

from rich.console import Console
from rich.table import Table

# None: could not be measured here, and a note says why.
Figure: TypeAlias = float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Named figures of one benchmark, in milliseconds unless the name says otherwise.

    at_most, at_least  bounds that the project claims to keep; figures without one are for comparison.
    """

    title: str
    figures: Mapping[str, Figure]
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def missing(cls, title: str, at_most: Mapping[str, float], reason: str) -> Self:
        """Nothing could be measured here."""
        return cls(title=title, figures=dict.fromkeys(at_most), at_most=at_most, notes=[f"Not measured: {reason}."])

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and bound of each figure, as people read them."""
        return [(name, _value(figure), self._bound(name, figure)) for name, figure in self.figures.items()]

    def _bound(self, name: str, figure: Figure) -> str:
        for limits, sign, is_kept in ((self.at_most, "≤", operator.le), (self.at_least, "≥", operator.ge)):
            if (limit := limits.get(name)) is not None:
                is_broken = figure is not None and not is_kept(figure, limit)
                return f"{sign} {limit:g}  NOT KEPT" if is_broken else f"{sign} {limit:g}"
        return ""

    def json_line(self) -> str:
        return json.dumps({name: None if f is None else round(f, 4) for name, f in self.figures.items()})

    def show(self) -> None:
        """Print a table, the notes, and the figures as the last line."""
        table = Table(title=self.title, title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        table.add_column("bound")
        for row in self.rows():
            table.add_row(*row)
        console = Console(width=120)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False, markup=False)
        print(self.json_line(), flush=True)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least so many percent of all do not exceed; None of nothing."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(0, int(rank) - 1)]


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def machine() -> str:
    """What the figures were measured on, without saying whose machine it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _value(figure: Figure) -> str:
    return "not measured" if figure is None else f"{figure:.4g}" if isinstance(figure, float) else str(figure)
