"""OVN's rows that a policy becomes, and how their matches are spelled. Pure.

Source: ovn-nb(5), tables ACL, Port_Group, Address_Set; ovn-sb(5), Logical_Flow "Expressions".
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.policy.model import Block, Direction
from dataplane.model.addr import Protocol

DENY_PRIORITY = 1999
ALLOW_PRIORITY = 2001
NODE_PRIORITY = 32000
"""A node reaches its own pods whatever policies say (kubelet probes), and neighbours are found."""

TO_NODE_PRIORITY = 3000
"""And pods their node, unless an administrator's policy says otherwise."""

NEIGHBOURS = "(nd || nd_rs || nd_ra || mldv1 || mldv2)"
"""OVN's "ip" matches these too: dropped, a pod has no IPv6 at all."""

STATELESS = "allow-stateless"
"""The action of what stays out of connection tracking; at ALLOW_PRIORITY."""

LOGGED = 1
"""Above the priority of the equal ACL that logs nothing, which another policy may have."""

_ENDS = {Direction.INGRESS: ("outport", "src"), Direction.EGRESS: ("inport", "dst")}
_OF_LPORT = {Direction.INGRESS: "to-lport", Direction.EGRESS: "from-lport"}


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Destination ports of one protocol; None: all of them. `source`: the only source port.

    `protocol` None: any other than those that have ports.
    """

    protocol: Protocol | None
    first: int | None = None
    last: int | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What an ACL matches: packets of the group's ports, of one family, with these peers and ports.

    `sets` and `blocks`: any of them; both empty: any peer. `ports`: any of them; empty: any packet.
    `also`: the peer is in this set besides. `only`: a further condition in OVN's language.
    """

    group: str
    direction: Direction
    version: int | None = None
    sets: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    ports: tuple[PortRange, ...] = ()
    also: str = ""
    only: str = ""

    def __str__(self) -> str:
        """As OVN's expression language has it."""
        port, end = _ENDS[self.direction]
        family = "ip" if self.version is None else f"ip{self.version}"
        words = [f"{port} == @{self.group}", family]
        if peers := [*self._sets(end), *(_block(block, end) for block in self.blocks)]:
            words.append(_any(peers))
        if self.also:
            words.append(f"ip{self.version}.{end} == ${self.also}")
        if self.ports:
            words.append(_any([text for one in self.ports for text in _port(one)]))
        if self.only:
            words.append(self.only)
        return " && ".join(words)

    def _sets(self, end: str) -> list[str]:
        if not self.sets:
            return []
        names = ", ".join(f"${name}" for name in self.sets)
        return [f"ip{self.version}.{end} == {{{names}}}"]


@dataclass(frozen=True, slots=True)
class Acl:
    """An ACL of a port group. `meter`: logs at most this often a second; 0: without a limit.

    `name` is what stands in the log; an ACL that logs nothing has none, for policies share it.
    """

    match: Match
    priority: int
    action: str
    name: str = ""
    log: bool = False
    meter: int = 0

    @property
    def direction(self) -> str:
        """As OVN calls it."""
        return _OF_LPORT[self.match.direction]

    @property
    def options(self) -> dict[str, str]:
        """Egress is judged by what load balancers made of the destination, as Kubernetes has it.

        What is kept out of connection tracking is so before: the table before load balancers would
        commit it, and no load balancer of OVN's may be there at all.
        """
        if self.match.direction is Direction.INGRESS or self.action == STATELESS:
            return {}
        return {"apply-after-lb": "true"}

    @property
    def key(self) -> tuple[object, ...]:
        """What tells two of them apart."""
        match = self.match
        return (
            match.group,
            self.direction,
            self.priority,
            str(match),
            self.action,
            self.name,
            self.meter,
        )


def tracking(group: str, direction: Direction) -> Acl:
    """What every group needs of which anything is dropped.

    Neighbours are found, and the switches of the group track connections: OVN does so where one
    ACL at least is allow-related, and without it what is dropped is dropped of answers, too.
    """
    return Acl(Match(group, direction, 6, only=NEIGHBOURS), NODE_PRIORITY, "allow-related")


def _any(alternatives: list[str]) -> str:
    if len(alternatives) == 1:
        return f"({alternatives[0]})" if "&&" in alternatives[0] else alternatives[0]
    return "(" + " || ".join(f"({a})" if "&&" in a else a for a in alternatives) + ")"


def _block(block: Block, end: str) -> str:
    field_ = f"ip{block.network.version}.{end}"
    text = f"{field_} == {block.network}"
    if block.excepts:
        text += f" && {field_} != {{{', '.join(map(str, block.excepts))}}}"
    return text


def _port(one: PortRange) -> list[str]:
    if one.protocol is None:
        # OVN tests this field for equality only.
        others = (number for number in range(256) if number not in set(Protocol))
        return [f"ip.proto == {{{', '.join(map(str, others))}}}"]
    name = one.protocol.name.lower()
    if one.source is not None:
        return [f"{name}.src == {one.source} && {name}.dst == {one.first}"]
    if one.first is None:
        return [name]
    if one.last is None:
        return [f"{name}.dst == {one.first}"]
    return [f"{name}.dst >= {one.first} && {name}.dst <= {one.last}"]
