"""What compiled rows let through, as OVN decides: the ACL of the highest priority that matches."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from controller.policy.model import Direction
from controller.policy.rows import Match
from dataplane.model.addr import Protocol
from tests.policies.whole import PolicyRows


def passes(
    rows: PolicyRows, ports: tuple[str, str], hosts: tuple[str, str], protocol: str, number: int
) -> bool:
    """Whether a new connection passes both stages.

    Args:
        rows: the compiled ones.
        ports: logical ports of source and target, "" for the world outside.
        hosts: their addresses.
        protocol: its name, "ICMP" for one without ports.
        number: the destination port.
    """
    source, target = ports
    return stage(rows, Direction.EGRESS, source, hosts[1], protocol, number) and stage(
        rows, Direction.INGRESS, target, hosts[0], protocol, number
    )


def stage(
    rows: PolicyRows, direction: Direction, port: str, peer: str, protocol: str, number: int
) -> bool:
    """Whether a packet that begins a connection passes at one end of it."""
    found = [
        (acl.priority, acl.action != "drop")
        for acl in rows.acls.values()
        if acl.match.direction is direction
        and port in rows.port_groups[acl.match.group]
        and _matches(rows, acl.match, peer, protocol, number)
    ]
    if not found:
        return True
    best = max(priority for priority, _ in found)
    verdicts = {verdict for priority, verdict in found if priority == best}
    assert len(verdicts) == 1, "two ACLs of one priority disagree"
    return verdicts.pop()


def _matches(rows: PolicyRows, match: Match, peer: str, protocol: str, number: int) -> bool:
    host = ip_address(peer)
    if match.only:  # neighbour discovery, which nobody asks for here
        return False
    if match.version is not None and host.version != match.version:
        return False
    if match.sets or match.blocks:
        named = any(
            peer in rows.address_sets[name]
            or any("/" in text and host in ip_network(text) for text in rows.address_sets[name])
            for name in match.sets
        )
        blocked = any(
            host in block.network and not any(host in part for part in block.excepts)
            for block in match.blocks
        )
        if not (named or blocked):
            return False
    if match.also and peer not in rows.address_sets[match.also]:
        return False
    if not match.ports:
        return True
    if protocol not in Protocol.__members__:
        return any(one.protocol is None for one in match.ports)
    return any(
        one.protocol is Protocol[protocol]
        and (one.first is None or one.first <= number <= (one.last or one.first))
        for one in match.ports
    )
