"""The rate search on a device whose rate is known."""

from __future__ import annotations

import pytest

from perf.harness import search
from perf.harness.generator import HarnessError, Traffic
from perf.harness.search import NDR, PDR
from perf.harness.simulated import SimulatedDevice

KNOWN = 1_234_567.0
SEEDS = 100


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_both_rates_are_found_within_the_width(noise: float) -> None:
    """At least 95 of 100 seeds, as the issue asks."""
    right = {NDR.name: 0, PDR.name: 0}
    for seed in range(SEEDS):
        device = SimulatedDevice(KNOWN, noise, seed)
        for found in search.search(device, Traffic(), 10_000, 10_000_000):
            goal = NDR if found.goal == NDR.name else PDR
            true = KNOWN / (1 - goal.loss_ratio)
            assert found.lower is not None
            right[goal.name] += abs(found.lower - true) <= goal.width * true
    assert min(right.values()) >= 95, right


def test_a_floor_of_loss_leaves_no_zero_loss_rate_but_a_partial_one() -> None:
    device = SimulatedDevice(KNOWN, 0.002, 1, floor=0.001)
    ndr, pdr = search.search(device, Traffic(), 10_000, 10_000_000)
    assert ndr.lower is None
    assert pdr.lower == pytest.approx(KNOWN / 0.996, rel=0.01)


def test_nonsense_is_refused() -> None:
    device = SimulatedDevice(KNOWN, 0, 1)
    with pytest.raises(HarnessError, match="0 < least < most"):
        search.search(device, Traffic(), 5, 5)
    for bad in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(HarnessError, match="more than 0"):
            Traffic(rate_pps=bad)
    with pytest.raises(HarnessError, match="20000 octets"):
        Traffic(sizes=((20_000, 1),))
    with pytest.raises(HarnessError, match="flows"):
        Traffic(flows=0)
