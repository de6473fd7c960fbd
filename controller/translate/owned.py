"""Which rows of the northbound database are ours already, in the words of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from controller.translate.nbrows import (
    GROUP,
    PORT_PREFIXES,
    ROUTER_KEYS,
    GroupedRow,
    GroupRow,
    MacKey,
    MacRow,
    NatKey,
    NatRow,
    NbPlan,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    RouterPortRow,
    RouterRow,
    SetRow,
    SwitchPortRow,
    SwitchRow,
)
from controller.translate.ovn import LogicalRouter, NbSnapshot, Refs, is_ours
from dataplane.model.rows import Pairs


class _Parent(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def ports(self) -> Refs: ...


def owned(nb: NbSnapshot) -> NbPlan:
    """The rows of ours that are there: what `northbound` has to be compared with.

    A table keyed by what OVN does not keep unique (routes, policies) may hold a key twice; its
    value is then one that no plan has, so that it is written anew, once.
    """
    router_of = _parents(nb.routers)
    switch_of = _parents(nb.switches)
    groups = {ref: row for ref, row in nb.load_balancer_groups.items() if row.name == GROUP}
    return NbPlan(
        switches={
            switch.name: SwitchRow()
            for switch in nb.switches.values()
            if is_ours(switch.external_ids)
        },
        routers={
            router.name: RouterRow(
                options=_pairs(router.options),
                external_ids=_pairs(
                    {k: v for k, v in router.external_ids.items() if k in ROUTER_KEYS}
                ),
            )
            for router in nb.routers.values()
            if is_ours(router.external_ids)
        },
        router_ports={
            port.name: RouterPortRow(
                router_of.get(ref, ""), port.mac, port.networks, port.options.get("route_table", "")
            )
            for ref, port in nb.router_ports.items()
            if is_ours(port.external_ids)
        },
        switch_ports={
            port.name: SwitchPortRow(
                switch_of.get(ref, ""),
                port.type,
                port.addresses,
                _pairs(port.options),
                port.port_security,
            )
            for ref, port in nb.switch_ports.items()
            if is_ours(port.external_ids)
        },
        static_macs={
            MacKey(row.logical_port, row.ip): MacRow(row.mac, row.override_dynamic_mac)
            for row in nb.static_mac_bindings.values()
            if row.logical_port.startswith(PORT_PREFIXES)
        },
        routes=_routes(nb),
        policies=_policies(nb),
        address_sets={
            row.name: SetRow(row.addresses)
            for row in nb.address_sets.values()
            if is_ours(row.external_ids)
        },
        nats=_nats(nb),
        balancer_groups={
            group.name: GroupRow(tuple(sorted(group.load_balancers))) for group in groups.values()
        },
        grouped_switches={
            switch.name: GroupedRow()
            for switch in nb.switches.values()
            if groups.keys() & set(switch.load_balancer_groups)
        },
    )


def _routes(nb: NbSnapshot) -> Mapping[RouteKey, RouteRow]:
    found: dict[RouteKey, RouteRow] = {}
    for router, ref in _children(nb, "static_routes"):
        row = nb.static_routes.get(ref)
        if row is not None and is_ours(row.external_ids):
            key = RouteKey(router.name, row.ip_prefix, row.route_table)
            twice = key in found
            found[key] = RouteRow("twice" if twice else row.nexthop, row.output_port)
    return found


def _policies(nb: NbSnapshot) -> Mapping[PolicyKey, PolicyRow]:
    found: dict[PolicyKey, PolicyRow] = {}
    for router, ref in _children(nb, "policies"):
        row = nb.policies.get(ref)
        if row is not None and is_ours(row.external_ids):
            key = PolicyKey(router.name, row.priority, row.match)
            twice = key in found
            found[key] = PolicyRow("twice" if twice else row.action, row.nexthops)
    return found


def _nats(nb: NbSnapshot) -> Mapping[NatKey, NatRow]:
    found: dict[NatKey, NatRow] = {}
    for router, ref in _children(nb, "nat"):
        row = nb.nat.get(ref)
        if row is not None and is_ours(row.external_ids):
            key = NatKey(router.name, row.logical_ip)
            is_plain = key not in found and row.type == "snat"
            kept = nb.address_sets.get(row.kept)
            found[key] = NatRow(
                row.external_ip if is_plain else "another", kept.name if kept else ""
            )
    return found


def _children(nb: NbSnapshot, column: str) -> Iterator[tuple[LogicalRouter, str]]:
    for _, router in sorted(nb.routers.items()):
        refs: Refs = getattr(router, column)
        for ref in refs:
            yield router, ref


def _parents(rows: Mapping[str, _Parent]) -> dict[str, str]:
    return {ref: row.name for row in rows.values() for ref in row.ports}


def _pairs(values: Mapping[str, str]) -> Pairs:
    return tuple(sorted(values.items()))
