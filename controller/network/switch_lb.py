"""SwitchLBRules: load balancers that OVN serves on the switches of one VPC.

Addresses of different VPCs may be the same, so the rows are not marked for the fast path, which
knows no VPC; they are in the VPC's group. Behind a rule are pods found by labels, while they are
ready, or the addresses that it lists. A switch with a load balancer has every packet tracked
(docs/services.md), from the first rule of its VPC on.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from controller.kinds.switchlbrule import (
    RESOURCE,
    RULES,
    VPC_ANNOTATION,
    RulePort,
    SwitchLbRule,
)
from controller.kinds.vpc import VPCS
from controller.network.backends import listed, spelt
from controller.network.lbbackends import VPC, leases_of, located
from controller.network.probes import checks
from controller.network.rows import Row, RowKey, Value, pairs
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, View
from controller.translate.ovn import Problem
from controller.translate.vips import PROTOCOLS
from dataplane.model.addr import IPAddress, readable
from dataplane.model.names import REJECT_OPTION

STICKY = frozenset({"ip_src"})
"""Clients stay with their backends: by a hash of their address, and not by OVN's affinity_timeout,
which drops the first packet of every client (seen with OVN 23.03; its flow ends there)."""


def _row_key(rule: SwitchLbRule, port: RulePort) -> RowKey:
    return RowKey("Load_Balancer", f"switch-lb-rule/{rule.name}/{port.protocol}/{port.port}")


def _wrong(port: RulePort) -> bool:
    numbers = (port.port, port.target)
    return port.protocol not in PROTOCOLS or not all(1 <= one <= 65535 for one in numbers)


def _keys(view: View, name: Hashable) -> tuple[RowKey, ...]:
    rule = view.get(RULES, name)
    if rule is None or not readable(_vips(rule)):
        return ()
    return tuple(_row_key(rule, port) for port in rule.ports if not _wrong(port))


KEYS: Derived[tuple[RowKey, ...]] = Derived("rows of a SwitchLBRule", _keys)


def rules_of(view: View, vpc: str) -> frozenset[RowKey]:
    """The rows of a VPC's rules."""
    return frozenset(
        key
        for name in view.all(RULES)
        if view.ask(VPC, name) == vpc
        for key in view.ask(KEYS, name)
    )


def _vips(rule: SwitchLbRule) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in rule.vip.split(","))))


def compute(view: View, key: Hashable) -> Said:
    """The rows of one rule."""
    rule = view.get(RULES, key)
    if rule is None:
        return Said()
    problems: list[Problem] = []

    def say(cause: str, step: str) -> None:
        problems.append(Problem(f"SwitchLBRule {rule.name}", cause, step))

    vips, listed = readable(_vips(rule)), readable(rule.endpoints)
    if not vips or len(vips) != len(_vips(rule)):
        say(f"vip: {rule.vip!r} is no address", "write it as 10.100.0.1")
    if len(listed) != len(rule.endpoints):
        say("endpoints: some are no addresses, and left out", "correct them")
    if not rule.endpoints and not rule.selector:
        say("it has neither selector nor endpoints", "name what is behind it")
    if not rule.ports:
        say("it has no ports", "name one at least")
    ready = leases_of(view, rule, ready=True)
    behind = listed or [address for lease in ready for address in lease.addresses]
    vpc = view.ask(VPC, key)
    if not vpc:
        say(
            "no VPC has what is behind it",
            f"correct it, or name the VPC in its annotation {VPC_ANNOTATION}",
        )
    elif view.get(VPCS, vpc) is None:
        say(f"there is no Vpc {vpc}", "make it, or correct the annotation")
    rows: dict[RowKey, Row] = {}
    there = located(view, rule, vpc) if rule.checked and vpc else {}
    backends = {address: where for address, where in there.items() if address in behind}
    for port in rule.ports:
        if _wrong(port):
            say(
                f"port {port.name or port.port}: {port.protocol} {port.port} to {port.target} "
                "cannot be",
                "use tcp, udp or sctp, and ports from 1 to 65535",
            )
        elif vips:
            mappings, asked = checks(view, _row_key(rule, port), port, vips, backends)
            rows[_row_key(rule, port)] = _row(rule, port, vips, behind, mappings)
            rows |= asked
    ref = ObjectRef(str(RESOURCE), "", rule.name)
    ports = ",".join(f"{port.port}/{port.protocol.upper()}" for port in rule.ports)
    writes = {ref: Wanted(status={"ports": ports})}
    return Said(rows, writes, {ref: tuple(problems)} if problems else {})


def _row(
    rule: SwitchLbRule,
    port: RulePort,
    vips: Sequence[IPAddress],
    behind: Sequence[IPAddress],
    mappings: Value,
) -> Row:
    values = {
        spelt(vip, port.port): listed(
            (one, port.target) for one in behind if one.version == vip.version
        )
        for vip in vips
    }
    columns: dict[str, Value] = {
        "name": f"switch-lb-rule/{rule.name}:{port.port}/{port.protocol}",
        "protocol": port.protocol,
        "vips": pairs(values),
        "options": pairs({REJECT_OPTION: "true"}),
        "selection_fields": STICKY if rule.sticky else frozenset(),
        "ip_port_mappings": mappings,
    }
    return Row(columns)


UNITS: tuple[Unit, ...] = (Unit("switch-lb-rules", RULES, compute),)
