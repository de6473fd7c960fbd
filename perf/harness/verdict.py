"""What two runs say of each other: better, worse, no difference, too noisy. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from perf.harness import stats

ALPHA = 0.05
LEAST_EFFECT = 0.03
"""A shift of medians below this is no difference that anybody acts on."""

TOLERATED_NOISE = 0.08
"""Noise above which 'no difference' may not be said: ten percent would hide in it."""


class Better(StrEnum):
    """Which way a metric is good."""

    LOWER = "lower"
    HIGHER = "higher"


class Word(StrEnum):
    """The four verdicts."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference"
    NOISY = "too noisy"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A baseline and a candidate. `ratio`: of medians; `noise`: what A-A would find, a share."""

    word: Word
    ratio: float
    p: float
    delta: float
    noise: float
    baseline: stats.Interval
    candidate: stats.Interval
    reason: str


def compare(
    baseline: Sequence[float],
    candidate: Sequence[float],
    better: Better,
    null: Sequence[float] = (),
) -> Comparison:
    """The verdict on the candidate.

    The null decides whether there may be one. It is what halves of each run say of each other,
    and, with `null`, a second run of the baseline, what that says of the first.

    Raises:
        ValueError: a side without samples, or with one that is no number.
    """
    ranked = stats.mann_whitney(baseline, candidate)
    a, b = stats.median(baseline), stats.median(candidate)
    ratio = _ratio(b.median, a.median)
    noise = max(_noise(baseline), _noise(candidate))
    if null:
        noise = max(noise, abs(_ratio(statistics.median(null), a.median) - 1))

    def told(word: Word, reason: str) -> Comparison:
        return Comparison(word, ratio, ranked.p, ranked.delta, noise, a, b, reason)

    sizes = len(baseline), len(candidate)
    least = stats.least_p(*sizes)
    if a.median == b.median and set(baseline) == set(candidate) and noise == 0:
        return told(Word.SAME, "the same in every trial")
    if least > ALPHA:
        return told(
            Word.NOISY, f"{sizes[0]} and {sizes[1]} trials cannot have p below {least:.2g}: repeat"
        )
    return told(*_word(ratio, ranked.p, noise, better))


def paired(baseline: Sequence[float], candidate: Sequence[float], better: Better) -> Comparison:
    """The verdict on trials that took turns: what counts are the ratios of neighbours.

    A machine that is fast now and slow then makes both slow. So this tells shifts apart that are
    hidden in the spread of each side alone; it needs trials of one run, in pairs.

    Raises:
        ValueError: sides of different sizes, without samples, or with one that is no number.
    """
    if len(baseline) != len(candidate):
        msg = f"pairs of {len(baseline)} and {len(candidate)} trials: no pairs"
        raise ValueError(msg)
    a, b = stats.median(baseline), stats.median(candidate)
    if min(*baseline, *candidate) <= 0:
        why = "a trial without anything has no ratio"
        return Comparison(Word.NOISY, _ratio(b.median, a.median), 1.0, 0.0, math.inf, a, b, why)
    ratios = [_ratio(y, x) for x, y in zip(baseline, candidate, strict=True)]
    ratio, p = statistics.median(ratios), stats.wilcoxon(ratios)
    noise = _noise(ratios)
    delta = statistics.mean((each > 1) - (each < 1) for each in ratios)

    def told(word: Word, reason: str) -> Comparison:
        return Comparison(word, ratio, p, delta, noise, a, b, reason)

    least = 2.0 ** (1 - len(ratios))
    if least > ALPHA:
        return told(Word.NOISY, f"{len(ratios)} pairs cannot have p below {least:.2g}: repeat")
    return told(*_word(ratio, p, noise, better))


def _word(ratio: float, p: float, noise: float, better: Better) -> tuple[Word, str]:
    """The word, and why."""
    if p < ALPHA and abs(ratio - 1) > max(LEAST_EFFECT, noise):
        good = (ratio < 1) == (better is Better.LOWER)
        reason = f"{100 * (ratio - 1):+.1f} %, p {p:.2g}, noise {100 * noise:.1f} %"
        return (Word.BETTER if good else Word.WORSE), reason
    if noise > TOLERATED_NOISE:
        limit = f"above {100 * TOLERATED_NOISE:g} %"
        return Word.NOISY, f"the null comparison alone finds {100 * noise:.1f} %, {limit}"
    return Word.SAME, f"{100 * (ratio - 1):+.1f} %, p {p:.2g}"


def _ratio(value: float, base: float) -> float:
    if base == 0:
        return 1.0 if value == 0 else math.inf
    return value / base


def _noise(values: Sequence[float]) -> float:
    return stats.split_noise(values) if len(values) > 1 else math.inf
