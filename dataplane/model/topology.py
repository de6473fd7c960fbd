"""One machine as the tuning plan sees it: cores, NUMA nodes, hugepages, NICs, who uses which CPU.

CPU numbers are the kernel's; sizes carry their unit in the name. `dataplane.drivers.topology` reads
a machine, `dataplane.model.topologyjson` writes and reads the file of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dataplane.model.machine import HugepagePool

NO_NODE = -1
"""A NIC's NUMA node where the firmware names none (sysfs-bus-pci, numa_node)."""


class OriginKind(StrEnum):
    """Where a topology comes from."""

    RECORDED = "recorded"
    CONSTRUCTED = "constructed"


@dataclass(frozen=True, slots=True)
class Origin:
    """`source`: the machine, or the public page or file; for a constructed one, what it shows."""

    kind: OriginKind
    source: str


@dataclass(frozen=True, slots=True)
class Core:
    """A physical core: its online CPUs, which are siblings of each other (thread_siblings_list).

    `cache` numbers the group of cores that share the last-level cache, machine-wide.
    """

    cpus: frozenset[int]
    node: int
    package: int = 0
    cache: int = 0

    @property
    def first(self) -> int:
        """The lowest CPU, by which the core is named."""
        return min(self.cpus)


@dataclass(frozen=True, slots=True)
class NumaNode:
    """`hugepages` by page size in KiB. `distances` to other nodes; 10 is local (ACPI SLIT)."""

    number: int
    memory_mib: int
    hugepages: Mapping[int, HugepagePool] = field(default_factory=dict)
    distances: Mapping[int, int] = field(default_factory=dict)

    @property
    def hugepages_mib(self) -> int:
        """Memory in hugepages of all sizes, free or not."""
        return sum(size * pool.total for size, pool in self.hugepages.items()) // 1024


@dataclass(frozen=True, slots=True)
class NicPort:
    """One port of a NIC.

    `device`: the netdev's name, "" where a driver such as vfio-pci leaves none. `node` is NO_NODE
    where it is unknown. `speed_mbps` is 0 where there is no link.
    """

    address: str
    device: str
    driver: str
    node: int
    max_queues: int = 1
    speed_mbps: int = 0
    mtu: int = 1500
    has_default_route: bool = False

    @property
    def name(self) -> str:
        """What people call it: the netdev's name, else the PCI address."""
        return self.device or self.address


@dataclass(frozen=True, slots=True)
class GuestPort:
    """A vhost-user port of a running VM, with its queue pairs."""

    name: str
    queues: int = 1


@dataclass(frozen=True, slots=True)
class Guest:
    """A running VM: the nodes of its memory and what it holds there in hugepages."""

    name: str
    memory_mib: Mapping[int, int]
    ports: tuple[GuestPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """CPUs that somebody has already.

    `host`: kept for the host's own processes by its operator. `kubelet`: reservedSystemCPUs.
    `exclusive`: given away one by one (kubelet's static CPU manager, pinned vCPUs). `allowed`:
    the CPUs that vswitchd's cpuset lets it have; None: all.
    """

    host: frozenset[int] = frozenset()
    kubelet: frozenset[int] | None = None
    exclusive: frozenset[int] = frozenset()
    allowed: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """What the kernel was started with. `iommu_groups`: how many there are; 0: no IOMMU in use."""

    arguments: tuple[str, ...] = ()
    isolated: frozenset[int] = frozenset()
    nohz_full: frozenset[int] = frozenset()
    rcu_nocbs: frozenset[int] = frozenset()
    iommu_groups: int = 0


@dataclass(frozen=True, slots=True)
class Topology:
    """The machine. Nodes, cores and NICs are in the order of their numbers and addresses.

    `page_sizes_kib`: hugepage sizes that the kernel has, with or without pages. `mounts`: each
    hugetlbfs with its page size in KiB.
    """

    origin: Origin
    arch: str
    vendor: str
    model: str
    nodes: tuple[NumaNode, ...]
    cores: tuple[Core, ...]
    offline: frozenset[int] = frozenset()
    nics: tuple[NicPort, ...] = ()
    guests: tuple[Guest, ...] = ()
    taken: Taken = Taken()
    boot: Boot = Boot()
    page_sizes_kib: tuple[int, ...] = ()
    mounts: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpus(self) -> frozenset[int]:
        """CPUs that are online."""
        return frozenset().union(*(core.cpus for core in self.cores))

    @property
    def has_smt(self) -> bool:
        """Whether some core runs two threads or more."""
        return any(len(core.cpus) > 1 for core in self.cores)

    def node(self, number: int) -> NumaNode | None:
        """The node of that number."""
        return next((node for node in self.nodes if node.number == number), None)

    def core_of(self, cpu: int) -> Core | None:
        """The core that a CPU belongs to; None if it is not online."""
        return next((core for core in self.cores if cpu in core.cpus), None)

    def cores_on(self, node: int) -> tuple[Core, ...]:
        """The cores of a node, by their lowest CPU."""
        return tuple(core for core in self.cores if core.node == node)

    def nic(self, name: str) -> NicPort | None:
        """A NIC by its netdev's name or its PCI address."""
        return next((n for n in self.nics if name and name in (n.device, n.address)), None)

    def forbidden(self) -> Mapping[int, str]:
        """CPUs that no PMD thread may have, each with the reason.

        What kubelet keeps for the system is where the host's processes run, unless the kernel
        isolates it: then nobody but a pinned thread runs there, which is what a PMD wants.
        """
        reasons: dict[int, str] = {}
        if self.taken.allowed is not None:
            for cpu in self.cpus - self.taken.allowed:
                reasons[cpu] = "vswitchd's cpuset does not allow it"
        for cpu in (self.taken.kubelet or frozenset()) - self.boot.isolated:
            reasons[cpu] = "kubelet keeps it for the system (reservedSystemCPUs), not isolated"
        for cpu in self.taken.exclusive:
            reasons[cpu] = "it is given to a container or a VM exclusively"
        for cpu in self.taken.host:
            reasons[cpu] = "it is reserved for the host"
        return reasons


def cpu_list(text: str) -> frozenset[int]:
    """The CPUs of a list such as "0-3,8" (kernel doc, admin-guide/cputopology).

    Raises:
        ValueError: it is none.
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not last.isdigit()):
            msg = f"{part!r} is no CPU or range of CPUs"
            raise ValueError(msg)
        if max(len(first), len(last)) > _LONGEST_CPU or int(last or first) < int(first):
            msg = f"{part!r} is no range of CPUs"
            raise ValueError(msg)
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


_LONGEST_CPU = 4
"""Digits of a CPU's number: kernels go up to 8192 CPUs (CONFIG_NR_CPUS)."""


def cpu_ranges(cpus: Iterable[int]) -> str:
    """CPUs as the kernel writes them: 0-3,8."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][-1] == cpu - 1:
            parts[-1] = [parts[-1][0], cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)
