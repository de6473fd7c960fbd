"""Machines for the tuning plan's tests, and the laws that a plan on any machine keeps."""

from __future__ import annotations

from pathlib import Path

from dataplane.model.topology import NO_NODE, Topology
from dataplane.model.topologyjson import topology_from_json
from dataplane.plan.tuning.cores import guest_nodes, nic_nodes
from dataplane.plan.tuning.outcome import TuningPlan, Wants

FILES = sorted((Path(__file__).parents[1] / "data" / "topologies").glob("*.json"))


def load(name: str) -> Topology:
    """A machine of tests/data/topologies."""
    path = FILES[0].with_name(f"{name}.json")
    return topology_from_json(path.read_text(encoding="utf-8"), str(path))


def broken_laws(topology: Topology, wants: Wants, plan: TuningPlan) -> list[str]:
    """What the plan does that none may do, in words; pins are not looked at."""
    tuning = plan.tuning
    names = {lack.name for lack in plan.warnings}
    broken = []
    if not tuning.pmd or not tuning.lcore:
        broken.append("no core at all")
    if taken := tuning.pmd & topology.forbidden().keys():
        broken.append(f"PMD threads on reserved CPUs {taken}")
    if tuning.pmd & tuning.lcore:
        broken.append("the main thread shares a CPU with a PMD thread")
    for core in topology.cores:
        if core.cpus & tuning.pmd and not core.cpus <= tuning.pmd:
            broken.append(f"half of core {core}")
    homes = {core.node for core in topology.cores if core.cpus & tuning.pmd}
    for node in nic_nodes(topology, wants).keys() | guest_nodes(topology):
        if node not in homes and f"no-pmd-on-node-{node}" not in names:
            broken.append(f"no PMD thread on node {node}, and nothing says so")
    for port in wants.ports:
        tuned = tuning.ports[port.name]
        if sorted(tuned.affinity) != list(range(tuned.rx_queues)) or not tuned.rx_queues:
            broken.append(f"queues of {port.name} are not each served once: {tuned}")
        if set(tuned.affinity.values()) - tuning.pmd:
            broken.append(f"{port.name} is served by a CPU without a PMD thread")
        nic = topology.nic(port.device)
        assert nic is not None
        if tuned.rx_queues > nic.max_queues:
            broken.append(f"{port.name} has more queues than {nic.name}")
        if nic.node != NO_NODE and nic.node in homes:
            here = frozenset().union(*(core.cpus for core in topology.cores_on(nic.node)))
            if set(tuned.affinity.values()) - here:
                broken.append(f"{port.name} is served from another node than its own")
    for number, mib in tuning.socket_mem_mib.items():
        home = topology.node(number)
        if home is None or mib > home.hugepages_mib:
            broken.append(f"{mib} MiB on node {number}, which has not so much")
        sizes = [size for size, pool in home.hugepages.items() if pool.total] if home else []
        if mib and sizes and mib * 1024 % min(sizes):
            broken.append(f"{mib} MiB on node {number} are no whole pages of {min(sizes)} KiB")
        if not mib and f"memory-on-node-{number}" not in names:
            broken.append(f"no memory on node {number}, and nothing says so")
    for key in ("lcore", "pmd", "mempools", "flow_cache", "pmd_sleep_us", "handlers"):
        if key not in {one.key for one in plan.decisions}:
            broken.append(f"{key} has no rule")
    if any(not one.rule or not one.source for one in plan.decisions):
        broken.append("a decision without rule or source")
    return broken
