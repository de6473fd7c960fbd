"""The load of `millrace perf rebalance`, and what its judge makes of the samples."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from perf import judge
from perf.rebalance import Sample, better, busy_guests, report, shares, table
from perf.verdicts import Verdict
from perf.vhostlab import eal_prefixes


def test_busy_guests_send_most_of_it_and_most_on_queue_0() -> None:
    rates = shares(8, 2, 200_000, {0, 2, 5, 7})
    assert sum(rates) == pytest.approx(200_000, abs=16)
    assert rates[:4] == [40_500, 4_500, 4_500, 500]
    assert shares(2, 1, 300, {1}) == [30, 270]


@pytest.mark.parametrize("homes", [[0, 1] * 4, [0] * 8, [1, 1, 1, 0, 0, 0, 1, 0]])
def test_three_of_four_busy_guests_are_on_one_thread(homes: list[int]) -> None:
    drawn = {busy_guests(homes, random.Random(seed)) for seed in range(20)}
    assert len(drawn) > 1
    for busy in drawn:
        assert len(busy) == 4
        cpus = [homes[guest] for guest in busy]
        assert max(cpus.count(0), cpus.count(1)) == (4 if len(set(homes)) == 1 else 3)


def test_two_guests_are_one_that_is_busy() -> None:
    assert len(busy_guests([0, 1], random.Random(1))) == 1


def samples(*rounds: dict[str, tuple[float, float]]) -> list[Sample]:
    """Loads of two threads by way, round by round."""
    return [
        Sample(way, {0: loads[0], 1: loads[1]}, 0, 100.0)
        for one in rounds
        for way, loads in one.items()
    ]


GOOD = {
    "roundrobin": (60.0, 20.0),
    "cycles": (45.0, 15.0),
    "computed": (44.0, 36.0),
    "rebalanced": (41.0, 39.0),
}


def verdicts(given: list[Sample]) -> dict[tuple[str, str], Verdict]:
    found = judge.rebalance(report(given, {}))
    return {(one.claim.partition(",")[0], one.baseline): one for one in found}


def test_rounds_are_compared_one_by_one_by_shares() -> None:
    # The same dealing, but a packet costs twice as much.
    dearer = {way: (2 * loads[0], 2 * loads[1]) for way, loads in GOOD.items()}
    given = samples(GOOD, GOOD | {"computed": dearer["computed"]})
    found = verdicts(given)
    share = found["busiest PMD thread's share of all load", "roundrobin at start"]
    assert share.samples == pytest.approx((55 / 75, 55 / 75))
    assert found["variance of PMD threads' shares", "cycles at start"].samples == pytest.approx(
        (25 / 625, 25 / 625)
    )
    assert not any(one.red for one in found.values())
    assert better(given)
    assert "66 (44..88)" in table(given)


def test_pins_that_make_it_worse_are_red_and_nothing_divides_by_zero() -> None:
    bad = {"roundrobin": (40.0, 40.0), "cycles": (40.0, 40.0), "computed": (48.0, 32.0)}
    given = samples(bad, bad)
    assert all(one.red for one in verdicts(given).values())
    assert not better(given)
    idle = dict.fromkeys(bad, (0.0, 0.0))
    assert not any(one.red for one in verdicts(samples(idle)).values())


def test_every_process_of_a_lab_is_found_by_what_it_left(tmp_path: Path) -> None:
    for left in ("mrperf-7", "mrperf-7-guests-0", "mrperf-7-guests-30", "mrperf-77-guests"):
        (tmp_path / left).mkdir()
    found = eal_prefixes("mrperf-7", tmp_path)
    assert found == ["mrperf-7", "mrperf-7-guests", "mrperf-7-guests-0", "mrperf-7-guests-30"]
    assert eal_prefixes("mrperf-9", tmp_path / "none") == ["mrperf-9", "mrperf-9-guests"]
