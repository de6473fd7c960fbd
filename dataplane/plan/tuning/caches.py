"""Flow caches, sleep, and how vswitchd's other threads and its own balancing are set."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.model.topology import Topology
from dataplane.model.tuning import FlowCache, RxqAssign
from dataplane.plan.tuning import sources
from dataplane.plan.tuning.cores import CorePlan
from dataplane.plan.tuning.outcome import Decision, Wants

EMC_ENTRIES = 8192
"""Flows that a PMD thread's exact-match cache holds."""

SLEEP_US = 100
LOAD_PERCENT = 80
MANY_CPUS = 12
HANDLERS = 10
REVALIDATORS = 4


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Values of the fields of that name in `Tuning`."""

    flow_cache: FlowCache
    emc_insert_inverse: int | None
    pmd_sleep_us: int
    rxq_assign: RxqAssign
    rxq_isolate: bool
    auto_lb: bool
    auto_lb_load_percent: int | None
    handlers: int | None
    revalidators: int | None
    decisions: tuple[Decision, ...]


def plan_threads(topology: Topology, wants: Wants, cores: CorePlan) -> ThreadPlan:
    """Everything that depends on threads and flows only."""
    decisions: list[Decision] = []

    def say(key: str, value: object, rule: str, source: str) -> None:
        shown = "OVS's default" if value is None else str(value).lower()
        decisions.append(Decision(key, shown, rule, source))

    has_many_flows = wants.flows is not None and wants.flows > EMC_ENTRIES
    cache = FlowCache.SMC if has_many_flows else FlowCache.EMC
    say(
        "flow_cache",
        cache.value,
        f"{wants.flows} flows for each PMD thread are expected, its EMC holds {EMC_ENTRIES}: the "
        "signature cache (a million) instead"
        if has_many_flows
        else f"EMC up to {EMC_ENTRIES} flows for each PMD thread"
        + (" (no number is given)" if wants.flows is None else f" ({wants.flows} are expected)"),
        sources.OVS_BRIDGE,
    )
    say("emc_insert_inverse", None, "one packet of 100 is inserted", sources.OVS_CONF)

    sleep, rule = _sleep(topology, wants, cores)
    say("pmd_sleep_us", sleep, rule, f"{sources.OVS_PMD} (sleep); when: {sources.OURS}")

    say(
        "rxq_assign",
        RxqAssign.GROUP.value,
        "unpinned queues (VMs) go to the thread that has least to do, however many it has",
        sources.OVS_PMD,
    )
    say(
        "rxq_isolate",
        False,
        "NIC queues are pinned, and their threads must serve VMs' queues, too; needs group",
        f"{sources.OVS_CONF}, pmd-rxq-isolate",
    )
    threads = len(cores.pmd)
    balances = threads > 1
    say(
        "auto_lb",
        balances,
        "VMs come and go, and there are two PMD threads or more to balance between"
        if balances
        else "one PMD thread: nothing to balance",
        f"{sources.OVS_PMD} (automatic load balancing)",
    )
    load = LOAD_PERCENT if balances else None
    say(
        "auto_lb_load_percent",
        load,
        "before a thread is full (OVS: 95): at 95 percent bursts are lost already",
        f"{sources.OVS_CONF}; value: {sources.OURS}",
    )
    is_large = len(topology.cpus) > MANY_CPUS
    for key, value in (("handlers", HANDLERS), ("revalidators", REVALIDATORS)):
        say(
            key,
            value if is_large else None,
            f"more than {MANY_CPUS} CPUs: OVS's default grows with them to no use"
            if is_large
            else f"up to {MANY_CPUS} CPUs: by OVS from the CPUs that it may use",
            sources.RHBZ_1571379,
        )
    return ThreadPlan(
        flow_cache=cache,
        emc_insert_inverse=None,
        pmd_sleep_us=sleep,
        rxq_assign=RxqAssign.GROUP,
        rxq_isolate=False,
        auto_lb=balances,
        auto_lb_load_percent=load,
        handlers=HANDLERS if is_large else None,
        revalidators=REVALIDATORS if is_large else None,
        decisions=tuple(decisions),
    )


def _sleep(topology: Topology, wants: Wants, cores: CorePlan) -> tuple[int, str]:
    if wants.saves_power:
        return SLEEP_US, "the node's file asks to save power"
    rest = [core for core in topology.cores if not core.cpus & cores.pmd]
    if len(rest) <= 1 and not cores.pmd <= topology.boot.isolated:
        return SLEEP_US, "a tiny machine: an idle PMD thread gives its core to whatever else waits"
    return 0, "PMD threads have cores of their own, so they poll: a sleep costs latency"
