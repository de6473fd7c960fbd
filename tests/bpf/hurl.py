"""Packets at a program without a pause in between: thousands of clients, in the kernel's own loop.

The wrapper of `millrace perf xdp` (bpf/progs/perf_wrapper.bpf.c) puts each packet back and gives it
the next client: 32,768 ports from 1,024 on, then the next address. Two threads on a CPU each
run at the same time for as long as both have turns left.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from scapy.packet import Packet

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Map
from dataplane.drivers.libbpf_programs import Object, Program
from dataplane.model.rows import ProgramKind
from tests.bpf.world import World


@dataclass(frozen=True, slots=True)
class Hurler:
    """One wrapper in front of one program."""

    ifindex: int
    _wrapper: Program
    _plan: Map

    def aim(self, packet: Packet | bytes, clients: int, first: int = 0) -> None:
        """From now on packets like this come from so many clients in turn, number `first` next."""
        head = bytes(packet)[: abi.Limit.PERF_HEAD]
        plan = abi.PERF_PLAN.pack(head=head, flows=clients, services=1, next=first, stride=1)
        self._plan.update(bytes(4), plan)

    def hurl(self, packet: Packet | bytes, count: int) -> None:
        """The next `count` packets; the octets behind the head are those of `packet`."""
        octets = bytes(packet)
        assert len(octets) >= abi.Limit.PERF_HEAD
        self._wrapper.run(octets, repeat=count, ifindex=self.ifindex)


@contextmanager
def hurler(world: World, kind: ProgramKind = ProgramKind.UPLINK) -> Iterator[Hurler]:
    """A wrapper of one's own in front of the node's program."""
    with ExitStack() as stack:
        made = stack.enter_context(Object(OBJECT_DIRECTORY / "perf_wrapper.bpf.o"))
        made.load()
        wrapper = stack.enter_context(made.program("perf_run"))
        plan = stack.enter_context(made.map("perf_plan"))
        with made.map("perf_target") as target:
            target.update(bytes(4), struct.pack("=I", world.state.program(kind).fd))
        yield Hurler(
            world.uplink if kind is ProgramKind.UPLINK else world.service_link, wrapper, plan
        )


def at_once(*works: Callable[[], object]) -> None:
    """Run these at the same time: the first ones each on a CPU of its own, others anywhere.

    Raises:
        BaseException: what the first that failed raised.
    """
    failures: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object], cpus: set[int]) -> None:
        os.sched_setaffinity(0, cpus)
        try:
            start.wait(60)
            work()
        except BaseException as error:
            failures.append(error)

    home = os.sched_getaffinity(0)
    each = [{cpu} for cpu in sorted(home)] + [home] * len(works)
    threads = [
        threading.Thread(target=run, args=(work, cpus))
        for work, cpus in zip(works, each, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
