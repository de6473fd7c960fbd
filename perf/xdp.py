"""`millrace perf xdp`: ns per packet of the XDP programs, by BPF_PROG_TEST_RUN.

The packet is put back before every run by a wrapper (bpf/progs/perf_wrapper.bpf.c), whose own
cost is the row "bare". Every row proves by the counters that it took the path that it names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bpf.abi import Reason
from dataplane.drivers.netns import inside, opened
from dataplane.drivers.programs import program_info
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.rows import ProgramKind
from dataplane.ports import DataplaneError
from perf.xdpbench import Bench, BenchError, Timing, timing
from perf.xdpframes import CLIENT, CLIENT_PORT, SYN, answer_to, frame

SCHEMA = "millrace.perf.xdp/1"
STRANGER = L4Addr(Protocol.TCP, IPv4Address("203.0.113.254"), 9)
FLOWS = (1, 256, 65_536)
LIVE_FLOWS = (1, 256, 4_096)
"""Over a running node's maps: few enough that nobody else's flows are evicted."""

_KNOWN_SHARE = 0.99
"""A row of many flows may lose that many to the LRU, and is still of established flows."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is sent to which program, and the reason that proves its path (None: bare)."""

    name: str
    kind: ProgramKind | None
    frame: bytes
    reason: Reason | None
    flows: int = 1
    warm: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario measured. `net_ns` is the median less the bare row's."""

    name: str
    program: str
    reason: str
    flows: int
    repeat: int
    samples_ns: tuple[int, ...]
    raw_ns: Timing
    net_ns: float


def scenarios(bench: Bench) -> Iterator[Scenario]:
    """Every row, in order; those for which the node has no service are left out."""
    vips = bench.services()
    uplink, svc = ProgramKind.UPLINK, ProgramKind.SERVICE
    stranger = frame(CLIENT, CLIENT_PORT, STRANGER)
    yield Scenario("bare XDP_PASS behind the wrapper", None, stranger, None)
    yield Scenario("of no service, to OVS", uplink, stranger, Reason.XSK_IPV4)
    local = bench.local_address()
    if local is not None:
        ours = frame(CLIENT, CLIENT_PORT, L4Addr(Protocol.TCP, local, 22))
        yield Scenario("the node's own, to the kernel", uplink, ours, Reason.PASS_IPV4)
    flows = LIVE_FLOWS if bench.live else FLOWS
    if Protocol.TCP not in vips:
        msg = "no TCP service is served with SNAT here; declare one, or leave --bpf-root out"
        raise BenchError(msg)
    tcp = frame(CLIENT, CLIENT_PORT, vips[Protocol.TCP])
    for count in flows:
        name = "established TCP, DNAT+SNAT"
        yield Scenario(name, uplink, tcp, Reason.VIP_FORWARD, count)
    if Protocol.UDP in vips:
        udp = frame(CLIENT, CLIENT_PORT, vips[Protocol.UDP])
        yield Scenario("established UDP, DNAT+SNAT", uplink, udp, Reason.VIP_FORWARD)
    syn = frame(CLIENT, CLIENT_PORT, vips[Protocol.TCP], tcp_flags=SYN)
    new = flows[-1] if bench.live else 1 << 22
    yield Scenario("a new flow with each packet", uplink, syn, Reason.VIP_NEW, new, warm=False)
    answer = answer_to(bench.translated(tcp))
    yield Scenario("reply, reversed", svc, answer, Reason.SVC_REPLY)
    if not bench.live:
        yield Scenario("of no flow, to the uplink", svc, stranger, Reason.SVC_UPLINK)


def measure(bench: Bench, scenario: Scenario, runs: int, repeat: int) -> list[int]:
    """Ns per packet, one figure a run.

    Raises:
        BenchError: packets took another path than the scenario's.
    """
    samples = []
    if not scenario.warm and bench.live:
        repeat = scenario.flows  # each of its flows once, then they are forgotten
    if scenario.warm and scenario.kind is not None:
        _run(bench, scenario, max(1000, 2 * scenario.flows))
    for _ in range(runs):
        if not scenario.warm:
            bench.forget_flows()
        before = bench.counted()
        samples.append(_run(bench, scenario, repeat))
        if scenario.reason is not None:
            _prove(scenario, before, bench.counted(), repeat)
    if scenario.flows > 1:
        bench.forget_flows()
    return samples


def _run(bench: Bench, scenario: Scenario, repeat: int) -> int:
    return bench.run(scenario.kind, scenario.frame, flows=scenario.flows, repeat=repeat)


def _prove(
    scenario: Scenario, before: dict[Reason, int], after: dict[Reason, int], repeat: int
) -> None:
    assert scenario.reason is not None
    took = after.get(scenario.reason, 0) - before.get(scenario.reason, 0)
    wanted = repeat if scenario.flows == 1 else int(repeat * _KNOWN_SHARE)
    if took < wanted:
        others = {r.name: n - before.get(r, 0) for r, n in after.items() if n != before.get(r, 0)}
        msg = f"{scenario.name}: {took} of {repeat} packets were {scenario.reason.name}: {others}"
        raise BenchError(msg)


def rows(bench: Bench, runs: int, repeat: int) -> list[Row]:
    """Every scenario, measured."""
    found: list[Row] = []
    for scenario in scenarios(bench):
        samples = measure(bench, scenario, runs, repeat)
        raw = timing(samples)
        floor = found[0].raw_ns.median if found else raw.median
        found.append(
            Row(
                scenario.name,
                scenario.kind.value if scenario.kind else "wrapper",
                scenario.reason.name if scenario.reason else "",
                scenario.flows,
                scenario.flows if bench.live and not scenario.warm else repeat,
                tuple(samples),
                raw,
                raw.median - floor,
            )
        )
    return found


def attached(netns: str | None) -> list[dict[str, str]]:
    """Programs of ours on devices of a network namespace; None: of this one."""
    if netns is None:
        return _attached_here()
    path = f"/run/netns/{netns}"
    with opened(path) as fd:
        return inside(fd, path, _attached_here)


def _attached_here() -> list[dict[str, str]]:
    found = []
    for _, device in socket.if_nameindex():
        info = program_info(device)
        if info is not None and info.name.startswith("millrace_"):
            found.append({"device": device, "name": info.name, "tag": info.tag})
    return found


def report(bench: Bench, found: list[Row], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "maps": str(arguments.bpf_root or "private"),
        "measured": [{"name": i.name, "tag": i.tag} for i in bench.infos.values()],
        "attached": attached(arguments.netns),
        "rows": [asdict(row) for row in found],
    }


def table(found: list[Row]) -> str:
    """The rows for people."""
    titles = ("program", "packet", "flows", "min", "median", "max", "less bare", "counted as")
    lines = [titles]
    for row in found:
        raw = row.raw_ns
        figures = (f"{raw.minimum:.0f}", f"{raw.median:.0f}", f"{raw.maximum:.0f}")
        net = f"{row.net_ns:.0f}"
        lines.append((row.program, row.name, f"{row.flows:,}", *figures, net, row.reason))
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    right = {2, 3, 4, 5, 6}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="millrace perf xdp",
        description="ns per packet of the XDP programs (BPF_PROG_TEST_RUN, packet put back)",
    )
    parser.add_argument(
        "--bpf-root", type=Path, help="measure over the pinned maps of the running node there"
    )
    parser.add_argument("--netns", help="of the node, to name what is attached there")
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument(
        "--repeat", type=int, default=1_000_000, help="packets of one run (default 1,000,000)"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default 5)")
    parser.add_argument(
        "--services", type=int, default=1000, help="in private maps (default 1,000)"
    )
    return parser.parse_args(argv)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    arguments = _arguments(argv)
    root = str(arguments.bpf_root) if arguments.bpf_root else None
    try:
        with Bench(root, arguments.services) as bench:
            found = rows(bench, arguments.runs, arguments.repeat)
            result = report(bench, found, arguments)
    except DataplaneError as error:
        print(f"millrace perf xdp: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(found))
    print(
        f"\nns per packet, {arguments.runs} runs; kernel {result['kernel']}, load {result['load']}"
    )
    print(f"maps: {result['maps']}")
    for each in result["measured"]:
        print(f"measured: {each['name']} tag {each['tag']}")
    for each in result["attached"]:
        print(f"attached: {each['name']} tag {each['tag']} on {each['device']}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
