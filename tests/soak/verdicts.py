"""What a soak found, a row a claim; printed as one table when the run ends."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One claim, the figures that it is judged by, and whether it holds."""

    claim: str
    figures: str
    holds: bool


@dataclass(slots=True)
class Verdicts:
    """All rows of a run."""

    rows: list[Row] = field(default_factory=list)

    def note(self, claim: str, figures: str, *, holds: bool) -> bool:
        """Add a row; whether it holds."""
        self.rows.append(Row(claim, figures, holds))
        print(f"{'pass' if holds else 'FAIL'}  {claim}: {figures}", flush=True)
        return holds

    def table(self) -> str:
        """The rows for people."""
        width = max((len(row.claim) for row in self.rows), default=0)
        return "\n".join(
            f"{'pass' if row.holds else 'FAIL'}  {row.claim:<{width}}  {row.figures}"
            for row in self.rows
        )


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """Median (min..max), and how many."""
    if not values:
        return "none"
    return (
        f"{statistics.median(values):{form}} "
        f"({min(values):{form}}..{max(values):{form}}), n={len(values)}"
    )
