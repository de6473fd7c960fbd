"""The tables `routes` and `rules`: the kernel's way to workloads' networks and other nodes' svc0.

How we recognise our own after a restart: by the protocol attribute that routes and rules have
(rtnetlink(7), RTA protocol; FRA_PROTOCOL, kernel 4.17), and routes by our table's number too. A
device that goes takes its routes along; rules stay until they are deleted.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from pyroute2 import NetlinkError

from dataplane.drivers.routedump import routes_of
from dataplane.drivers.rtnl import find_link, links, route_socket
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.hostrows import MAIN_TABLE, ROUTE_TABLE, KernelRoute, SourceRule
from dataplane.ports import Failure, ObserveError

PROTOCOL = 0x6D
"""Ours among the protocols of routes (rtnetlink.h has those of others); "m", as for addresses."""

FIND_SADDR = 0x0001_0000
"""FIB_RULE_FIND_SADDR (linux/fib_rules.h): a rule of IPv6 by source is for a socket without an
address, too, if the route that it leads to would give it one that fits. IPv4 ignores it."""

_TABLES = (ROUTE_TABLE, MAIN_TABLE)
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})


class RoutesTable:
    """Table `routes`: network -> KernelRoute."""

    name = "routes"

    def observe(self) -> Mapping[IPNetwork, KernelRoute]:
        """Routes of ours.

        Raises:
            ObserveError: the kernel could not be asked.
        """
        with route_socket() as ipr:
            names = {link.index: link.name for link in links(ipr)}
        return {
            route.network: KernelRoute(names.get(route.device, ""), route.via, route.source, table)
            for table in _TABLES
            for route in routes_of(table, PROTOCOL)
            if route.via is not None and route.source is not None
        }

    def upsert(self, batch: Sequence[tuple[IPNetwork, KernelRoute]]) -> Mapping[IPNetwork, Failure]:
        """Make the routes so."""
        failures: dict[IPNetwork, Failure] = {}
        with route_socket() as ipr:
            for network, wanted in batch:
                link = find_link(ipr, wanted.device)
                if link is None:
                    reason = f"device {wanted.device} is not there yet"
                    failures[network] = Failure(reason, waiting=True)
                    continue
                try:
                    ipr.route(
                        "replace",
                        **_route(network, wanted.table),
                        gateway=str(wanted.via),
                        prefsrc=str(wanted.source),
                        oif=link.index,
                    )
                except NetlinkError as error:
                    failures[network] = Failure(
                        f"route to {network} by {wanted.device}: {error}",
                        waiting=error.code == errno.ENODEV,
                    )
        return failures

    def delete(self, keys: Sequence[IPNetwork]) -> Mapping[IPNetwork, Failure]:
        """Remove the routes; a missing one is success."""
        failures: dict[IPNetwork, Failure] = {}
        with route_socket() as ipr:
            for network, table in ((network, table) for network in keys for table in _TABLES):
                try:
                    ipr.route("del", **_route(network, table))
                except NetlinkError as error:
                    if error.code not in _GONE:
                        failures[network] = Failure(str(error))
        return failures


class RulesTable:
    """Table `rules`: source address -> SourceRule."""

    name = "rules"

    def observe(self) -> Mapping[IPAddress, SourceRule]:
        """Rules of ours; of several for one address the one that would be wrong.

        Raises:
            ObserveError: the kernel could not be asked.
        """
        with route_socket() as ipr:
            found: dict[IPAddress, SourceRule] = {}
            for source, rule in _rules(ipr):
                if found.get(source, SourceRule()) == SourceRule():
                    found[source] = rule
            return found

    def upsert(self, batch: Sequence[tuple[IPAddress, SourceRule]]) -> Mapping[IPAddress, Failure]:
        """Make the rules so; whatever else of ours the address has goes."""
        failures: dict[IPAddress, Failure] = {}
        with route_socket() as ipr:
            there = _rules(ipr)
            for source, wanted in batch:
                try:
                    for rule in [rule for one, rule in there if one == source and rule != wanted]:
                        ipr.rule("del", **_rule(source, rule))
                    if (source, wanted) not in there:
                        ipr.rule("add", **_rule(source, wanted), flags=FIND_SADDR)
                except NetlinkError as error:
                    failures[source] = Failure(f"rule for what is sent from {source}: {error}")
        return failures

    def delete(self, keys: Sequence[IPAddress]) -> Mapping[IPAddress, Failure]:
        """Remove the rules; a missing one is success."""
        failures: dict[IPAddress, Failure] = {}
        with route_socket() as ipr:
            for source, rule in _rules(ipr):
                if source not in keys:
                    continue
                try:
                    ipr.rule("del", **_rule(source, rule))
                except NetlinkError as error:
                    if error.code not in _GONE:
                        failures[source] = Failure(str(error))
        return failures


def _asked(question: Any, what: str) -> list[Any]:
    try:
        return list(question())
    except NetlinkError as error:
        msg = f"the {what} cannot be read: {error}"
        raise ObserveError(msg) from error


def _route(network: IPNetwork, table: int) -> dict[str, Any]:
    return {
        "family": _FAMILIES[network.version],
        "dst": str(network.network_address),
        "dst_len": network.prefixlen,
        "table": table,
        "proto": PROTOCOL,
    }


def _rules(ipr: Any) -> list[tuple[IPAddress, SourceRule]]:
    found = []
    for family in _FAMILIES.values():
        for message in _asked(lambda family=family: ipr.get_rules(family=family), "rules"):
            source = message.get_attr("FRA_SRC")
            # The kernel has no address to tell where the rule is for the unspecified one.
            if message.get_attr("FRA_PROTOCOL") != PROTOCOL or not message["src_len"]:
                continue
            rule = SourceRule(
                message.get_attr("FRA_TABLE") or 0, message.get_attr("FRA_PRIORITY") or 0
            )
            found.append((ip_address(source or _ANY[message["family"]]), rule))
    return found


def _rule(source: IPAddress, rule: SourceRule) -> dict[str, Any]:
    return {
        "family": _FAMILIES[source.version],
        "src": str(source),
        "src_len": source.max_prefixlen,
        "table": rule.table,
        "priority": rule.priority,
        "protocol": PROTOCOL,
    }
