"""What a node is told: services, backends, addresses. Plain values, all that the model knows.

From the Kubernetes texts: a service port is (address, protocol, port) for every address that it
has; its usable endpoints are one set of the whole cluster and one of this node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address

Key = tuple[bytes, int, int]
"""Address, port, protocol."""


class Place(Enum):
    """Where a backend is; HOST: this node's own network, whose packets are its kernel's."""

    LOCAL = "local"
    REMOTE = "remote"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend; `mac` (octets, or empty) is its node's gateway router, `mtu` 0: not known."""

    addr: bytes
    port: int
    proto: int
    place: Place = Place.LOCAL
    mtu: int = 0
    mac: bytes = b""

    @property
    def target(self) -> tuple[bytes, int, int]:
        """What makes it this backend and no other."""
        return self.addr, self.port, self.proto

    def __str__(self) -> str:
        return f"{ip_address(self.addr)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Member:
    """A backend of a service, and its share."""

    backend: Backend
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Service:
    """One service port with all of its addresses.

    `local` and `inner_local` are the two traffic policies; `snat` and `inner_snat` say whether a
    backend sees our address instead of an outside or inside client's; `affinity` is in ticks, None
    without; `ranges` are (network, prefix length), None: everybody is admitted.
    """

    name: str
    proto: int
    vips: tuple[tuple[bytes, int], ...]
    members: tuple[Member, ...] = ()
    here: tuple[Member, ...] = ()
    snat: bool = True
    inner_snat: bool = False
    local: bool = False
    inner_local: bool = False
    reject: bool = True
    dsr: bool = False
    affinity: int | None = None
    ranges: tuple[tuple[bytes, int], ...] | None = None

    def asked(self) -> list[Key]:
        """What its clients send to."""
        return [(addr, port, self.proto) for addr, port in self.vips]

    def admits(self, client: bytes) -> bool:
        """Whether loadBalancerSourceRanges let an outside client in."""
        if self.ranges is None:
            return True
        number, bits = int.from_bytes(client, "big"), len(client) * 8
        return any(
            len(network) == len(client)
            and number >> (bits - length) == int.from_bytes(network, "big") >> (bits - length)
            for network, length in self.ranges
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What an address is to this node."""

    local: bool = False
    """The node's kernel has it."""
    owned: bool = False
    """A VIP that this node answers for: ARP, neighbour discovery, echo."""
    vip: bool = False
    """A VIP's: a port of it without service is refused."""


@dataclass(slots=True)
class Node:
    """This node: its two doors, its addresses, and everything that is served."""

    uplinks: tuple[int, ...]
    """ifindexes; the first is where what is led through leaves."""
    service_link: int
    leaving: frozenset[int]
    """Uplinks that a reply can leave by."""
    gateway_mac: bytes
    service_mac: bytes
    uplink_mac: bytes
    service4: bytes
    service6: bytes
    hidden4: bytes
    hidden6: bytes
    """What stands for clients inside, to this node's kernel."""
    ready4: bool = True
    ready6: bool = True
    known: dict[bytes, Known] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    by_key: dict[Key, Service] = field(default_factory=dict)
    vip_addresses: set[bytes] = field(default_factory=set)

    def serve(self, service: Service) -> None:
        """Serve it from now on as it is declared."""
        self.withdraw(service.name)
        self.services[service.name] = service
        for key in service.asked():
            self.by_key[key] = service
            self.vip_addresses.add(key[0])

    def withdraw(self, name: str) -> None:
        """Serve it no longer."""
        if service := self.services.pop(name, None):
            for key in service.asked():
                self.by_key.pop(key, None)

    def ready(self, version: int) -> bool:
        """Whether a gateway router of this family is known."""
        return self.ready4 if version == 4 else self.ready6

    def service_address(self, version: int) -> bytes:
        """The address by which backends know us."""
        return self.service4 if version == 4 else self.service6

    def our_addresses(self, version: int) -> tuple[bytes, bytes]:
        """Every address by which a backend may know us."""
        hidden = self.hidden4 if version == 4 else self.hidden6
        return self.service_address(version), hidden

    def stand_in(self, version: int, backend: Backend) -> bytes:
        """The address by which this backend knows the clients that it must not see."""
        if backend.place is Place.HOST:
            return self.hidden4 if version == 4 else self.hidden6
        return self.service_address(version)

    def of(self, addr: bytes) -> Known:
        """What an address is to this node."""
        return self.known.get(addr, _NOBODY)


_NOBODY = Known()
