"""What an event may have upset: the names of the tables that the next round has to look at."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.drivers.ovsdb import OvsState, PortState
from dataplane.model.devices import is_pod_link
from dataplane.model.names import INTEGRATION_BRIDGE

PLAN = "plan"
"""Invalidates no table as such: those whose desired rows come out different are applied."""

LINK_TABLES = (
    PLAN, "links", "nics", "addresses", "routes", "rules", "known_addresses", "node", "offloads",
    "programs", "polls", "replies", "trunk",
)  # fmt: skip
"""What a change of a link, an address or an attached program may have upset."""

OVS_TABLES = (
    "ports", "bonds", "qos", "mirrors", "affinity", "bridges", "addresses", "flows", "programs",
)  # fmt: skip
"""What vswitchd may have upset by adding or removing a port."""

GUEST_TABLES = ("ports", "bonds", "qos", "mirrors", "affinity")
"""What it may have upset if that port is a workload's on br-int."""

ATTACHED = "attached"
"""Invalidates no table: the rows of attachments that were touched are written."""

GUEST_TYPES = frozenset({"dpdkvhostuserclient", "dpdkvhostuser"})
"""Types of ports that are no device of the kernel's."""

OVNS_KEYS = frozenset({"ovn-installed", "ovn-installed-ts"})
"""external_ids that ovn-controller writes."""


def upset_by(before: OvsState | None, now: OvsState) -> tuple[str, ...]:
    """The tables that a change in OVS's database may have upset."""
    known = before.capabilities if before is not None else {}
    datapath = ("datapath",) if now.capabilities != known else ()
    return datapath + upset_by_ports(before.ports if before is not None else {}, now.ports)


def upset_by_ports(
    before: Mapping[str, PortState], now: Mapping[str, PortState]
) -> tuple[str, ...]:
    """The tables that a change of OVS's ports may have upset."""
    changed = [
        name for name in before.keys() | now if _told(before.get(name)) != _told(now.get(name))
    ]
    if not changed:
        # A rejected port costs vswitchd thousands of tries a second: `ports` looks for those first.
        return ("ports", "bonds") if any(port.rejected for port in now.values()) else ()
    guests = all(
        port.bridge == INTEGRATION_BRIDGE and (port.type in GUEST_TYPES or is_pod_link(name))
        for name in changed
        for port in (before.get(name), now.get(name))
        if port is not None
    )
    return GUEST_TABLES if guests else OVS_TABLES


def _told(port: PortState | None) -> object:
    """What of a port's state a table of ours has, or follows from."""
    if port is None:
        return None
    theirs = {key: value for key, value in port.external_ids.items() if key not in OVNS_KEYS}
    return port.bridge, port.type, port.owner, port.ofport, port.rejected, theirs
