"""The load of `millrace perf rebalance`, and what its judge makes of the samples."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from perf import judge
from perf.rebalance import FIRST_QUEUE, shares
from perf.vhostlab import eal_prefixes


def test_a_guest_has_a_share_by_its_rank_and_queue_0_most_of_it() -> None:
    rates = shares(8, 2, 200_000, random.Random(1))
    assert sum(rates) == pytest.approx(200_000, abs=16)
    guests = sorted((sum(rates[at : at + 2]) for at in range(0, 16, 2)), reverse=True)
    assert [guests[0] / one for one in guests] == pytest.approx(range(1, 9), rel=0.001)
    assert all(
        one / (one + other) == pytest.approx(FIRST_QUEUE, abs=0.001)
        for one, other in zip(rates[::2], rates[1::2], strict=True)
    )
    assert shares(8, 2, 200_000, random.Random(2)) != rates


def test_one_queue_has_all_of_its_guest() -> None:
    assert sorted(shares(2, 1, 300, random.Random(1))) == [100, 200]


def sample(way: str, highest: float, variance: float) -> dict[str, object]:
    return {"way": way, "highest": highest, "variance": variance}


def test_rounds_are_compared_one_by_one() -> None:
    rounds = [(60, 40, 30), (90, 80, 50), (20, 12, 12)]
    samples = [
        sample(way, load, load * load)
        for loads in rounds
        for way, load in zip(("roundrobin", "cycles", "computed"), loads, strict=True)
    ]
    found = {(one.claim, one.baseline): one for one in judge.rebalance({"samples": samples})}
    of = found["highest PMD load, computed pins", "cycles at start"]
    assert of.samples == (30 / 40, 50 / 80, 1.0)
    assert not any(one.red for one in found.values())
    assert found["variance of PMD loads, computed pins", "roundrobin at start"].samples[0] == 0.25


def test_pins_that_make_it_worse_are_red_and_nothing_divides_by_zero() -> None:
    ways = (("roundrobin", 0.0), ("cycles", 0.25), ("computed", 16.0))
    samples = [sample(way, 40 + spread, spread) for way, spread in ways for _ in range(4)]
    red = {(one.claim, one.baseline) for one in judge.rebalance({"samples": samples}) if one.red}
    assert ("variance of PMD loads, computed pins", "cycles at start") in red
    assert ("highest PMD load, computed pins", "roundrobin at start") in red


def test_every_process_of_a_lab_is_found_by_what_it_left(tmp_path: Path) -> None:
    for left in ("mrperf-7", "mrperf-7-guests-0", "mrperf-7-guests-30", "mrperf-77-guests"):
        (tmp_path / left).mkdir()
    found = eal_prefixes("mrperf-7", tmp_path)
    assert found == ["mrperf-7", "mrperf-7-guests", "mrperf-7-guests-0", "mrperf-7-guests-30"]
    assert eal_prefixes("mrperf-9", tmp_path / "none") == ["mrperf-9", "mrperf-9-guests"]
