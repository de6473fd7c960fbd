"""Where a metric jumped over stored runs: groups by least description length (jumpavg). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jumpavg

from perf.harness.verdict import Better


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring runs that jumpavg cannot tell apart: first and last index, mean, deviation."""

    first: int
    last: int
    mean: float
    stdev: float
    word: str


def groups(runs: Sequence[Sequence[float]], better: Better) -> tuple[Group, ...]:
    """Groups of runs; each but the first is a regression or a progression against the one before.

    Raises:
        ValueError: a run without samples.
    """
    if any(not run for run in runs):
        msg = "a run without samples has no place in a trend"
        raise ValueError(msg)
    found: list[Group] = []
    start = 0
    for group in jumpavg.classify([list(run) for run in runs]):
        size, mean = len(group.run_list), float(group.stats.avg)
        word = "first"
        if found:
            good = (mean < found[-1].mean) == (better is Better.LOWER)
            word = "progression" if good else "regression"
        found.append(Group(start, start + size - 1, mean, float(group.stats.stdev), word))
        start += size
    return tuple(found)
