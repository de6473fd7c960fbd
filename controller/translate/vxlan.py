"""Whether an OVN deployment fits into VXLAN: what would break, by name. Pure.

OVN puts all it has to say into the 24 bits of the VNI: 12 name the datapath, 12 the egress port,
none the ingress port (ovn-architecture(7), Tunnel Encapsulations). So there are at most 4,095
datapaths, 2,047 ports of one, and whatever matches `inport` behind the tunnel matches nothing. Keys
are not dealt out anew when the encapsulation changes: what is numbered above is lost.

Up to OVN 24.03 one chassis with a VXLAN endpoint, a hardware VTEP included, sets these limits for
the whole cluster; from 24.09 on `NB_Global options:vxlan_mode=false` says it is for VTEPs only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from controller.translate.ovn import Problem

LARGEST_DATAPATH = (1 << 12) - 1
LARGEST_PORT = (1 << 11) - 1
"""Of the 12 bits for ports, multicast groups have the upper half."""

NEARLY = 0.9
"""From this share of a limit on there is a warning."""

NAMED = 5
"""So many offenders of one kind are named one by one; the rest is counted."""

_QUOTED = re.compile(r'"[^"]*"')
_INPORT = re.compile(r"(?<![\w$@.])inport\b")


@dataclass(frozen=True, slots=True)
class Datapath:
    """A logical switch or router, as northd numbered it. `transit`: of OVN interconnection."""

    name: str
    key: int
    transit: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """A logical port, as northd numbered it."""

    name: str
    datapath: str
    key: int


@dataclass(frozen=True, slots=True)
class EgressRule:
    """A rule that is tried behind the tunnel: a to-lport ACL or QoS row, named for people."""

    name: str
    match: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """What decides whether VXLAN can carry it.

    `version` is OVN's own, (23, 3) for 23.03; None: northd did not say. `vxlan_mode` is the option
    of that name, None if it is not set. `encaps` are the kinds of endpoints by chassis.
    """

    datapaths: tuple[Datapath, ...]
    ports: tuple[Port, ...]
    rules: tuple[EgressRule, ...]
    encaps: tuple[tuple[str, frozenset[str]], ...] = ()
    version: tuple[int, int] | None = None
    vxlan_mode: bool | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`broken` would not work; `limits` is what whoever goes on anyway should know."""

    broken: tuple[Problem, ...]
    limits: tuple[Problem, ...]


def preflight(found: Deployment) -> Verdict:
    """What VXLAN would break in this deployment, and what it would limit."""
    broken = [
        *_datapaths(found),
        *_ports(found),
        *_rules(found),
        *_interconnection(found),
        *_mode(found),
    ]
    return Verdict(tuple(broken), tuple(_limits(found)))


def matches_inport(match: str) -> bool:
    """Whether an expression looks at the ingress port (ovn-sb(5), Logical_Flow, Expressions)."""
    return _INPORT.search(_QUOTED.sub('""', match)) is not None


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _datapaths(found: Deployment) -> Iterable[Problem]:
    if len(found.datapaths) > LARGEST_DATAPATH:
        yield Problem(
            "logical switches and routers",
            f"there are {len(found.datapaths):,}; VXLAN has room for {LARGEST_DATAPATH:,}",
            "stay with Geneve",
        )
    elif large := [d.name for d in found.datapaths if d.key > LARGEST_DATAPATH]:
        yield Problem(
            f"logical switches and routers {_listed(large)}",
            f"their tunnel keys are above {LARGEST_DATAPATH:,}, which the VNI cannot say",
            "set a smaller, unused other_config:requested-tnl-key (options of a router) on each",
        )


def _ports(found: Deployment) -> Iterable[Problem]:
    count: dict[str, int] = {}
    large: dict[str, list[str]] = {}
    for port in found.ports:
        count[port.datapath] = count.get(port.datapath, 0) + 1
        if port.key > LARGEST_PORT:
            large.setdefault(port.datapath, []).append(port.name)
    for datapath in sorted(count):
        if count[datapath] > LARGEST_PORT:
            yield Problem(
                f"logical switch or router {datapath}",
                f"it has {count[datapath]:,} ports; VXLAN has room for {LARGEST_PORT:,} of one",
                "divide it, or stay with Geneve",
            )
        elif datapath in large:
            yield Problem(
                f"ports {_listed(large[datapath])} of {datapath}",
                f"their tunnel keys are above {LARGEST_PORT:,}, which the VNI cannot say",
                "set a smaller, unused options:requested-tnl-key on each",
            )


def _rules(found: Deployment) -> Iterable[Problem]:
    for rule in sorted(found.rules, key=lambda rule: rule.name):
        if matches_inport(rule.match):
            yield Problem(
                rule.name,
                f"it matches inport behind the tunnel, where VXLAN does not say it: {rule.match}",
                "match the source's address or an address set instead",
            )


def _interconnection(found: Deployment) -> Iterable[Problem]:
    transit = [datapath.name for datapath in found.datapaths if datapath.transit]
    if transit and (found.version is None or found.version < (25, 3)):
        yield Problem(
            f"transit switches {_listed(transit)}",
            "OVN interconnection works over VXLAN from 25.03 on only",
            "stay with Geneve, or upgrade OVN",
        )


def _mode(found: Deployment) -> Iterable[Problem]:
    if found.vxlan_mode is False and found.version is not None and found.version >= (24, 9):
        yield Problem(
            "NB_Global options:vxlan_mode",
            "it is false: northd deals out keys that VXLAN between chassis cannot carry",
            "remove it, if no Geneve-sized key is left",
        )


def _limits(found: Deployment) -> Iterable[Problem]:
    if len(found.datapaths) > NEARLY * LARGEST_DATAPATH:
        yield Problem(
            "logical switches and routers",
            f"{len(found.datapaths):,} of {LARGEST_DATAPATH:,} are there already",
            "plan for Geneve",
        )
    others = [chassis for chassis, kinds in found.encaps if "vxlan" not in kinds]
    if others and (found.version is None or found.version < (24, 9)):
        yield Problem(
            f"chassis {_listed(others)}",
            "they have no VXLAN endpoint, and yet its limits hold for them too: this OVN sets them"
            " for the whole cluster as soon as one chassis has one",
            "give every chassis `geneve,vxlan` first, then `vxlan`",
        )
