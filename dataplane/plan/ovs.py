"""What the Open_vSwitch row must say: DPDK's settings and ovn-controller's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dataplane.model.config import DpdkConfig, NodeConfig
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.rows import Capability, OvsSetting
from dataplane.model.tuning import PortTuning, RxqAssign, Tuning
from dataplane.plan.ovskeys import (
    KEYS,
    OLDEST,
    OvsVersion,
    PortKey,
    Translation,
    mask,
    translate,
)
from dataplane.plan.tuning.queues import parse_affinity

OvsKey = tuple[str, str]
_AFFINITY: PortKey = ("other_config", "pmd-rxq-affinity")


def dpdk_settings(dpdk: DpdkConfig, file_prefix: str) -> dict[str, str]:
    """Keys of Open_vSwitch's other_config. `file_prefix` holds where `extra` has none.

    What is left to the tuning plan, and is not filled in yet, has no key.
    """
    extra = list(dpdk.extra)
    if not any(word.startswith("--file-prefix") for word in extra):
        # Two DPDK processes on one machine must not share EAL's run-time files.
        extra.append(f"--file-prefix={file_prefix}")
    settings = {"dpdk-init": "true", "dpdk-extra": " ".join(extra)}
    if dpdk.memory:
        settings["dpdk-socket-mem"] = ",".join(map(str, dpdk.memory))
    if dpdk.lcore:
        settings["dpdk-lcore-mask"] = mask(dpdk.lcore)
    if dpdk.pmd:
        settings["pmd-cpu-mask"] = mask(dpdk.pmd)
    return settings


ONE_ENTRY_SINCE = OvsVersion(3, 3)
"""From here on the userspace conntrack keeps one entry for a connection, translated or not."""


def release_of(config: NodeConfig) -> OvsVersion:
    """The release of OVS that the plan is for; the oldest, where none was found."""
    return OvsVersion.parse(config.ovs_release) if config.ovs_release else OLDEST


def capabilities(release: OvsVersion) -> dict[str, Capability]:
    """What OVN must not use of the userspace datapath, though vswitchd says that it has it.

    With `ct_zero_snat` OVN commits what its ACLs admit by `ct(commit,nat(src))`, and vswitchd
    aborts when a client takes a port again at the wrong moment (docs/decisions/0033).
    """
    return {"ct_zero_snat": Capability("false")} if release < ONE_ENTRY_SINCE else {}


def spelt(config: NodeConfig) -> Translation:
    """The tuning of a node as its release of OVS spells it: the plan's, or the file's pins only."""
    tunnelled = config.tunnel is not None
    release = release_of(config)
    # Each name and type was checked as the file was read; the values have no common type.
    pins: dict[str, Any] = dict(config.tuning)
    if config.computed is None:
        nothing = Tuning(frozenset(), frozenset(), {}, ports=_with_pins(config, {}))
        return translate(replace(nothing, **pins), release, tunnelled=tunnelled)
    tuning = config.computed.tuning
    eal = _eal(config.dpdk.extra or tuning.eal, config)
    ports = _with_pins(config, tuning.ports)
    whole = replace(tuning, **{**_unsaid(pins), **pins}, eal=eal, ports=ports)
    return translate(whole, release, tunnelled=tunnelled)


def _unsaid(pins: Mapping[str, object]) -> dict[str, Any]:
    """What the plan computed to go with a value that a person has fixed otherwise is not said."""
    unsaid: dict[str, Any] = {}
    if pins.get("rxq_assign", RxqAssign.GROUP) is not RxqAssign.GROUP:
        unsaid["rxq_isolate"] = None
    if "flow_cache" in pins:
        unsaid["emc_insert_inverse"] = None
    return unsaid


def _eal(words: tuple[str, ...], config: NodeConfig) -> tuple[str, ...]:
    prefixed = any(word.startswith("--file-prefix") for word in words)
    return words if prefixed else (*words, f"--file-prefix=millrace-{config.name}")


def _with_pins(config: NodeConfig, ports: Mapping[str, PortTuning]) -> dict[str, PortTuning]:
    """Ports of the plan, and those that it knows nothing of but the file fixes something for."""
    return {
        **{
            nic.device: PortTuning(
                nic.queues,
                nic.rx_descriptors,
                nic.tx_descriptors,
                parse_affinity(nic.affinity) if nic.affinity else {},
            )
            for nic in config.nics
            if nic.is_pinned
        },
        **ports,
    }


def port_keys(config: NodeConfig, theirs: Mapping[str, str]) -> Mapping[str, Mapping[PortKey, str]]:
    """The keys of each NIC's interface, the plan's and the file's.

    A pin takes its PMD thread away from all other queues unless OVS is told that it shall not,
    which it takes under `group` only: where either is not what the plan wanted, nothing is pinned
    but what the file names, or VMs' queues might find no thread.
    """
    found = spelt(config)
    named = {nic.device: nic.affinity for nic in config.nics if nic.affinity}
    if shares_threads(config, theirs):
        return found.port_keys
    return {
        name: {
            **{key: value for key, value in keys.items() if key[0] == "options"},
            **({_AFFINITY: named[name]} if name in named else {}),
        }
        for name, keys in found.port_keys.items()
    }


def shares_threads(config: NodeConfig, theirs: Mapping[str, str]) -> bool:
    """Whether a PMD thread with pinned queues serves others, too."""
    hands = {key: theirs[key] for key in theirs if key not in named_keys(config)}
    now = {**spelt(config).keys, **hands}
    return now.get("pmd-rxq-isolate") == "false" and now.get("pmd-rxq-assign") == "group"


def named_keys(config: NodeConfig) -> frozenset[str]:
    """The keys of other_config that the file names, and whose values win over a hand's."""
    if config.computed is None:
        return frozenset(dpdk_settings(config.dpdk, "")) | spelt(config).keys.keys()
    pinned = config.computed.pinned | config.tuning.keys()
    # EAL's words go with the node's own --file-prefix, without which two nodes would collide.
    always = {"dpdk-init", "dpdk-extra"}
    # Both caches are one intent: "none" is said by the key of the other one.
    caches = {"emc_insert_inverse"} if "flow_cache" in pinned else set()
    return frozenset(always | {key.name for key in KEYS if key.intent in pinned | caches})


def foreign_settings(config: NodeConfig, theirs: Mapping[str, str]) -> dict[str, str]:
    """What somebody else set in Open_vSwitch.other_config, without what ovn-controller did."""
    named = named_keys(config)
    return {
        key: value
        for key, value in sorted(theirs.items())
        if key not in named and not _ovn_controllers(key, value)
    }


def yielded(config: NodeConfig, theirs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Where a hand's value holds in place of the plan's: by key, the hand's and the plan's."""
    planned = ovs_settings(config)
    return {
        key: (value, wanted.value)
        for key, value in foreign_settings(config, theirs).items()
        if (wanted := planned.get(("other_config", key))) is not None and wanted.value != value
    }


def _ovn_controllers(key: str, value: str) -> bool:
    """Whether ovn-controller wrote it: it notes its index, and lets any number of tags through."""
    return key.startswith("ovn-chassis-idx-") or (key, value) == ("vlan-limit", "0")


def ovs_settings(
    config: NodeConfig, theirs: Mapping[str, str] | None = None
) -> dict[OvsKey, OvsSetting]:
    """Keys (column, key) of the one Open_vSwitch row, with the values of this node.

    Args:
        config: of the node.
        theirs: what somebody else set in other_config: a computed value gives way to it.
    """
    other = dpdk_settings(config.dpdk, f"millrace-{config.name}")
    other.update(spelt(config).keys)
    named = named_keys(config)
    ids = {
        "system-id": config.name,
        "hostname": config.name,
        "ovn-remote": config.sb_remote,
        "ovn-bridge": INTEGRATION_BRIDGE,
        "ovn-bridge-datapath-type": "netdev",
        # ovn-controller wants an encapsulation even where there is one chassis only.
        "ovn-encap-type": config.tunnel.type.value if config.tunnel else "geneve",
        "ovn-encap-ip": str(config.tunnel.address.ip) if config.tunnel else "127.0.0.1",
        **dict(config.extra_external_ids),
    }
    mappings = ",".join(f"{b.physnet}:{b.name}" for b in config.bridges if b.physnet)
    if mappings:
        ids["ovn-bridge-mappings"] = mappings
    rows = {
        ("other_config", key): OvsSetting(value, computed=key not in named)
        for key, value in other.items()
        if key in named or key not in (theirs or {})
    }
    rows.update({("external_ids", key): OvsSetting(value) for key, value in ids.items()})
    return rows
