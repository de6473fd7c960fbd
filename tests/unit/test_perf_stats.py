"""The harness's statistics against values counted by hand, and against what they promise."""

from __future__ import annotations

import math
from itertools import combinations, cycle

import numpy as np
import pytest

from perf.harness import cli, latency, stats, trend, verdict
from perf.harness.verdict import Better, Word


def test_exact_p_is_that_of_all_orders() -> None:
    first, second = [1.0, 2.0, 5.0, 8.0], [3.0, 6.0, 7.0, 9.0, 10.0]
    found = stats.mann_whitney(first, second)
    pool = sorted(first + second)
    us = []
    for chosen in combinations(range(9), 4):
        a = [pool[i] for i in chosen]
        b = [pool[i] for i in range(9) if i not in chosen]
        us.append(sum(y > x for x in a for y in b))
    extreme = min(found.u, 20 - found.u)
    assert found.exact
    assert found.p == pytest.approx(min(1, 2 * sum(u <= extreme for u in us) / len(us)))


def test_normal_p_comes_near_the_exact_one() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(0, 1, 20), random.normal(0.6, 1, 20)
    exact = stats.mann_whitney(list(a), list(b))
    tied = stats.mann_whitney([*a, 0.0], [*b, 0.0])
    assert exact.exact
    assert not tied.exact
    assert tied.p == pytest.approx(exact.p, abs=0.02)


def test_effect_and_p_of_samples_apart_and_alike() -> None:
    assert stats.mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]).delta == 1
    assert stats.mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]).p == pytest.approx(2 / 252)
    assert stats.mann_whitney([4, 4, 4], [4, 4, 4]).p == 1
    assert stats.mann_whitney([1], [2]).p == 1


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf, 1.0]])
def test_no_samples_and_no_numbers_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="sample"):
        stats.median(bad)


def test_bootstrap_interval_holds_the_true_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        found = stats.median(list(random.normal(10, 1, 15)))
        held += found.low <= 10 <= found.high
    assert held >= 88


def test_turns_go_forward_and_back() -> None:
    assert "".join(stats.abba("AB", 3)) == "ABBAAB"
    with pytest.raises(ValueError, match="at least one"):
        stats.abba("AB", 0)


def test_a_run_beside_itself_is_no_difference_and_ten_percent_is_found() -> None:
    random = np.random.default_rng(5)
    same, slower, faster = [], [], []
    for _ in range(100):
        a, b = random.normal(100, 2, 10), random.normal(100, 2, 10)
        same.append(verdict.compare(list(a), list(b), Better.LOWER).word)
        slower.append(verdict.compare(list(a), list(b * 1.1), Better.LOWER).word)
        faster.append(verdict.compare(list(a), list(b * 1.1), Better.HIGHER).word)
    assert same.count(Word.SAME) >= 95
    assert slower.count(Word.WORSE) >= 95
    assert faster.count(Word.BETTER) >= 95


def test_as_many_trials_as_a_run_has_find_ten_percent_in_pairs_that_scatter_by_seven() -> None:
    """Nine times in ten, with the same told from itself three times in four, as the issue asks."""
    random, runs = np.random.default_rng(11), 60
    words: dict[str, list[Word]] = {"same": [], "slower": []}
    for _ in range(runs):
        machine = np.exp(random.normal(0, 0.15, cli.TRIALS))
        one, two = (machine * np.exp(random.normal(0, 0.07 / 2**0.5, cli.TRIALS)) for _ in "ab")
        words["same"].append(verdict.paired(one.tolist(), two.tolist(), Better.LOWER).word)
        slower = (two / 0.9).tolist()
        words["slower"].append(verdict.paired(one.tolist(), slower, Better.LOWER).word)
    assert words["slower"].count(Word.WORSE) >= 0.9 * runs
    assert words["same"].count(Word.SAME) >= 0.75 * runs
    assert words["same"].count(Word.NOISY) <= 0.25 * runs


def test_noise_forbids_a_verdict_instead_of_hiding_a_difference() -> None:
    random = np.random.default_rng(6)
    words = [
        verdict.compare(
            list(random.lognormal(0, 0.4, 10)), list(random.lognormal(0, 0.4, 10)), Better.LOWER
        ).word
        for _ in range(40)
    ]
    assert words.count(Word.NOISY) >= 35
    assert not set(words) & {Word.SAME}


def test_a_second_run_of_the_baseline_raises_the_bar() -> None:
    a, b = [100.0, 101, 99, 100.5, 99.5], [110.0, 111, 109, 110.5, 109.5]
    assert verdict.compare(a, b, Better.LOWER).word is Word.WORSE
    drifted = [x * 1.12 for x in a]
    assert verdict.compare(a, b, Better.LOWER, null=drifted).word is Word.NOISY


def test_three_trials_are_too_few_to_say_anything() -> None:
    found = verdict.compare([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], Better.LOWER)
    assert found.word is Word.NOISY
    assert "3 and 3 trials" in found.reason


def test_counts_that_never_change_are_the_same() -> None:
    assert verdict.compare([3.0] * 5, [3.0] * 5, Better.LOWER).word is Word.SAME
    assert verdict.compare([0.0] * 5, [0.0] * 5, Better.LOWER).word is Word.SAME


def test_trend_finds_the_run_in_which_it_jumped() -> None:
    random = np.random.default_rng(7)
    runs = [list(random.normal(100 if n < 6 else 112, 1, 5)) for n in range(12)]
    first, second = trend.groups(runs, Better.LOWER)
    assert (first.first, first.last, second.first, second.last) == (0, 5, 6, 11)
    assert second.word == "regression"
    assert trend.groups(runs, Better.HIGHER)[1].word == "progression"


def test_latency_percentiles_and_histograms_that_add() -> None:
    one = latency.summary((ns * 1000, 1) for ns in range(1, 1001))
    two = latency.merged([one.encoded, one.encoded])
    assert dict(one.percentiles)[50.0] == pytest.approx(500_000, rel=2e-3)
    assert dict(one.percentiles)[99.9] == pytest.approx(999_000, rel=2e-3)
    assert two.count == 2 * one.count == 2000
    assert dict(two.percentiles)[99.0] == pytest.approx(990_000, rel=2e-3)
    with pytest.raises(ValueError, match="no packet"):
        latency.summary([])
    with pytest.raises(ValueError, match="not an HDR histogram"):
        latency.merged(["nonsense"])


def test_pairs_tell_what_a_drift_hides() -> None:
    drift = [1.0, 1.6, 1.1, 1.8, 0.9, 1.3, 2.0, 1.2]
    slower = [value * ratio for value, ratio in zip(drift, cycle((1.09, 1.11)), strict=False)]
    assert verdict.compare(drift, slower, Better.LOWER).word is Word.NOISY
    told = verdict.paired(drift, slower, Better.LOWER)
    assert (told.word, told.delta) == (Word.WORSE, 1.0)
    assert told.ratio == pytest.approx(1.1, rel=0.01)
    assert verdict.paired(drift, slower, Better.HIGHER).word is Word.BETTER
    again = [value * ratio for value, ratio in zip(drift, cycle((0.99, 1.01)), strict=False)]
    assert verdict.paired(drift, again, Better.LOWER).word is Word.SAME
    assert verdict.paired(drift, drift[::-1], Better.LOWER).word is Word.NOISY
    assert verdict.paired(drift[:4], slower[:4], Better.LOWER).word is Word.NOISY
    assert verdict.paired([0.0, *drift[1:]], slower, Better.LOWER).word is Word.NOISY
    with pytest.raises(ValueError, match="no pairs"):
        verdict.paired(drift, slower[:3], Better.LOWER)


def test_signed_ranks_are_as_tables_have_them() -> None:
    # All of six on one side: 2 / 2**6. One of them, the least, on the other: 2 * 2 / 2**6.
    assert stats.wilcoxon([1.1, 1.2, 1.3, 1.4, 1.5, 1.6]) == pytest.approx(2 / 64)
    assert stats.wilcoxon([1 / 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]) == pytest.approx(4 / 64)
    assert stats.wilcoxon([1.0, 1.0]) == 1.0
    for bad in ([], [0.0], [-1.0], [float("nan")]):
        with pytest.raises(ValueError, match="ratios"):
            stats.wilcoxon(bad)
