"""An attachment of the CNI plugin, for tests of what keeps and what makes it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

from dataplane.model.addr import Mac
from dataplane.model.state import Attachment, PortKind

WEB = Attachment(
    container_id="c0ffee",
    ifname="eth0",
    kind=PortKind.VETH,
    netns="/run/netns/web",
    iface_id="web-0.shop",
    device="mrp000000000001",
    peer="mrq000000000001",
    mac=Mac("0a:58:0a:00:00:05"),
    addresses=(IPv4Interface("10.0.0.5/24"),),
    gateway=IPv4Address("10.0.0.1"),
    mtu=1442,
    socket="",
    queues=1,
    pod="web-0",
    namespace="shop",
    pod_uid="u-1",
    network="mill",
)
