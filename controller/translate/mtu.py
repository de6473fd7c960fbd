"""The MTU that OVN's rows tell workloads, held against what the tunnel carries. Pure.

A switch without a localnet port has nothing but the tunnel between chassis. One with such a port
has a network of its own, which may carry more: nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.translate.index import Index
from controller.translate.ovn import LogicalSwitch, LogicalSwitchPort, Problem
from dataplane.model.config import NodeConfig
from dataplane.model.state import Attachment
from dataplane.plan.mtu import TooBig, overhead, too_big_for_tunnel

MTU_RANGE = range(68, 65536)
"""RFC 791: every host takes 68; a bigger IPv4 packet than 65535 does not exist."""

NAMED = 3
"""Ports that a problem names; of others it has the number."""


def told(
    index: Index, switch: LogicalSwitch | None, port: LogicalSwitchPort
) -> tuple[str, int] | None:
    """The row that tells the workload an MTU, and the MTU: its DHCP option's, else the switch's."""
    ref = port.dhcpv4_options or ""
    dhcp = index.nb.dhcp_options.get(ref)
    for row, text in (
        (f"DHCP_Options {ref}", dhcp.options.get("mtu") if dhcp else None),
        (f"Logical_Switch {switch.name}", switch.other_config.get("mtu")) if switch else ("", None),
    ):
        if text and text.isascii() and text.isdigit() and len(text) < 6 and int(text) in MTU_RANGE:
            return row, int(text)
    return None


def too_big(
    index: Index, config: NodeConfig, kernel: Mapping[str, int], name: str, wanted: int
) -> TooBig | None:
    """The link below the tunnel that carries least, if logical port `name` needs the tunnel.

    Args:
        index: OVN's rows.
        config: the node's.
        kernel: MTU of the machine's links, by name.
        name: of the logical switch port; one that is not known needs nothing.
        wanted: the workload's MTU.
    """
    switch = index.switch_of_port.get(name)
    if switch is None or index.localnet_of(switch) is not None:
        return None
    return too_big_for_tunnel(config, kernel, wanted)


def problems_of(
    index: Index, config: NodeConfig, kernel: Mapping[str, int], attachments: Iterable[Attachment]
) -> tuple[Problem, ...]:
    """MTUs that this node's workloads have and the tunnel does not carry, one for each source."""
    found: dict[tuple[str, int], tuple[TooBig, list[str]]] = {}
    for attachment in attachments:
        name = attachment.iface_id
        for row, mtu in _sources(index, attachment).items():
            small = too_big(index, config, kernel, name, mtu)
            if small is not None:
                found.setdefault((row, mtu), (small, []))[1].append(name)
    return tuple(
        _problem(config, row, mtu, small, sorted(set(names)))
        for (row, mtu), (small, names) in sorted(found.items(), key=lambda item: item[0])
    )


def _sources(index: Index, attachment: Attachment) -> Mapping[str, int]:
    """Who tells a workload how much: OVN's row, and its own interface where it is another's."""
    port = index.port_by_name.get(attachment.iface_id)
    row = told(index, index.switch_of_port.get(attachment.iface_id), port) if port else None
    sources = dict([row] if row else [])
    if row is None or row[1] != attachment.mtu:
        sources["attached interfaces"] = attachment.mtu
    return sources


def _problem(config: NodeConfig, row: str, mtu: int, small: TooBig, names: list[str]) -> Problem:
    assert config.tunnel is not None
    kind = config.tunnel.type
    ports = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        ports += f" and {len(names) - NAMED} more"
    cause = (
        f"mtu={mtu}, for {ports}: the tunnel to other nodes carries {small.most}, because"
        f" {small.device} has an MTU of {small.device_mtu}"
    )
    step = f"{small.device} needs {mtu + overhead(kind)}"
    if row.startswith("DHCP_Options"):
        step = f"ovn-nbctl set {row} options:mtu={small.most}, or {step}"
    elif row.startswith("Logical_Switch"):
        step = f"ovn-nbctl set {row} other_config:mtu={small.most}, or {step}"
    else:
        step = f"attach them anew with at most {small.most}, or {step}"
    return Problem(row, cause, step)
