"""What the Open_vSwitch row must say: DPDK's settings and ovn-controller's."""

from __future__ import annotations

from dataplane.model.config import DpdkConfig, NodeConfig
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.rows import OvsSetting
from dataplane.plan.ovskeys import mask

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


def ovs_settings(config: NodeConfig) -> dict[OvsKey, OvsSetting]:
    """Keys (column, key) of the one Open_vSwitch row, with the values of this node."""
    other = dpdk_settings(config.dpdk, f"millrace-{config.name}")
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
