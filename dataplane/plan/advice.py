"""What the measurements of a node say is wrong, why, and what to do: reports in, conditions out.

Pure, and nothing is changed by it: a condition names the setting or the command that would. Rates
are taken over the last poll; what came and went before it is not shown again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dataplane.model.tuning import FlowCache

BUSY_PERCENT = 90.0
POOL_LOW = 0.1
ZONE_FULL = 0.9
FORCED_PER_S = 200 / 300
"""The sample alarm of openstack-network-exporter: 200 in five minutes."""

GONE_S = 30.0
"""A guest that restarts its driver, or is migrated, is away for less."""

MISS_SHARE = 0.5
"""Share of packets that the EMC does not know, above which it costs more than it gives."""

LEAST_PACKETS = 100_000
"""In one interval: below that the shares say nothing."""

EMC_ENTRIES = 8192
"""Of each PMD thread (dpif-netdev.c)."""

SPARSE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class PmdMeasure:
    """One PMD thread over one interval. `busy` in percent of its cycles, None: not known.

    `queues`: how many it polls. The hits are of packets, by the cache that knew them.
    """

    cpu: int
    numa: int
    seconds: float
    busy: float | None = None
    queues: int = 0
    packets: int = 0
    emc_hits: int = 0
    smc_hits: int = 0
    megaflow_hits: int = 0
    lost_upcalls: int = 0
    forced_switches: int = 0


@dataclass(frozen=True, slots=True)
class PoolMeasure:
    """A pool of packet buffers."""

    name: str
    numa: int
    size: int
    available: int


@dataclass(frozen=True, slots=True)
class GuestMeasure:
    """A vhost-user port. `numa`: of the guest's memory, None: not known.

    `polled_on`: NUMA nodes whose threads poll it. `gone_s`: how long it has been disconnected while
    its machine runs, 0: it is connected, or no machine runs.
    """

    port: str
    workload: str
    numa: int | None = None
    polled_on: frozenset[int] = frozenset()
    gone_s: float = 0.0
    queues: int = 0
    disabled: int = 0


@dataclass(frozen=True, slots=True)
class Reports:
    """One interval's measurements. `flows`: datapath flows of all threads together.

    `pmd_nodes`: NUMA nodes that have a PMD thread. `zones`: limit and connections, by zone.
    `cache`: what the threads are told to use now. `void_shapers`: the type of a QoS row that does
    nothing on its port, by port.
    """

    pmds: tuple[PmdMeasure, ...] = ()
    pools: tuple[PoolMeasure, ...] = ()
    guests: tuple[GuestMeasure, ...] = ()
    flows: int = 0
    tracked: int | None = None
    tracked_most: int | None = None
    zones: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    cache: FlowCache = FlowCache.EMC
    void_shapers: Mapping[str, str] = field(default_factory=dict)

    @property
    def pmd_nodes(self) -> frozenset[int]:
        """NUMA nodes that have a PMD thread."""
        return frozenset(pmd.numa for pmd in self.pmds)


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """Something that is not as it should be: `kind`, one of `KINDS`, and `subject`, what has it."""

    kind: str
    subject: str
    cause: str
    next_step: str


KINDS = (
    "pmd-overload", "pmd-preempted", "lost-upcalls", "mempool-low", "conntrack-full",
    "conntrack-zone-full", "flow-cache", "guest-numa", "guest-gone", "guest-queues", "qos-void",
)  # fmt: skip


def conditions(reports: Reports) -> tuple[Condition, ...]:
    """All that hold, in a fixed order."""
    return tuple(
        sorted(
            [
                *_threads(reports),
                *_pools(reports),
                *_conntrack(reports),
                *_caches(reports),
                *_guests(reports),
                *_shapers(reports),
            ]
        )
    )


def _threads(reports: Reports) -> Iterator[Condition]:
    idlest = min((pmd.busy for pmd in reports.pmds if pmd.busy is not None), default=None)
    for pmd in reports.pmds:
        subject = f"PMD thread of CPU {pmd.cpu}"
        if pmd.busy is not None and pmd.busy > BUSY_PERCENT:
            spare = idlest is not None and idlest < BUSY_PERCENT / 2 and pmd.queues > 1
            yield Condition(
                "pmd-overload",
                subject,
                f"busy {pmd.busy:.0f} % of its cycles with {pmd.queues} queues; it drops soon",
                "others have room: `millrace rebalance` shows what could move"
                if spare
                else "give it fewer queues: more cores in [dpdk] pmd, or more queues of the port",
            )
        if pmd.seconds > 0 and pmd.forced_switches / pmd.seconds > FORCED_PER_S:
            yield Condition(
                "pmd-preempted",
                subject,
                f"taken off its core {pmd.forced_switches} times in {pmd.seconds:.0f} s",
                "isolate the core: `millrace plan` names the kernel's arguments and kubelet's "
                "reserved CPUs; look for interrupts in /proc/interrupts",
            )
        if pmd.lost_upcalls:
            yield Condition(
                "lost-upcalls",
                subject,
                f"{pmd.lost_upcalls} first packets of flows lost in {pmd.seconds:.0f} s: no flow "
                "could be made for them",
                "compare flows with their limit (`ovs-appctl upcall/show`); raise [tuning] "
                "flow_limit, or find what makes so many flows",
            )


def _pools(reports: Reports) -> Iterator[Condition]:
    for pool in reports.pools:
        if pool.size and pool.available < POOL_LOW * pool.size:
            yield Condition(
                "mempool-low",
                f"packet buffers {pool.name}",
                f"{pool.available} of {pool.size} left on NUMA node {pool.numa}: packets are "
                "dropped when there are none",
                'raise dpdk.socket_mem_mib, or write [tuning] mempools = "per-port"',
            )


def _conntrack(reports: Reports) -> Iterator[Condition]:
    if (
        reports.tracked is not None
        and reports.tracked_most
        and reports.tracked >= ZONE_FULL * reports.tracked_most
    ):
        yield Condition(
            "conntrack-full",
            "OVS's conntrack",
            f"{reports.tracked} connections of {reports.tracked_most}: new ones are dropped then",
            "raise it with `ovs-appctl dpctl/ct-set-maxconns`, or find who opens so many",
        )
    for zone, (limit, count) in sorted(reports.zones.items()):
        if limit and count >= ZONE_FULL * limit:
            yield Condition(
                "conntrack-zone-full",
                f"conntrack zone {zone}",
                f"{count} connections of {limit}: new ones of this port are dropped then",
                f"raise it with `ovs-appctl dpctl/ct-set-limits zone={zone},limit=N`; the zone's "
                "port is in Bridge.external_ids:ct-zone-* of br-int",
            )


def _caches(reports: Reports) -> Iterator[Condition]:
    packets = sum(pmd.packets for pmd in reports.pmds)
    if packets < LEAST_PACKETS:
        return
    emc = sum(pmd.emc_hits for pmd in reports.pmds) / packets
    smc = sum(pmd.smc_hits for pmd in reports.pmds) / packets
    flows = f"{reports.flows} datapath flows"
    if reports.cache is FlowCache.EMC and emc < 1 - MISS_SHARE:
        yield Condition(
            "flow-cache",
            "EMC",
            f"it knew {emc:.0%} of {packets} packets ({flows}): there are more connections than "
            f"its {EMC_ENTRIES} entries of a thread, and each miss pays for the look-up",
            'write [tuning] flow_cache = "smc"',
        )
    elif reports.cache is FlowCache.SMC and smc < SPARSE_SHARE and emc >= 1 - MISS_SHARE:
        yield Condition(
            "flow-cache",
            "SMC",
            f"it knew {smc:.0%} of {packets} packets ({flows}), the EMC {emc:.0%}: there are few "
            "connections",
            'write [tuning] flow_cache = "emc"',
        )


def _shapers(reports: Reports) -> Iterator[Condition]:
    for port, kind in reports.void_shapers.items():
        yield Condition(
            "qos-void",
            port,
            f"somebody gave it a QoS row of type {kind}, which the userspace datapath has not: "
            "it limits nothing",
            "set options:qos_max_rate of its Logical_Switch_Port (docs/qos.md), and take the row "
            f"off: `ovs-vsctl clear Port {port} qos`",
        )


def _guests(reports: Reports) -> Iterator[Condition]:
    for guest in reports.guests:
        subject = f"{guest.workload or guest.port} ({guest.port})"
        if guest.gone_s > GONE_S:
            yield Condition(
                "guest-gone",
                subject,
                f"its vhost-user socket is there, and nobody has answered for {guest.gone_s:.0f} s",
                "look whether QEMU runs and may be reached: owner and mode of the socket, and "
                "vswitchd's log",
            )
        if guest.numa is not None and guest.polled_on and guest.numa not in guest.polled_on:
            has = guest.numa in reports.pmd_nodes
            yield Condition(
                "guest-numa",
                subject,
                f"its memory is on NUMA node {guest.numa}, and it is polled on "
                f"{', '.join(map(str, sorted(guest.polled_on)))}: each packet crosses",
                "take its pin back (Interface.other_config:pmd-rxq-affinity)"
                if has
                else f"give node {guest.numa} a PMD thread ([dpdk] pmd), or place the VM elsewhere "
                "(kubelet's topology manager)",
            )
        if guest.disabled:
            yield Condition(
                "guest-queues",
                subject,
                f"{guest.disabled} of its {guest.queues} queues are off in the guest: their "
                "threads poll nothing",
                f"in the guest: `ethtool -L DEVICE combined {guest.queues}`, or give it fewer",
            )
