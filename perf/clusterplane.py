"""What OVN makes of a cluster's northbound rows: northd, the southbound database, real chassis.

    python -m perf.clusterplane [--pods N] [--chassis N] [--east-west switch|svc0] [--json]
    python -m perf.clusterplane --grid [--json]

Behind the controller of `perf.cluster` (its northbound database, made of API objects) stand a real
southbound ovsdb-server, a real ovn-northd, and real ovn-controllers, each with an ovs-vswitchd of
its own on dummy devices: all that a node's control plane is, and nothing that forwards. The first
chassis has all its node's pods; the others have some of theirs, so that each monitors and computes
as a node does. `--grid` asks what services cost in flows, by the number of subnets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers.idl import DatabaseClient, Replica
from perf.cluster import PATIENCE_S, SIZE, Talk, quiet
from perf.control import cpu_seconds, memory_mib
from perf.kubecache import rank
from perf.verdicts import aligned
from tests.labs.ovnsandbox import OvnSandbox, run

GRID = {**SIZE, "pods": 200, "nodes": 4, "policies": 0}
GRID_SUBNETS = (1, 100)
GRID_WAYS = (("none", 0, "svc0"), ("svc0", 2_000, "svc0"), ("switch", 2_000, "switch"))
"""Without services, with those that the fast path serves, with those that OVN serves."""
PODS, OTHERS = 50, 5
"""Pods that are plugged on the first chassis, and on each of the others."""
FLOWS = ("Logical_Flow", "Logical_DP_Group", "Port_Binding", "Datapath_Binding")


@dataclass
class Chassis(OvnSandbox):
    """One node: its own OVS and ovn-controller, the southbound database of another place."""

    central: str = ""
    installed: DatabaseClient[None] = field(init=False)

    @property
    def sb(self) -> str:
        """Connection method of the southbound database."""
        return self.central

    def begin(self, number: int) -> None:
        """Be the node of this number."""
        address = f"192.0.{2 + number // 250}.{number % 250 + 1}"
        self.start_chassis(f"node{number}", address, "physnet", "br-phys")
        self.installed = DatabaseClient(
            remote=f"unix:{self.directory}/db.sock",
            database="Open_vSwitch",
            tables={"Interface": ("name", "external_ids"), "Bridge": ("name",)},
            snapshot=lambda _: None,
            coalesce_s=0.001,
        )
        self.installed.start()

    def plug(self, names: Sequence[str]) -> None:
        """Have interfaces of these logical ports, in one transaction."""
        words: list[str] = []
        for name in names:
            device = name.split(".")[0]
            words += ["--", "--may-exist", "add-port", "br-int", device]
            words += ["--", "set", "Interface", device, f"external_ids:iface-id={name}"]
        self.vsctl("--no-wait", *words[1:])

    def wait(self, names: Sequence[str]) -> float:
        """Until all of these have their flows; the moment [s, monotonic]."""
        wanted = set(names)

        def there(replica: Replica) -> float | None:
            found = {
                ids["iface-id"]
                for row in replica.tables["Interface"].rows.values()
                if (ids := row.external_ids).get("ovn-installed") == "true" and "iface-id" in ids
            }
            return time.monotonic() if wanted <= found else None

        return self.installed.wait_for(there, PATIENCE_S)

    def has_bridge(self) -> None:
        """Wait for the integration bridge."""

        def there(replica: Replica) -> bool | None:
            rows = replica.tables["Bridge"].rows.values()
            return True if any(row.name == "br-int" for row in rows) else None

        self.installed.wait_for(there, PATIENCE_S)

    def flows(self) -> int:
        """OpenFlow flows of the integration bridge."""
        told = run(
            "ovs-ofctl", "dump-aggregate", f"unix:{self.directory}/br-int.mgmt",
            env=self.environment,
        )  # fmt: skip
        return int(told.split("flow_count=")[1].split()[0])

    def end(self) -> None:
        """Stop all of it."""
        if hasattr(self, "installed"):
            self.installed.stop()
        self.stop()


def ports_of(node: int, size: dict[str, int], count: int) -> list[str]:
    """The first logical ports of a node's pods."""
    numbers = range(node, size["pods"], size["nodes"])[:count]
    return [f"pod{number}.ns{number % size['subnets']}" for number in numbers]


def synced(box: OvnSandbox) -> float:
    """Wait until northd has written all that is wanted now; the moment [s, monotonic]."""
    box.nbctl("--timeout=55", "--wait=sb", "sync")
    return time.monotonic()


def counts(box: OvnSandbox) -> dict[str, float]:
    """Rows of the southbound database."""
    found = {}
    for table in FLOWS:
        told = box.sbctl("--bare", "--columns=_uuid", "list", table)
        found[f"sb_{table.lower()}"] = float(sum(bool(line) for line in told.splitlines()))
    return found


@contextmanager
def cluster(size: dict[str, int], east_west: str) -> Iterator[tuple[Talk, Talk, OvnSandbox]]:
    """The API, a controller that has written everything, and the northbound database."""
    with tempfile.TemporaryDirectory(prefix="mrv-cp-") as directory:
        box = OvnSandbox(Path(directory))
        api = Talk("perf.clusterapi", json.dumps(size))
        try:
            url = api.read()
            box.make_database("nb")
            box.nbctl("init")
            controller = Talk("controller.kubetrial", url, box.nb, east_west)
            try:
                controller.until("settled")
                quiet(controller)
                yield api, controller, box
            finally:
                controller.end()
        finally:
            api.end()
            box.stop()


def central(box: OvnSandbox) -> dict[str, float]:
    """Start the southbound database and northd: how long for all of it, and what it made."""
    box.make_database("sb")
    box.sbctl("init")
    began = time.monotonic()
    box.start_northd()
    figures = {"northd_full_s": synced(box) - began}
    figures |= counts(box)
    figures["northd_full_cpu_s"] = cpu_seconds(box.pids["northd"])
    figures["northd_mib"] = memory_mib(box.pids["northd"])
    figures["sb_server_mib"] = memory_mib(box.pids["sb"])
    figures["sb_file_mib"] = (box.directory / "sb.db").stat().st_size / 2**20
    return figures


def changes(
    api: Talk, controller: Talk, box: OvnSandbox, node: Chassis, size: dict[str, int], count: int
) -> dict[str, float]:
    """Pods of the first node one after the other: from the API to the flows on its chassis."""
    parts: dict[str, list[float]] = {"nb": [], "installed": [], "sb": []}
    used = cpu_seconds(box.pids["northd"]), cpu_seconds(node.pids["controller"])
    for one in range(count):
        number = size["pods"] + (one + 100) * size["nodes"]
        name = f"pod{number}.ns{number % size['subnets']}"
        node.plug([name])
        time.sleep(0.3)
        api.tell(json.dumps({"do": "pod", "number": number}))
        made = api.until("at")["at"]
        key = f"Logical_Switch_Port {name}"
        while key not in (written := controller.until("keys"))["keys"]:
            pass
        parts["nb"].append((written["at"] - made) * 1000)
        parts["installed"].append((node.wait([name]) - made) * 1000)
        synced(box)
    figures = {}
    for part, found in parts.items():
        found.sort()
        if found:
            figures[f"pod_{part}_p50_ms"] = rank(found, 0.5)
            figures[f"pod_{part}_max_ms"] = found[-1]
    figures["northd_cpu_a_pod_s"] = (cpu_seconds(box.pids["northd"]) - used[0]) / count
    controller_s = cpu_seconds(node.pids["controller"]) - used[1]
    figures["ovn_controller_cpu_a_pod_s"] = controller_s / count
    return figures


def nodes(
    size: dict[str, int], box: OvnSandbox, count: int, keep: contextlib.ExitStack
) -> tuple[list[Chassis], dict[str, float]]:
    """Start chassis one after the other: how long each, what it needs."""
    made: list[Chassis] = []
    took: list[float] = []
    figures: dict[str, float] = {}
    for number in range(count):
        place = keep.enter_context(tempfile.TemporaryDirectory(prefix="mrv-cn-"))
        node = Chassis(Path(place), central=box.sb)
        keep.callback(node.end)
        ports = ports_of(number, size, OTHERS if number else PODS)
        began = time.monotonic()
        node.begin(number)
        node.has_bridge()
        node.plug(ports)
        took.append(node.wait(ports) - began)
        made.append(node)
        if not number:
            figures["node_ports"] = len(ports)
            figures["node_start_s"] = took[0]
            figures["node_start_cpu_s"] = cpu_seconds(node.pids["controller"])
            figures["node_flows"] = node.flows()
    figures["chassis"] = count
    figures["chassis_start_last_s"] = took[-1]
    for word, pid in (("ovn_controller", "controller"), ("vswitchd", "vswitchd")):
        figures[f"{word}_mib"] = sum(memory_mib(node.pids[pid]) for node in made) / count
    figures["sb_server_with_chassis_mib"] = memory_mib(box.pids["sb"])
    return made, figures


def measure(
    size: dict[str, int], chassis: int, count: int, east_west: str, say: Callable[[str], None]
) -> dict[str, float]:
    """All phases, one after the other."""
    figures: dict[str, float] = {}
    with cluster(size, east_west) as (api, controller, box), contextlib.ExitStack() as keep:
        say("the northbound database is as wanted")
        figures |= central(box)
        say(f"northd is done: {figures['northd_full_s']:.1f} s")
        if not chassis:
            return figures
        made, found = nodes(size, box, chassis, keep)
        figures |= found
        say(f"{chassis} chassis are there")
        synced(box)
        if count:
            figures |= changes(api, controller, box, made[0], size, count)
    return figures


def grid(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """What 2,000 services cost with few subnets and with many: each way's figures."""
    found = {}
    for subnets in GRID_SUBNETS:
        for way, services, east_west in GRID_WAYS:
            size = {**GRID, "services": services, "subnets": subnets}
            found[f"{way} {subnets}"] = measure(size, 1, 0, east_west, lambda _: None)
            say(f"{way}, {subnets} subnets: done")
    return found


def grid_command(as_json: bool, say: Callable[[str], None]) -> int:
    """Measure and print the grid."""
    found = grid(say)
    if as_json:
        print(json.dumps({"grid": found, "subnets": GRID_SUBNETS}))
        return 0
    names = ("sb_logical_flow", "node_flows", "ovn_controller_mib", "node_start_s")
    lines: list[tuple[str, ...]] = [("", *names)]
    lines += [(way, *(f"{one[name]:.1f}" for name in names)) for way, one in found.items()]
    print(aligned(lines, right=range(1, len(lines[0]))))
    return 0


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(prog="python -m perf.clusterplane", description=__doc__)
    for name, most in SIZE.items():
        options.add_argument(f"--{name}", type=int, default=most)
    options.add_argument("--chassis", type=int, default=1, help="real ovn-controllers; 0: none")
    options.add_argument("--changes", type=int, default=20, help="pods made one by one")
    options.add_argument("--east-west", default="svc0", help="svc0, or switch: OVN serves")
    options.add_argument("--grid", action="store_true", help="services by subnets")
    options.add_argument("--json", action="store_true")
    given = options.parse_args(argv)
    size = {name: getattr(given, name) for name in SIZE}

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if given.grid:
        return grid_command(given.json, say)
    figures = measure(size, given.chassis, given.changes, given.east_west, say)
    if given.json:
        told = {"size": size, "east_west": given.east_west, "figures": figures}
        print(json.dumps(told))
        return 0
    for name, value in figures.items():
        print(f"{name:28} {value:12.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
