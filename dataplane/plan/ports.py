"""OVS ports: uplinks, svc0's OVS end, and the workloads' ports on br-int."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType

from dataplane.model.config import BondConfig, BondMode, UplinkConfig, UplinkMode
from dataplane.model.names import INTEGRATION_BRIDGE, ISOLATED_VLAN
from dataplane.model.rows import Affinity, Bond, BondMember, NicSettings, Pairs, Port
from dataplane.model.state import Attachment, PortKind
from dataplane.plan.ovskeys import PortKey

VFIO_PORT_PREFIX = "vf"


def pairs(values: dict[str, str]) -> Pairs:
    """A string map as sorted pairs."""
    return tuple(sorted(values.items()))


def uplink_port_name(uplink: UplinkConfig) -> str:
    """OVS's name for an uplink: the NIC's, or one made of the PCI address."""
    if uplink.mode is not UplinkMode.VFIO:
        return uplink.device
    return VFIO_PORT_PREFIX + "".join(c for c in uplink.device if c.isalnum())


NO_KEYS: Mapping[PortKey, str] = MappingProxyType({})


def uplink_port(uplink: UplinkConfig, keys: Mapping[PortKey, str] = NO_KEYS) -> Port:
    """The row of an uplink; `keys` are the tuning plan's for it.

    An AF_XDP port has no descriptors to choose, and as many queues as its NIC has channels, which
    the file says: the plan's keys are a `dpdk` port's.

    `type=afxdp` and not DPDK's AF_XDP vdev: a vdev of DPDK 22.11 keeps its socket bound after
    del-port, and only a vswitchd restart frees the NIC again. Only a `dpdk` port takes
    `mtu_request`; the kernel is told of the others' MTU (`nic_settings`).
    """
    options: dict[str, str] = {}
    kind, mtu = "system", None
    if uplink.mode is UplinkMode.AF_XDP:
        kind = "afxdp"
        options = {"n_rxq": str(uplink.queues), "xdp-mode": uplink.xdp_mode}
    elif uplink.mode is UplinkMode.VFIO:
        kind = "dpdk"
        options = {"dpdk-devargs": uplink.device, "n_rxq": str(uplink.queues)}
        options.update({key: value for (column, key), value in keys.items() if column == "options"})
        mtu = uplink.mtu
    return Port(uplink.bridge, kind, pairs(options), (), mtu, None)


def nic_affinity(
    uplinks: Sequence[UplinkConfig],
    keys: Mapping[str, Mapping[PortKey, str]],
    pinned_by_hand: Container[str],
) -> dict[str, Affinity]:
    """Which PMD thread polls which queue of an uplink, by port.

    A hand's pins stay, unless the file names its own.
    """
    return {
        name: Affinity(pins)
        for uplink in uplinks
        if ((name := uplink_port_name(uplink)) not in pinned_by_hand or uplink.affinity)
        and (pins := keys.get(uplink.device, NO_KEYS).get(("other_config", "pmd-rxq-affinity")))
    }


def bond(config: BondConfig, keys: Mapping[str, Mapping[PortKey, str]] | None = None) -> Bond:
    """The row of a bond; `keys` are the tuning plan's by NIC.

    lb-output-action: OVS looks the member up in a table beside the datapath's flows, where it would
    otherwise hash in each and make up to 256 flows a bond (userspace datapath only). Source:
    ovs-vswitchd.conf.db(5), Port.
    """
    ports = {
        uplink_port_name(member): uplink_port(member, (keys or {}).get(member.device, NO_KEYS))
        for member in config.members
    }
    members = tuple(
        BondMember(name, port.type, port.options, port.mtu_request)
        for name, port in sorted(ports.items())
    )
    other, lacp = {}, "off"
    if config.mode is BondMode.BALANCE_TCP:
        lacp = "active"
        other = {"lb-output-action": "true", "lacp-time": "fast" if config.lacp_fast else "slow"}
    return Bond(config.bridge, config.mode.value, lacp, pairs(other), members)


def nic_settings(uplink: UplinkConfig) -> NicSettings | None:
    """What the kernel is told of a NIC that OVS is given; None: nothing.

    An AF_XDP port polls queues 0 to n_rxq - 1: what the NIC puts on any other goes to the kernel.
    """
    if uplink.mode is UplinkMode.VFIO:
        return None  # the kernel has no such device any more
    queues = uplink.queues if uplink.mode is UplinkMode.AF_XDP else None
    if uplink.mtu is None and queues is None:
        return None
    return NicSettings(uplink.mtu, queues, uplink.busy_poll)


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
