"""The rows by which the node's kernel routes to workloads: tables `routes` and `rules`."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.model.addr import IPAddress

ROUTE_TABLE = 0x6D72
"""Number of our routing table ("mr"), and priority of the rules that lead to it: before the main
table's 32766, so that a route of ours is seen at all where the main one has a default route."""


MAIN_TABLE = 254
"""RT_TABLE_MAIN (linux/rtnetlink.h): what every packet of the node's is routed by."""


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """Table `routes`: key network, in our routing table or the main one.

    `source`: the address that sockets without one are given.
    """

    device: str
    via: IPAddress
    source: IPAddress
    table: int = ROUTE_TABLE


@dataclass(frozen=True, slots=True)
class SourceRule:
    """Table `rules`: key address. What is sent from it goes by our routing table.

    0.0.0.0 is a socket of IPv4 that has chosen no address yet; for IPv6 the rule of the address
    that the route would give it covers that (FIB_RULE_FIND_SADDR).
    """

    table: int = ROUTE_TABLE
    priority: int = ROUTE_TABLE
