"""The outlet: how plain replies leave OVS without a second device that is polled. Pure.

::

    OVS  svc0-out (type=afxdp) --- macvlan --- up0: egress hook, millrace_host --- wire

Its rows follow each other by what is there already, so that no reply is sent to what is not ready:
svc0's both ends (the program hands over by their ifindex), the outlet, its port, the rules. Whatever
of it cannot be had, replies go by svc0 as they would without any of this
(docs/decisions/0036-plain-replies-leave-by-the-uplinks-egress.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.model.config import UplinkConfig, UplinkMode
from dataplane.model.rows import Outlet, Port
from dataplane.model.state import NodeState
from dataplane.plan.host import outlet_of, ovs_end
from dataplane.plan.ports import outlet_port

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
    """What there is to be by now; nothing under another mode than AF_XDP.

    A kernel-mode uplink's OVS ports are sockets, whose packets pass the hook as they are.
    """
    nic = state.nics.get(uplink.device)
    if uplink.mode is not UplinkMode.AF_XDP or nic is None or not port_step(state):
        return OutletRows()
    name = outlet_of(state.config.service_link)
    rows = {name: Outlet(uplink.device, min(mtu, nic.mtu), queues)}
    if name not in state.ends:
        return OutletRows(rows)
    ports = {name: outlet_port(uplink, queues)}
    return OutletRows(rows, ports, None if name in state.refused else name)
