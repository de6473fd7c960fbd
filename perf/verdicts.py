"""From samples of a ratio and its bound to one word. Pure.

A ratio compares two things measured in the same run on the same machine, so that its bound holds
on other machines, too. Absolute times have no bounds here.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """What the samples say of the bound."""

    BETTER = "better"
    WITHIN = "within"
    WORSE = "worse"
    TOO_NOISY = "too noisy"


BETTER_SHARE = 0.5
"""All samples below half of the bound: better than it asks for by so much that it may be moved."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim: a ratio that has to stay at or below `bound`, and its samples."""

    claim: str
    samples: tuple[float, ...]
    bound: float
    baseline: str

    @property
    def word(self) -> Word:
        """The middle half of the samples decides; if the bound runs through it, nobody can say."""
        low, high = quartiles(self.samples)
        if low > self.bound:
            return Word.WORSE
        if high > self.bound:
            return Word.TOO_NOISY
        return Word.BETTER if high <= self.bound * BETTER_SHARE else Word.WITHIN

    @property
    def red(self) -> bool:
        """Whether this alone makes the run fail."""
        return self.word is Word.WORSE


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of fewer than four samples the least and the greatest."""
    if len(samples) < 4:
        return min(samples), max(samples)
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def ratios(measured: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    """Each sample by the median of the baseline's."""
    floor = statistics.median(baseline)
    return tuple(value / floor for value in measured)


def aligned(lines: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells as text, each column as wide as its widest cell; `right`: flush there."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """One line a verdict: measured median (min..max), the bound, against what, the word."""
    lines = [("claim", "measured", "bound", "against", "verdict")]
    for one in verdicts:
        middle = statistics.median(one.samples)
        low, high = min(one.samples), max(one.samples)
        measured = f"{middle:.3g}" if low == high else f"{middle:.3g} ({low:.3g}..{high:.3g})"
        lines.append((one.claim, measured, f"<= {one.bound:g}", one.baseline, one.word.value))
    return aligned(lines)
