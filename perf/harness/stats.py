"""Statistics of small samples: bootstrap intervals, Mann-Whitney U, Cliff's delta. Pure.

Nothing here assumes a distribution: trials on shared processors have long tails on one side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EXACT_UP_TO = 400
"""Products of both sample sizes up to which U's distribution is counted, not approximated."""

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the percentile interval of its bootstrap, in the samples' unit."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """Mann-Whitney of two samples: `u` counts pairs in which the second is the greater.

    `delta` is Cliff's: -1 (each of the second is smaller) to 1; `exact`: p was counted.
    """

    u: float
    p: float
    delta: float
    exact: bool


def finite(values: Sequence[float], what: str) -> np.ndarray:
    """The samples as an array.

    Raises:
        ValueError: none at all, or one that is no finite number.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size:
        msg = f"{what}: no samples"
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{what}: a sample is no finite number"
        raise ValueError(msg)
    return array


def median(values: Sequence[float], *, confidence: float = 0.95, seed: int = 1) -> Interval:
    """The median and its bootstrap interval; the same samples give the same interval.

    Raises:
        ValueError: no samples, or one that is no number.
    """
    array = finite(values, "median")
    drawn = np.random.default_rng(seed).integers(0, array.size, (_RESAMPLES, array.size))
    medians = np.median(array[drawn], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return Interval(float(np.median(array)), float(low), float(high))


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> Ranked:
    """Two-sided test that neither sample tends to be the greater.

    Exact without ties and with few samples; otherwise the normal approximation, corrected for
    ties and continuity.

    Raises:
        ValueError: no samples, or one that is no number.
    """
    a, b = finite(first, "first sample"), finite(second, "second sample")
    differences = b[:, None] - a[None, :]
    u = float((differences > 0).sum() + 0.5 * (differences == 0).sum())
    pairs = a.size * b.size
    delta = 2 * u / pairs - 1
    _, counts = np.unique(np.concatenate((a, b)), return_counts=True)
    tied = bool((counts > 1).any())
    if not tied and pairs <= EXACT_UP_TO:
        ways = _distribution(a.size, b.size)
        extreme = int(min(u, pairs - u))
        return Ranked(u, min(1.0, 2 * sum(ways[: extreme + 1]) / sum(ways)), delta, exact=True)
    total = a.size + b.size
    ties = float((counts**3 - counts).sum())
    spread = 0.0
    if total > 1:
        spread = pairs / 12 * ((total + 1) - ties / (total * (total - 1)))
    if spread <= 0:
        return Ranked(u, 1.0, delta, exact=False)
    z = max(0.0, abs(u - pairs / 2) - 0.5) / math.sqrt(spread)
    return Ranked(u, math.erfc(z / math.sqrt(2)), delta, exact=False)


@lru_cache(maxsize=256)
def _distribution(m: int, n: int) -> tuple[int, ...]:
    """In how many orders of m and n different values U is 0, 1, .. m*n: a Gaussian binomial."""
    ways = [1] + [0] * (m * n)
    for k in range(1, m + 1):
        # Multiply by (1 - q^(n+k)), divide by (1 - q^k), as power series in q.
        for power in range(m * n, n + k - 1, -1):
            ways[power] -= ways[power - n - k]
        for power in range(k, m * n + 1):
            ways[power] += ways[power - k]
    return tuple(ways)


def wilcoxon(ratios: Sequence[float]) -> float:
    """Two-sided p that ratios of pairs scatter about one: Wilcoxon's signed ranks, counted exactly.

    Pairs that are equal say nothing and are left out; equal sizes share their ranks, rounded
    against a verdict.

    Raises:
        ValueError: no ratios, or one that is no positive number.
    """
    array = finite(ratios, "ratios")
    if (array <= 0).any():
        msg = "ratios: one is not positive"
        raise ValueError(msg)
    logs = np.log(array)
    logs = logs[logs != 0]
    if not logs.size:
        return 1.0
    sizes = np.abs(logs)
    ranks = np.array([(sizes < each).sum() + ((sizes == each).sum() + 1) / 2 for each in sizes])
    total = logs.size * (logs.size + 1) // 2
    less = min(float(ranks[logs > 0].sum()), float(ranks[logs < 0].sum()))
    ways = [1] + [0] * total
    for rank in range(1, logs.size + 1):
        for at in range(total, rank - 1, -1):
            ways[at] += ways[at - rank]
    return float(min(1.0, 2 * sum(ways[: math.ceil(less) + 1]) / 2**logs.size))


def least_p(m: int, n: int) -> float:
    """The smallest p that samples of these sizes can have."""
    return min(1.0, 2 / math.comb(m + n, m))


def split_noise(values: Sequence[float], *, quantile: float = 0.95, seed: int = 1) -> float:
    """How far medians of two halves of one sample lie apart, as a share of its median.

    The quantile over random halves: what a comparison of this with itself would find.

    Raises:
        ValueError: fewer than two samples, or one that is no number.
    """
    array = finite(values, "null comparison")
    if array.size < 2:
        msg = "null comparison: one sample has no halves"
        raise ValueError(msg)
    middle = float(np.median(array))
    if middle == 0:
        return 0.0 if not array.any() else math.inf
    order = np.random.default_rng(seed).permuted(np.tile(array, (_RESAMPLES, 1)), axis=1)
    half = array.size // 2
    apart = np.median(order[:, :half], axis=1) - np.median(order[:, half:], axis=1)
    # Halves scatter more than the whole: sqrt(2) for a median of half as many.
    return float(np.quantile(np.abs(apart), quantile) / abs(middle) / math.sqrt(2))


def abba(names: Sequence[str], rounds: int) -> tuple[str, ...]:
    """The names once each round, in turn forward and backward: A-B-B-A-A-B.

    A drift of the machine that is linear in time then hits all alike.

    Raises:
        ValueError: no round.
    """
    if rounds < 1:
        msg = f"{rounds} rounds: at least one"
        raise ValueError(msg)
    turns = (names if number % 2 == 0 else tuple(reversed(names)) for number in range(rounds))
    return tuple(name for turn in turns for name in turn)
