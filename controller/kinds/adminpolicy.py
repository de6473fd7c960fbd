"""AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy, from JSON. No I/O.

Sources: network-policy-api, v1alpha1, v1alpha2 and v1beta1 (in which the last is as it was), whose
texts also say what to do with a peer that is not understood: an allowing rule matches nothing by
it, any other rule denies everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from controller.kinds.reading import Form, Reading
from controller.kube.structs import Meta
from controller.policy.admin import (
    PRIORITIES,
    Action,
    AdminPeer,
    AdminPolicy,
    AdminRule,
    PortName,
    Tier,
)
from controller.policy.boxes import Networks, Nodes, Span
from controller.policy.model import EVERYTHING, Chosen
from dataplane.model.addr import IPNetwork, Protocol

_ACTIONS = {"Allow": Action.ALLOW, "Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
NOBODY = Networks(())
EVERYONE = Networks((ip_network("0.0.0.0/0"), ip_network("::/0")))
MOST_RULES = 100
"""Of a direction, in v1alpha1; later ones have 25."""


def _admin(meta: Meta, spec: Reading, _: Reading) -> AdminPolicy:
    return _policy(meta, spec, Tier.ADMIN, _priority(spec), ("Allow", "Deny", "Pass"), "ports")


def _baseline(meta: Meta, spec: Reading, _: Reading) -> AdminPolicy:
    # There is one at most, and nothing comes behind it.
    return _policy(meta, spec, Tier.BASELINE, PRIORITIES, ("Allow", "Deny"), "ports")


def _cluster(meta: Meta, spec: Reading, _: Reading) -> AdminPolicy:
    said = spec.choice("tier", ("Admin", "Baseline"))
    if not said:
        spec.fail("tier", "is missing", "write Admin or Baseline")
    actions = ("Accept", "Deny", "Pass")
    return _policy(meta, spec, _TIERS[said], _priority(spec), actions, "protocols")


def _priority(spec: Reading) -> int:
    if not spec.has("priority"):
        spec.fail("priority", "is missing", f"give a number from 0 to {PRIORITIES - 1}")
    priority = spec.number("priority")
    if not 0 <= priority < PRIORITIES:
        spec.fail("priority", f"{priority} is none", f"give one from 0 to {PRIORITIES - 1}")
    return priority


def _policy(
    meta: Meta, spec: Reading, tier: Tier, priority: int, actions: tuple[str, ...], ports: str
) -> AdminPolicy:
    subject = _pods(spec.below("subject"))
    if subject is None:
        spec.fail("subject", "selects nothing that is known", "give namespaces or pods")
    ingress, egress = (
        tuple(_rule(one, peers, actions, ports) for one in spec.each(direction))
        for direction, peers in (("ingress", "from"), ("egress", "to"))
    )
    for direction, rules in (("ingress", ingress), ("egress", egress)):
        if len(rules) > MOST_RULES:
            spec.fail(direction, f"has {len(rules)} rules", f"give {MOST_RULES} at most")
    return AdminPolicy(meta.name, tier, priority, subject, ingress, egress)


def _pods(reading: Reading) -> Chosen | None:
    """`namespaces`, or `pods` of namespaces; None: neither, or both."""
    spaces = reading.matcher("namespaces")
    if not reading.has("pods"):
        reading.below("pods")
        return None if spaces is None else Chosen(spaces, EVERYTHING)
    if spaces is not None:
        return None
    below = reading.below("pods")
    of, which = below.matcher("namespaceSelector"), below.matcher("podSelector")
    return Chosen(
        EVERYTHING if of is None else of,
        EVERYTHING if which is None else which,
    )


def _rule(reading: Reading, peers: str, actions: tuple[str, ...], ports: str) -> AdminRule:
    said = reading.choice("action", actions)
    if not said:
        reading.fail("action", "is missing", f"write one of {', '.join(actions)}")
    action = _ACTIONS[said]
    found = [_peer(one, egress=peers == "to") for one in reading.each(peers)]
    if not found:
        reading.fail(peers, "is empty", "name one peer at least")
    read = _ports if ports == "ports" else _protocols
    wanted = tuple(read(reading.each(ports))) if reading.has(ports) else None
    name = reading.text("name")
    known = tuple(one for one in found if one is not None)
    if len(known) < len(found) and action is not Action.ALLOW:
        return AdminRule(Action.DENY, (EVERYONE,), None, name)
    return AdminRule(action, known or (NOBODY,), wanted, name)


def _peer(reading: Reading, *, egress: bool) -> AdminPeer | None:
    """None: it is not understood."""
    pods = _pods(reading)
    if not egress:
        return pods
    nodes = reading.matcher("nodes")
    networks = _networks(reading)
    said = [
        one
        for one in (
            pods,
            None if nodes is None else Nodes(nodes),
            Networks(networks) if networks else None,
        )
        if one is not None
    ]
    return said[0] if len(said) == 1 else None


def _networks(reading: Reading) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    for at, text in enumerate(reading.texts("networks")):
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            reading.fail(f"networks[{at}]", f"{text!r} is no network", "write it as 10.0.0.0/8")
    return tuple(found)


def _ports(listed: Iterable[Reading]) -> Iterator[Span | PortName]:
    """Ports as v1alpha1 has them."""
    for one in listed:
        if one.has("portNumber"):
            below = one.below("portNumber")
            number = _number(below, "port")
            yield Span(_protocol(below), number, number)
        elif one.has("portRange"):
            below = one.below("portRange")
            yield _range(below, _protocol(below))
        elif one.has("namedPort"):
            yield PortName(one.text("namedPort"))
        else:
            one.fail("portNumber", "is missing", "give portNumber, portRange or namedPort")


def _protocols(listed: Iterable[Reading]) -> Iterator[Span | PortName]:
    """Protocols as v1alpha2 has them, and v1beta1."""
    for one in listed:
        named = one.text("destinationNamedPort")
        if named:
            yield PortName(named)
            continue
        said = [protocol for protocol in Protocol if one.has(protocol.name.lower())]
        if len(said) != 1:
            one.fail("tcp", "is missing", "give one of tcp, udp, sctp, destinationNamedPort")
        below = one.below(said[0].name.lower()).below("destinationPort")
        if below.has("range"):
            yield _range(below.below("range"), said[0])
        elif below.fields:
            number = _number(below, "number")
            yield Span(said[0], number, number)
        else:
            yield Span(said[0])


def _range(reading: Reading, protocol: Protocol) -> Span:
    first, last = _number(reading, "start"), _number(reading, "end")
    if last < first:
        reading.fail("end", f"{last} is below {first}", "turn them round")
    return Span(protocol, first, last)


def _number(reading: Reading, name: str) -> int:
    number = reading.number(name)
    if not 1 <= number <= 65535:
        reading.fail(name, f"{number} is no port", "give 1 to 65535")
    return number


def _protocol(reading: Reading) -> Protocol:
    return Protocol[reading.choice("protocol", ("TCP", "UDP", "SCTP"), "TCP")]


ADMIN = Form("AdminNetworkPolicy", _admin)
BASELINE = Form("BaselineAdminNetworkPolicy", _baseline)
CLUSTER = Form("ClusterNetworkPolicy", _cluster)
