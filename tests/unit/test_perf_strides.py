"""Strides of the benchmarks: each visit once a round, far from the last one, at no one distance."""

from __future__ import annotations

import itertools

import pytest

from perf.strides import FRACTIONS, IN_ORDER, stride

MANY = (256, 4_096, 10_000, 65_536, 1_000_000)
"""Every number of flows, or of services in turn, that a benchmark has."""
RECORDS = 64
"""Of IPv4 in a page, which no prefetcher leaves."""

pytestmark = pytest.mark.parametrize("sample", range(len(FRACTIONS)))


def visits(many: int, step: int, count: int) -> list[int]:
    return [number * step % many for number in range(count)]


def apart(many: int, a: int, b: int) -> int:
    return min((a - b) % many, (b - a) % many)


@pytest.mark.parametrize("many", [*range(1, 40), 257, *MANY])
def test_each_is_visited_once_in_a_round(many: int, sample: int) -> None:
    step = stride(many, sample)
    assert 0 < step < max(many, 2)
    assert sorted(visits(many, step, many)) == list(range(many))


@pytest.mark.parametrize("many", MANY)
def test_no_distance_comes_three_times_in_a_row(many: int, sample: int) -> None:
    seen = visits(many, stride(many, sample), min(many, 10_000))
    distances = [after - before for before, after in itertools.pairwise(seen)]
    assert min(map(abs, distances)) >= RECORDS
    for three in zip(distances, distances[1:], distances[2:], strict=False):
        assert len(set(three)) > 1


@pytest.mark.parametrize("many", [4_096, 10_000, 65_536, 1_000_000])
def test_many_visits_go_by_until_one_is_near_an_earlier_one(many: int, sample: int) -> None:
    later = visits(many, stride(many, sample), 29)[1:]
    assert min(apart(many, 0, number) for number in later) >= RECORDS


def test_samples_have_strides_of_their_own(sample: int) -> None:
    others = {stride(65_536, other) for other in range(len(FRACTIONS)) if other != sample}
    assert stride(65_536, sample) not in others | {IN_ORDER}
    assert stride(65_536, sample + len(FRACTIONS)) == stride(65_536, sample)
