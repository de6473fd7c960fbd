"""What one load balancer row declares: its VIPs and its terms, and what is wrong with them.

A row whose terms cannot be read is refused whole: served on other terms, it might let in whom it
should keep out. A VIP that cannot be served is refused alone, a backend that cannot be is left
out; a VIP of which no backend is left is refused. Unmarked rows are OVN's affair: no fault of
theirs is named.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from controller.translate import vips as texts
from controller.translate.ovn import LoadBalancer, Problem
from controller.translate.terms import Terms, terms
from controller.translate.vips import Fault
from dataplane.model import names
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.service import ServiceKind

_PREFIX = names.FAST_PATH_KEY.partition(":")[0] + ":"
_KEYS = frozenset(
    {
        names.FAST_PATH_KEY,
        names.TRAFFIC_POLICY_KEY,
        names.INTERNAL_POLICY_KEY,
        names.KIND_KEY,
        names.SERVICE_KEY,
        names.SOURCE_RANGES_KEY,
        names.FORWARDING_KEY,
        names.HEALTH_PORT_KEY,
        names.NOT_READY_KEY,
        names.ENDPOINTS_KEY,
    }
)


@dataclass(frozen=True, slots=True)
class Vip:
    """One VIP that can be named; `left_out` counts backends that cannot be served."""

    address: L4Addr
    targets: tuple[L4Addr, ...]
    left_out: int
    refusal: Fault | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """A row, read. `refusal` is why none of its VIPs is served, if so.

    `checked`: OVN's health checks ask its backends, and say which are down.
    """

    label: str
    marked: bool
    vips: tuple[Vip, ...]
    terms: Terms
    refusal: Fault | None
    problems: tuple[Problem, ...]
    checked: bool = False


def is_marked(balancer: LoadBalancer) -> bool:
    """Whether the row asks for the fast path."""
    return balancer.external_ids.get(names.FAST_PATH_KEY) == "true"


def label_of(balancer: LoadBalancer, ref: str) -> str:
    """What to call a row: its name, or its UUID if it has none."""
    return balancer.name or ref


def declared(balancer: LoadBalancer, ref: str) -> Declared:
    """What the row `ref` declares."""
    label, marked = label_of(balancer, ref), is_marked(balancer)
    title = f"load balancer {label}"
    protocol = _protocol(balancer)
    if isinstance(protocol, Fault):
        found = (Problem(title, protocol.cause, protocol.next_step),) if marked else ()
        return Declared(label, marked, (), Terms(label), protocol, found)
    if not marked:
        vips, _ = _vips(balancer, title, protocol, None)
        return Declared(label, marked, vips, Terms(label), None, ())
    read = terms(balancer, label, protocol)
    refusal = read if isinstance(read, Fault) else None
    agreed = Terms(label) if isinstance(read, Fault) else read
    vips, problems = _vips(balancer, title, protocol, None if refusal else agreed.kind)
    refusal = refusal or _range_of_no_family(agreed, vips)
    if refusal is not None:
        problems.append(Problem(title, f"refused: {refusal.cause}", refusal.next_step))
    else:
        vips, closed = _closed_to_all(title, agreed, vips)
        problems += closed
    problems += _doubts(balancer, title, agreed, vips)
    checked = bool(balancer.health_checks)
    return Declared(label, marked, vips, agreed, refusal, tuple(problems), checked)


def _protocol(balancer: LoadBalancer) -> Protocol | Fault:
    """OVN's default is TCP (ovn-nb(5), Load_Balancer.protocol)."""
    if balancer.options.get("template") == "true":
        return Fault(
            "it is a template (options:template=true), which XDP does not serve",
            "write its VIPs out, or leave it to OVN: remove the mark and attach it",
        )
    word = balancer.protocol or "tcp"
    if word not in texts.PROTOCOLS:
        return Fault(
            f"XDP does not serve protocol {word}",
            "remove the mark and attach it to a switch or router, so that OVN serves it",
        )
    return texts.PROTOCOLS[word]


def _vips(
    balancer: LoadBalancer, title: str, protocol: Protocol, kind: ServiceKind | None
) -> tuple[tuple[Vip, ...], list[Problem]]:
    """The VIPs that can be named, sorted, each text once; `kind` None: of any kind."""
    found: list[Vip] = []
    problems: list[Problem] = []
    seen: dict[L4Addr, str] = {}
    for key, value in sorted(balancer.vips.items()):
        where = f"{title}, VIP {key}"
        address = texts.l4(protocol, key)
        if isinstance(address, Fault):
            problems.append(Problem(where, f"refused: {address.cause}", address.next_step))
            continue
        targets = texts.targets(address, value)
        refusal = texts.vip_fault(address, kind) if kind else None
        if address in seen:
            refusal = Fault(
                f"{seen[address]!r} of the same row is the same VIP", "remove one of the two"
            )
        seen.setdefault(address, key)
        problems += [
            Problem(f"{where}, backend {text}", f"left out: {fault.cause}", fault.next_step)
            for text, fault in targets.faults
        ]
        if refusal is None and targets.faults and not targets.named:
            refusal = Fault("none of its backends can be served", "mend or remove its backends")
        if refusal is not None:
            problems.append(Problem(where, f"refused: {refusal.cause}", refusal.next_step))
        found.append(Vip(address, targets.named, len(targets.faults), refusal))
    return tuple(sorted(found, key=lambda vip: texts.rank(vip.address))), problems


def _range_of_no_family(terms: Terms, vips: tuple[Vip, ...]) -> Fault | None:
    versions = {vip.address.address.version for vip in vips}
    for network in terms.source_ranges:
        if versions and network.version not in versions:
            return Fault(
                f"external_ids:{names.SOURCE_RANGES_KEY}: {network} is IPv{network.version}, and "
                "no VIP of the row is",
                "remove it, or name networks of the VIPs' family",
            )
    return None


def _closed_to_all(
    title: str, terms: Terms, vips: tuple[Vip, ...]
) -> tuple[tuple[Vip, ...], list[Problem]]:
    """The VIPs, those refused that have no source range of their family, if the row has any."""
    versions = {network.version for network in terms.source_ranges}
    found: list[Vip] = []
    problems: list[Problem] = []
    for vip in vips:
        version = vip.address.address.version
        if versions and version not in versions and vip.refusal is None:
            fault = Fault(
                f"external_ids:{names.SOURCE_RANGES_KEY} has no network of IPv{version}",
                f"add one; {'0.0.0.0/0' if version == 4 else '::/0'} admits everybody",
            )
            where = f"{title}, VIP {vip.address}"
            problems.append(Problem(where, f"refused: {fault.cause}", fault.next_step))
            found.append(replace(vip, refusal=fault))
        else:
            found.append(vip)
    return tuple(found), problems


def _doubts(
    balancer: LoadBalancer, title: str, terms: Terms, vips: tuple[Vip, ...]
) -> Iterator[Problem]:
    """What is served all the same, and was hardly meant so."""
    for key in sorted(balancer.external_ids):
        if key.startswith(_PREFIX) and key not in _KEYS:
            near = difflib.get_close_matches(key[:60], sorted(_KEYS), n=1)
            yield Problem(
                title,
                f"external_ids has an unknown key {key}, which counts for nothing",
                f"did you mean {near[0]}? or remove it" if near else "remove it",
            )
    if balancer.options.get(names.REJECT_OPTION, "true") not in {"true", "false"}:
        yield Problem(
            title,
            f"options:{names.REJECT_OPTION}={balancer.options[names.REJECT_OPTION]!r} is neither "
            "true nor false; without endpoints it refuses",
            "set it to true or false",
        )
    known = {target for vip in vips for target in vip.targets}
    for target in texts.in_order(terms.endpoints.keys() - known):
        yield Problem(
            title,
            f"external_ids:{names.ENDPOINTS_KEY} names {target}, a backend of none of its VIPs",
            "add it to the VIP's backends, or remove it",
        )
