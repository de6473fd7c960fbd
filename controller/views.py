"""What the daemon answers to reads: its state as plain JSON values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controller.translate.ovn import Problem
from dataplane.model.state import Attachment, Gateway, HostAccess

Json = dict[str, object]

PROBLEMS_SHOWN = 200
PROBLEM_LENGTH = 400
"""Characters of each of its texts: they quote what somebody wrote into a database."""


@dataclass(frozen=True, slots=True)
class PortFacts:
    """What OVS says of one attachment's port; counts since the port was made.

    `vrings` and `numa` (of the guest's memory) are known of a connected vhost-user port alone.
    """

    state: str
    reason: str
    link: str
    rx_packets: int
    tx_packets: int
    vrings: int | None = None
    numa: int | None = None


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
        "tag": attachment.tag or None,
        "mtu": attachment.mtu,
        "rx_packets": facts.rx_packets,
        "tx_packets": facts.tx_packets,
        "vrings": facts.vrings,
        "numa": facts.numa,
    }


def ports_view(rows: Iterable[tuple[Attachment, PortFacts]]) -> Json:
    """Answer to the operation `ports`."""
    return {"ports": [port_view(a, f) for a, f in sorted(rows, key=lambda r: r[0].iface_id)]}


def host_view(host: HostAccess | None, link: str) -> Json | None:
    """The node's own way to workloads in the answer to `status`; None: it has none."""
    if host is None or not link:
        return None
    return {
        "link": link,
        "port": host.port,
        "mac": str(host.mac),
        "addresses": [str(a) for a in host.addresses],
        "routes": [{"network": str(network), "via": str(via)} for network, via in host.routes],
    }


def gateway_view(gateway: Gateway | None) -> Json | None:
    """The node's gateway router in the answer to `status`."""
    if gateway is None:
        return None
    return {
        "router": gateway.router,
        "mac": str(gateway.mac),
        "addresses": [str(a) for a in gateway.addresses],
        "service_address": str(gateway.service_address),
        "service_address6": str(gateway.service_address6 or ""),
        "physnet": gateway.physnet,
        "localnet_port": gateway.localnet_port,
    }


def problems_view(problems: Sequence[Problem]) -> list[Json]:
    """What an operator has to mend; of very many the first, and how many more there are."""
    rows: list[Json] = [
        {"name": _cut(p.name), "cause": _cut(p.cause), "next_step": _cut(p.next_step)}
        for p in problems[:PROBLEMS_SHOWN]
    ]
    if more := len(problems) - len(rows):
        step = "mend these first: often one cause has many of them"
        rows.append({"name": f"{more} more", "cause": "not listed here", "next_step": step})
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= PROBLEM_LENGTH else text[: PROBLEM_LENGTH - 3] + "..."
