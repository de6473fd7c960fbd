"""The outlet: how plain replies leave OVS without a second device that is polled. Pure.

::

    OVS  svc0-out (type=afxdp) --- macvlan --- up0: egress hook, millrace_host --- wire

Each of its rows waits for the one before it: the node's entry (the program hands over by it), the
outlet, its port, its rules. Where the kernel or OVS refuses it, replies go by svc0 as they would
without any of this (docs/decisions/0036-plain-replies-leave-by-the-uplinks-egress.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.model.config import UplinkConfig, UplinkMode
from dataplane.model.rows import Cleared, Outlet, Port
from dataplane.model.state import NodeState
from dataplane.plan.host import outlet_of, ovs_end
from dataplane.plan.ports import outlet_port, uplink_port_name

_STEP_MAX = 0x7FFF


@dataclass(frozen=True, slots=True)
class OutletRows:
    """What the outlet adds to the tables of these names; `used`: replies are led there."""

    outlets: Mapping[str, Outlet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    used: str | None = None


def port_step(state: NodeState) -> int:
    """From svc0's ifindex to its OVS end's; 0: unknown, or more than the entry has room for.

    The two are made together, so their numbers are neighbours.
    """
    link = state.config.service_link
    here, there = state.ends.get(link), state.ends.get(ovs_end(link))
    step = there - here if here is not None and there is not None else 0
    return step if abs(step) <= _STEP_MAX else 0


def outlet_rows(state: NodeState, uplink: UplinkConfig, mtu: int, queues: int) -> OutletRows:
    """What there is to be; nothing under another mode than AF_XDP.

    A kernel-mode uplink's OVS ports are sockets, whose packets pass the hook as they are.
    """
    nic, link = state.nics.get(uplink.device), state.config.service_link
    made = {link, ovs_end(link)} <= state.ends.keys()
    if uplink.mode is not UplinkMode.AF_XDP or nic is None or (made and not port_step(state)):
        return OutletRows()
    name = outlet_of(link)
    rows = {name: Outlet(uplink.device, min(mtu, nic.mtu), queues)}
    if ("outlets", name) in state.refused:
        return OutletRows(rows)
    ports = {name: outlet_port(uplink, queues)}
    used = None if ("ports", name) in state.refused else name
    return OutletRows(rows, ports, used)


def asked_number(state: NodeState, uplink: UplinkConfig) -> int | None:
    """The number that the service uplink's port asks for: the one that it has, if any.

    vswitchd opens ports that ask for one first. It could put no program on an uplink whose outlet
    has one already.
    """
    if uplink.mode is not UplinkMode.AF_XDP:
        return None
    return state.ofports.get(uplink_port_name(uplink))


def cleared_outlets(state: NodeState, uplink: UplinkConfig) -> dict[str, Cleared]:
    """Whatever is known of OVN: an outlet that is there may keep the uplink's program out."""
    name = outlet_of(state.config.service_link)
    there = uplink.mode is UplinkMode.AF_XDP and name in state.ends
    return {name: Cleared()} if there else {}
