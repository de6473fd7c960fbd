"""Packets by chance: of every protocol and direction, most of them of flows that live."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from random import Random
from typing import Any

from tests.oracle import crafted
from tests.oracle.damage import damaged
from tests.oracle.flows import Flow
from tests.oracle.model import Model
from tests.oracle.states import State
from tests.oracle.strangers import Strangers
from tests.oracle.wire import ACK, DESTINATION, FIN, HOP_BY_HOP, PSH, ROUTING, RST, SCTP, SYN, TCP
from tests.oracle.worlds import (
    CLIENTS,
    GATEWAY_MAC,
    OTHER_NODE,
    PODS,
    ROUTERS,
    SERVICE_MAC,
    SVC,
    UPLINK,
    UPLINK_MAC,
    UPLINK_TWO,
    Comes,
    Event,
    Passes,
    Worlds,
)

POOL = 300
"""Flows that are remembered to send more of."""

FAR = 0.06
"""Share of the worlds that most packets reach with their last hop, while time stands still: there
is more to answer than may be answered."""

KINDS = (
    ("new", 15), ("same", 24), ("reply", 26), ("inside", 7), ("error", 7), ("stranger", 8),
    ("time", 4), ("change", 0.4), ("again", 4),
)  # fmt: skip
FIRST_FLAGS = (SYN, SYN, SYN, SYN, SYN, SYN, ACK, ACK | PSH, SYN | ACK, FIN | ACK, RST, SYN | RST)
LATER_FLAGS = (ACK, ACK, ACK, ACK | PSH, ACK | PSH, ACK, FIN | ACK, FIN, RST, RST | ACK, SYN, SYN)
REPLY_FLAGS = (ACK, ACK, ACK | PSH, ACK | PSH, SYN | ACK, SYN | ACK, FIN | ACK, RST | ACK, SYN)
FIRST_CHUNKS, LATER_CHUNKS, REPLY_CHUNKS = (
    (1, 1, 1, 10, 0, 6),
    (0, 0, 10, 1, 7, 6, 14),
    (2, 11, 3, 0, 8),
)
OPTIONS = (b"\x94\x04\0\0", b"\x01\x01\x01\0", b"\x07\x07\x04\0\0\0\0\0")
EXTENSIONS = (
    (HOP_BY_HOP, b"\x01\x04\0\0\0\0"), (DESTINATION, b"\x01\x04\0\0\0\0"),
    (DESTINATION, b"\x01\x0c" + bytes(12)), (ROUTING, b"\x04\0\0\0\0\0"),
)  # fmt: skip


class Traffic:
    """Draws events; looks at the model to know what lives."""

    def __init__(self, rng: Random, worlds: Worlds, model: Model, *, flood: bool = False) -> None:
        """`flood`: new flows most of the time."""
        self._rng, self._worlds, self._model = rng, worlds, model
        self._pool: list[Flow] = []
        self._known = 0
        self._waiting: list[Comes] = []
        self._sent: list[Comes] = []
        self._ident = 0
        self.damage = "as drawn"
        """What was done to the frame that was drawn last."""
        many = {"new": 8} if flood else {}
        self._hops_left = 0.97
        if rng.random() < FAR:
            self._hops_left, many["time"] = 0.4, 0
        weights = [w * many.get(kind, 1) for kind, w in KINDS]
        self._limits = [w / sum(weights) for w in accumulate(weights)]
        self._strangers = Strangers(rng, model)
        self._draws: dict[str, Callable[[], Comes | None]] = {
            "new": self._new,
            "same": self._same,
            "reply": self._reply,
            "inside": self._inside,
            "error": self._error,
            "stranger": self._strangers.next,
            "again": self._again,
        }
        self._clients = {
            version: [
                (
                    addr,
                    rng.choice((UPLINK, UPLINK, UPLINK_TWO)),
                    rng.choice(ROUTERS),
                    rng.choice(((), (), (), (100,), (0x6005,), (200, 0x2007), (0,))),
                )
                for addr in addrs
            ]
            for version, addrs in CLIENTS.items()
        }

    def next(self) -> Event:
        """One more."""
        rng, self.damage = self._rng, "as drawn"
        if self._waiting and rng.random() < 0.4:
            return self._waiting.pop(rng.randrange(len(self._waiting)) if rng.random() < 0.3 else 0)
        kind = KINDS[bisect(self._limits, rng.random())][0]
        if kind == "time":
            return self._time()
        if kind == "change":
            return self._worlds.change(self._model.node) or self._time()
        drawn = self._draws[kind]()
        event = drawn or self._new() or self._strangers.next()
        if rng.random() < 0.08:
            octets, self.damage = damaged(event.octets, rng)
            event = Comes(event.door, octets)
        if len(self._sent) < POOL:
            self._sent.append(event)
        else:
            self._sent[rng.randrange(POOL)] = event
        return event

    # -- time ---------------------------------------------------------------------------------

    def _time(self) -> Passes:
        rng = self._rng
        kind = rng.random()
        if kind < 0.75:
            return Passes(rng.choice((1, 2, 10, 50, 100, 300)))
        bound = self._model.memory.affinities
        if kind < 0.8 and bound:
            # The same of a client's affinity.
            name, client = rng.choice(list(bound))
            service = self._model.node.services.get(name)
            if service is not None and service.affinity is not None:
                left = bound[name, client].seen + service.affinity - self._model.memory.tick
                if left > 0:
                    return Passes(left + rng.randint(0, 1))
        flow = self._flow()
        if kind < 0.95 and flow is not None:
            # To the last tick of a flow's time, and beyond it by one.
            left = flow.seen + flow.state.ticks - self._model.memory.tick
            if 0 < left < 30_000 or (left > 0 and kind > 0.945):
                return Passes(left + rng.randint(0, 1))
        return Passes(rng.choice((500, 1000, 1001, 3000, 3001, 6000)))

    # -- flows --------------------------------------------------------------------------------

    def _flow(self) -> Flow | None:
        """One of the flows that the model has learned, alive or over."""
        memory = self._model.memory
        if memory.added != self._known:
            self._known = memory.added
            newest = next(reversed(memory.flows.values()), None)
            if newest is not None:
                if len(self._pool) < POOL:
                    self._pool.append(newest)
                else:
                    self._pool[self._rng.randrange(POOL)] = newest
        if not self._pool:
            return None
        at = self._rng.randrange(len(self._pool))
        flow = self._pool[at]
        if not memory.lives(flow) and self._rng.random() < 0.8:
            # It is over; most of what is sent should find its flow.
            last = self._pool.pop()
            if at < len(self._pool):
                self._pool[at] = last
            return self._pool[-1] if self._pool else None
        return flow

    def _data(self) -> bytes:
        kind = self._rng.random()
        if kind < 0.85:
            return self._rng.randbytes(self._rng.randint(0, 40))
        return self._rng.randbytes(self._rng.choice((200, 550, 560, 572, 1240, 1360, 1372, 1400)))

    def _flags(self, proto: int, tcp: tuple[int, ...], sctp: tuple[int, ...]) -> int:
        if proto == TCP:
            return self._rng.choice(tcp) if self._rng.random() < 0.98 else self._rng.randrange(256)
        return self._rng.choice(sctp) if proto == SCTP else 0

    def _frames(
        self, door: int, link: tuple[bytes, bytes, tuple[int, ...]],
        ends: tuple[bytes, bytes], proto: int, segment: bytes,
    ) -> Comes:  # fmt: skip
        """One packet, or the first of its fragments: the others come later, or never."""
        rng, (dst_mac, src_mac, tcis), (src, dst) = self._rng, link, ends
        kind = crafted.kind_of(src)
        ttl = 64 if rng.random() < self._hops_left else rng.choice((0, 1, 2, 255))
        rare = rng.random()
        options = b""
        extensions: tuple[tuple[int, bytes], ...] = ()
        if rare < 0.06:
            options = rng.choice(OPTIONS) if len(src) == 4 else b""
            extensions = (rng.choice(EXTENSIONS),) if len(src) == 16 else ()
            if extensions and rng.random() < 0.2:
                extensions = (EXTENSIONS[0], *extensions) * rng.choice((1, 1, 3, 5))
        fixed: dict[str, Any] = {"ttl": ttl, "options": options, "extensions": extensions}
        if 0.06 < rare < 0.1 and len(segment) > 24:
            return self._fragments(door, link, ends, proto, segment, fixed)
        packet = crafted.ip(src, dst, proto, segment, dont=rare > 0.5, **fixed)
        tail = bytes(rng.randint(1, 18)) if rng.random() < 0.05 else b""
        return Comes(door, crafted.eth(dst_mac, src_mac, kind, packet + tail, tcis))

    def _fragments(
        self, door: int, link: tuple[bytes, bytes, tuple[int, ...]],
        ends: tuple[bytes, bytes], proto: int, segment: bytes, fixed: dict[str, Any],
    ) -> Comes:  # fmt: skip
        rng, (dst_mac, src_mac, tcis), (src, dst) = self._rng, link, ends
        if rng.random() < 0.9:
            self._ident += 1
        cuts = sorted({24, *(8 * rng.randint(3, len(segment) // 8) for _ in range(2))})
        parts = []
        for start, end in zip((0, *cuts), (*cuts, len(segment)), strict=True):
            if start < end or not start:
                more = end < len(segment)
                packet = crafted.ip(
                    src, dst, proto, segment[start:end], ident=self._ident, offset=start,
                    more=more or not start, **fixed,
                )  # fmt: skip
                frame = crafted.eth(dst_mac, src_mac, crafted.kind_of(src), packet, tcis)
                parts.append(Comes(door, frame))
        if rng.random() < 0.2:
            rng.shuffle(parts)
        self._waiting += [part for part in parts[1:] if rng.random() < 0.95]
        del self._waiting[20:]
        return parts[0]

    # -- clients ------------------------------------------------------------------------------

    def _target(self, version: int | None = None) -> tuple[bytes, int, int] | None:
        keys = [
            key for key in self._model.node.by_key
            if version is None or len(key[0]) == (4 if version == 4 else 16)
        ]  # fmt: skip
        return self._rng.choice(keys) if keys else None

    def _port(self) -> int:
        """A client's: mostly one of few, so that clients are in each other's way; at times a
        privileged one."""
        kind = self._rng.random()
        if kind < 0.7:
            return self._rng.randint(40000, 40012)
        if kind < 0.8:
            return self._rng.choice((1, 700, 701, 702, 1023))
        return self._rng.randint(1, 65535) if kind < 0.995 else 0

    def _new(self) -> Comes | None:
        rng, target = self._rng, self._target()
        if target is None:
            return None
        vip, port, proto = target
        version = 4 if len(vip) == 4 else 6
        addr, door, router, tcis = rng.choice(self._clients[version])
        rare = rng.random()
        if rare < 0.03:
            addr = rng.choice(PODS[version])
        elif rare < 0.035:
            addr = rng.choice(self._model.node.our_addresses(version))
        sport = self._port()
        to_mac, from_mac = UPLINK_MAC, router
        if rng.random() < 0.08:
            to_mac, from_mac = GATEWAY_MAC, OTHER_NODE
        flags = self._flags(proto, FIRST_FLAGS, FIRST_CHUNKS)
        segment = crafted.segment(addr, vip, sport, port, proto, flags, self._data())
        if proto not in (TCP, SCTP) and rng.random() < 0.1:
            segment = crafted.udp(addr, vip, sport, port, self._data(), summed=False)
        return self._frames(door, (to_mac, from_mac, tcis), (addr, vip), proto, segment)

    def _inside(self) -> Comes | None:
        rng, target = self._rng, self._target()
        if target is None:
            return None
        vip, port, proto = target
        version = 4 if len(vip) == 4 else 6
        addr = rng.choice(PODS[version])
        if rng.random() < 0.005:
            addr = rng.choice(self._model.node.our_addresses(version))
        flags = self._flags(proto, FIRST_FLAGS, FIRST_CHUNKS)
        sport = self._port()
        segment = crafted.segment(addr, vip, sport, port, proto, flags, self._data())
        return self._frames(SVC, (SERVICE_MAC, GATEWAY_MAC, ()), (addr, vip), proto, segment)

    def _same(self) -> Comes | None:
        flow = self._flow()
        if flow is None:
            return None
        src, sport, dst, dport, proto = flow.ends
        flags = self._flags(proto, LATER_FLAGS, LATER_CHUNKS)
        segment = crafted.segment(src, dst, sport, dport, proto, flags, self._data())
        way = flow.ways[-1]
        tcis = way.tcis if self._rng.random() < 0.97 else self._rng.choice(((), (300,), (200, 301)))
        link = (way.vip_mac, way.client_mac, tcis)
        return self._frames(way.door, link, (src, dst), proto, segment)

    def _again(self) -> Comes | None:
        """A packet that was sent before, as it was."""
        return self._rng.choice(self._sent) if self._sent else None

    # -- backends -----------------------------------------------------------------------------

    def _back(self) -> tuple[Flow, bytes, int, bytes, int] | None:
        """A bound flow, its backend's end and the one by which that knows us."""
        flow = self._flow()
        if flow is None or not flow.bound or flow.is_direct(flow.candidates[0]):
            return None
        backend = flow.candidates[0]
        ours = flow.ends[0]
        if flow.wants_nat(backend):
            ours = self._model.node.stand_in(flow.version, backend)
        assert flow.source_port is not None
        return flow, backend.addr, backend.port, ours, flow.source_port

    def _reply(self) -> Comes | None:
        found = self._back()
        if found is None:
            return None
        flow, src, sport, dst, dport = found
        proto = flow.ends[4]
        flags = self._flags(proto, REPLY_FLAGS, REPLY_CHUNKS)
        if flow.state is State.SYN and self._rng.random() < 0.7:
            flags = SYN | ACK
        segment = crafted.segment(src, dst, sport, dport, proto, flags, self._data())
        if self._rng.random() < 0.08:
            link, door = (UPLINK_MAC, ROUTERS[0], ()), UPLINK
        else:
            link, door = (SERVICE_MAC, GATEWAY_MAC, ()), SVC
        return self._frames(door, link, (src, dst), proto, segment)

    # -- errors -------------------------------------------------------------------------------

    def _error(self) -> Comes | None:
        """About a client's packet as the backend had it, or a reply as the client had it."""
        rng, found = self._rng, self._back()
        if found is None:
            return None
        flow, backend, port, ours, our_port = found
        client, client_port, vip, vip_port, proto = flow.ends
        about_reply = rng.random() < 0.4
        if about_reply:
            ends, ports = (vip, client), (vip_port, client_port)
        else:
            ends, ports = (ours, backend), (our_port, port)
        flags = self._flags(proto, LATER_FLAGS, LATER_CHUNKS)
        segment = crafted.segment(*ends, *ports, proto, flags, self._data())
        if rng.random() < 0.1 and proto not in (TCP, SCTP):
            segment = crafted.udp(*ends, *ports, self._data(), summed=False)
        options = rng.choice(OPTIONS) if flow.version == 4 and rng.random() < 0.1 else b""
        more = rng.random() < 0.05
        inside = crafted.ip(
            *ends, proto, segment, ttl=rng.choice((1, 60)), options=options, more=more
        )
        if rng.random() < 0.5:
            inside = inside[: len(inside) - len(segment) + rng.choice((8, 9, 12, 18, 20, 30))]
        hop = b"\x0a\xfe\0\x09" if flow.version == 4 else b"\xfd\xfe" + bytes(13) + b"\x09"
        src = rng.choice((ends[1], ends[1], hop))
        kinds = (
            ((3, 3), (3, 4), (11, 0), (12, 0)) if flow.version == 4 else ((1, 4), (2, 0), (3, 0))
        )
        kind, code = rng.choice(kinds)
        message = crafted.icmp(src, ends[0], kind, code, rng.choice((0, 1400)), inside)
        outer_proto = crafted.PROTOCOLS[flow.version]
        way = flow.ways[-1]
        link = (way.vip_mac, way.client_mac, way.tcis)
        if about_reply == flow.inner:
            link = (SERVICE_MAC, GATEWAY_MAC, ())
        door = way.door if about_reply else SVC
        if rng.random() < 0.05:
            door = rng.choice((UPLINK, SVC))
        return self._frames(door, link, (src, ends[0]), outer_proto, message)
