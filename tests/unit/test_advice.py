"""Each condition from measurements that just reach it, and none from those that just do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.model.tuning import FlowCache
from dataplane.plan.advice import (
    KINDS,
    Condition,
    GuestMeasure,
    PmdMeasure,
    PoolMeasure,
    Reports,
    conditions,
)

PMD = PmdMeasure(cpu=3, numa=0, seconds=10.0, busy=50.0, queues=2)
GUEST = GuestMeasure("vhu1", "vm-0.shop", numa=0, polled_on=frozenset({0}), queues=2)
POOL = PoolMeasure("ovs1", 0, 1000, 100)
MANY = replace(PMD, packets=1_000_000)

CASES: dict[str, tuple[Reports, Reports]] = {
    "pmd-overload": (
        Reports(pmds=(replace(PMD, busy=90.1),)),
        Reports(pmds=(replace(PMD, busy=90.0),)),
    ),
    "pmd-preempted": (
        Reports(pmds=(replace(PMD, forced_switches=7),)),
        Reports(pmds=(replace(PMD, forced_switches=6),)),
    ),
    "lost-upcalls": (Reports(pmds=(replace(PMD, lost_upcalls=1),)), Reports(pmds=(PMD,))),
    "mempool-low": (Reports(pools=(replace(POOL, available=99),)), Reports(pools=(POOL,))),
    "conntrack-full": (
        Reports(tracked=900, tracked_most=1000),
        Reports(tracked=899, tracked_most=1000),
    ),
    "conntrack-zone-full": (
        Reports(zones={7: (100, 90)}),
        Reports(zones={7: (100, 89), 8: (0, 5)}),
    ),
    "flow-cache": (
        Reports(pmds=(replace(MANY, emc_hits=400_000),)),
        Reports(pmds=(replace(MANY, emc_hits=600_000),)),
    ),
    "guest-numa": (Reports(guests=(replace(GUEST, numa=1),)), Reports(guests=(GUEST,))),
    "guest-gone": (
        Reports(guests=(replace(GUEST, gone_s=31),)),
        Reports(guests=(replace(GUEST, gone_s=29),)),
    ),
    "guest-queues": (Reports(guests=(replace(GUEST, disabled=1),)), Reports(guests=(GUEST,))),
    "qos-void": (Reports(void_shapers={"vhu1": "linux-htb"}), Reports()),
}


def test_every_kind_has_a_case() -> None:
    assert set(CASES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_holds_from_its_threshold_on(kind: str) -> None:
    holds, just_not = CASES[kind]
    (found,) = conditions(holds)
    assert found.kind == kind
    assert found.subject
    assert found.cause
    assert found.next_step
    assert conditions(just_not) == ()


def _only(reports: Reports) -> Condition:
    (found,) = conditions(reports)
    return found


def test_an_overloaded_thread_beside_an_idle_one_is_sent_to_rebalance() -> None:
    busy, idle = replace(PMD, busy=99.0), replace(PMD, cpu=4, busy=10.0)
    assert "millrace rebalance" in _only(Reports(pmds=(busy, idle))).next_step
    assert "more cores" in _only(Reports(pmds=(busy, replace(idle, busy=80.0)))).next_step


def test_a_guest_far_from_any_thread_needs_one_there() -> None:
    away = replace(GUEST, numa=1)
    assert "[dpdk] pmd" in _only(Reports(pmds=(PMD,), guests=(away,))).next_step
    both = (PMD, replace(PMD, cpu=9, numa=1))
    assert "pin" in _only(Reports(pmds=both, guests=(away,))).next_step


def test_few_packets_say_nothing_of_the_caches() -> None:
    assert conditions(Reports(pmds=(replace(PMD, packets=99_999),))) == ()


def test_an_smc_that_knows_nothing_is_not_needed() -> None:
    few = replace(MANY, emc_hits=990_000)
    assert 'flow_cache = "emc"' in _only(Reports(pmds=(few,), cache=FlowCache.SMC)).next_step
    assert conditions(Reports(pmds=(MANY,), cache=FlowCache.NONE)) == ()
