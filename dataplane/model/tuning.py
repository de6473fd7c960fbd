"""What a node wants of OVS-DPDK, in intents that know no version of it.

The plan computes them from the topology (`dataplane.plan.tuning`); which key of which release says
the same, and what a release cannot say, is the driver's business (`dataplane.plan.ovskeys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Mempools(Enum):
    """How vswitchd divides packet memory (Open_vSwitch.other_config:per-port-memory)."""

    SHARED = "shared"
    PER_PORT = "per-port"


class FlowCache(Enum):
    """Which caches stand before the classifier of a PMD thread."""

    EMC = "emc"
    SMC = "smc"
    NONE = "none"


class RxqAssign(Enum):
    """How vswitchd deals out unpinned queues (Open_vSwitch.other_config:pmd-rxq-assign)."""

    CYCLES = "cycles"
    GROUP = "group"
    ROUND_ROBIN = "roundrobin"


@dataclass(frozen=True, slots=True)
class PortTuning:
    """One physical port.

    `rx_queues`; `descriptors_rx` and `descriptors_tx` per queue, None: OVS's default. `affinity`
    maps a queue to the PMD's CPU that serves it; a queue that is not in it is dealt out by OVS.
    """

    rx_queues: int
    descriptors_rx: int | None = None
    descriptors_tx: int | None = None
    affinity: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tuning:
    """One node's OVS-DPDK. None and empty always mean: leave it to OVS's default.

    `lcore` and `pmd` are CPU numbers. `socket_mem_mib` and `socket_limit_mib` are by NUMA node.
    `pmd_sleep_us` is the longest that an idle PMD thread sleeps, 0: it polls.
    `emc_insert_inverse` is the N of "one packet of N is inserted".
    """

    lcore: frozenset[int]
    pmd: frozenset[int]
    socket_mem_mib: Mapping[int, int]
    socket_limit_mib: Mapping[int, int] = field(default_factory=dict)
    hugepage_dir: str = ""
    eal: tuple[str, ...] = ()
    mempools: Mempools | None = None
    mempool_mtus: tuple[int, ...] = ()
    flow_cache: FlowCache | None = None
    emc_insert_inverse: int | None = None
    pmd_sleep_us: int | None = None
    rxq_assign: RxqAssign | None = None
    rxq_isolate: bool | None = None
    auto_lb: bool | None = None
    auto_lb_load_percent: int | None = None
    handlers: int | None = None
    revalidators: int | None = None
    tx_flush_us: int | None = None
    tso: bool | None = None
    vlan_limit: int | None = None
    vhost_iommu: bool | None = None
    vhost_postcopy: bool | None = None
    max_idle_ms: int | None = None
    flow_limit: int | None = None
    ports: Mapping[str, PortTuning] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Computed:
    """A whole plan of one node: its values, and the fields of `Tuning` that a person fixed."""

    tuning: Tuning
    pinned: frozenset[str] = frozenset()
