"""What the daemon answers to reads: its state as plain JSON values. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dataplane.model.state import Attachment, Gateway

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class PortFacts:
    """What OVS says of one attachment's port; counts since the port was made."""

    state: str
    reason: str
    link: str
    rx_packets: int
    tx_packets: int


def port_view(attachment: Attachment, facts: PortFacts) -> Json:
    """One attachment of `millrace ports --json`."""
    return {
        "iface_id": attachment.iface_id,
        "device": attachment.device,
        "kind": attachment.kind.value,
        "mac": str(attachment.mac),
        "addresses": [str(a) for a in attachment.addresses],
        "state": facts.state,
        "reason": facts.reason,
        "link": facts.link,
        "socket": attachment.socket,
        "mtu": attachment.mtu,
        "rx_packets": facts.rx_packets,
        "tx_packets": facts.tx_packets,
    }


def ports_view(rows: Iterable[tuple[Attachment, PortFacts]]) -> Json:
    """Answer to the operation `ports`."""
    return {"ports": [port_view(a, f) for a, f in sorted(rows, key=lambda r: r[0].iface_id)]}


def gateway_view(gateway: Gateway | None) -> Json | None:
    """The node's gateway router in the answer to `status`."""
    if gateway is None:
        return None
    return {
        "router": gateway.router,
        "mac": str(gateway.mac),
        "addresses": [str(a) for a in gateway.addresses],
        "service_address": str(gateway.service_address),
        "physnet": gateway.physnet,
        "localnet_port": gateway.localnet_port,
    }
