"""What is of no flow: neighbours' questions, echoes, other ports, other protocols, noise."""

from __future__ import annotations

from random import Random

from tests.oracle import crafted
from tests.oracle.model import Model
from tests.oracle.wire import ARP, ICMPV6, IPV4, IPV6, LLDP, PORTS, SCTP, TCP, UDP
from tests.oracle.worlds import (
    CLIENTS,
    GATEWAY_MAC,
    LOCALS,
    PODS,
    ROUTERS,
    SERVICE4,
    SERVICE6,
    SERVICE_MAC,
    SVC,
    UPLINK,
    UPLINK_MAC,
    VIPS,
    Comes,
)

GROUP_MAC = bytes.fromhex("01005e000001")
ODD_TAGS = ((0x88A8,), (0x8100, 0x8100), (0x88A8, 0x88A8), (0x8100, 0x8100, 0x8100))


class Strangers:
    """Draws such frames."""

    def __init__(self, rng: Random, model: Model) -> None:
        self._rng, self._model = rng, model

    def next(self) -> Comes:
        """One more."""
        draw = self._rng.choice(
            (self._arp, self._neighbour, self._echo, self._port, self._port, self._other,
             self._noise, self._later, self._tagged)
        )  # fmt: skip
        return draw()

    def _address(self, version: int) -> bytes:
        rng = self._rng
        ours = SERVICE4 if version == 4 else SERVICE6
        local = rng.choice(LOCALS[:2] if version == 4 else LOCALS[2:])
        return rng.choice((rng.choice(VIPS[version]), local, ours, rng.choice(PODS[version])))

    def _way(self) -> tuple[int, bytes, bytes]:
        rng = self._rng
        if rng.random() < 0.35:
            to = SERVICE_MAC if rng.random() < 0.9 else GROUP_MAC
            return SVC, to, GATEWAY_MAC
        to = rng.choice((UPLINK_MAC, UPLINK_MAC, UPLINK_MAC, GATEWAY_MAC, GROUP_MAC))
        return UPLINK, to, rng.choice(ROUTERS)

    def _frame(self, kind: int, payload: bytes) -> Comes:
        door, to, came_from = self._way()
        tcis = self._rng.choice(((), (), (), (100,), (200, 7)))
        return Comes(door, crafted.eth(to, came_from, kind, payload, tcis))

    def _client(self, version: int) -> bytes:
        rng = self._rng
        odd = (bytes(4), b"\xe0\0\0\1") if version == 4 else (bytes(16), b"\xff\2" + bytes(14))
        return rng.choice(odd) if rng.random() < 0.05 else rng.choice(CLIENTS[version])

    def _arp(self) -> Comes:
        rng = self._rng
        mac, sender, target = rng.choice(ROUTERS), self._client(4), self._address(4)
        if rng.random() < 0.1:
            sender = target
        operation = 1 if rng.random() < 0.9 else rng.choice((2, 3))
        question = crafted.arp(operation, mac, sender, bytes(6), target)
        return self._frame(ARP, question + bytes(rng.choice((0, 18))))

    def _neighbour(self) -> Comes:
        rng, target = self._rng, self._address(6)
        src = self._client(6) if rng.random() < 0.9 else rng.choice((bytes(16), target))
        group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
        dst = rng.choice((target, group))
        asked = crafted.solicitation(src, dst, target, rng.choice(ROUTERS))
        ttl = 255 if rng.random() < 0.95 else 64
        return self._frame(IPV6, crafted.ip(src, dst, ICMPV6, asked, ttl=ttl))

    def _echo(self) -> Comes:
        rng = self._rng
        version = rng.choice((4, 6))
        src, dst = self._client(version), self._address(version)
        kind = rng.choice((8, 8, 8, 0, 13) if version == 4 else (128, 128, 128, 129, 136))
        data = rng.randbytes(rng.randint(0, 60))
        message = crafted.icmp(src, dst, kind, 0, rng.getrandbits(32), data)
        packet = crafted.ip(
            src, dst, crafted.PROTOCOLS[version], message, ttl=rng.choice((1, 64, 255)),
            options=b"\x94\x04\0\0" if rng.random() < 0.1 else b"", more=rng.random() < 0.05,
        )  # fmt: skip
        return self._frame(crafted.kind_of(src), packet)

    def _port(self) -> Comes:
        """TCP, UDP or SCTP to an address that is known, and any port."""
        rng = self._rng
        version, proto = rng.choice((4, 6)), rng.choice(PORTS)
        src, dst = self._client(version), self._address(version)
        port = rng.choice((80, 81, 53, 8080, 22, rng.randint(0, 65535)))
        flags = rng.choice((2, 2, 16, 4, 1, 17, 20, rng.randrange(256))) if proto == TCP else 1
        data = rng.randbytes(rng.choice((0, 3, 30, 700, 1300)))
        segment = crafted.segment(src, dst, rng.randint(1024, 65535), port, proto, flags, data)
        packet = crafted.ip(src, dst, proto, segment, more=rng.random() < 0.05)
        return self._frame(crafted.kind_of(src), packet)

    def _other(self) -> Comes:
        rng = self._rng
        version = rng.choice((4, 6))
        src, dst = self._client(version), self._address(version)
        packet = crafted.ip(
            src, dst, rng.choice((2, 4, 47, 50, 51, 89, 132, 58, 1)), rng.randbytes(20)
        )
        kind = rng.choice((crafted.kind_of(src), LLDP, IPV4, IPV6, 0x8863))
        return self._frame(kind, packet)

    def _noise(self) -> Comes:
        rng = self._rng
        door, to, came_from = self._way()
        kind = rng.choice((IPV4, IPV6, ARP, 0x8100, 0x88A8, LLDP, rng.randrange(65536)))
        rest = rng.randbytes(rng.randint(0, 120))
        return Comes(door, to + came_from + kind.to_bytes(2, "big") + rest)

    def _later(self) -> Comes:
        """A later fragment that nobody has seen the first one of."""
        rng = self._rng
        version, proto = rng.choice((4, 6)), rng.choice((TCP, UDP, SCTP))
        src, dst = self._client(version), self._address(version)
        packet = crafted.ip(
            src, dst, proto, rng.randbytes(24), ident=rng.randint(0, 60_000),
            offset=8 * rng.randint(1, 100), more=rng.random() < 0.5,
        )  # fmt: skip
        return self._frame(crafted.kind_of(src), packet)

    def _tagged(self) -> Comes:
        """Tags that no flow could give back."""
        rng = self._rng
        door, to, came_from = self._way()
        tags = b"".join(kind.to_bytes(2, "big") + rng.randbytes(2) for kind in rng.choice(ODD_TAGS))
        src, dst = self._client(4), self._address(4)
        segment = crafted.tcp(src, dst, 40001, 80, 2)
        packet = b"\x08\0" + crafted.ip(src, dst, TCP, segment)
        return Comes(door, to + came_from + tags + packet)
