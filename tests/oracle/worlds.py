"""Worlds by chance: a node, its services of every kind, and how they change.

A world is a list of events, as the packets are, so that what is not needed for a failure can be
left out of it one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from random import Random

from tests.oracle.declared import Backend, Known, Member, Node, Place, Service
from tests.oracle.tables import Table
from tests.oracle.wire import SCTP, TCP, UDP

UPLINK, UPLINK_TWO, SVC = 1, 2, 3
"""The doors of every world; the harness knows which devices they are."""


def address(text: str) -> bytes:
    """The octets of an address."""
    return ip_address(text).packed


def mac(number: int) -> bytes:
    """A locally administered unicast MAC."""
    return b"\x02\0" + number.to_bytes(4, "big")


GATEWAY_MAC, SERVICE_MAC, UPLINK_MAC = mac(0xA0), mac(0xA1), mac(0xA2)
ROUTERS = (mac(0xC1), mac(0xC2))
OTHER_NODE, OTHER_GATEWAYS = mac(0xB0), (mac(0xB1), mac(0xB2))
SERVICE4, SERVICE6 = address("100.64.255.1"), address("fd00:ff::1")
HIDDEN4, HIDDEN6 = address("169.254.109.115"), address("fd6d:7273::3")
LOCALS = (address("172.18.0.11"), address("172.18.0.12"), address("fd00::11"), address("fd00::12"))
VIPS = {
    4: tuple(address(f"192.0.2.{10 + i}") for i in range(5)),
    6: tuple(address(f"2001:db8:1::{10 + i}") for i in range(4)),
}
PODS = {
    4: tuple(address(f"10.16.0.{2 + i}") for i in range(8)),
    6: tuple(address(f"fd10::{2 + i}") for i in range(6)),
}
CLIENTS = {
    4: tuple(address(a) for a in ("203.0.113.7", "203.0.113.8", "203.0.113.200", "198.51.100.3")),
    6: tuple(address(a) for a in ("2001:db8:c::7", "2001:db8:c::8", "2001:db8:d::1")),
}
RANGES = {
    4: tuple(
        (address(a), n) for a, n in (("203.0.113.0", 25), ("198.51.100.3", 32), ("0.0.0.0", 0))
    ),
    6: tuple((address(a), n) for a, n in (("2001:db8:c::", 64), ("2001:db8:d::1", 128), ("::", 0))),
}
SERVICE_PORTS = (80, 53, 443, 30080)
HERE = (Place.LOCAL, Place.HOST)
MANY = 140
"""More members than a list of them takes."""


@dataclass(frozen=True, slots=True)
class Knows:
    """An address is something to this node."""

    addr: bytes
    known: Known


@dataclass(frozen=True, slots=True)
class Serves:
    """A service is served as it is declared here."""

    service: Service


@dataclass(frozen=True, slots=True)
class Withdraws:
    """A service is served no longer."""

    name: str


@dataclass(frozen=True, slots=True)
class Passes:
    """Time goes by [ticks]."""

    ticks: int


@dataclass(frozen=True, slots=True)
class Comes:
    """A frame comes by a door."""

    door: int
    octets: bytes

    def __repr__(self) -> str:
        return f"Comes({self.door}, bytes.fromhex({self.octets.hex()!r}))"


Event = Knows | Serves | Withdraws | Passes | Comes


@dataclass(frozen=True, slots=True)
class Setting:
    """What of a node does not change: whether its parts are ready, its seeds, its table.

    `others`: flows of each family that were there before, and will be to the end.
    """

    ready4: bool = True
    ready6: bool = True
    leaving: frozenset[int] = frozenset((UPLINK, UPLINK_TWO))
    hash_seed: int = 1
    table: Table = Table.ROOMY
    others: int = 0

    def node(self) -> Node:
        """The node, empty."""
        return Node(
            (UPLINK, UPLINK_TWO), SVC, self.leaving, GATEWAY_MAC, SERVICE_MAC, UPLINK_MAC,
            SERVICE4, SERVICE6, HIDDEN4, HIDDEN6, self.ready4, self.ready6,
        )  # fmt: skip


class Worlds:
    """Draws what a world is made of."""

    def __init__(self, rng: Random, table: Table = Table.ROOMY) -> None:
        self._rng, self._table = rng, table
        self._many = ""
        self._backends = {version: self._some_backends(version) for version in (4, 6)}

    def _chance(self, of_one: float) -> bool:
        return self._rng.random() < of_one

    def _some_backends(self, version: int) -> list[Backend]:
        rng, found = self._rng, []
        mtus = (0, 0, 0, 0, 1400, 600) if version == 4 else (0, 0, 0, 0, 1400, 1280)
        for i, addr in enumerate(PODS[version]):
            place = rng.choice((Place.LOCAL, Place.LOCAL, Place.REMOTE))
            gateway = rng.choice((*OTHER_GATEWAYS, b"")) if place is Place.REMOTE else b""
            for proto in (TCP, UDP, SCTP):
                port = rng.choice((8080, 53, 80))
                found.append(Backend(addr, port, proto, place, rng.choice(mtus), gateway))
                if i < 2:
                    found.append(Backend(addr, port + 1, proto, place, 0, gateway))
        for proto in (TCP, UDP, SCTP):
            host = LOCALS[1] if version == 4 else LOCALS[3]
            found += [Backend(host, port, proto, Place.HOST) for port in (6443, 53)]
        return found

    def setting(self) -> Setting:
        """What does not change."""
        doors = frozenset((UPLINK, UPLINK_TWO))
        return Setting(
            ready6=self._chance(0.92),
            leaving=doors if self._chance(0.9) else frozenset((UPLINK,)),
            hash_seed=self._rng.getrandbits(32),
            table=self._table,
            others=int(self._rng.choice(self._table.loads) * self._table.records),
        )

    def events(self) -> Iterator[Event]:
        """What a world begins with."""
        for addr in LOCALS:
            yield Knows(addr, Known(local=True))
        for vips in VIPS.values():
            for vip in vips:
                yield Knows(vip, Known(owned=self._chance(0.7), vip=True))
        taken: set[tuple[bytes, int, int]] = set()
        for i in range(self._rng.randint(3, 10)):
            service = self._service(f"s{i}", taken)
            if service is not None:
                yield Serves(service)

    def _service(self, name: str, taken: set[tuple[bytes, int, int]]) -> Service | None:
        rng = self._rng
        version = rng.choice((4, 4, 6))
        proto = rng.choice((TCP, TCP, TCP, UDP, UDP, SCTP))
        places = [*VIPS[version], LOCALS[0] if version == 4 else LOCALS[2]]
        vips = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            vip = (rng.choice(places), rng.choice(SERVICE_PORTS))
            if (*vip, proto) not in taken:
                taken.add((*vip, proto))
                vips.append(vip)
        if not vips:
            return None
        return self._drawn(Service(name, proto, tuple(vips)))

    def _drawn(self, service: Service) -> Service:
        """The same service, all that may change about it drawn anew."""
        rng = self._rng
        version = 4 if len(service.vips[0][0]) == 4 else 6
        usable = [b for b in self._backends[version] if b.proto == service.proto]
        members: tuple[Member, ...] = ()
        if not self._chance(0.12):
            weighted = self._chance(0.3)
            members = tuple(
                Member(backend, rng.choice((1, 2, 5)) if weighted else 1)
                for backend in rng.sample(usable, min(len(usable), rng.randint(1, 6)))
            )
        # One service of a world may have so many: they take a table, and the bench has one.
        roomy = self._table is Table.ROOMY
        if self._many in ("", service.name) and roomy and self._chance(0.01):
            self._many = service.name
            prefix = b"\x0a\x11\0" if version == 4 else address("fd11::")[:15]
            members += tuple(
                Member(Backend(prefix + bytes((i + 1,)), 8080, service.proto)) for i in range(MANY)
            )
        affinity = rng.choice((100, 1000, 6000, 30000)) if self._chance(0.25) else None
        ranges = None
        if self._chance(0.15):
            ranges = tuple(rng.sample(RANGES[version], rng.randint(1, 2)))
        return replace(
            service,
            members=members,
            here=tuple(m for m in members if m.backend.place in HERE),
            snat=self._chance(0.6),
            inner_snat=self._chance(0.3),
            local=self._chance(0.25),
            inner_local=self._chance(0.2),
            reject=self._chance(0.8),
            dsr=self._chance(0.2),
            affinity=affinity,
            ranges=ranges,
        )

    def change(self, node: Node) -> Event | None:
        """A service is declared anew, comes or goes."""
        rng, names = self._rng, sorted(node.services)
        kind = rng.random()
        if names and kind < 0.75:
            return Serves(self._varied(node.services[rng.choice(names)]))
        if names and kind < 0.85:
            return Withdraws(rng.choice(names))
        free = [f"s{i}" for i in range(12) if f"s{i}" not in node.services]
        made = self._service(rng.choice(free), set(node.by_key)) if free else None
        return Serves(made) if made else None

    def _varied(self, service: Service) -> Service:
        """A few of its members, or all of it."""
        if self._chance(0.4):
            return self._drawn(service)
        members: Sequence[Member] = service.members
        if members and self._chance(0.6):
            members = self._rng.sample(members, self._rng.randint(0, len(members)))
        else:
            members = (*members, *self._drawn(service).members)
        by_backend = {member.backend: member for member in members}
        kept = tuple(by_backend.values())
        return replace(
            service,
            members=kept,
            here=tuple(m for m in kept if m.backend.place in HERE),
        )
