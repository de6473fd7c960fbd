"""Hugepage memory of OVS on each node, and how packet buffers are pooled.

Sizes follow what OVS allocates: a pool holds 262,144 buffers for each MTU class and node when it is
shared, or what the port's queues can hold when each port has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.model.topology import NO_NODE, NumaNode, Topology
from dataplane.model.tuning import Mempools, PortTuning
from dataplane.plan.tuning import sources
from dataplane.plan.tuning.cores import CorePlan
from dataplane.plan.tuning.outcome import PINNED, Decision, Lack, Pins, WantedPort, Wants

FRAME_OVERHEAD = 26
"""Ethernet header, checksum and two VLAN tags around the MTU."""

BUFFER_ALIGN = 1024
BUFFER_OVERHEAD = 960
"""Headroom (128), struct dp_packet and the pool's own header, as OVS's documentation sums up."""

SHARED_BUFFERS = 262_144
PORT_BUFFERS = 16_384
QUEUE_CACHE = 512
DESCRIPTORS = 2048

OTHER_MIB = 512
"""Beside the pools, where memory is plenty: rings, vhost, hash tables (the NFV guide's buffer)."""

OTHER_SMALL_MIB = 128
PAGES_SHARE = 0.75
"""Of a node's memory in hugepages, at most: kernel and processes live in the rest (ours)."""

LEAST_MIB = 64
"""Below this, EAL and one port do not start."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """By node; a node without an entry has no pages for OVS."""

    socket_mem_mib: Mapping[int, int]
    mempools: Mempools
    mempool_mtus: tuple[int, ...]
    hugepage_dir: str
    decisions: tuple[Decision, ...]
    lacks: tuple[Lack, ...]


@dataclass(slots=True)
class _Need:
    """What one node needs, and what it has, at all and beside running VMs [MiB]."""

    shared: int
    per_port: int
    total: int
    budget: int
    page_mib: int
    rules: list[str] = field(default_factory=list)


def buffer_bytes(mtu: int) -> int:
    """Bytes of one packet buffer: 3008 at MTU 1500, 10176 at 9000."""
    aligned = -(-(mtu + FRAME_OVERHEAD) // BUFFER_ALIGN) * BUFFER_ALIGN
    return aligned + BUFFER_OVERHEAD


def mtu_classes(mtus: Iterable[int]) -> tuple[int, ...]:
    """The greatest MTU of each class of MTUs that share a buffer size."""
    greatest: dict[int, int] = {}
    for mtu in mtus:
        size = buffer_bytes(mtu)
        greatest[size] = max(greatest.get(size, 0), mtu)
    return tuple(greatest[size] for size in sorted(greatest))


def plan_memory(
    topology: Topology,
    wants: Wants,
    pins: Pins,
    cores: CorePlan,
    ports: Mapping[str, PortTuning],
) -> MemoryPlan:
    """Memory of all nodes that have work, within the hugepages that they have."""
    decisions: list[Decision] = []
    lacks: list[Lack] = []
    mtus = _mtus_by_node(topology, wants, cores)
    every = mtu_classes(mtu for some in mtus.values() for mtu in some)
    needs = {node: _need(topology, wants, node, every[-1], cores, ports) for node in sorted(mtus)}
    pooled = _pools(needs)
    one_class = pooled is Mempools.SHARED and len(every) > 1
    chosen = pins.settings.get("mempools", pooled)
    mempools = chosen if isinstance(chosen, Mempools) else pooled
    decisions.append(
        Decision(
            "mempools",
            mempools.value,
            "a person fixed it"
            if "mempools" in pins.settings
            else "shared where twice the shared pools fit every node's hugepages, so that half is "
            "left to VMs; per-port where they do not",
            PINNED
            if "mempools" in pins.settings
            else f"{sources.OVS_MEMORY}; half: {sources.OURS}",
        )
    )
    greatest = (max(every),) if one_class else ()
    decisions.append(
        Decision(
            "mempool_mtus",
            str(greatest[0]) if greatest else "none",
            f"MTU classes: {', '.join(map(str, every))}; ports of several classes share the pool "
            "of the greatest instead of one pool each"
            if greatest
            else "one class of MTUs needs no list",
            f"{sources.OVS_MEMORY} (shared-mempool-config)",
        )
    )
    memory: dict[int, int] = {}
    for number, need in needs.items():
        memory[number] = _fit(number, need, mempools, topology, decisions, lacks)
    if pins.socket_mem_mib is not None:
        memory = dict(pins.socket_mem_mib)
        for number, mib in sorted(memory.items()):
            decisions.append(
                Decision(f"socket_mem_mib[{number}]", str(mib), "a person fixed it", PINNED)
            )
    hugepage_dir = _mount(topology, decisions)
    return MemoryPlan(memory, mempools, greatest, hugepage_dir, tuple(decisions), tuple(lacks))


def _mtus_by_node(topology: Topology, wants: Wants, cores: CorePlan) -> dict[int, set[int]]:
    """The MTUs of NICs and VMs on each node that has work, by where their buffers are."""
    mtus: dict[int, set[int]] = {node: set() for node in cores.serving}
    for port in wants.ports:
        nic = topology.nic(port.device)
        node = nic.node if nic and nic.node != NO_NODE else topology.nodes[0].number
        mtus.setdefault(node, set()).add(port.mtu or (nic.mtu if nic else 1500))
    for node in mtus:
        mtus[node] |= set(wants.guest_mtus) or {1500}
    return mtus


def _need(
    topology: Topology,
    wants: Wants,
    number: int,
    mtu: int,
    cores: CorePlan,
    ports: Mapping[str, PortTuning],
) -> _Need:
    # Ports of several classes share the pool of the greatest, `mtu`, on every node (mempool_mtus).
    shared = SHARED_BUFFERS * buffer_bytes(mtu)
    threads = len(cores.pmd)
    bytes_of_ports = 0
    count = 0
    for port in wants.ports:
        nic = topology.nic(port.device)
        home = nic.node if nic and nic.node != NO_NODE else topology.nodes[0].number
        if home == number:
            tuned = ports.get(port.name, PortTuning(1))
            bytes_of_ports += _port_bytes(
                port, nic.mtu if nic else 1500, tuned, transmit_queues=threads + 1
            )
            count += 1
    running = [p for guest in topology.guests if guest.memory_mib.get(number) for p in guest.ports]
    guests = [port.queues for port in running] + [1] * max(0, wants.guest_ports - len(running))
    guest_mtu = max(wants.guest_mtus, default=1500)
    for queues in guests:
        buffers = 2 * queues * DESCRIPTORS + queues * QUEUE_CACHE + PORT_BUFFERS
        bytes_of_ports += buffers * buffer_bytes(guest_mtu)
    node = topology.node(number)
    held = sum(guest.memory_mib.get(number, 0) for guest in topology.guests)
    total = node.hugepages_mib if node else 0
    need = _Need(
        shared=OTHER_MIB + _mib(shared),
        per_port=OTHER_SMALL_MIB + _mib(bytes_of_ports),
        total=total,
        budget=max(0, total - held),
        page_mib=_page_mib(node),
    )
    need.rules = [
        f"{SHARED_BUFFERS} buffers of {buffer_bytes(mtu)} bytes (MTU {mtu}) + {OTHER_MIB} MiB",
        f"{count} NICs and {len(guests)} vhost-user ports with buffers for their own queues + "
        f"{OTHER_SMALL_MIB} MiB",
    ]
    return need


def _port_bytes(port: WantedPort, mtu: int, tuned: PortTuning, *, transmit_queues: int) -> int:
    buffers = (
        tuned.rx_queues * (tuned.descriptors_rx or DESCRIPTORS)
        + transmit_queues * (tuned.descriptors_tx or DESCRIPTORS)
        + tuned.rx_queues * QUEUE_CACHE
        + PORT_BUFFERS
    )
    return buffers * buffer_bytes(port.mtu or mtu)


def _mib(count: int) -> int:
    return -(-count // (1 << 20))


def _page_mib(node: NumaNode | None) -> int:
    """The smallest page that the node has, in MiB: memory comes in whole ones."""
    sizes = [size for size, pool in node.hugepages.items() if pool.total] if node else []
    return max(1, min(sizes, default=2048) // 1024)


def _pools(needs: Mapping[int, _Need]) -> Mempools:
    """One class for the whole of vswitchd, so the poorest node that has pages decides.

    VMs that happen to run do not: a class that came and went with them would want restarts.
    """
    rich = [need for need in needs.values() if need.total]
    fits = all(2 * _up(need.shared, need.page_mib) <= need.total for need in rich)
    return Mempools.SHARED if fits else Mempools.PER_PORT


def _up(mib: int, page_mib: int) -> int:
    return -(-mib // page_mib) * page_mib


def _fit(
    number: int,
    need: _Need,
    mempools: Mempools,
    topology: Topology,
    decisions: list[Decision],
    lacks: list[Lack],
) -> int:
    """What the node gives OVS; says what is short."""
    is_shared = mempools is Mempools.SHARED
    wanted = _up(need.shared if is_shared else need.per_port, need.page_mib)
    most = need.budget // need.page_mib * need.page_mib
    given = min(wanted, most)
    if given < LEAST_MIB:
        given = 0
    rule = need.rules[0 if is_shared else 1] + f", in whole pages of {need.page_mib} MiB"
    if given < wanted:
        rule += f"; that is {wanted} MiB, and the node has {most} MiB for it"
        others = [
            f"node {node.number} has {node.hugepages_mib} MiB"
            for node in topology.nodes
            if node.number != number and node.hugepages_mib
        ]
        why = (
            "OVS halves its pools until they fit and drops packets in bursts"
            if given
            else "no DPDK port whose memory is there can be made"
        )
        lacks.append(
            Lack(
                f"memory-on-node-{number}",
                f"node {number} has {most} MiB of hugepages for OVS, {wanted} MiB are needed",
                why if given or not others else f"{why}; {', '.join(others)}, which is not local",
                _pages_fix(topology, number, wanted, wanted - most),
                grave=not given,
            )
        )
    decisions.append(
        Decision(
            f"socket_mem_mib[{number}]",
            str(given),
            rule,
            f"{sources.OVS_MEMORY}; {sources.OVS_MBUFS}; {OTHER_MIB} MiB: {sources.NFV_GUIDE}",
        )
    )
    return given


def _pages_fix(topology: Topology, number: int, wanted_mib: int, short_mib: int) -> tuple[str, ...]:
    """How to give a node more pages now and at boot: as much again for VMs, where it has that."""
    size_kib = (
        2048 if 2048 in topology.page_sizes_kib else min(topology.page_sizes_kib, default=2048)
    )
    node = topology.node(number)
    pool = node.hugepages.get(size_kib) if node else None
    least = (pool.total if pool else 0) + -(-short_mib * 1024 // size_kib)
    memory_kib = node.memory_mib * 1024 if node else 0
    if least * size_kib > PAGES_SHARE * memory_kib:
        return (
            f"node {number} has {memory_kib // 1024} MiB in all, too little for this: another "
            "machine, or fewer VMs' ports than the plan reckons with",
        )
    ample = least + -(-wanted_mib * 1024 // size_kib)
    count = ample if 2 * ample * size_kib <= memory_kib else least
    return (
        f"now: echo {count} > /sys/devices/system/node/node{number}/hugepages/"
        f"hugepages-{size_kib}kB/nr_hugepages"
        + ("  # as much again for VMs" if count == ample else ""),
        f"at boot: hugepagesz={_size(size_kib)} hugepages={number}:{count}",
    )


def _size(size_kib: int) -> str:
    return f"{size_kib >> 20}G" if size_kib >= 1 << 20 else f"{size_kib >> 10}M"


def _mount(topology: Topology, decisions: list[Decision]) -> str:
    """The hugetlbfs to use: of the size that has pages, where there are mounts of several sizes."""
    sizes = {size for node in topology.nodes for size, pool in node.hugepages.items() if pool.total}
    fitting = sorted(path for path, size in topology.mounts.items() if size in sizes)
    chosen = fitting[0] if len(topology.mounts) > 1 and len(fitting) == 1 else ""
    decisions.append(
        Decision(
            "hugepage_dir",
            chosen or "EAL's own choice",
            "the only mount whose page size has pages"
            if chosen
            else "EAL takes every hugetlbfs whose page size has pages",
            f"{sources.OVS_CONF}, dpdk-hugepage-dir; {sources.DPDK_EAL}",
        )
    )
    return chosen
