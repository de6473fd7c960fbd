"""`millrace perf cni`: from a runtime's call to its answer, with OVS and OVN in the loop.

Three ways of attaching a vhost-user port take turns: the plugin's process, as a runtime runs it;
the same request straight to the daemon's socket; and OVS and OVN alone, by one transaction of our
own on the OVS database, until `ovn-installed`. What is between the last and the first is ours.
Then containers, one after the other, and as many at once as a full node has.

Milliseconds belong to a machine; what is compared is each call to OVS and OVN alone.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from cni.wire import RemoteError, WireError, call
from dataplane.drivers import processes
from dataplane.ports import DataplaneError
from perf import ovsdbwire as wire
from perf.labrun import Progress, in_lab
from perf.ovsdbwire import Database
from tests.labs import logical
from tests.labs.lab import Lab
from tests.labs.logical import PodPort
from tests.labs.netns import Namespace
from tests.labs.workloads import POD_NAMESPACE, ROOT, CniRefused, Workload

SCHEMA = "millrace.perf.cni/1"
PREFIX = "mrcni"
FIRST = IPv4Address("10.1.0.32")
FULL_NODE = 110
POLL_S = 0.0005
PATIENCE_S = 30.0
CONFLIST = ROOT / "deploy" / "10-millrace.conflist"


@dataclass(frozen=True, slots=True)
class Calls:
    """Wall times of one kind of call [ms], in the order of the runs."""

    name: str
    ms: tuple[float, ...]

    def at(self, percent: int) -> float:
        """A percentile, 1 to 99."""
        return statistics.quantiles(self.ms, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Many ADDs together, then many DELs. `cpu_s`: of the daemons, by name, during the ADDs.

    `mib`: how much each daemon grew by them.
    """

    containers: int
    add_s: float
    del_s: float
    cpu_s: dict[str, float]
    mib: dict[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything measured. `load`: 1-minute average before and after."""

    load: tuple[float, float]
    calls: tuple[Calls, ...]
    at_once: tuple[AtOnce, ...]

    def of(self, name: str) -> Calls:
        """One kind of call."""
        return next(one for one in self.calls if one.name == name)


@dataclass(frozen=True, slots=True)
class CniLab:
    """The lab with a logical port, a namespace and a workload for each container of a full node."""

    lab: Lab
    pods: int

    def name(self, number: int) -> str:
        """Of a pod."""
        return f"pod{number}"

    def declare(self) -> None:
        """The logical ports, in one transaction, and the namespaces."""
        words: list[str] = []
        for number in range(self.pods):
            port = PodPort(
                f"{self.name(number)}.{POD_NAMESPACE}", "sw0", IPv4Interface((FIRST + number, 24))
            )
            both = f"{port.mac} {port.address.ip}"
            words += ["--", "lsp-add", port.switch, port.name]
            words += ["--", "lsp-set-addresses", port.name, both]
            words += ["--", "lsp-set-port-security", port.name, both]
            self.space(number).create()
        logical.nbctl(self.lab.nb, *words[1:])
        logical.nbctl(self.lab.nb, "--wait=hv", "sync")

    def space(self, number: int) -> Namespace:
        """A pod's."""
        return Namespace(f"{PREFIX}-p{number}")

    def workload(self, number: int, mode: str) -> Workload:
        """A pod's interface."""
        return Workload(
            self.name(number),
            f"{PREFIX}-{mode}-{number}",
            self.lab.node.cni_socket,
            mode,
            self.space(number),
        )

    def arguments(self, number: int) -> dict[str, object]:
        """What the plugin would tell the daemon of a vhost-user port."""
        container = f"{PREFIX}-call-{number}"
        return {
            "network": "millrace", "container_id": container, "ifname": "eth0", "netns": "",
            "pod": self.name(number), "namespace": POD_NAMESPACE, "pod_uid": container,
            "mode": "vhost-user", "mtu": 0, "queues": 1,
        }  # fmt: skip

    def pids(self) -> dict[str, int]:
        """The daemons that work on an attachment."""
        names = ("node", "ovs-vswitchd", "ovn-controller", "db")
        return {name: pid for name in names if (pid := self.lab.node.pid(name)) is not None}


@dataclass(frozen=True, slots=True)
class PluginCall:
    """One run of the plugin's process, everything ready but the fork.

    No wait with a timeout: Python would poll for the process's end, and that be measured.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    stdin: bytes

    @classmethod
    def of(cls, command: str, work: Workload) -> PluginCall:
        """A command for a workload."""
        network = {
            "cniVersion": "1.1.0", "name": "millrace", "type": "millrace-cni",
            "socket": str(work.cni_socket), "mode": work.mode,
        }  # fmt: skip
        env = processes.clean_environment(
            CNI_COMMAND=command,
            CNI_CONTAINERID=work.container_id,
            CNI_NETNS=str(work.netns.path) if work.netns else "",
            CNI_IFNAME="eth0",
            CNI_PATH="/opt/cni/bin",
            CNI_ARGS=f"K8S_POD_NAMESPACE={POD_NAMESPACE};K8S_POD_NAME={work.pod};"
            f"K8S_POD_UID={work.container_id}",
        )
        return cls((str(_installed()),), env, json.dumps(network).encode())

    def run(self) -> None:
        """Run it.

        Raises:
            CniRefused: it said no.
        """
        with subprocess.Popen(  # noqa: S603 - our own command
            self.argv, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            said, _ = process.communicate(self.stdin)
        if process.returncode != 0:
            msg = f"{self.env['CNI_COMMAND']} of {self.env['CNI_CONTAINERID']}: {said.decode()}"
            raise CniRefused(msg)


@functools.cache
def _installed() -> Path:
    """The plugin as a node has it, started without `site`."""
    directory = Path(tempfile.mkdtemp(prefix="millrace-perf-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    processes.run(
        [
            sys.executable, "-m", "controller.cli.main", "cni-install", str(CONFLIST),
            "--bin-dir", str(directory), "--net-dir", str(directory / "net.d"),
            "--python", os.path.realpath(sys.executable),
        ],
        env=processes.clean_environment(PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    return directory / "millrace-cni"


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return (time.monotonic() - began) * 1e3


def _alone(database: Database, number: int, iface_id: str, socket: Path) -> float:
    """One port by OVS and OVN without us, from the transaction to `ovn-installed` [ms]."""
    name = f"alone{number}"
    bridge = [["name", "==", "br-int"]]

    def installed() -> bool:
        rows = database.select("Interface", ["external_ids"], where=[["name", "==", name]])
        return bool(rows) and ["ovn-installed", "true"] in rows[0]["external_ids"][1]

    began = time.monotonic()
    database.transact(
        wire.insert(
            "Interface", "iface", name=name, type="dpdkvhostuserclient",
            options=wire.string_map({"vhost-server-path": str(socket)}),
            external_ids=wire.string_map({"iface-id": iface_id}), mtu_request=1442,
        ),
        wire.insert("Port", "port", name=name, interfaces=wire.named("iface")),
        {
            "op": "mutate", "table": "Bridge", "where": bridge,
            "mutations": [["ports", "insert", wire.named("port")]],
        },
    )  # fmt: skip
    while not installed():
        if time.monotonic() - began > PATIENCE_S:
            msg = f"OVN has not installed {iface_id} in {PATIENCE_S:g} s"
            raise processes.ProcessError(msg)
        time.sleep(POLL_S)
    took = (time.monotonic() - began) * 1e3
    (row,) = database.select("Port", ["_uuid"], where=[["name", "==", name]])
    database.transact(
        {
            "op": "mutate", "table": "Bridge", "where": bridge,
            "mutations": [["ports", "delete", row["_uuid"]]],
        }
    )  # fmt: skip
    return took


def one_by_one(made: CniLab, runs: int) -> list[Calls]:
    """The ways take turns, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {}
    socket = str(made.lab.node.cni_socket)
    with Database(made.lab.node.rundir / "db.sock", "Open_vSwitch") as database:
        for run in range(runs):
            number = run % made.pods
            iface_id = f"{made.name(number)}.{POD_NAMESPACE}"
            path = made.lab.dir / f"alone{number}.sock"
            times.setdefault("alone", []).append(_alone(database, number, iface_id, path))
            _settle()
            args = made.arguments(number)
            for op, word in (("add", "call ADD"), ("del", "call DEL")):
                took = _timed(functools.partial(call, socket, op, args, PATIENCE_S))
                times.setdefault(word, []).append(took)
                _settle()
            for mode in ("vhost-user", "veth"):
                work = made.workload(number, mode)
                for command in ("ADD", "DEL"):
                    ready = PluginCall.of(command, work)
                    times.setdefault(f"{mode} {command}", []).append(_timed(ready.run))
                    _settle()
    return [Calls(name, tuple(round(one, 2) for one in found)) for name, found in times.items()]


def _settle() -> None:
    """Let OVS and OVN end what follows a change, so that each call meets a quiet node."""
    time.sleep(0.05)


def at_once(made: CniLab, mode: str) -> AtOnce:
    """Every pod's ADD together, then every pod's DEL."""
    works = [made.workload(number, mode) for number in range(made.pods)]
    pids = made.pids()
    cpu, memory = _cpu(pids), _memory(pids)
    with ThreadPoolExecutor(max_workers=made.pods) as pool:
        adds, dels = ([PluginCall.of(word, one) for one in works] for word in ("ADD", "DEL"))
        add_ms = _timed(lambda: _all(pool.map(PluginCall.run, adds)))
        after, grown = _cpu(pids), _memory(pids)
        del_ms = _timed(lambda: _all(pool.map(PluginCall.run, dels)))
    return AtOnce(
        containers=made.pods,
        add_s=round(add_ms / 1e3, 3),
        del_s=round(del_ms / 1e3, 3),
        cpu_s={name: round(after[name] - cpu[name], 3) for name in pids},
        mib={name: round(grown[name] - memory[name], 2) for name in pids},
    )


def _all(results: Iterable[object]) -> int:
    return sum(1 for _ in results)


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    return {name: time.clock_gettime((~pid << 3) | 2) for name, pid in pids.items()}


def _memory(pids: dict[str, int]) -> dict[str, float]:
    """Resident and huge pages of each process [MiB]."""
    found = {}
    for name, pid in pids.items():
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        sizes = {line.partition(":")[0]: line.split()[1] for line in lines if "kB" in line}
        found[name] = (int(sizes["VmRSS"]) + int(sizes.get("HugetlbPages", "0"))) / 1024
    return found


def measure(runs: int, pods: int, progress: Callable[[str], None]) -> Result:
    """Everything, in a lab that is removed at the end.

    Raises:
        DataplaneError, CniRefused, WireError, RemoteError: something did not come up.
    """
    load = os.getloadavg()[0]
    with Lab(PREFIX, progress, guests=False) as lab:
        made = CniLab(lab, pods)
        made.declare()
        progress(f"{pods} logical ports are declared")
        calls = one_by_one(made, runs)
        progress("one by one: done")
        together = tuple(at_once(made, mode) for mode in ("vhost-user", "veth"))
    return Result((load, os.getloadavg()[0]), tuple(calls), together)


def table(result: Result) -> str:
    """What a reader wants of it."""
    lines = [f"{'call':<16} {'n':>4} {'p50 ms':>8} {'p99 ms':>8} {'of OVS and OVN alone':>21}"]
    alone = result.of("alone").at(50)
    lines += [
        f"{one.name:<16} {len(one.ms):>4} {one.at(50):>8.1f} {one.at(99):>8.1f} "
        f"{one.at(50) / alone:>21.2f}"
        for one in result.calls
    ]
    add, asked = result.of("vhost-user ADD").at(50), result.of("call ADD").at(50)
    lines.append(
        f"of a vhost-user ADD: {alone / add:.0%} OVS and OVN, {(asked - alone) / add:.0%} the "
        f"daemon, {(add - asked) / add:.0%} the plugin's process"
    )
    for mode, found in zip(("vhost-user", "veth"), result.at_once, strict=True):
        cpu = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.cpu_s.items())
        memory = ", ".join(
            f"{name} {mib * 1024 / found.containers:.0f}" for name, mib in found.mib.items()
        )
        lines += [
            f"{found.containers} {mode} at once: ADD {found.add_s:.2f} s, DEL {found.del_s:.2f} s",
            f"  CPU [s]: {cpu}",
            f"  memory of each [KiB]: {memory}",
        ]
    return "\n".join(lines)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something did not come up."""
    parser = argparse.ArgumentParser(prog="millrace perf cni", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="of each call (default 100)")
    parser.add_argument("--pods", type=int, default=FULL_NODE, help="at once (default 110)")
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    options = parser.parse_args(argv)
    if options.runs < 2 or not 1 <= options.pods <= 200:
        parser.error("--runs must be at least 2, --pods 1 to 200")

    def work(progress: Progress) -> Result:
        try:
            return measure(options.runs, options.pods, progress)
        except (CniRefused, WireError, RemoteError, subprocess.SubprocessError) as error:
            raise DataplaneError(str(error)) from error

    result = in_lab("millrace perf cni", work)
    if result is None:
        return 1
    if options.json:
        machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
        print(json.dumps({"schema": SCHEMA, "machine": machine, **asdict(result)}, indent=2))
    else:
        print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
