"""What the model remembers between packets: flows, fragments, clients with affinity, choices.

The model knows no hash. What a flow was given (a backend, a source port) it learns from the first
packet that shows it; until then the flow has candidates. From then on it is bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.oracle.declared import Backend, Member, Place, Service
from tests.oracle.states import FRAGMENT_TICKS, State
from tests.oracle.wire import Frame

Tuple = tuple[bytes, int, bytes, int, int]
"""Source address and port, destination address and port, protocol."""

StandIn = Callable[[Backend], bytes]
"""By which address a backend knows the clients that it must not see."""

FragmentKey = tuple[bytes, bytes, int, int]

PRIVILEGED = 1024
"""Clients' ports below are kept where that can be; no others are given (RFC 6056 section 3.2)."""
FIRST_CHOICE = 16384
"""Ports from here on are given first; those below, where a table is full."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a client is reached: by which door, the two MACs, the tags."""

    door: int
    client_mac: bytes
    vip_mac: bytes
    tcis: tuple[int, ...]


def way_of(frame: Frame, door: int) -> Way:
    """The way that a client's frame came; a tag of VLAN 0 and priority 0 says nothing."""
    tcis = frame.tcis if any(frame.tcis) else ()
    return Way(door, frame.src_mac, frame.dst_mac, tcis)


@dataclass(slots=True)
class Flow:
    """One flow: what its first packet brought, what it was given, and how far it is."""

    ends: Tuple
    service: Service
    inner: bool
    """Its client is behind OVN: it came in by svc0."""
    handed: bool
    """Another node picked us for it (DSR)."""
    candidates: tuple[Backend, ...]
    """What it may be bound to; one: what it is bound to."""
    ways: tuple[Way, ...]
    """Where its client may be reached: where its packets came from, this tick and the last."""
    state: State
    seen: int
    closed: int = 0
    source_port: int | None = None
    """The port by which the backend knows it; None: not seen yet."""
    choice: int = 0
    """Which of the choices for its client it goes by, where there is affinity."""
    ours: bool = False
    """Its client speaks from an address by which backends know us."""
    ended: bool = False
    mark: int = 0
    """How many flows had been added when its last packet came."""

    @property
    def version(self) -> int:
        """Its family."""
        return 4 if len(self.ends[0]) == 4 else 6

    @property
    def bound(self) -> bool:
        """Whether it is known what it was given."""
        return len(self.candidates) == 1 and self.source_port is not None

    def is_direct(self, backend: Backend) -> bool:
        """Whether its packets are handed on as they are (DSR)."""
        out = self.service.dsr and not self.inner and not self.handed
        return out and backend.place is Place.REMOTE and bool(backend.mac)

    def wants_nat(self, backend: Backend) -> bool:
        """Whether the backend has to see our address in place of the client's.

        A backend that reaches itself through the service needs it, or the reply stays inside; who
        speaks from an address of ours, or its port might be one that we gave.
        """
        if self.is_direct(backend):
            return False
        if self.ours:
            return True
        if self.handed:
            return False
        if backend.place is Place.HOST:
            # This node's kernel knows its way to whoever is outside.
            return self.inner
        if self.ends[0] == backend.addr:
            return True
        if self.service.dsr and not self.inner and backend.place is Place.LOCAL:
            # As by way of another node, the client's address is kept.
            return False
        return self.service.inner_snat if self.inner else self.service.snat

    @property
    def is_privileged(self) -> bool:
        """Whether its client's own port is one to keep."""
        return 0 < self.ends[1] < PRIVILEGED

    def may_be_given(self, port: int, *, crowded: bool) -> bool:
        """Whether it may be known by this port, if that is free and the client must not be seen."""
        if port == self.ends[1] and self.is_privileged:
            return True
        return port >= (PRIVILEGED if crowded else FIRST_CHOICE)

    def kind_of_port(self, port: int) -> str:
        """What a campaign counts it as."""
        if port >= FIRST_CHOICE:
            return "privileged port changed" if self.is_privileged else "port of the first choice"
        return "port of the second choice" if port >= PRIVILEGED else "privileged port kept"


@dataclass(slots=True)
class _Remembered:
    flow: Flow
    reply: bool
    seen: int


@dataclass(slots=True)
class _Bound:
    """A client's backend: `candidates` until it is seen; another `choice` may be of another one."""

    candidates: tuple[Backend, ...]
    seen: int
    choice: int


@dataclass(slots=True)
class _Choice:
    members: frozenset[Member]
    backend: Backend


@dataclass(slots=True)
class Memory:
    """Everything between packets.

    `crowded`: new flows may push weak ones out (`Table`); `others`: established flows that are none
    of the model's, of each family.
    """

    crowded: bool = False
    others: int = 0
    tick: int = 0
    added: int = 0
    made_choices: int = 0
    flows: dict[Tuple, Flow] = field(default_factory=dict)
    replies: dict[Tuple, Flow] = field(default_factory=dict)
    hidden: list[Flow] = field(default_factory=list)
    """Flows whose backend or port was not seen yet."""
    fragments: dict[FragmentKey, _Remembered] = field(default_factory=dict)
    affinities: dict[tuple[str, bytes], _Bound] = field(default_factory=dict)
    choices: dict[tuple[object, ...], _Choice] = field(default_factory=dict)
    given: Counter[str] = field(default_factory=Counter)
    """What kinds of source ports flows turned out to have that have not their clients'."""

    # -- flows --------------------------------------------------------------------------------

    def lives(self, flow: Flow) -> bool:
        """Whether it has not ended, and its time is not over."""
        return not flow.ended and self.tick - flow.seen <= flow.state.ticks

    def may_be_gone(self, flow: Flow) -> bool:
        """Whether a later one may have pushed it out: only where a table is full, only if weak."""
        return self.may_be_pushed_out(flow) and self.added > flow.mark

    def may_be_pushed_out(self, flow: Flow) -> bool:
        """Whether a flow that is just being added may push it out."""
        return self.crowded and flow.state.weak

    def find(self, key: Tuple) -> Flow | None:
        """The living flow of a client's packet."""
        flow = self.flows.get(key)
        return flow if flow is not None and self.lives(flow) else None

    def find_reply(self, key: Tuple) -> Flow | None:
        """The living flow that a backend's packet answers."""
        flow = self.replies.get(key)
        return flow if flow is not None and self.lives(flow) else None

    def find_hidden(self, key: Tuple, stand_in: StandIn) -> list[Flow]:
        """Flows not bound yet whose reply this may be."""
        if not self.hidden:
            return []
        self.hidden = [f for f in self.hidden if not f.bound and self.lives(f)]
        src, sport, dst, dport, proto = key
        return [
            flow
            for flow in self.hidden
            if flow.ends[4] == proto
            and any(
                (b.addr, b.port) == (src, sport)
                and not flow.is_direct(b)
                and (
                    dst == stand_in(b) and flow.may_be_given(dport, crowded=self.crowded)
                    if flow.wants_nat(b)
                    else (dst, dport) == flow.ends[:2]
                )
                for b in flow.candidates
            )
        ]

    def reply_tuple(self, flow: Flow, backend: Backend, port: int, stand_in: StandIn) -> Tuple:
        """The reply's tuple if the flow went to `backend` by `port`."""
        source = stand_in(backend) if flow.wants_nat(backend) else flow.ends[0]
        return (backend.addr, backend.port, source, port, flow.ends[4])

    def add(self, flow: Flow) -> None:
        """A new flow is there."""
        self.end(flow.ends)
        self.added += 1
        flow.mark = self.added
        self.flows[flow.ends] = flow
        if not flow.bound:
            self.hidden.append(flow)

    def bind(self, flow: Flow, backend: Backend, port: int, stand_in: StandIn) -> str | None:
        """The flow turned out to go to `backend` by `port`; what is wrong with that, or None."""
        if flow.bound:
            return None
        flow.candidates, flow.source_port = (backend,), port
        if flow.is_direct(backend):
            return None
        key = self.reply_tuple(flow, backend, port, stand_in)
        other = self.find_reply(key)
        if other is not None and other is not flow:
            # A flow may have pushed out the very one that had its reply tuple.
            begins = self.flows.get(flow.ends) is not flow and self.may_be_pushed_out(other)
            if not (begins or self.may_be_gone(other)):
                return f"the flows of {other.ends} and {flow.ends} share {key}"
            other.ended = True
        self.replies[key] = flow
        if flow.wants_nat(backend):
            self.given[flow.kind_of_port(port)] += 1
        return None

    def established(self, version: int) -> int:
        """How many flows of a family no other may push out."""
        mine = (f for f in self.flows.values() if f.version == version and not f.state.weak)
        return self.others + sum(1 for flow in mine if self.lives(flow))

    def second_choices(self, backend: Backend, source: bytes) -> int:
        """How many flows a backend knows, or may, by ports that are not given first."""
        end = (backend.addr, backend.port, source)
        known = sum(
            1 for key, flow in self.replies.items()
            if key[:3] == end and key[4] == backend.proto
            and PRIVILEGED <= key[3] < FIRST_CHOICE and self.lives(flow)
        )  # fmt: skip
        return known + sum(1 for f in self.hidden if backend in f.candidates and self.lives(f))

    def end(self, key: Tuple) -> None:
        """The flow of this tuple, if there is one, is over."""
        flow = self.flows.pop(key, None)
        if flow is not None:
            flow.ended = True

    def touch(self, flow: Flow, way: Way | None = None, *, surely: bool = True) -> None:
        """A packet of it went by; of its client, this way.

        A client that moves is followed, within a tick; by a later fragment perhaps (not `surely`).
        """
        if way is not None and not flow.inner:
            if surely and flow.seen != self.tick:
                flow.ways = (way,)
            elif way not in flow.ways:
                flow.ways = (*flow.ways, way)
        flow.seen, flow.mark = self.tick, self.added

    # -- fragments ----------------------------------------------------------------------------

    @staticmethod
    def _fragment_key(frame: Frame) -> FragmentKey:
        # RFC 791: identification, addresses and protocol; RFC 8200 4.5: without the protocol.
        return frame.src, frame.dst, frame.frag_id, frame.proto if frame.version == 4 else 0

    def remember(self, frame: Frame, flow: Flow, *, reply: bool) -> None:
        """A first fragment went the flow's way."""
        if frame.is_fragment and not frame.frag_offset:
            self.fragments[self._fragment_key(frame)] = _Remembered(flow, reply, self.tick)

    def recall(self, frame: Frame) -> tuple[Flow, bool] | None:
        """The flow of a later fragment, and whether it is a backend's."""
        found = self.fragments.get(self._fragment_key(frame))
        if found is None or self.tick - found.seen > FRAGMENT_TICKS or not self.lives(found.flow):
            return None
        return found.flow, found.reply

    # -- who goes where -----------------------------------------------------------------------

    def kept(self, service: Service, client: bytes, members: list[Backend]) -> _Bound | None:
        """A client's backend, if it has one that may still serve it."""
        found = self.affinities.get((service.name, client))
        if found is None or service.affinity is None:
            return None
        if self.tick - found.seen > service.affinity:
            return None
        return found if any(b in members for b in found.candidates) else None

    def keep(self, flow: Flow) -> None:
        """From now on the client goes where this flow goes."""
        if flow.service.affinity is not None:
            bound = _Bound(flow.candidates, self.tick, flow.choice)
            self.affinities[flow.service.name, flow.ends[0]] = bound

    def narrow(self, flow: Flow, backend: Backend) -> None:
        """It turned out where the flow goes; so does its client, if nothing was chosen since."""
        found = self.affinities.get((flow.service.name, flow.ends[0]))
        if found is not None and found.choice == flow.choice:
            found.candidates = (backend,)

    def chosen(
        self, what: tuple[object, ...], members: frozenset[Member], backend: Backend
    ) -> str | None:
        """A choice was made without affinity's memory; what is wrong with it, or None.

        The same question gets the same answer, on every node; and a set that changes moves only
        what has to move: to a member that came, or away from one that went.
        """
        before = self.choices.get(what)
        self.choices[what] = _Choice(members, backend)
        if before is None or before.backend == backend:
            return None
        stays = any(m.backend == before.backend and m in before.members for m in members)
        came = any(m.backend == backend and m not in before.members for m in members)
        if not stays or came:
            return None
        return f"{what} went to {before.backend} and now goes to {backend}, though neither changed"
