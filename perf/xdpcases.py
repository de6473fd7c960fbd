"""What `millrace perf xdp` measures: each case, and how the maps come to the state that it needs.

A case proves by the counters that its packets took the path that it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bpf.abi import Limit, Reason
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.rows import ProgramKind
from perf import strides, xdptables
from perf.ctstate import NEVER, Counted, grown, named
from perf.strides import IN_ORDER
from perf.xdpbench import BARE, FLOOR, FLOOR_SERVICES, Bench, BenchError, Target
from perf.xdpframes import STRANGER, SYN, frame, from_client

FLOWS = (256, 65_536)
LIVE_FLOWS = (256, 4_096)
"""Over a running node's maps: few enough that nobody else's flows are evicted."""

NEW_FLOWS = 65_536
"""Of a run in which each packet is another flow; then they are forgotten."""

USE_ROUNDS = 64
"""Of all services in turn, before that, at most: until every record had a flow. 4,096 services and
more can do that in so many rounds; with fewer, only the service that is measured is warmed up."""
_MOST_ROUNDS, _LOOK_ROUNDS = 16, 8
_USED_SHARE = 0.99
"""Of the flows that are new, so many have a record that had another one before."""

UNIFORM = 10_000
"""Services that are taken in turn, one flow each."""

MOST_FLOWS = 1_000_000
MOST_SERVICES = 100_000

NONE, OWN = "of no service", "the node's own"
ESTABLISHED, REPLY = "established", "reply"
NEW, NEW_EACH = "new, one tuple again and again", "new, each another tuple"
NEW_SAME = "new, tuples of the round before"
"""NEW_EACH is what a node in use sees: no tuple was there before, so each flow takes a record whose
former flow's word is cleared first. In NEW_SAME the same tuples come in every round, and each finds
the word that it had itself in the last one."""
REFUSED = "new, refused by a full table"
WRAPPER, FLOOR_ROW = "the wrapper alone", "the floor"
_FULL_SHARE = 0.9999
"""Two packets of a run are another's flow again (the wrapper's first one, and the last)."""
_NEW_ROUNDS = (NEW_EACH, NEW_SAME)


@dataclass(frozen=True, slots=True)
class Case:
    """Packets through one program. `reason` None: a program of the wrapper's own.

    `services` is how many there are, `uniform` whether they are taken in turn. Flows and services
    are visited by strides (perf/strides.py), so not in the order in which they were made; new ones
    are made in the order of their tuples.
    """

    name: str
    version: int
    target: Target
    packet: bytes
    reason: Reason | None
    protocol: str = ""
    flows: int = 1
    services: int = 0
    uniform: bool = False

    @property
    def label(self) -> str:
        """For people."""
        words = [self.protocol, self.name] if self.protocol else [self.name]
        return " ".join(words)


def run(bench: Bench, case: Case, repeat: int, sample: int = 0) -> float:
    """One measurement [ns], the `sample`th: each visits flows in another order.

    Raises:
        BenchError: packets took another path than the case's, or a flow was evicted.
    """
    packet, stride = case.packet, IN_ORDER
    taken = case.services if case.uniform else 1
    if case.name in _NEW_ROUNDS:
        bench.forget_flows()
    else:
        stride = strides.stride(max(case.flows, taken), sample)
    if case.name == NEW_EACH:
        packet = from_client(packet, bench.fresh_client(case.version, case.flows))
    before = bench.counted()
    spent = bench.run(
        case.target, packet, repeat=repeat, flows=case.flows, services=taken, stride=stride
    )
    if case.reason is not None:
        _check(case.label, case.reason, repeat, grown(before, bench.counted()))
    if case.name in _NEW_ROUNDS and can_use_up(bench):
        fresh = bench.first_lives(case.version)
        if fresh > case.flows * (1 - _USED_SHARE):
            msg = f"{case.label}: {fresh} of {case.flows} flows had records that none had before"
            raise BenchError(msg)
    return spent


def _check(what: str, reason: Reason, packets: int, counts: Mapping[Counted, int]) -> None:
    if counts.get(reason, 0) < packets * _FULL_SHARE or (NEVER - {reason}) & counts.keys():
        others = named(counts)
        msg = f"{what}: not all of {packets} packets were {reason.name}, or a flow ended: {others}"
        raise BenchError(msg)


def repeats(bench: Bench, case: Case, wanted: int) -> int:
    """How many packets a measurement of this case has."""
    if case.name in _NEW_ROUNDS:
        return case.flows
    return max(wanted, case.flows if not bench.live else 1)


def base_cases(bench: Bench) -> Iterator[Case]:
    """The wrapper, the floor, and every path of both programs, in both families.

    The maps are made ready for a case when it is taken from here.
    """
    some = frame(L4Addr(Protocol.TCP, STRANGER[4], xdptables.PORT))
    yield Case(WRAPPER, 4, BARE, some, None)
    yield Case(FLOOR_ROW, 4, FLOOR, bench.floor_packet, None)
    for version in (4, 6):
        yield from _family(bench, version)
    yield Case(WRAPPER, 4, BARE, some, None, flows=FLOWS[-1])


def _family(bench: Bench, version: int) -> Iterator[Case]:
    uplink = ProgramKind.UPLINK
    xsk, own = (
        (Reason.XSK_IPV4, Reason.PASS_IPV4) if version == 4 else (Reason.XSK_IPV6, Reason.PASS_IPV6)
    )
    services = bench.services
    stranger = frame(L4Addr(Protocol.TCP, STRANGER[version], xdptables.PORT))
    yield Case(NONE, version, uplink, stranger, xsk, services=services)
    address: IPAddress | None = bench.own_address(version)
    if address is not None:
        packet = frame(L4Addr(Protocol.TCP, address, 22))
        yield Case(OWN, version, uplink, packet, own, services=services)
    for protocol in (Protocol.TCP, Protocol.UDP):
        vip = bench.service(version, protocol)
        if vip is not None:
            yield from _both_ways(bench, vip)
    vip = bench.service(version, Protocol.TCP)
    if vip is None:
        return
    yield from _new(bench, vip)
    for flows in LIVE_FLOWS if bench.live else FLOWS:
        yield established(bench, vip, flows)
    if not bench.live:
        yield from _refused(bench, vip)


def _refused(bench: Bench, vip: L4Addr) -> Iterator[Case]:
    """Every record is a flow that may not be evicted: what a flood costs that gets nowhere."""
    version, packet = vip.address.version, frame(vip, tcp_flags=SYN)
    reason = Reason.DROP_CT_FULL
    bench.forget_flows()
    with bench.filled(version):
        yield Case(REFUSED, version, ProgramKind.UPLINK, packet, reason, "tcp", NEW_FLOWS,
                   bench.services)  # fmt: skip


def _both_ways(bench: Bench, vip: L4Addr) -> Iterator[Case]:
    version, name = vip.address.version, vip.protocol.name.lower()
    bench.forget_flows()
    packet = frame(vip)
    answer = bench.answer(packet)
    bench.establish()
    for what, target, sent, reason in (
        (ESTABLISHED, ProgramKind.UPLINK, packet, Reason.VIP_FORWARD),
        (REPLY, ProgramKind.SERVICE, answer, Reason.SVC_REPLY),
    ):
        yield Case(what, version, target, sent, reason, name, services=bench.services)


def _new(bench: Bench, vip: L4Addr) -> Iterator[Case]:
    version, packet = vip.address.version, frame(vip, tcp_flags=SYN)
    uplink, services = ProgramKind.UPLINK, bench.services
    bench.forget_flows()
    if not bench.live:
        xdptables.let_syns_die(bench.maps, dead=True)
        yield Case(NEW, version, uplink, packet, Reason.VIP_NEW, "tcp", services=services)
        xdptables.let_syns_die(bench.maps, dead=False)
    flows = LIVE_FLOWS[-1] if bench.live else NEW_FLOWS
    for name in _NEW_ROUNDS:
        made = Case(name, version, uplink, packet, Reason.VIP_NEW, "tcp", flows, services)
        use_up(bench, made)
        yield made


def can_use_up(bench: Bench) -> bool:
    """Whether there are services enough to give every record a flow, in maps of our own."""
    return bench.services * USE_ROUNDS >= Limit.MAX_FLOW_SLOTS


def use_up(bench: Bench, new: Case) -> None:
    """Bring the table to the state of a node in use: records have had flows, and words name them.

    First by all services in turn, until every record had a flow, then by such flows as are to be
    measured, until each of them has a record that had another one before, or some times.

    Raises:
        BenchError: a flow was evicted.
    """
    before = bench.counted()
    for number in range(USE_ROUNDS if can_use_up(bench) else 0):
        if number % _LOOK_ROUNDS == 0 and not bench.never_used(new.version):
            break
        bench.forget_flows()
        packet = from_client(new.packet, bench.fresh_client(new.version, 1))
        bench.run(new.target, packet, repeat=bench.services, services=bench.services)
    for _ in range(_MOST_ROUNDS):
        bench.forget_flows()
        packet = new.packet
        if new.name == NEW_EACH:
            packet = from_client(packet, bench.fresh_client(new.version, new.flows))
        bench.run(new.target, packet, repeat=new.flows, flows=new.flows)
        if not bench.first_lives(new.version):
            break
    bench.forget_flows()
    evicted = NEVER.intersection(grown(before, bench.counted()))
    if evicted:
        msg = f"{new.label}, before it is measured: {sorted(one.name for one in evicted)}"
        raise BenchError(msg)


def established(bench: Bench, vip: L4Addr, flows: int = 1, *, uniform: bool = False) -> Case:
    """That many flows, which have had their answers; `uniform`: one of each service."""
    bench.forget_flows()
    packet = frame(vip)
    taken = bench.services if uniform else 1
    many = max(flows, taken)
    before = bench.counted()
    bench.run(ProgramKind.UPLINK, packet, repeat=many, flows=flows, services=taken)
    _check(
        f"{many:,} flows to be {ESTABLISHED}", Reason.VIP_NEW, many, grown(before, bench.counted())
    )
    bench.establish()
    return Case(
        ESTABLISHED,
        vip.address.version,
        ProgramKind.UPLINK,
        packet,
        Reason.VIP_FORWARD,
        vip.protocol.name.lower(),
        many,
        bench.services,
        uniform,
    )


def established_only(bench: Bench, flows: int = 1, *, uniform: bool = False) -> Iterator[Case]:
    """The established path of both families, in maps of our own; `uniform`: the floor's, too."""
    for version in (4, 6):
        vip = xdptables.vip_of(version, 0)
        yield established(bench, vip, flows, uniform=uniform)
    if uniform:
        services = min(bench.services, FLOOR_SERVICES)
        yield Case(FLOOR_ROW, 4, FLOOR, bench.floor_packet, None, services=services, uniform=True)
