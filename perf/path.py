"""`millrace perf path`: client to backend and back through a whole node, as a service and without.

One TCP stream and one UDP sender of 64-octet frames to a container, through ordinary sockets. And
64-octet frames to a vhost guest that sends each one back: in a closed loop, in which each answer is
the next request, so that nothing is lost or waits for anything but the path, and OVS's one thread
is what all of it costs; in another of a single frame, for how long it takes; and in an open loop,
in which the client sends more than anybody can take and what comes back is counted. The last is
shown and not judged: on two processors the sender takes its time from the guest or from OVS, so
what comes back is what the scheduler leaves. The ways take turns (A-B, B-A). Runs from the source
tree: the node is the tests' lab.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dataplane.drivers import processes
from perf import judge, verdicts
from perf.labrun import Progress, in_lab, iperf_time

if TYPE_CHECKING:
    from dataplane.drivers.ovstext import PmdCounters
    from perf.pathlab import PathLab

SCHEMA = "millrace.perf.path/1"
IN_FLIGHT, FLOWS = 128, 64
FRAME_SIZE = 64
WARM_UP_S = 0.5
_IPERF_TRIES = 5


@dataclass
class Way:
    """What was measured of one way.

    `gbit_s`: TCP. `kpps`: UDP packets that the container's socket got. `flood_krps`: answers of the
    guest to a client that does not wait for them. `krps`: round trips with the guest in a closed
    loop, and what each cost OVS; `single_krps`: the same with one frame on its way.
    """

    name: str
    gbit_s: list[float] = field(default_factory=list)
    kpps: list[float] = field(default_factory=list)
    flood_krps: list[float] = field(default_factory=list)
    flood_cycles: list[float] = field(default_factory=list)
    krps: list[float] = field(default_factory=list)
    single_krps: list[float] = field(default_factory=list)
    cycles_per_round_trip: list[float] = field(default_factory=list)
    passes_per_packet: list[float] = field(default_factory=list)


def _iperf(made: PathLab, way: str, seconds: float, *words: str) -> Any:
    from perf.pathlab import CONTAINER, TCP_PORT, target

    argv = ["iperf3", "-J", "-c", target(way, CONTAINER), "-p", str(TCP_PORT)]
    argv += ["-t", iperf_time(seconds)]
    error = ""
    for _ in range(_IPERF_TRIES):
        told = json.loads(made.lab.client.run(*argv, *words, check=False, timeout_s=seconds + 30))
        if told.get("end"):
            return told["end"]
        # Its server takes one client, and may not have done with the one before.
        error = str(told.get("error"))
        time.sleep(WARM_UP_S)
    msg = f"iperf3 to {target(way, CONTAINER)}: {error}"
    raise processes.ProcessError(msg)


def stream(made: PathLab, way: str, seconds: float) -> float:
    """One TCP stream from the client to the container [Gbit/s received]."""
    told = _iperf(made, way, seconds)
    return float(told["sum_received"]["bits_per_second"]) / 1e9


def datagrams(made: PathLab, way: str, seconds: float) -> float:
    """One UDP sender as fast as it can, frames of 64 octets [1000/s received]."""
    told = _iperf(made, way, seconds, "-u", "-b", "0", "-l", str(FRAME_SIZE - 42))["sum"]
    return float(told["packets"] - told["lost_packets"]) / float(told["seconds"]) / 1e3


def flood(made: PathLab, way: Way, seconds: float) -> None:
    """More requests than OVS can take, and how many come back; what each cost OVS.

    Raises:
        ProcessError: nothing came back.
    """
    from perf.pathlab import flooded

    pmd = made.lab.node.pmd
    with flooded(made.lab.client.name, made.request(way.name, 20000), FLOWS) as source:
        time.sleep(WARM_UP_S)
        before, first, began = pmd(), source.counted(), time.monotonic()
        time.sleep(seconds)
        done, last, took = pmd().since(before), source.counted(), time.monotonic() - began
    if last == first:
        msg = f"{way.name}: nothing came back in {took:.1f} s"
        raise processes.ProcessError(msg)
    way.flood_krps.append((last - first) / took / 1e3)
    way.flood_cycles.append(done.busy_cycles / (last - first))


def round_trips(made: PathLab, way: Way, seconds: float) -> None:
    """Packets in a closed loop, and what OVS spent on them."""
    rate, done, count = _looped(made, way, seconds, IN_FLIGHT)
    way.krps.append(rate)
    way.cycles_per_round_trip.append(done.busy_cycles / count)
    way.passes_per_packet.append(done.passes_per_packet)


def one_at_a_time(made: PathLab, way: Way, seconds: float) -> None:
    """A single packet in a closed loop; its flow is known everywhere."""
    way.single_krps.append(_looped(made, way, seconds, 1)[0])


def _looped(
    made: PathLab, way: Way, seconds: float, in_flight: int
) -> tuple[float, PmdCounters, int]:
    """Round trips [1000/s], what OVS did meanwhile, and their number.

    Raises:
        ProcessError: fewer came back than were sent.
    """
    from perf.pathlab import answering

    pmd = made.lab.node.pmd
    with answering(made.lab.client.name) as count:

        def returned() -> int:
            return int(np.frombuffer(count.lookup(bytes(4)) or b"", np.uint64).sum())

        frames = [made.request(way.name, 20000 + number % FLOWS) for number in range(in_flight)]
        # One of each flow first: the others find megaflows and conntrack as they will be.
        made.send(frames[:FLOWS])
        time.sleep(WARM_UP_S)
        made.send(frames[FLOWS:])
        time.sleep(WARM_UP_S)
        before, first, began = pmd(), returned(), time.monotonic()
        time.sleep(seconds)
        done, last, took = pmd().since(before), returned(), time.monotonic() - began
    if last - first < in_flight:
        msg = f"{way.name}: {last - first} packets came back in {took:.1f} s"
        raise processes.ProcessError(msg)
    return (last - first) / took / 1e3, done, last - first


def measure(
    made: PathLab, seconds: float, rounds: int, progress: Callable[[str], None]
) -> list[Way]:
    """All ways, taking turns."""
    from perf.pathlab import WAYS

    ways = [Way(name) for name in WAYS]
    for number in range(rounds):
        for way in ways if number % 2 == 0 else ways[::-1]:
            with made.reached(way.name):
                way.gbit_s.append(stream(made, way.name, seconds))
                way.kpps.append(datagrams(made, way.name, seconds))
                flood(made, way, seconds)
                round_trips(made, way, seconds)
                one_at_a_time(made, way, seconds)
        progress(f"round {number + 1} of {rounds}")
    return ways


def report(ways: Sequence[Way]) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "in_flight": IN_FLIGHT,
        "flows": FLOWS,
        "ways": [asdict(way) for way in ways],
    }


def table(ways: Sequence[Way]) -> str:
    """For people: median (min..max)."""
    lines: list[tuple[str, ...]] = [
        (
            "way",
            "Gbit/s",
            "UDP, 1000/s",
            "open loop, 1000/s",
            "closed loop, 1000/s",
            "one frame, 1000/s",
            "OVS cycles each",
            "passes/packet",
        )
    ]
    for way in ways:
        cells = [way.name]
        for samples, form in (
            (way.gbit_s, "{:.2f}"),
            (way.kpps, "{:.0f}"),
            (way.flood_krps, "{:.0f}"),
            (way.krps, "{:.0f}"),
            (way.single_krps, "{:.1f}"),
            (way.cycles_per_round_trip, "{:.0f}"),
            (way.passes_per_packet, "{:.2f}"),
        ):
            low, middle, high = min(samples), statistics.median(samples), max(samples)
            cells.append(f"{form.format(middle)} ({form.format(low)}..{form.format(high)})")
        lines.append(tuple(cells))
    return verdicts.aligned(lines)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="millrace perf path",
        description="client to backend and back through XDP, OVS-DPDK and OVN: throughput, rate",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one sample (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each way (default 5)")
    parser.add_argument("--guest-core", type=int, default=0, help="CPU of the guest")
    options = parser.parse_args(argv)

    def work(progress: Progress) -> list[Way]:
        from perf import pathlab

        with pathlab.built(progress, options.guest_core) as made:
            return measure(made, options.seconds, options.rounds, progress)

    ways = in_lab("millrace perf path", work)
    if ways is None:
        return 1
    result = report(ways)
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(ways))
    print(f"\n{verdicts.table(judge.path(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
