"""`millrace perf peers`: our program against nftables and iptables, the same packets in one run.

One CPU; frames come in at the router's device, are translated there and end in the same sink: an
AF_XDP socket, an XDP program on the backend's device, the first hook of its skb stack, or an
ordinary UDP socket whose buffer is full. nftables and iptables have kube-proxy's rules or bare
ones, or a router each for both (perf.peerrules). What is sent is for the last of their services.

Contestants take turns, so that a busy moment of the machine hits all alike. What counts are the
ratios; the nanoseconds are processor time, the source's own and the sink's included, which are
measured, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bpf.abi import Reason
from dataplane.drivers.libbpf_programs import Program
from dataplane.drivers.netns import inside_named
from perf import judge, peerlab, peerrules, verdicts
from perf.ctstate import grown, named
from perf.labrun import Progress, in_lab
from perf.peerends import Counted, Datagrams, Dropped, End, OnDevice, Socketed
from perf.peerlab import Trio
from perf.peerprogs import FRAME_SIZE, Ours, PeersError, Source, request
from perf.peerrules import Rules
from perf.peerxsk import RING
from perf.strides import stride

SCHEMA = "millrace.perf.peers/4"
SERVICES = (1, 1_000, 10_000)
SINKS = ("xsk", "xdp", "skb", "socket")
FLOWS = 256
"""Of established traffic."""

ROUND = 1 << 16
NEW = 60 * ROUND
"""So many 5-tuples, of 240 clients, that none comes twice in a run. Each run begins a round further
on than the one before, so that no table has seen its flows lately."""

USED_ROUNDS, USED_SERVICES = 6, 32
"""Of flows through ours before it is measured: its table is a used one's then. More services would
take longer (the kernel needs 20 ms to begin a test), and these reach all of the table."""

PACKETS = RING - 1024
SLOW_PACKETS = 1024
"""Of a run with a new flow each in iptables with many services: 0.1 ms each."""

FREED_S = 0.02
"""Until the kernel has given back the memory of the flows of a run."""

FEW = 64
"""One batch."""

LEAST_DELIVERED = 0.98
ESTABLISHED, FRESH = f"{FLOWS} established", "each a new flow"
UNTIDY = f"{FRESH}, words left"
"""In ours: where more flows begin than the daemon clears the words of, every ten seconds."""
PEERS = (("nftables", peerrules.nftables), ("iptables", peerrules.iptables))
OURS, ALONE, PLAIN = "Millrace", "source alone", "kernel, no netfilter"


@dataclass
class Row:
    """ns of the processor per delivered packet, a sample a round; the least share delivered.

    Attributes:
        rules: what nftables or iptables were told; nothing for the others.
        words_left: of ours, the most words of former flows that there were beside the live ones'.
    """

    sink: str
    name: str
    services: int
    flows: str
    rules: str = ""
    samples_ns: list[float] = field(default_factory=list)
    delivered: float = 1.0
    words_left: int = 0

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples_ns)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to one service.

    Attributes:
        forget: empties its table of flows, as it is before each run.
        answer: makes of the flows in it such that have had an answer.
        ours: our program's maps, if it is that.
    """

    row: Row
    trio: Trio
    head: bytes
    program: Program
    end: End
    forget: Callable[[], None]
    answer: Callable[[], None]
    ours: Ours | None = None

    @property
    def packets(self) -> int:
        """How many a run sends."""
        row = self.row
        slow = row.name == "iptables" and row.services > 100 and row.flows == FRESH
        return SLOW_PACKETS if slow else PACKETS


class Peers:
    """Everything that is built for one comparison; close it."""

    def __init__(
        self,
        services: Sequence[int],
        progress: Callable[[str], None],
        rules: Sequence[Rules] = (Rules.KUBE_PROXY,),
    ) -> None:
        self.services, self.rules, self.progress = tuple(services), tuple(rules), progress
        (cpu,) = os.sched_getaffinity(0)
        self._ksoftirqd = _kernel_thread(f"ksoftirqd/{cpu}")
        self._rounds = itertools.cycle(range(0, NEW, ROUND))
        self.load_s: dict[str, float] = {}
        self.tag = ""
        self._stack = ExitStack()
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Remove every namespace, let go of every program."""
        self._stack.close()

    def _build(self) -> None:
        peerlab.sweep()
        self.source = self._stack.enter_context(Source())
        self.plain = self._trio("plain")
        self.filters: dict[tuple[str, Rules, int], Trio] = {}
        for number, rules, (name, load) in itertools.product(self.services, self.rules, PEERS):
            trio = self.filters[name, rules, number] = self._trio(f"{name}-{rules}-{number}")
            took = self.load_s[f"{name}, {rules}, {number}"] = load(trio, number, rules)
            self.progress(f"{name}, {rules}: {number} services loaded in {took:.1f} s")

    def _softirqs(self) -> float:
        """Processor time [s] of the kernel thread that takes over when there are too many."""
        return int((self._ksoftirqd / "schedstat").read_text().split()[0]) / 1e9

    def _trio(self, name: str) -> Trio:
        made = peerlab.trio(name)
        self._stack.callback(made.remove)
        made.build()
        return made

    def run(self, sink: str, rounds: int) -> list[Row]:
        """Every contestant into one sink, taking turns."""
        with ExitStack() as stack:
            found = self.contestants(stack, sink)
            for number in range(rounds):
                for one in found:
                    self.sample(one)
                self.progress(f"{sink}: round {number + 1} of {rounds}")
            return [one.row for one in found]

    def contestants(self, stack: ExitStack, sink: str) -> list[Contestant]:
        """All that send into one sink; the stack takes the sink away."""
        return list(self._contestants(stack, sink))

    def _end(self, stack: ExitStack, trio: Trio, sink: str) -> End:
        if sink == "socket":
            return stack.enter_context(Datagrams(trio))
        if sink == "skb":
            return stack.enter_context(Dropped(trio))
        if sink == "xdp":
            return stack.enter_context(OnDevice(self.source, trio, self.source.sink))
        return stack.enter_context(Socketed(self.source, trio, "b0"))

    def _contestants(self, stack: ExitStack, sink: str) -> Iterator[Contestant]:
        source, plain = self.source, self.plain
        to_us = plain.mac("r")
        direct = request(peerlab.backend(0, 0), to_us, peerlab.BACKEND_PORT)
        end = self._end(stack, plain, sink)
        for row, program, where in (
            (Row(sink, ALONE, 0, ESTABLISHED), source.sink, Counted(source)),
            (Row(sink, PLAIN, 0, ESTABLISHED), source.kernel, end),
        ):
            yield Contestant(row, plain, direct, program, where, _nothing, _nothing)
        ours_end, socket_fd = end, None
        if sink == "xsk":
            at_router = stack.enter_context(Socketed(source, plain, "r0"))
            ours_end, socket_fd = at_router, at_router.receiver.fd
        to_backend = plain.ifindex("r1")
        for number in self.services:
            ours, untidied = (
                self._ours(stack, number, socket_fd=socket_fd, ifindex=to_backend) for _ in range(2)
            )
            ours.forget_flows()
            self.tag = ours.tag
            ways: list[tuple[str, str, Trio, Program, End, Callable[[], None]]] = [
                (OURS, "", plain, ours.program, ours_end, ours.forget_flows)
            ]
            for rules, (name, _) in itertools.product(self.rules, PEERS):
                trio = self.filters[name, rules, number]
                its_end = self._end(stack, trio, sink)
                ways.append((name, rules, trio, source.kernel, its_end, trio.forget_flows))
            for flows in (ESTABLISHED, FRESH):
                for name, told, trio, program, where, forget in ways:
                    head = request(peerlab.vip(number - 1), trio.mac("r"))
                    row = Row(sink, name, number, flows, told)
                    # Of a packet of the client's, ours asks no such thing.
                    mine = ours if name == OURS else None
                    answer = _nothing if mine else trio.answer_flows
                    yield Contestant(row, trio, head, program, where, forget, answer, mine)
            yield Contestant(
                Row(sink, OURS, number, UNTIDY),
                *(plain, request(peerlab.vip(number - 1), to_us), untidied.program, ours_end),
                *(untidied.end_flows, _nothing, untidied),
            )

    def _ours(
        self, stack: ExitStack, services: int, *, socket_fd: int | None, ifindex: int
    ) -> Ours:
        """Our program, its table in use before; the flows of it are over."""
        plain, to_us = self.plain, self.plain.mac("r")
        # In the router's namespace: its map of devices takes numbers from there.
        made = inside_named(
            plain.router,
            partial(Ours, services, plain.mac("b"), socket_fd=socket_fd, ifindex=ifindex),
        )
        stack.enter_context(made)
        used = range(max(0, services - USED_SERVICES), services)
        heads = [request(peerlab.vip(service), to_us) for service in used]
        firsts = [next(self._rounds) for _ in range(USED_ROUNDS)]
        made.use_up(self.source, heads, firsts, PACKETS)
        return made

    def sample(self, one: Contestant) -> None:
        """One run of one contestant; its row has the figure.

        Raises:
            PeersError: packets did not arrive, or ours treated them otherwise than its row says.
        """
        row, source = one.row, self.source

        def send(count: int) -> float:
            ifindex = socket.if_nametoindex("r0")
            return source.send(ifindex, one.head, count)

        known = row.flows == ESTABLISHED
        one.end.choose()
        if known:
            source.aim(one.head, FLOWS, one.program)
            inside_named(one.trio.router, partial(send, 4 * FLOWS))
            source.aim(one.head, FLOWS, one.program, stride=stride(FLOWS, len(row.samples_ns)))
            # Without an answer the kernel takes every packet for a flow's first: "ct state new".
            one.answer()
        else:
            source.aim(one.head, NEW, one.program, first=next(self._rounds))
        # The least of the kernel's own work for a test, which is no packet's.
        fixed = min(inside_named(one.trio.router, partial(send, FEW)) for _ in range(3))
        before, count = _settled(one.end), one.packets
        fates = one.ours.reasons() if one.ours else {}
        softirqs = self._softirqs()
        took = inside_named(one.trio.router, partial(send, count + FEW)) - fixed
        got = _settled(one.end) - before - FEW
        took += self._softirqs() - softirqs
        row.delivered = min(row.delivered, got / count)
        if got < LEAST_DELIVERED * count:
            what = f"{row.name} {row.rules}, {row.services} services, {row.flows}, into {row.sink}"
            msg = f"{what}: {got} of {count} packets arrived"
            raise PeersError(msg)
        if one.ours:
            wanted = Reason.VIP_FORWARD if known else Reason.VIP_NEW
            told = grown(fates, one.ours.reasons())
            if told != {wanted: count + FEW} or (not known and one.ours.first_lives()):
                msg = f"{row.flows} into {row.sink}: not all {count + FEW} {wanted.name}"
                msg += f", or in records never used before: {named(told)}"
                raise PeersError(msg)
            if (left := one.ours.words_left()) and row.flows == FRESH:
                msg = f"{row.flows} into {row.sink}: {left} words of former flows were there"
                raise PeersError(msg)
            row.words_left = max(row.words_left, left)
        row.samples_ns.append(took / got * 1e9)
        # Now and not before the next: all namespaces' flows are in one table of the kernel's, and
        # what one contestant leaves there, the next would pay for.
        one.forget()
        time.sleep(FREED_S)


def _kernel_thread(name: str) -> Path:
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == name:
                return comm.parent
        except OSError:  # it has ended meanwhile
            continue
    msg = f"there is no kernel thread {name}; run this where the machine's processes can be seen"
    raise PeersError(msg)


def _nothing() -> None:
    """No table of flows."""


def _settled(end: End) -> int:
    """The count once nothing more comes."""
    last, now = -1, end.arrived()
    while now != last:
        time.sleep(0.002)
        last, now = now, end.arrived()
    return now


def report(peers: Peers, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "frame_bytes": FRAME_SIZE,
        "packets": PACKETS,
        "program_tag": peers.tag,
        "load_s": peers.load_s,
        "rows": [asdict(row) for row in rows],
    }


def table(rows: Sequence[Row]) -> str:
    """The rows for people: ns per packet, and how many times ours."""
    ours = {(r.sink, r.services, r.flows): r.median for r in rows if r.name == OURS}
    lines: list[tuple[str, ...]] = [
        ("sink", "contestant", "rules", "services", "flows", "min", "median", "max", "x ours")
    ]
    for row in rows:
        base = ours.get((row.sink, row.services, row.flows))
        times = f"{row.median / base:.2f}" if base else ""
        figures = (min(row.samples_ns), row.median, max(row.samples_ns))
        cells = (row.sink, row.name, row.rules, f"{row.services:,}", row.flows)
        lines.append((*cells, *(f"{f:.0f}" for f in figures), times))
    return verdicts.aligned(lines, {3, 5, 6, 7, 8})


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="millrace perf peers",
        description="our program against nftables and iptables over veth, on one CPU",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each row (default 9)")
    parser.add_argument("--cpu", type=int, default=(os.cpu_count() or 1) - 1)
    parser.add_argument(
        "--services", type=int, nargs="+", default=list(SERVICES), help="default 1 1000 10000"
    )
    parser.add_argument(
        "--rules",
        type=Rules,
        nargs="+",
        choices=list(Rules),
        default=[Rules.KUBE_PROXY],
        help="of nftables and iptables: as kube-proxy writes them (default), bare ones, or both",
    )
    parser.add_argument("--sinks", nargs="+", choices=SINKS, default=list(SINKS))
    return parser.parse_args(argv)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    arguments = _arguments(argv)

    def work(progress: Progress) -> tuple[list[Row], dict[str, Any]]:
        os.sched_setaffinity(0, {arguments.cpu})
        peers = Peers(arguments.services, progress, arguments.rules)
        try:
            rows = [row for sink in arguments.sinks for row in peers.run(sink, arguments.rounds)]
            return rows, report(peers, rows)
        finally:
            peers.close()

    measured = in_lab("millrace perf peers", work)
    if measured is None:
        return 1
    rows, result = measured
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(rows))
    kernel, tag = result["kernel"], result["program_tag"]
    print(f"\nns per packet of {FRAME_SIZE} octets; kernel {kernel}, tag {tag}")
    print(f"\n{verdicts.table(judge.peers(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
