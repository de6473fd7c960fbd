"""Which keys of which OVS release say what a `Tuning` intends, and what a release cannot say.

Both maps that are written (Open_vSwitch.other_config, Interface.options and other_config) take any
key: a database's schema does not tell which ones its vswitchd reads, the release does. One table
has them all, with the default that holds once the key is gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataplane.model.tuning import FlowCache, Mempools, PortTuning, Tuning

MAN = "ovs-vswitchd.conf.db(5)"
OLD_MAX_DESCRIPTORS = 4096


@dataclass(frozen=True, slots=True, order=True)
class OvsVersion:
    """A release of OVS; bug fix releases change no key."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> OvsVersion:
        """The release in a text such as 3.1.0 or 3.3.1-dev.

        Raises:
            ValueError: there is none in it.
        """
        found = re.match(r"(\d+)\.(\d+)", text)
        if found is None:
            msg = f"{text!r} is no version of OVS: it has to begin as in 3.1.0"
            raise ValueError(msg)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST = OvsVersion(3, 1)
NEWEST = OvsVersion(4, 0)


def mask(cores: Iterable[int]) -> str:
    """Cores as a hexadecimal mask."""
    return hex(sum(1 << core for core in set(cores)))


def by_node(amounts: Mapping[int, int]) -> str:
    """Amounts as a list from node 0 on; a node that is not named has 0."""
    return ",".join(str(amounts.get(node, 0)) for node in range(max(amounts) + 1))


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _choice(value: Any) -> str:
    return str(value.value)


def _words(value: tuple[str, ...]) -> str:
    return " ".join(value)


def _numbers(value: tuple[int, ...]) -> str:
    return ",".join(map(str, value))


def _per_port(value: Mempools) -> str:
    return _flag(value is Mempools.PER_PORT)


def _smc(value: FlowCache) -> str:
    return _flag(value is FlowCache.SMC)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of Open_vSwitch.other_config, from release `since` until before `until`.

    `intent` is the field of `Tuning` that it says, `default` what holds without it, in words where
    that is no value. `restart`: vswitchd reads it only as it starts.
    """

    intent: str
    name: str
    spell: Callable[[Any], str]
    default: str
    restart: bool = False
    since: OvsVersion = OLDEST
    until: OvsVersion | None = None
    source: str = MAN

    def known_to(self, version: OvsVersion) -> bool:
        """Whether this release reads it."""
        return self.since <= version and (self.until is None or version < self.until)


KEYS = (
    Key("lcore", "dpdk-lcore-mask", mask, "the lowest CPU of the process's affinity", restart=True),
    Key("pmd", "pmd-cpu-mask", mask, "one PMD thread on each NUMA node"),
    Key("socket_mem_mib", "dpdk-socket-mem", by_node, "grows as needed", restart=True),
    Key("socket_limit_mib", "dpdk-socket-limit", by_node, "none", restart=True),
    Key("hugepage_dir", "dpdk-hugepage-dir", str, "EAL's choice", restart=True),
    Key("eal", "dpdk-extra", _words, "none", restart=True),
    Key("mempools", "per-port-memory", _per_port, "false", restart=True),
    Key("mempool_mtus", "shared-mempool-config", _numbers, "none", restart=True),
    Key("flow_cache", "smc-enable", _smc, "false"),
    Key("emc_insert_inverse", "emc-insert-inv-prob", str, "100"),
    Key(
        "pmd_sleep_us", "pmd-maxsleep", str, "0",
        until=OvsVersion(3, 2), source=f"{MAN}; renamed: NEWS of 3.2",
    ),
    Key(
        "pmd_sleep_us", "pmd-sleep-max", str, "0",
        since=OvsVersion(3, 2), source="OVS, topics/dpdk/pmd; NEWS of 3.2",
    ),
    Key("rxq_assign", "pmd-rxq-assign", _choice, "cycles"),
    Key("rxq_isolate", "pmd-rxq-isolate", _flag, "true"),
    Key("auto_lb", "pmd-auto-lb", _flag, "false"),
    Key("auto_lb_load_percent", "pmd-auto-lb-load-threshold", str, "95"),
    Key("handlers", "n-handler-threads", str, "by the number of CPUs"),
    Key("revalidators", "n-revalidator-threads", str, "by the number of CPUs"),
    Key("tx_flush_us", "tx-flush-interval", str, "0"),
    Key("tso", "userspace-tso-enable", _flag, "false", restart=True),
    Key("vlan_limit", "vlan-limit", str, "1"),
    Key("vhost_iommu", "vhost-iommu-support", _flag, "false", restart=True),
    Key("vhost_postcopy", "vhost-postcopy-support", _flag, "false", restart=True),
    Key("max_idle_ms", "max-idle", str, "10000"),
    Key("flow_limit", "flow-limit", str, "200000"),
)  # fmt: skip

RESTART_KEYS = frozenset({"dpdk-init", *(key.name for key in KEYS if key.restart)})
"""Keys that vswitchd reads only when it starts."""

PortKey = tuple[str, str]
"""Column of Interface, and key in it."""


@dataclass(frozen=True, slots=True)
class Translation:
    """`keys` of Open_vSwitch.other_config, `port_keys` by port, and in words what `cannot` be."""

    keys: Mapping[str, str]
    port_keys: Mapping[str, Mapping[PortKey, str]] = field(default_factory=dict)
    cannot: tuple[str, ...] = ()


def translate(tuning: Tuning, version: OvsVersion, *, tunnelled: bool = False) -> Translation:
    """The keys that say a tuning to one release.

    Args:
        tuning: what the node wants; an intent that is None or empty has no key.
        version: of the vswitchd that will read them.
        tunnelled: whether packets of this node go through Geneve or VXLAN.
    """
    cannot: list[str] = []
    if not OLDEST <= version <= NEWEST:
        cannot.append(f"OVS {version} is not among {OLDEST}..{NEWEST}, whose keys are known")
    wanted = {key.intent: getattr(tuning, key.intent) for key in KEYS}
    _settle_caches(wanted, cannot)
    if wanted["tso"]:
        _settle_tso(wanted, version, cannot, tunnelled=tunnelled)
    if wanted["rxq_isolate"] is False and getattr(wanted["rxq_assign"], "value", "") != "group":
        wanted["rxq_isolate"] = None
        cannot.append("rxq_isolate = false: OVS takes it with rxq_assign = group only")
    keys = {
        key.name: key.spell(wanted[key.intent])
        for key in KEYS
        if key.known_to(version) and not _absent(wanted[key.intent])
    }
    ports = {
        name: _port_keys(name, port, version, cannot) for name, port in sorted(tuning.ports.items())
    }
    return Translation(keys, ports, tuple(cannot))


def _absent(value: object) -> bool:
    # 0 and false are said: they need not be the default of the release.
    return value is None or (isinstance(value, (str, tuple, frozenset, Mapping)) and not value)


def _settle_caches(wanted: dict[str, Any], cannot: list[str]) -> None:
    """The EMC has no switch: it is off where no packet is inserted."""
    cache, inverse = wanted["flow_cache"], wanted["emc_insert_inverse"]
    if cache is FlowCache.NONE and inverse:
        cannot.append(f"emc_insert_inverse = {inverse}: flow_cache = none inserts nothing")
    if cache is FlowCache.NONE or (cache is FlowCache.SMC and inverse is None):
        wanted["emc_insert_inverse"] = 0
    elif cache is FlowCache.EMC and inverse == 0:
        cannot.append("flow_cache = emc: emc_insert_inverse = 0 turns the EMC off")


def flow_cache(settings: Mapping[str, str]) -> FlowCache:
    """Which cache keys of Open_vSwitch.other_config tell PMD threads to use, whoever set them."""
    if settings.get("smc-enable") == "true":
        return FlowCache.SMC
    return FlowCache.NONE if settings.get("emc-insert-inv-prob") == "0" else FlowCache.EMC


def _settle_tso(
    wanted: dict[str, Any], version: OvsVersion, cannot: list[str], *, tunnelled: bool
) -> None:
    """TSO drops what a port cannot segment, until there is a fallback in software for it."""
    since = OvsVersion(3, 5) if tunnelled else OvsVersion(3, 3)
    if version < since:
        wanted["tso"] = False
        where = "in tunnels " if tunnelled else ""
        cannot.append(
            f"tso: OVS {version} cannot segment {where}in software, so a port without TSO drops; "
            f"OVS {since} can"
        )


def _port_keys(
    name: str, port: PortTuning, version: OvsVersion, cannot: list[str]
) -> dict[PortKey, str]:
    keys = {("options", "n_rxq"): str(port.rx_queues)}
    for option, count in (
        ("n_rxq_desc", port.descriptors_rx),
        ("n_txq_desc", port.descriptors_tx),
    ):
        if count is None:
            continue
        if count > OLD_MAX_DESCRIPTORS and version < OvsVersion(3, 6):
            cannot.append(
                f"{option} = {count} of {name}: OVS {version} has at most {OLD_MAX_DESCRIPTORS} "
                "descriptors to a queue; OVS 3.6 has no such limit"
            )
            count = OLD_MAX_DESCRIPTORS
        keys["options", option] = str(count)
    if port.affinity:
        pairs = ",".join(f"{queue}:{cpu}" for queue, cpu in sorted(port.affinity.items()))
        keys["other_config", "pmd-rxq-affinity"] = pairs
    return keys
