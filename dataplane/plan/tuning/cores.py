"""Which cores: one for OVS's main threads, whole cores for PMD threads on every node that has work.

A PMD thread polls without end, so its core belongs to it alone, siblings included; whatever else
would run there either starves or makes it lose packets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.model.topology import NO_NODE, Core, Topology, cpu_ranges
from dataplane.plan.tuning import sources
from dataplane.plan.tuning.outcome import PINNED, Decision, Lack, Pins, Refusal, Refused, Wants

MBPS_PER_CORE = 25_000
"""Of NIC speed that we give one physical core for."""

SHARE = 4
"""PMD threads get at most one of so many free cores of a node: the rest is for VMs and pods."""

REMOTE = 255
"""Distance of a node that the firmware gives none for: farther than all that it names."""


@dataclass(frozen=True, slots=True)
class CorePlan:
    """`serving` maps each node that has work to the node whose PMD threads do it."""

    lcore: frozenset[int]
    pmd: frozenset[int]
    serving: Mapping[int, int]
    decisions: tuple[Decision, ...] = ()
    lacks: tuple[Lack, ...] = ()


@dataclass(slots=True)
class _Notes:
    decisions: list[Decision] = field(default_factory=list)
    lacks: list[Lack] = field(default_factory=list)


def nic_nodes(topology: Topology, wants: Wants) -> dict[int, int]:
    """Nodes with wanted NICs, and the speed [Mbit/s] of all NICs there together."""
    speeds: dict[int, int] = {}
    for port in wants.ports:
        nic = topology.nic(port.device)
        node = nic.node if nic and nic.node != NO_NODE else topology.nodes[0].number
        speeds[node] = speeds.get(node, 0) + (nic.speed_mbps if nic else 0)
    return speeds


def guest_nodes(topology: Topology) -> frozenset[int]:
    """Nodes where VMs run or could: a vhost-user VM's memory is in hugepages."""
    running = {node for guest in topology.guests for node, mib in guest.memory_mib.items() if mib}
    return frozenset(running | {node.number for node in topology.nodes if node.hugepages_mib})


def plan_cores(topology: Topology, wants: Wants, pins: Pins) -> CorePlan:
    """The cores of OVS.

    Raises:
        Refused: a pin cannot be, or the machine has no core for a PMD thread.
    """
    speeds = nic_nodes(topology, wants)
    guests = guest_nodes(topology)
    working = sorted(speeds.keys() | guests) or [topology.nodes[0].number]
    notes = _Notes()
    free = _free_cores(topology)
    if pins.pmd is not None:
        # The pinned cores are not the main thread's to take, however few others there are.
        free = [core for core in free if not core.cpus & pins.pmd]
    lcore = pins.lcore if pins.lcore is not None else _lcore(topology, working, free, pins)
    _say_lcore(topology, lcore, pins, notes)
    if pins.pmd is not None:
        pmd = pins.pmd
        notes.decisions.append(Decision("pmd", cpu_ranges(pmd), "a person fixed it", PINNED))
        _check_halves(topology, pmd, notes)
    else:
        usable = [core for core in free if not core.cpus & lcore]
        pmd = _pmd(topology, wants, speeds, working, usable, lcore, notes)
    serving = _serving(topology, working, pmd)
    _say_remote(topology, serving, speeds, notes)
    _say_tiny(topology, pmd, lcore, notes)
    return CorePlan(lcore, pmd, serving, tuple(notes.decisions), tuple(notes.lacks))


def _free_cores(topology: Topology) -> list[Core]:
    """Cores that PMD threads may have whole."""
    forbidden = topology.forbidden().keys()
    return [core for core in topology.cores if not core.cpus & forbidden]


def _lcore(topology: Topology, working: list[int], free: list[Core], pins: Pins) -> frozenset[int]:
    """One housekeeping CPU: reserved for the host if there is one, never isolated if avoidable.

    A core that a node with work has to itself is taken last: PMD threads need it.
    """
    taken = topology.taken
    reserved = taken.host | (taken.kubelet or frozenset())
    pinned_away = pins.pmd or frozenset()
    left = {node: sum(core.node == node for core in free) for node in working}

    def cost(core: Core) -> tuple[bool, bool, bool, bool, int]:
        return (
            bool(core.cpus & pinned_away),
            core in free and left.get(core.node, 2) == 1,
            bool(core.cpus & topology.boot.isolated),
            not core.cpus & reserved,
            core.first,
        )

    for core in sorted(topology.cores, key=cost):
        allowed = core.cpus if taken.allowed is None else core.cpus & taken.allowed
        if cpus := allowed - taken.exclusive - pinned_away:
            return frozenset({min(cpus & reserved or cpus)})
    raise Refused(
        (
            Refusal(
                "lcore",
                "there is no CPU for OVS's main threads",
                "all are given away exclusively, pinned to PMD threads, or not in the cpuset",
                "leave one CPU to the host (reservedSystemCPUs, or the service's AllowedCPUs)",
            ),
        )
    )


def _say_lcore(topology: Topology, lcore: frozenset[int], pins: Pins, notes: _Notes) -> None:
    pinned = pins.lcore is not None
    notes.decisions.append(
        Decision(
            "lcore",
            cpu_ranges(lcore),
            "a person fixed it"
            if pinned
            else "one housekeeping CPU, never a PMD's core: reserved for the host before free, "
            "not isolated before isolated, lowest",
            PINNED if pinned else f"{sources.OVS_CONF}, dpdk-lcore-mask; {sources.NFV_GUIDE}",
        )
    )
    if not pinned and lcore & topology.boot.isolated:
        notes.lacks.append(
            Lack(
                "lcore-isolated",
                f"OVS's main threads go to CPU {cpu_ranges(lcore)}, which the kernel isolates",
                "no other CPU is free; what isolates them keeps the scheduler from spreading them",
                ("leave at least one core out of isolcpus=",),
            )
        )


def _pmd(
    topology: Topology,
    wants: Wants,
    speeds: Mapping[int, int],
    working: list[int],
    usable: list[Core],
    lcore: frozenset[int],
    notes: _Notes,
) -> frozenset[int]:
    """Whole cores on each node that has work and free cores; else on the nearest one."""
    if not usable:
        whys = sorted(set(topology.forbidden().values()))
        raise Refused(
            (
                Refusal(
                    "pmd",
                    f"no core is left for a PMD thread: the machine has {len(topology.cores)} "
                    f"physical cores online, and OVS's main threads are on CPU {cpu_ranges(lcore)}",
                    "a PMD thread never shares its core, siblings included"
                    + (f"; of other cores: {'; '.join(whys)}" if whys else ""),
                    "give back a whole core, or use a machine with two physical cores or more",
                ),
            )
        )
    chosen: set[int] = set()
    for node in working:
        here = [core for core in usable if core.node == node]
        if not here:
            here = [core for core in usable if core.node == _nearest(topology, node, usable)]
            if chosen & frozenset().union(*(core.cpus for core in here)):
                continue
        count, rule, source = _count(node, speeds, wants, len(here))
        ordered = sorted(here, key=lambda core: _preference(topology, core, lcore))
        cpus = frozenset().union(*(core.cpus for core in ordered[:count]))
        chosen |= cpus
        notes.decisions.append(Decision(f"pmd[node {node}]", cpu_ranges(cpus), rule, source))
    isolated_first = "isolated cores first, then away from the main thread's cache, then lowest"
    notes.decisions.append(
        Decision(
            "pmd",
            cpu_ranges(chosen),
            "whole physical cores; on every node with NICs or VMs; never reserved; "
            + isolated_first,
            f"{sources.OVS_PMD}; {sources.NFV_GUIDE}",
        )
    )
    return frozenset(chosen)


def _count(node: int, speeds: Mapping[int, int], wants: Wants, free: int) -> tuple[int, str, str]:
    """How many cores PMD threads get on a node, by which rule and whose."""
    most = max(1, free // SHARE)
    if node not in speeds:
        return 1, "one core: VMs run here or can, no NIC does", sources.NFV_GUIDE
    if wants.pmd_cores is not None:
        return (
            min(wants.pmd_cores, free),
            f"{wants.pmd_cores} cores as the node's file says",
            PINNED,
        )
    count = max(1, -(-speeds[node] // MBPS_PER_CORE))
    rule = (
        f"one core for each {MBPS_PER_CORE // 1000} Gbit/s of {speeds[node] / 1000:g} Gbit/s, at "
        f"least one, at most one of {SHARE} free cores ({free} here)"
    )
    return min(count, most), rule, f"{sources.OURS}; whole cores by need: {sources.NFV_GUIDE}"


def _preference(
    topology: Topology, core: Core, lcore: frozenset[int]
) -> tuple[bool, bool, int, int]:
    main = [topology.core_of(cpu) for cpu in sorted(lcore)]
    near = any(other and other.cache == core.cache for other in main)
    return not core.cpus <= topology.boot.isolated, near, core.cache, core.first


def _nearest(topology: Topology, node: int, cores: list[Core]) -> int:
    """The node of `cores` that is nearest to `node`."""
    home = topology.node(node)
    distances = home.distances if home else {}
    return min({c.node for c in cores}, key=lambda n: (distances.get(n, REMOTE), n))


def _serving(topology: Topology, working: list[int], pmd: frozenset[int]) -> dict[int, int]:
    cores = [core for core in topology.cores if core.cpus & pmd]
    homes = {core.node for core in cores}
    return {node: node if node in homes else _nearest(topology, node, cores) for node in working}


def _check_halves(topology: Topology, pmd: frozenset[int], notes: _Notes) -> None:
    for core in topology.cores:
        if core.cpus & pmd and not core.cpus <= pmd:
            notes.lacks.append(
                Lack(
                    f"half-core-{core.first}",
                    f"the pinned PMD CPUs have half of core {cpu_ranges(core.cpus)}",
                    "whatever runs on the other half takes turns with the PMD thread",
                    (f"pin {cpu_ranges(pmd | core.cpus)}",),
                )
            )


def _say_remote(
    topology: Topology, serving: Mapping[int, int], speeds: Mapping[int, int], notes: _Notes
) -> None:
    for node, home in serving.items():
        if node == home:
            continue
        has_cores = bool(topology.cores_on(node))
        users = "NICs" if node in speeds else "VMs"
        notes.lacks.append(
            Lack(
                f"no-pmd-on-node-{node}",
                f"node {node} has {users} and no PMD thread; node {home} serves them",
                "all of its cores are taken" if has_cores else "it has no core that is online",
                (
                    f"free one whole core of node {node} ({cpu_ranges(_cpus(topology, node))})"
                    if has_cores
                    else f"move them to node {home}, or enable the node's cores in the firmware",
                ),
            )
        )


def _cpus(topology: Topology, node: int) -> frozenset[int]:
    return frozenset().union(*(core.cpus for core in topology.cores_on(node)))


def _say_tiny(
    topology: Topology, pmd: frozenset[int], lcore: frozenset[int], notes: _Notes
) -> None:
    rest = [core for core in topology.cores if not core.cpus & pmd]
    if all(core.cpus & lcore for core in rest):
        notes.lacks.append(
            Lack(
                "tiny",
                f"{len(topology.cores)} cores: besides PMD threads only "
                f"{cpu_ranges(frozenset().union(*(core.cpus for core in rest)) or lcore)} is left",
                "the kernel, the daemons, pods and VMs share it with OVS's main thread, so "
                "upcalls and forwarding rates vary with their load",
                ("for more than trials: a machine with four physical cores or more",),
            )
        )
