"""OVS ports: uplinks, svc0's OVS end, and the workloads' ports on br-int."""

from __future__ import annotations

from dataplane.model.config import UplinkConfig, UplinkMode
from dataplane.model.names import INTEGRATION_BRIDGE, ISOLATED_VLAN
from dataplane.model.rows import Pairs, Port
from dataplane.model.state import Attachment, PortKind

VFIO_PORT_PREFIX = "vf"


def pairs(values: dict[str, str]) -> Pairs:
    """A string map as sorted pairs."""
    return tuple(sorted(values.items()))


def uplink_port_name(uplink: UplinkConfig) -> str:
    """OVS's name for an uplink: the NIC's, or one made of the PCI address."""
    if uplink.mode is not UplinkMode.VFIO:
        return uplink.device
    return VFIO_PORT_PREFIX + "".join(c for c in uplink.device if c.isalnum())


def uplink_port(uplink: UplinkConfig) -> Port:
    """The row of an uplink.

    `type=afxdp` and not DPDK's AF_XDP vdev: a vdev of DPDK 22.11 keeps its socket bound after
    del-port, and only a vswitchd restart frees the NIC again.
    """
    options: dict[str, str] = {}
    kind = "system"
    if uplink.mode is UplinkMode.AF_XDP:
        kind = "afxdp"
        options = {"n_rxq": str(uplink.queues), "xdp-mode": uplink.xdp_mode}
    elif uplink.mode is UplinkMode.VFIO:
        kind = "dpdk"
        options = {"dpdk-devargs": uplink.device, "n_rxq": str(uplink.queues)}
    return Port(uplink.bridge, kind, pairs(options), (), None, None)


def service_port(uplink: UplinkConfig, queues: int) -> Port:
    """svc0's OVS end, on the uplink's bridge.

    Its access VLAN is one that nothing else is in, so NORMAL never floods to it; the rules of
    `dataplane.plan.flows` output to it by name, which no VLAN setting filters.
    """
    if uplink.mode is UplinkMode.AF_XDP:
        options = {"n_rxq": str(queues), "xdp-mode": "native"}
        return Port(uplink.bridge, "afxdp", pairs(options), (), None, ISOLATED_VLAN)
    return Port(uplink.bridge, "system", (), (), None, ISOLATED_VLAN)


def attachment_port(attachment: Attachment) -> Port:
    """The row of a workload's port on br-int; ovn-controller claims it by iface-id."""
    ids = {
        "iface-id": attachment.iface_id,
        "attached-mac": str(attachment.mac),
        "millrace:container-id": attachment.container_id,
        "millrace:ifname": attachment.ifname,
    }
    if attachment.kind is PortKind.VHOST_USER:
        return Port(
            INTEGRATION_BRIDGE,
            "dpdkvhostuserclient",
            pairs({"vhost-server-path": attachment.socket}),
            pairs(ids),
            attachment.mtu,
            None,
        )
    return Port(INTEGRATION_BRIDGE, "system", (), pairs(ids), None, None)
