"""What the Open_vSwitch row must say: DPDK's settings and ovn-controller's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dataplane.model.config import DpdkConfig, NodeConfig
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.rows import OvsSetting
from dataplane.model.tuning import Tuning
from dataplane.plan.ovskeys import OLDEST, OvsVersion, Translation, mask, translate

OvsKey = tuple[str, str]


def dpdk_settings(dpdk: DpdkConfig, file_prefix: str) -> dict[str, str]:
    """Keys of Open_vSwitch's other_config. `file_prefix` holds where `extra` has none.

    What is left to the tuning plan, and is not filled in yet, has no key.
    """
    extra = list(dpdk.extra)
    if not any(word.startswith("--file-prefix") for word in extra):
        # Two DPDK processes on one machine must not share EAL's run-time files.
        extra.append(f"--file-prefix={file_prefix}")
    settings = {"dpdk-init": "true", "dpdk-extra": " ".join(extra)}
    if dpdk.socket_mem_mib:
        settings["dpdk-socket-mem"] = str(dpdk.socket_mem_mib)
    if dpdk.lcore:
        settings["dpdk-lcore-mask"] = mask(dpdk.lcore)
    if dpdk.pmd:
        settings["pmd-cpu-mask"] = mask(dpdk.pmd)
    return settings


def pinned_tuning(config: NodeConfig) -> Translation:
    """What the file fixes of the tuning, as the node's release of OVS spells it."""
    nothing = Tuning(lcore=frozenset(), pmd=frozenset(), socket_mem_mib={})
    # Each name and type was checked as the file was read; the values have no common type.
    pins: dict[str, Any] = dict(config.tuning)
    release = OvsVersion.parse(config.ovs_release) if config.ovs_release else OLDEST
    return translate(replace(nothing, **pins), release, tunnelled=config.tunnel is not None)


def foreign_settings(config: NodeConfig, other_config: Mapping[str, str]) -> dict[str, str]:
    """The keys of Open_vSwitch.other_config that somebody else set: they are left alone."""
    ours = {key for column, key in ovs_settings(config) if column == "other_config"}
    return {
        key: other_config[key]
        for key in sorted(other_config.keys() - ours)
        if not _ovn_controllers(key, other_config[key])
    }


def _ovn_controllers(key: str, value: str) -> bool:
    """Whether ovn-controller wrote it: it notes its index, and lets any number of tags through."""
    return key.startswith("ovn-chassis-idx-") or (key, value) == ("vlan-limit", "0")


def ovs_settings(config: NodeConfig) -> dict[OvsKey, OvsSetting]:
    """Keys (column, key) of the one Open_vSwitch row, with the values of this node."""
    other = dpdk_settings(config.dpdk, f"millrace-{config.name}")
    other.update(pinned_tuning(config).keys)
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
    rows = {("other_config", key): OvsSetting(value) for key, value in other.items()}
    rows.update({("external_ids", key): OvsSetting(value) for key, value in ids.items()})
    return rows
