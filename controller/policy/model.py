"""Network policies and what they speak of, as frozen values.

Source: Kubernetes API reference, networking.k8s.io/v1 NetworkPolicy, and "Network Policies" of its
concepts. Absent lists and empty ones mean different things there; here None stands for "all".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from dataplane.model.addr import IPNetwork, Protocol


class Operator(StrEnum):
    """Of a label selector's expression."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Expression:
    """One requirement of a selector. `values` is empty for the two of existence."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet it. NotIn holds where the key is missing, too."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A label selector: all expressions hold. Without any it selects everything."""

    expressions: tuple[Expression, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects what has these labels."""
        return all(one.matches(labels) for one in self.expressions)


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Block:
    """An ipBlock: a network without some of its parts."""

    network: IPNetwork
    excepts: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods of some namespaces. `namespaces` None: of the policy's own."""

    pods: Selector = EVERYTHING
    namespaces: Selector | None = None


Peer = Block | Pods


class Named(NamedTuple):
    """What pods mean by a port's name: those that mean this number by it."""

    protocol: Protocol
    name: str
    number: int


class Chosen(NamedTuple):
    """Pods of one namespace, or of every one that a selector chooses; ports and addresses.

    Attributes:
        providers: only these interfaces, sorted; None: all that a pod has.
        named: only pods that call a port so.
    """

    namespaces: str | Selector
    pods: Selector
    providers: tuple[str, ...] | None = None
    named: Named | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of one protocol: a number (to `last`), a name, or (None) all of them."""

    protocol: Protocol = Protocol.TCP
    port: int | str | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What is let through: traffic with any of these peers on any of these ports; None: all."""

    peers: tuple[Peer, ...] | None = None
    ports: tuple[Ports, ...] | None = None


class Direction(Enum):
    """Seen from the selected pods."""

    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class Logging:
    """What a policy's ACLs log. `rate`: lines a second at most; 0: no limit."""

    allowed: bool = False
    dropped: bool = False
    rate: int = 0


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """One policy. `ingress`, `egress`: None where the policy does not isolate that direction.

    Attributes:
        providers: of whose interfaces it speaks; None: of all that a pod has.
        lax: drop only TCP, UDP and SCTP, and no DHCP; None: as the cluster is set.
    """

    namespace: str
    name: str
    pods: Selector
    ingress: tuple[Rule, ...] | None = ()
    egress: tuple[Rule, ...] | None = None
    logging: Logging = Logging()
    providers: tuple[str, ...] | None = None
    lax: bool | None = None

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """Of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress
