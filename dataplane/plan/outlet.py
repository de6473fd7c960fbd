"""The outlet: how plain replies leave OVS without a second device that is polled. Pure.

::

    OVS  svc0-out (type=afxdp) --- macvlan --- up0: egress hook, millrace_host --- wire

Each of its rows waits for the one before it: the node's entry (the program hands over by it), the
outlet, its port, its rules. Where the kernel or OVS refuses it, replies go by svc0 as they would
without any of this (docs/decisions/0036-plain-replies-leave-by-the-uplinks-egress.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dataplane.model.config import UplinkConfig, UplinkMode
from dataplane.model.rows import Cleared, Outlet, Port
from dataplane.model.state import NodeState
from dataplane.plan.host import outlet_of, ovs_end
from dataplane.plan.ovs import port_keys
from dataplane.plan.ports import NO_KEYS, outlet_port, uplink_port, uplink_port_name

_STEP_MAX = 0x7FFF


@dataclass(frozen=True, slots=True)
class OutletRows:
    """What the outlet adds to the tables of these names; `used`: replies are led there."""

    outlets: Mapping[str, Outlet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    cleared: Mapping[str, Cleared] = field(default_factory=dict)
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
    below = uplink_port_name(uplink)
    ports = {name: outlet_port(uplink, queues)}
    if below in state.ofports:
        # vswitchd opens ports that ask for a number first. It could put no program on an uplink
        # whose outlet has one already.
        keys = port_keys(state.config, state.theirs).get(uplink.device, NO_KEYS)
        ports[below] = replace(uplink_port(uplink, keys), ofport=state.ofports[below])
    used = None if ("ports", name) in state.refused else name
    return OutletRows(rows, ports, {name: Cleared()}, used)
