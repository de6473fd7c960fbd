"""The whole plan: a pure function of the topology, of what the node is for, and of pins.

The same input gives the same plan, whatever was planned before; what a running VM changes is only
that its node counts as one with VMs, which every node with hugepages does already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from dataplane.model.machine import HugepagePool
from dataplane.model.topology import NicPort, NumaNode, Topology
from dataplane.model.tuning import Tuning
from dataplane.plan.tuning import sources
from dataplane.plan.tuning.caches import plan_threads
from dataplane.plan.tuning.cores import plan_cores
from dataplane.plan.tuning.lacks import host_lacks
from dataplane.plan.tuning.memory import plan_memory
from dataplane.plan.tuning.outcome import (
    PINNED,
    Access,
    Decision,
    Pins,
    Refused,
    TuningPlan,
    WantedPort,
    Wants,
)
from dataplane.plan.tuning.pins import check_pins, check_ports
from dataplane.plan.tuning.queues import check_shares, plan_queues

BIFURCATED_DRIVERS = frozenset({"mlx4_core", "mlx5_core", "mana"})
"""Drivers that stay bound while DPDK uses the NIC (DPDK, NIC drivers)."""


def tuning(topology: Topology, wants: Wants, pins: Pins) -> TuningPlan:
    """What OVS-DPDK on this machine should be told, why, and what the machine lacks.

    Raises:
        Refused: a pin cannot work, or no core is left for a PMD thread.
    """
    topology = _with_pages(topology, wants.hugepages)
    if refusals := [*check_pins(topology, wants, pins), *check_shares(topology, wants.ports)]:
        raise Refused(tuple(refusals))
    cores = plan_cores(topology, wants, pins)
    if refusals := check_ports(topology, wants, pins.ports, cores.pmd):
        raise Refused(tuple(refusals))
    queues = plan_queues(topology, wants.ports, cores, pins.ports)
    memory = plan_memory(topology, wants, pins, cores, queues.ports)
    threads = plan_threads(topology, wants, cores)
    eal = _eal(topology, wants)
    decisions = [*cores.decisions, *memory.decisions, *queues.decisions, *threads.decisions]
    decisions.append(
        Decision(
            "eal",
            " ".join(eal),
            "DPDK looks at these NICs only"
            if wants.ports and eal[0] == "-a"
            else "no NIC is DPDK's own, and it must not look at the machine's others",
            f"{sources.DPDK_EAL}",
        )
    )
    limits = {node: mib for node, mib in memory.socket_mem_mib.items() if mib}
    decisions.append(
        Decision(
            "socket_limit_mib",
            ", ".join(f"{node}: {mib}" for node, mib in sorted(limits.items())) or "none",
            "as much as socket_mem_mib: what is left belongs to VMs",
            f"{sources.OVS_CONF}, dpdk-socket-limit",
        )
    )
    computed = Tuning(
        lcore=cores.lcore,
        pmd=cores.pmd,
        socket_mem_mib=memory.socket_mem_mib,
        socket_limit_mib=limits,
        hugepage_dir=memory.hugepage_dir,
        eal=eal,
        mempools=memory.mempools,
        mempool_mtus=memory.mempool_mtus,
        flow_cache=threads.flow_cache,
        emc_insert_inverse=threads.emc_insert_inverse,
        pmd_sleep_us=threads.pmd_sleep_us,
        rxq_assign=threads.rxq_assign,
        rxq_isolate=threads.rxq_isolate,
        auto_lb=threads.auto_lb,
        auto_lb_load_percent=threads.auto_lb_load_percent,
        handlers=threads.handlers,
        revalidators=threads.revalidators,
        ports=queues.ports,
    )
    lacks = host_lacks(topology, wants, cores, queues.ports, memory.socket_mem_mib)
    return TuningPlan(
        tuning=_with_settings(computed, pins.settings),
        decisions=tuple(_with_pins(decisions, pins.settings)),
        warnings=(*cores.lacks, *memory.lacks, *lacks),
        pinned=_pinned(pins),
    )


def every_nic(topology: Topology) -> Wants:
    """What a node is for when nobody says it: all NICs but the one with the default route."""
    ports = [
        WantedPort(nic.name, nic.device or nic.address, _access(nic))
        for nic in topology.nics
        if not nic.has_default_route and nic.address
    ]
    return Wants(ports=tuple(ports))


def _access(nic: NicPort) -> Access:
    return Access.BIFURCATED if nic.driver in BIFURCATED_DRIVERS else Access.VFIO


def _eal(topology: Topology, wants: Wants) -> tuple[str, ...]:
    words: list[str] = []
    for port in wants.ports:
        nic = topology.nic(port.device)
        if port.access is not Access.AF_XDP and nic and nic.address and nic.address not in words:
            words += ["-a", nic.address]
    return tuple(words) or ("--no-pci",)


def _with_pages(topology: Topology, pages: tuple[int, int] | None) -> Topology:
    """The machine with the pages that the node's own file makes.

    On one NUMA node these and no others count, so that a plan from before they are made, and one
    beside other nodes on the machine, is the same plan. On several, what is missing is spread over
    them, as the kernel does it.
    """
    if pages is None:
        return topology
    size_kib, count = pages
    there = [node for node in topology.nodes if node.memory_mib] or list(topology.nodes)
    if len(there) == 1:
        only = replace(there[0], hugepages={size_kib: HugepagePool(count, count)})
        return _with_nodes(topology, {only.number: only})
    missing = count - sum(
        node.hugepages[size_kib].total for node in there if size_kib in node.hugepages
    )
    each, more = divmod(max(0, missing), len(there))
    grown = {}
    for index, node in enumerate(there):
        pool = node.hugepages.get(size_kib, HugepagePool(0, 0))
        new = each + (index < more)
        pools = {**node.hugepages, size_kib: HugepagePool(pool.total + new, pool.free + new)}
        grown[node.number] = replace(node, hugepages=pools)
    return _with_nodes(topology, grown)


def _with_nodes(topology: Topology, changed: Mapping[int, NumaNode]) -> Topology:
    return replace(topology, nodes=tuple(changed.get(node.number, node) for node in topology.nodes))


def _with_settings(computed: Tuning, settings: Mapping[str, object]) -> Tuning:
    values = {one.name: getattr(computed, one.name) for one in fields(computed)}
    return Tuning(**{**values, **settings})


def _with_pins(decisions: list[Decision], settings: Mapping[str, object]) -> list[Decision]:
    """The decisions, those that a person made in their place."""
    pinned = {
        key: Decision(key, _shown(value), "a person fixed it", PINNED)
        for key, value in sorted(settings.items())
    }
    kept = [pinned.pop(one.key, one) for one in decisions]
    return [*kept, *pinned.values()]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(getattr(value, "value", value))


def _pinned(pins: Pins) -> frozenset[str]:
    keys = {key for key in ("lcore", "pmd", "socket_mem_mib") if getattr(pins, key) is not None}
    return frozenset(keys | pins.settings.keys() | {f"ports.{name}" for name in pins.ports})
