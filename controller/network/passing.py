"""What a SecurityGroup passes on to the next tier, taken out of what stands behind. Pure.

OVN 23.03 has no action that passes on, so what a group drops or allows says of a packet that it
matches none of the rules that pass on. ovn-controller multiplies alternatives out that are joined
by `&&`, so the rules of a protocol are told apart below it, and ports of one kind of rule by the
gaps between them: what is said grows with the rules, and not by multiples of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from controller.kinds.securitygroup import ONWARD, GroupRule, SecurityGroup
from controller.policy.model import Direction

OWN_END = {Direction.INGRESS: "dst", Direction.EGRESS: "src"}
_FAR_END = {Direction.INGRESS: "src", Direction.EGRESS: "dst"}
_PROTOCOLS = {"tcp": 6, "udp": 17}
_LAST_PORT = 65535
_PORT_FLOWS = 32
"""An order of ports is one flow for each of its bits; each range has one at either end."""
_MOST_FLOWS = 1 << 16
"""Of what a group passes on, by ovn-controller."""


def onward(
    group: SecurityGroup,
) -> tuple[dict[Direction, list[GroupRule]], list[GroupRule]]:
    """The rules that pass on, and those that cannot: their traffic is judged as if without them."""
    passed: dict[Direction, list[GroupRule]] = {}
    left: list[GroupRule] = []
    for direction in Direction:
        mine = passed[direction] = []
        rules = (rule for rule in group.rules(direction) if rule.action == ONWARD)
        for rule in sorted(rules, key=lambda one: one.priority):
            # How many members a group has, and will have, nobody knows.
            alike = [one for one in mine if one.version == rule.version]
            if rule.group or _flows((*alike, rule)) > _MOST_FLOWS:
                left.append(rule)
            else:
                mine.append(rule)
    return passed, left


def none_of(direction: Direction, version: int, rules: Iterable[GroupRule]) -> list[str] | None:
    """What holds, all of it, of a packet of a family that none of these rules matches.

    What has a family and a protocol can be tested for having them and not for having none, so each
    rule is turned into what else a packet may be. None: there is no such packet.
    """
    found: list[str] = []
    protocols: dict[int, list[str]] = {}
    for rule, ranges in _alike(one for one in rules if one.version == version):
        words = " || ".join(_other(direction, rule, ranges))
        if rule.protocol != "all":
            number = _PROTOCOLS.get(rule.protocol) or (1 if version == 4 else 58)
            protocols.setdefault(number, []).append(words)
        elif words:
            found.append(f"({words})")
        else:
            return None
    if protocols:
        rest = ", ".join(str(one) for one in range(256) if one not in protocols)
        ways = [f"ip.proto == {{{rest}}}"]
        for number, each in protocols.items():
            if all(each):
                both = " && ".join(f"({words})" for words in each)
                ways.append(f"(ip.proto == {number} && {both})")
        found.append(f"({' || '.join(ways)})")
    return found


def _alike(rules: Iterable[GroupRule]) -> Iterator[tuple[GroupRule, list[tuple[int, int]]]]:
    """Rules that differ in their ports alone as one, with these in order; none: any port."""
    found: dict[GroupRule, list[tuple[int, int]]] = {}
    for rule in rules:
        same = replace(rule, priority=0, ports=None)
        found.setdefault(same, []).append(rule.ports or (0, _LAST_PORT))
    for same, ranges in found.items():
        yield same, sorted(ranges) if (0, _LAST_PORT) not in ranges else []


def _flows(rules: Iterable[GroupRule]) -> int:
    """How many flows it takes to say that a packet matches none of a family's, at most."""
    whole, protocols = 1, dict[str, int]()
    for rule, ranges in _alike(rules):
        networks = sum(network.prefixlen for network in (rule.remote, rule.local) if network)
        ports = _PORT_FLOWS * (len(ranges) + bool(rule.source_ports))
        if rule.protocol == "all":
            whole *= max(1, networks + ports)
        else:
            protocols[rule.protocol] = protocols.get(rule.protocol, 1) * (networks + ports)
    return whole * (256 + sum(protocols.values()) if protocols else 1)


def _other(direction: Direction, rule: GroupRule, ranges: list[tuple[int, int]]) -> Iterator[str]:
    """Each way not to match a rule with these ports, by a packet of its family and protocol."""
    family, end = f"ip{rule.version}", _FAR_END[direction]
    if rule.remote and rule.remote.prefixlen:
        yield f"{family}.{end} != {rule.remote}"
    if rule.local and rule.local.prefixlen:
        yield f"{family}.{OWN_END[direction]} != {rule.local}"
    yield from _gaps(f"{rule.protocol}.dst", ranges)
    yield from _gaps(f"{rule.protocol}.src", [rule.source_ports] if rule.source_ports else [])


def _gaps(field: str, ranges: list[tuple[int, int]]) -> Iterator[str]:
    """The ports that are in none of the ranges, which are in order; nothing: all are."""
    above = 0
    for first, last in ranges:
        if first > above + 1:
            low = f"{field} > {above}" if above else ""
            yield f"({low} && {field} < {first})" if low else f"{field} < {first}"
        above = max(above, last)
    if ranges and above < _LAST_PORT:
        yield f"{field} > {above}"
