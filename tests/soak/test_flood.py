"""Ten minutes of a million new flows a minute, against a table for 65,536."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpf.abi import Reason
from dataplane.drivers import processes
from dataplane.drivers.bpfstate import version_directory
from dataplane.drivers.counters import counted
from dataplane.drivers.libbpf import Map
from dataplane.drivers.nodemap import TIMEOUTS_S
from dataplane.drivers.processes import wait_until
from dataplane.model.conntrack import FlowState
from tests.labs import lab as topology
from tests.labs import logical, netns, traffic
from tests.labs.lab import Lab
from tests.labs.logical import Service
from tests.labs.traffic import Running
from tests.soak.census import census
from tests.soak.verdicts import Verdicts

pytestmark = pytest.mark.soak

FLOWS = 65536
PER_SECOND = 16_800
"""A little more than a million a minute."""

STREAMS, EXCHANGES = 50, 2
SINK_PORT = 9
SYNS, DATAGRAMS = "10.96.3.1", "10.96.3.2"
SINKS = tuple(f"{topology.CONTAINERS[name]}:{SINK_PORT}" for name in ("c1", "c2"))
SCRAPE_S, REPORT_S = 10.0, 30.0
MOST_OF_A_CORE = 0.05
GROWTH_KIB = 16 * 1024
REFUSALS = (
    Reason.DROP_CT_FULL,
    Reason.DROP_CT_BUSY,
    Reason.DROP_NO_PORT,
    Reason.DROP_CONFLICT,
)
METRICS = ["curl", "-sf", "-m", "10", "http://127.0.0.1:9478/metrics"]


@pytest.fixture(scope="module")
def minutes() -> float:
    return float(os.environ.get("MILLRACE_SOAK_MINUTES", "10"))


@pytest.fixture(scope="module")
def flooded() -> Iterator[Lab]:
    """One node with a small table, and two services of which the flood is: nobody answers them."""
    began = time.monotonic()
    lab = Lab(
        "mrflood",
        lambda line: print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True),
        guests=False,
    )
    file = dataclasses.replace(lab.node.file, services=f"flows = {FLOWS}")
    lab.node = dataclasses.replace(lab.node, file=file)
    with lab:
        for name in ("c1", "c2"):
            rules = (
                "add table netdev sink\nadd counter netdev sink came\n"
                "add chain netdev sink end { type filter hook ingress device eth0 priority 0 ; }\n"
                f"add rule netdev sink end tcp dport {SINK_PORT} counter name came drop\n"
                f"add rule netdev sink end udp dport {SINK_PORT} counter name came drop\n"
            )
            lab.containers[name].run("nft", "-f", "-", text_in=rules)
        for one in (
            Service("syns", f"{SYNS}:{SINK_PORT}", "tcp", SINKS),
            Service("datagrams", f"{DATAGRAMS}:{SINK_PORT}", "udp", SINKS, policy="local"),
        ):
            logical.add_service(lab.nb, one)
        lab.node.wait_served((*topology.FAST_VIPS, SYNS, DATAGRAMS))
        yield lab


@dataclass(frozen=True, slots=True)
class Sample:
    """What the node has counted and spent up to a moment."""

    at: float
    verdicts: dict[Reason, int]
    daemon_s: float
    vswitchd_s: float
    sunk: int

    def since(self, before: Sample, *reasons: Reason) -> int:
        """Packets of these verdicts in between."""
        return sum(self.verdicts.get(r, 0) - before.verdicts.get(r, 0) for r in reasons)


def _cpu_s(pid: int) -> float:
    """Processor time of a process, all its threads', user and system [s] (proc_pid_stat(5))."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _sunk(lab: Lab) -> int:
    """Packets of the flood that came to a backend."""
    total = 0
    for name in ("c1", "c2"):
        listed = lab.containers[name].run("nft", "-j", "list", "counter", "netdev", "sink", "came")
        total += sum(
            int(one["counter"]["packets"])
            for one in json.loads(listed)["nftables"]
            if "counter" in one
        )
    return total


def _pid(lab: Lab, name: str) -> int:
    pid = lab.node.pid(name)
    assert pid is not None, f"{name} does not run"
    return pid


def _sample(lab: Lab) -> Sample:
    directory = version_directory(f"/sys/fs/bpf/millrace/{lab.node.name}")
    with Map.at(directory / "counters") as counters:
        found = {reason: count.packets for reason, count in counted(counters).items()}
    return Sample(
        time.monotonic(),
        found,
        _cpu_s(_pid(lab, "node")),
        _cpu_s(_pid(lab, "ovs-vswitchd")),
        _sunk(lab),
    )


def _live(lab: Lab) -> dict[str, int]:
    """Living IPv4 flows by state, as the metrics have them."""
    found = {}
    for line in lab.namespace.run(*METRICS).splitlines():
        if line.startswith('millrace_conntrack_flows{family="ipv4"'):
            state = line.partition('state="')[2].partition('"')[0]
            if count := int(float(line.split()[-1])):
                found[state] = count
    return found


def _pins(lab: Lab) -> set[str]:
    return {str(path) for path in Path(f"/sys/fs/bpf/millrace/{lab.node.name}").rglob("*")}


def _below(pid: int) -> int:
    """How many processes a process has started that are there."""
    return sum(
        len(Path(task, "children").read_text().split())
        for task in Path(f"/proc/{pid}/task").iterdir()
    )


@contextmanager
def _beside(lab: Lab, argv: Sequence[str], first: str = "") -> Iterator[Running]:
    """A process in the client's namespace that ends by SIGTERM and says JSON then."""
    process = subprocess.Popen(
        processes.in_netns(lab.client.name, list(argv)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=processes.clean_environment(),
    )
    running = Running(process)
    try:
        if first:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.strip() == first, said + process.stderr.read()
        yield running
        running.stop()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _numbers(lab: Lab) -> AbstractContextManager[Running]:
    """A numbered datagram every 10 ms, of one flow."""
    argv = [traffic.PYTHON, "-I", "-S", str(traffic.CLIENT), "numbers", topology.VIP_UDP, "53", "0",
            "pause=10"]  # fmt: skip
    return _beside(lab, argv)


@contextmanager
def _scraped(lab: Lab, into: list[float]) -> Iterator[None]:
    """A scrape of the metrics every ten seconds while the block runs; how long each took [s]."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_S):
            began = time.monotonic()
            lab.namespace.run(*METRICS)
            into.append(time.monotonic() - began)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _flood(lab: Lab, seconds: float) -> tuple[Sample, Sample, dict[str, int]]:
    """Send for so long; what was counted before and after, and what lived at the end."""
    script = str(Path(__file__).with_name("flood.py"))
    argv = [sys.executable, script, "eth0", netns.mac_of(lab.namespace, "up0"), SYNS, DATAGRAMS,
            str(SINK_PORT), str(PER_SECOND), "0"]  # fmt: skip
    before = last = _sample(lab)
    with _beside(lab, argv) as sender:
        while last.at - before.at < seconds:
            assert sender.process.poll() is None, sender.process.communicate()
            time.sleep(min(REPORT_S, max(seconds - (last.at - before.at), 0.1)))
            now = _sample(lab)
            took = now.at - last.at
            print(
                f"{now.at - before.at:5.0f} s: {now.since(last, Reason.VIP_NEW) / took:,.0f} new "
                f"flows/s, {now.since(last, *REFUSALS) / took:,.1f} refused/s, "
                f"{(now.sunk - last.sunk) / took:,.0f} at the backends/s; processor: daemon "
                f"{(now.daemon_s - last.daemon_s) / took:.2%}, vswitchd "
                f"{(now.vswitchd_s - last.vswitchd_s) / took:.0%}",
                flush=True,
            )
            last = now
        live = _live(lab)
    print(f"the sender: {sender.result}", flush=True)
    return before, last, live


def test_flood_of_new_flows(flooded: Lab, verdicts: Verdicts, minutes: float) -> None:
    lab, seconds = flooded, minutes * 60
    daemon = _pid(lab, "node")
    steady = [traffic.PYTHON, "-I", "-S", str(Path(__file__).with_name("steady.py")),
              topology.VIP_WEB, "80", str(STREAMS)]  # fmt: skip
    scrapes: list[float] = []
    with ExitStack() as stack:
        streams = stack.enter_context(_beside(lab, steady, first="open"))
        exchanges = [stack.enter_context(_numbers(lab)) for _ in range(EXCHANGES)]
        for one in exchanges:
            one.server()
        stack.enter_context(_scraped(lab, scrapes))
        time.sleep(2 * SCRAPE_S)  # the first scrapes fill caches
        quiet, pins, children = census(lab), _pins(lab), _below(daemon)
        idle = _sample(lab)
        time.sleep(2 * SCRAPE_S)
        rest = _sample(lab)
        with traffic.beside(lab.client, "http", topology.VIP_WEB, 80, 0, 100) as requests:
            before, after, full = _flood(lab, seconds)
        gone = [
            FlowState.SYN, FlowState.UDP_ONE_WAY, FlowState.UDP_ANSWERED, FlowState.TIME_WAIT,
            FlowState.RESET,
        ]  # fmt: skip
        longest = max(TIMEOUTS_S[s] for s in TIMEOUTS_S if FlowState(int(s)) in gone)
        print(f"the flood is over; its flows live for {longest} s", flush=True)
        alive = {"established": STREAMS, "udp": EXCHANGES}
        wait_until(
            lambda: _live(lab) == alive or time.monotonic() - after.at > 3 * longest,
            "the flood's flows are over",
            timeout_s=6 * longest,
        )
        ended_after, left = time.monotonic() - after.at, _live(lab)
        more = census(lab)
        leaks = [*more.more_than(quiet), *sorted(_pins(lab) - pins)]
        if _below(daemon) > children:
            leaks.append(f"processes of the daemon: {children} -> {_below(daemon)}")
    took = after.at - before.at
    made = after.since(before, Reason.VIP_NEW)
    share = (after.daemon_s - before.daemon_s) / took
    idle_share = (rest.daemon_s - idle.daemon_s) / (rest.at - idle.at)
    grown = more.daemon_kib - quiet.daemon_kib
    answers = requests.answers
    lost = [
        f"{one.result['sent'] - one.result['answered']} of {one.result['sent']}"
        for one in exchanges
    ]
    refused = {r.name: n for r in REFUSALS if (n := after.since(before, r))}
    dropped = {
        r.name: n
        for r in Reason
        if r.name.startswith("DROP_") and r not in REFUSALS and (n := after.since(before, r))
    }
    held = [
        verdicts.note(
            "what the programs dropped beside refused flows",
            f"{dropped or 'nothing'}: what else was lost, was lost on the way",
            holds=not dropped,
        ),
        verdicts.note(
            f"{minutes:g} minutes of new flows, a table for {FLOWS:,}",
            f"{made / took * 60:,.0f} a minute by the program's counter; "
            f"{(after.sunk - before.sunk) / made:.2%} of their packets came to a backend",
            holds=made / took * 60 >= 1_000_000,
        ),
        verdicts.note(
            f"{STREAMS} established connections",
            f"{len(streams.result['errors'])} broken, {streams.result['lines']} lines there and "
            f"back, {streams.result['again']} segments sent again, longest silence "
            f"{streams.result['longest_silence_ms']:.0f} ms",
            holds=not streams.result["errors"] and streams.result["fewest"] > seconds,
        ),
        verdicts.note(
            f"{EXCHANGES} UDP exchanges",
            f"lost {' and '.join(lost)}; each served by one backend throughout",
            holds=all(len(one.result["servers"]) == 1 for one in exchanges)
            and all(one.result["answered"] == one.result["sent"] for one in exchanges),
        ),
        verdicts.note(
            "new real connections in the flood",
            f"{answers.ok} of {answers.sent} answered, slowest {answers.slowest_ms:.0f} ms",
            holds=answers.all_ok,
        ),
        verdicts.note(
            "refused and displaced",
            f"refused {refused or 0}; of the {longest * made / took:,.0f} flows of the last "
            f"{longest} s {sum(full.values()):,} lived at the end ({_states(full)}): the others "
            "were displaced by newer ones",
            holds=sum(refused.values()) < made / 1000,
        ),
        verdicts.note(
            "the flood's flows end by themselves",
            f"{ended_after:.0f} s after it {sum(left.values())} live: {_states(left)}",
            holds=left == alive,
        ),
        verdicts.note(
            "the daemon's processor time",
            f"{share:.2%} of a core in the flood, {idle_share:.2%} before it, both with a scrape "
            f"every {SCRAPE_S:.0f} s (n={len(scrapes)}, longest {max(scrapes) * 1000:.0f} ms)",
            holds=share < MOST_OF_A_CORE,
        ),
        verdicts.note(
            "nothing leaks",
            ("; ".join(leaks) or "no descriptor, process, pin, port or record more")
            + f"; memory {grown:+} KiB of {quiet.daemon_kib}",
            holds=not leaks and grown < GROWTH_KIB,
        ),
    ]
    assert all(held)


def _states(live: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(live.items())) or "none"
