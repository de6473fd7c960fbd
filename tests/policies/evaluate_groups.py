"""Whether a connection is allowed by SecurityGroups, from their JSON.

Written from Kube-OVN's documentation of the kind; it shares no code with the controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from tests.policies.evaluate import End

Json = Any


def allowed(
    groups: Mapping[str, Json],
    members: Mapping[str, list[str]],
    pair: tuple[End, End],
    protocol: str,
    port: int,
) -> bool:
    """Whether a new connection from one end to another is let through.

    Args:
        groups: specifications by name.
        members: names of groups by pod, "namespace/name".
        pair: source and target.
        protocol: as TCP or ICMP.
        port: the destination's.
    """  # fmt: skip
    source, target = pair
    return _side(groups, members, (source, target, "egressRules"), protocol, port) and _side(
        groups, members, (target, source, "ingressRules"), protocol, port
    )


def _side(
    groups: Mapping[str, Json],
    members: Mapping[str, list[str]],
    ends: tuple[End, End, str],
    protocol: str,
    port: int,
) -> bool:
    own, other, kind = ends
    named = members.get(f"{own.namespace}/{own.name}", [])
    if not named:
        return True
    others = members.get(f"{other.namespace}/{other.name}", [])
    found = []
    for name in named:
        spec = groups[name]
        for rule in spec.get(kind, []):
            if _matches(rule, own, other, others) and _on_port(rule, protocol, port):
                found.append((rule["priority"], rule["policy"] == "drop", rule["policy"]))
        if spec.get("allowSameGroupTraffic") and name in others:
            found.append((100000, False, "allow"))
    # The lowest number first; of equal ones what drops.
    found.sort(key=lambda one: (one[0], not one[1]))
    return bool(found) and found[0][2] == "allow"


def _matches(rule: Json, own: End, other: End, others: list[str]) -> bool:
    host = ip_address(other.address)
    if host.version != {"ipv4": 4, "ipv6": 6}[rule["ipVersion"]]:
        return False
    local = rule.get("localAddress")
    if local and ip_address(own.address) not in ip_network(local):
        return False
    if rule.get("remoteType") == "securityGroup":
        return rule["remoteSecurityGroup"] in others
    return not rule.get("remoteAddress") or host in ip_network(rule["remoteAddress"])


def _on_port(rule: Json, protocol: str, port: int) -> bool:
    if rule["protocol"] == "all":
        return True
    if rule["protocol"].upper() != protocol:
        return False
    return "portRangeMin" not in rule or rule["portRangeMin"] <= port <= rule["portRangeMax"]
