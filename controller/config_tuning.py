"""The table [tuning] of a node's TOML file: what a person fixes of OVS's tuning.

Cores, memory and EAL's words are pinned below [dpdk]. A key that is left out is left to OVS.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from controller import config_values as values
from controller.config_reader import TableReader
from dataplane.model.config import PlanWishes
from dataplane.model.tuning import FlowCache, Mempools, RxqAssign

NUMBERS: Mapping[str, tuple[int, int]] = {
    "emc_insert_inverse": (0, (1 << 32) - 1),
    "pmd_sleep_us": (0, 10_000),
    "auto_lb_load_percent": (0, 100),
    "handlers": (1, 1024),
    "revalidators": (1, 1024),
    "tx_flush_us": (0, 1_000_000),
    "vlan_limit": (0, 2),
    "max_idle_ms": (500, (1 << 31) - 1),
    "flow_limit": (0, (1 << 31) - 1),
}
"""Intents that are numbers, and from where to where (ovs-vswitchd.conf.db(5))."""

WISHES: Mapping[str, tuple[int, int]] = {"pmd_cores": (1, 64), "flows": (1, 1 << 30)}
"""What the plan is told to compute with: no keys of OVS."""

FLAGS = ("rxq_isolate", "auto_lb", "tso", "vhost_iommu", "vhost_postcopy")
MAX_MTU = 9702


class _Mempools(StrEnum):
    SHARED = Mempools.SHARED.value
    PER_PORT = Mempools.PER_PORT.value


class _FlowCache(StrEnum):
    EMC = FlowCache.EMC.value
    SMC = FlowCache.SMC.value
    NONE = FlowCache.NONE.value


class Rebalance(StrEnum):
    """Whether queues are moved between PMD threads: not even thought of, shown, or done."""

    OFF = "off"
    ADVISE = "advise"
    APPLY = "apply"


class _RxqAssign(StrEnum):
    CYCLES = RxqAssign.CYCLES.value
    GROUP = RxqAssign.GROUP.value
    ROUND_ROBIN = RxqAssign.ROUND_ROBIN.value


def tuning_pins(root: TableReader, *, explicit: bool = False) -> Mapping[str, object]:
    """Fields of `Tuning` by name, `rebalance` and `wishes`; faults are in the table's notes.

    Args:
        root: the file.
        explicit: it names cores and memory itself, so nothing is computed.
    """
    table = root.table("tuning")
    found: dict[str, object] = {"wishes": _wishes(table, explicit=explicit)}
    if table.has("rebalance"):
        found["rebalance"] = table.choice("rebalance", Rebalance).value
    for key, (low, high) in NUMBERS.items():
        if table.has(key):
            found[key] = table.integer(key, low, high)
    for key in FLAGS:
        if table.has(key):
            found[key] = table.boolean(key, default=False)
    if table.has("mempools"):
        found["mempools"] = Mempools(table.choice("mempools", _Mempools).value)
    if table.has("flow_cache"):
        found["flow_cache"] = FlowCache(table.choice("flow_cache", _FlowCache).value)
    if table.has("rxq_assign"):
        found["rxq_assign"] = RxqAssign(table.choice("rxq_assign", _RxqAssign).value)
    if table.has("hugepage_dir"):
        found["hugepage_dir"] = values.path(table, "hugepage_dir", "/dev/hugepages")
    if table.has("mempool_mtus"):
        found["mempool_mtus"] = tuple(_amounts(table, "mempool_mtus", 68, MAX_MTU, 9000))
    if table.has("socket_limit_mib"):
        limits = _amounts(table, "socket_limit_mib", 0, 1 << 20, 1024)
        found["socket_limit_mib"] = dict(enumerate(limits))
    if found.get("rxq_isolate") is False and found.get("rxq_assign") is not RxqAssign.GROUP:
        table.fault(
            "rxq_isolate",
            f"{table.name('rxq_isolate')} = false",
            "OVS takes it with pmd-rxq-assign=group only",
            'write rxq_assign = "group", too, or remove rxq_isolate',
        )
    table.finish()
    return found


def _wishes(table: TableReader, *, explicit: bool) -> PlanWishes:
    numbers = {key: table.integer(key, *WISHES[key]) for key in WISHES if table.has(key)}
    for key in (*WISHES, "saves_power"):
        if explicit and table.has(key):
            table.fault(
                key,
                f"{table.name(key)} is of no use here",
                "lcore, pmd and socket_mem_mib below [dpdk] are all there, so nothing is computed",
                f"remove {key}, or what the plan is to choose below [dpdk]",
            )
    return PlanWishes(
        numbers.get("pmd_cores"),
        numbers.get("flows"),
        table.has("saves_power") and table.boolean("saves_power", default=False),
    )


def _amounts(table: TableReader, key: str, low: int, high: int, example: int) -> list[int]:
    example_text = f"[{example}]"
    found = []
    for index, number in table.items(key, int, example=example_text).items():
        if not low <= number <= high:
            why = f"it has to be within {low}..{high}"
            table.fault_at(key, index, why, f"write {key} = {example_text}")
        found.append(number)
    if not found and table.sound(key):
        table.fault(key, f"{table.name(key)} is empty", "it says nothing", f"remove {key}")
    return found
