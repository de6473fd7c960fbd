"""What `millrace perf xdp` measures: each case, and how the maps come to the state that it needs.

A case proves by the counters that its packets took the path that it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bpf.abi import Reason
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.rows import ProgramKind
from perf import xdptables
from perf.xdpbench import BARE, FLOOR, Bench, BenchError, Target
from perf.xdpframes import STRANGER, SYN, frame

FLOWS = (256, 65_536)
LIVE_FLOWS = (256, 4_096)
"""Over a running node's maps: few enough that nobody else's flows are evicted."""

NEW_FLOWS = 65_536
"""Of a run in which each packet is another flow; then they are forgotten."""

UNIFORM = 10_000
"""Services that are taken in turn, one flow each."""

MOST_FLOWS = 1_000_000
MOST_SERVICES = 100_000

NONE, OWN = "of no service", "the node's own"
ESTABLISHED, REPLY = "established", "reply"
NEW, NEW_EACH = "new, one tuple again and again", "new, each another tuple"
_FULL_SHARE = 0.9999
"""Of a million flows some may find no place; then the others are still established."""


@dataclass(frozen=True, slots=True)
class Case:
    """Packets through one program. `reason` None: a program of the wrapper's own.

    `services` is how many there are, `uniform` whether they are taken in turn.
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


def run(bench: Bench, case: Case, repeat: int) -> float:
    """One measurement [ns].

    Raises:
        BenchError: packets took another path than the case's.
    """
    if case.name == NEW_EACH:
        bench.forget_flows()
    before = bench.counted()
    taken = case.services if case.uniform else 1
    spent = bench.run(case.target, case.packet, repeat=repeat, flows=case.flows, services=taken)
    if case.reason is not None:
        after = bench.counted()
        grown = {r: n - before.get(r, 0) for r, n in after.items() if n != before.get(r, 0)}
        if grown.get(case.reason, 0) < repeat * _FULL_SHARE:
            others = {reason.name: count for reason, count in grown.items()}
            msg = f"{case.label}: not all of {repeat} packets were {case.reason.name}: {others}"
            raise BenchError(msg)
    return spent


def repeats(bench: Bench, case: Case, wanted: int) -> int:
    """How many packets a measurement of this case has."""
    if case.name == NEW_EACH:
        return case.flows
    return max(wanted, case.flows if not bench.live else 1)


def base_cases(bench: Bench) -> Iterator[Case]:
    """The wrapper, the floor, and every path of both programs, in both families.

    The maps are made ready for a case when it is taken from here.
    """
    some = frame(L4Addr(Protocol.TCP, STRANGER[4], xdptables.PORT))
    yield Case("the wrapper alone", 4, BARE, some, None)
    yield Case("the floor", 4, FLOOR, bench.floor_packet, None)
    for version in (4, 6):
        yield from _family(bench, version)


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
    yield Case(NEW_EACH, version, uplink, packet, Reason.VIP_NEW, "tcp", flows, services)


def established(bench: Bench, vip: L4Addr, flows: int = 1, *, uniform: bool = False) -> Case:
    """That many flows, which have had their answers; `uniform`: one of each service."""
    bench.forget_flows()
    packet = frame(vip)
    taken = bench.services if uniform else 1
    many = max(flows, taken)
    bench.run(ProgramKind.UPLINK, packet, repeat=many, flows=flows, services=taken)
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
    """The established path of both families, in maps of our own."""
    for version in (4, 6):
        vip = xdptables.vip_of(version, 0)
        yield established(bench, vip, flows, uniform=uniform)
