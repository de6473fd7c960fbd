"""What a tunnel leaves of a link's MTU to the workloads whose packets it carries.

Sizes in octets of an IP packet (RFC 791, RFC 8200): what `ip link` calls mtu. The outer frame's
Ethernet header is not part of a link's MTU; the inner frame's is part of what the tunnel carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.model.config import NodeConfig, TunnelType, UplinkConfig, UplinkMode

ETHERNET_MTU = 1500
_ETHERNET = 14
_UDP = 8
_IP = {4: 20, 6: 40}
_HEADER = {TunnelType.GENEVE: 8, TunnelType.VXLAN: 8}
_OPTIONS = {TunnelType.GENEVE: 8, TunnelType.VXLAN: 0}
"""OVN's one option of Geneve, ingress and egress port (ovn-architecture(7))."""


def overhead(tunnel: TunnelType, family: int = 4) -> int:
    """Octets that a tunnel between endpoints of this family adds to a workload's IP packet.

    RFC 8926 section 3 (Geneve), RFC 7348 section 5 (VXLAN).
    """
    return _IP[family] + _UDP + _HEADER[tunnel] + _OPTIONS[tunnel] + _ETHERNET


@dataclass(frozen=True, slots=True)
class TooBig:
    """Workloads were promised more than a link carries."""

    device: str
    device_mtu: int
    most: int


AF_XDP_MTU = 3506
"""The most that a link with an AF_XDP port carries: one page less XDP's headroom (256), the
kernel's struct skb_shared_info (320) and the Ethernet header (14), as veth counts; NICs' drivers
may allow less."""


def port_mtu(device_mtu: int, tunnel: TunnelType | None, family: int = 4) -> int:
    """The largest MTU of workloads over a link: without a tunnel they have all of it."""
    return device_mtu - (overhead(tunnel, family) if tunnel is not None else 0)


def too_big(
    wanted: int, devices: dict[str, int], tunnel: TunnelType | None, family: int = 4
) -> TooBig | None:
    """The link that carries least, if it does not carry `wanted`.

    Args:
        wanted: MTU of workloads.
        devices: MTU of each link below the tunnel's endpoint; none: nobody knows, nothing is said.
        tunnel: what the packets travel in.
        family: of the tunnel's endpoint, 4 or 6.
    """
    if not devices:
        return None
    device, mtu = min(devices.items(), key=lambda item: (item[1], item[0]))
    most = port_mtu(mtu, tunnel, family)
    return TooBig(device, mtu, most) if wanted > most else None


def carried_by(uplink: UplinkConfig, kernel: Mapping[str, int]) -> int | None:
    """The MTU that a NIC will have; None: nobody knows. `kernel`: what its links have now."""
    if uplink.mtu is not None:
        return uplink.mtu
    if uplink.mode is UplinkMode.VFIO:
        return ETHERNET_MTU  # mtu_request of a dpdk port that nobody set
    return kernel.get(uplink.device)


def too_big_for_tunnel(config: NodeConfig, kernel: Mapping[str, int], wanted: int) -> TooBig | None:
    """The link below a node's tunnel that carries least, if a packet of `wanted` is too much.

    Args:
        config: the node's; without a tunnel nothing is too big for it.
        kernel: MTU of the machine's links, by name.
        wanted: MTU of workloads.
    """
    if config.tunnel is None:
        return None
    below = {
        uplink.device: mtu
        for uplink in config.nics
        if uplink.bridge == config.tunnel.bridge and (mtu := carried_by(uplink, kernel)) is not None
    }
    return too_big(wanted, below, config.tunnel.type)
