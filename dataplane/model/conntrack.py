"""Flows through services as people and plans speak of them: states, filters, what is to end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address

from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol


class FlowState(IntEnum):
    """The state of a flow; the numbers are those of bpf/include/abi.h (the abi tests compare)."""

    SYN = 0
    SYN_ACK = 1
    MIDDLE = 2
    ESTABLISHED = 3
    FIN = 4
    TIME_WAIT = 5
    RESET = 6
    UDP_ONE_WAY = 7
    UDP = 8
    SCTP_NEW = 9
    SCTP = 10
    SCTP_SHUTDOWN = 11
    UDP_ANSWERED = 12

    @property
    def text(self) -> str:
        """Its name in output and on command lines: lower case, with hyphens."""
        return self.name.lower().replace("_", "-")

    @property
    def protocol(self) -> Protocol:
        """The protocol that it is a state of."""
        if self in (FlowState.UDP_ONE_WAY, FlowState.UDP_ANSWERED, FlowState.UDP):
            return Protocol.UDP
        return Protocol.SCTP if self >= FlowState.SCTP_NEW else Protocol.TCP


ENDS_WITH_BACKEND = frozenset(
    {
        FlowState.SYN,
        FlowState.UDP_ONE_WAY,
        FlowState.UDP_ANSWERED,
        FlowState.UDP,
        FlowState.SCTP_NEW,
    }
)
"""States whose flows end when their backend takes no new ones: UDP, and what it never answered.

A connection that the backend has answered lives on: its client takes it for established, and a
backend that terminates goes on serving it.
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and a port if it matters (as a filter: None is any; 0 is a port like others)."""

    address: IPAddress
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """192.0.2.1, 192.0.2.1:80, fd00::1, [fd00::1] or [fd00::1]:80.

        Raises:
            ValueError: it is none of these.
        """
        host, port = text, ""
        if text.startswith("["):
            host, closed, rest = text[1:].partition("]")
            port = rest.removeprefix(":")
            if not closed or rest[:1] not in ("", ":") or rest == ":":
                msg = f"{text!r} is not an address such as [fd00::1]:80"
                raise ValueError(msg)
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        try:
            address, number = ip_address(host), int(port) if port else None
        except ValueError as error:
            msg = f"{text!r} is not ADDRESS or ADDRESS:PORT: {error}"
            raise ValueError(msg) from error
        if number is not None and not 0 <= number <= 65535:
            msg = f"port {number} of {text!r} is outside 0..65535"
            raise ValueError(msg)
        return cls(address, number)

    def __str__(self) -> str:
        if self.port is None:
            return str(self.address)
        host = self.address if self.address.version == 4 else f"[{self.address}]"
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which flows: those that everything given holds for. `states` empty: any."""

    vip: Endpoint | None = None
    client: Endpoint | None = None
    backend: Endpoint | None = None
    states: frozenset[FlowState] = field(default_factory=frozenset)
    protocol: Protocol | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those that are given."""
        return tuple(end for end in (self.vip, self.client, self.backend) if end is not None)

    @property
    def version(self) -> int | None:
        """The one IP version that can match; None: either, 0: none."""
        versions = {end.address.version for end in self.endpoints}
        return None if not versions else versions.pop() if len(versions) == 1 else 0


@dataclass(frozen=True, slots=True)
class Endings:
    """Flows that a change of services ends; nothing else does.

    Attributes:
        vips: VIPs that went: every flow of theirs.
        moved: (service id, VIP) of VIPs that are another service's now: the flows that they had as
            that one's, those in ENDS_WITH_BACKEND's states.
        backends: (service id, backend) that take no new flows: those in the same states.
        nodes: (service id, MAC) of nodes that no packet of the service is handed to any more (DSR,
            where a flow knows its backend's node and no more): those in the same states.
        affinities: (service id, backend id): clients are not bound to them any longer.
    """

    vips: frozenset[L4Addr] = frozenset()
    moved: frozenset[tuple[int, L4Addr]] = frozenset()
    backends: frozenset[tuple[int, L4Addr]] = frozenset()
    nodes: frozenset[tuple[int, Mac]] = frozenset()
    affinities: frozenset[tuple[int, int]] = frozenset()

    def __bool__(self) -> bool:
        return self != Endings()

    def versions(self) -> frozenset[int]:
        """The IP versions whose flows it can concern."""
        of_services = (end for _, end in (*self.moved, *self.backends))
        ends: Iterable[L4Addr] = (*self.vips, *of_services)
        versions = frozenset(end.address.version for end in ends)
        return versions | {4, 6} if self.nodes else versions
