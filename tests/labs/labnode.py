"""One embedded node of a lab: its files, its life, and questions to its daemons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.wire import RemoteError, WireError, call
from controller import embedded
from dataplane.drivers import processes
from dataplane.drivers.ovstext import PmdCounters, pmd_counters
from tests.labs.netns import Namespace
from tests.labs.nodefile import NodeFile

_ANSWERS_WITHIN_S = 30.0
SLEEP_US = 50
"""pmd-maxsleep: on two cores a PMD that never sleeps starves everything else."""


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What the kernel says of a program: how often it ran, and for how long."""

    tag: str
    runs: int
    ns: int


@dataclass(frozen=True, slots=True)
class LabNode:
    """A node in a namespace. `cluster_path` is given where the cluster controller is to run."""

    namespace: Namespace
    file: NodeFile
    config_path: Path
    cluster_path: Path | None
    progress: Callable[[str], None]

    @property
    def name(self) -> str:
        """The node's, and so the chassis's, name."""
        return self.file.name

    @property
    def rundir(self) -> Path:
        """The node's run directory."""
        return Path("/run/millrace") / self.name

    @property
    def statedir(self) -> Path:
        """Where the node keeps its databases and the attachments' records."""
        return Path("/var/lib/millrace") / self.name

    @property
    def cni_socket(self) -> Path:
        """The daemon's socket for the plugin."""
        return self.rundir / "cni.sock"

    def up(self) -> None:
        """`millrace up`: whatever is missing."""
        embedded.up(self.config_path, self.cluster_path, self.namespace.name, self.progress)

    def down(self) -> None:
        """`millrace down`."""
        if self.config_path.exists():
            embedded.down(self.config_path, self.progress)

    def start_agent(self) -> None:
        """Only the daemon, whatever else is missing."""
        embedded.start_agent(embedded.load(self.config_path), self.progress)

    def kill(self, name: str) -> None:
        """`kill -9` of one daemon: node, central, ovs-vswitchd, ovn-controller, ..."""
        node = embedded.load(self.config_path)
        daemon = {"node": node.agent, "central": node.central}.get(name)
        daemon = daemon or node.instance.daemon(name)
        pid = processes.running_pid(daemon)
        assert pid is not None, f"{name} does not run"
        processes.end(pid, daemon.marker, first=9)

    def pid(self, name: str) -> int | None:
        """The pid of one daemon."""
        node = embedded.load(self.config_path)
        daemon = {"node": node.agent, "central": node.central}.get(name)
        return processes.running_pid(daemon or node.instance.daemon(name))

    def restart_vswitchd(self) -> float:
        """Stop vswitchd and start it; the seconds until it was back."""
        began = time.monotonic()
        embedded.restart_vswitchd(embedded.load(self.config_path).config, self.progress)
        return time.monotonic() - began

    # -- questions -----------------------------------------------------------------------------

    def ask(self, op: str, **args: object) -> dict[str, Any]:
        """One operation of the daemon's control socket."""
        return call(str(self.rundir / "agent.sock"), op, args, 30.0)

    def wrote_nothing(self) -> None:
        """Its daemon, which has converged, found every row as planned when it started.

        Raises:
            AssertionError: it wrote some, or removed them; which and why its log says.
        """
        applied = self.ask("status")["last_apply"]
        print(applied)
        assert applied["rounds"] > 0, applied
        log = (self.rundir / "node.log").read_text(encoding="utf-8", errors="replace")
        since = log.rpartition("node_started")[2].splitlines()
        lines = [line for line in since if "row_differs" in line or "applied writes" in line]
        assert applied["total_writes"] == 0, "\n".join((str(applied), *lines))

    def ask_central(self) -> dict[str, Any]:
        """The cluster controller's status."""
        return call(str(self.rundir / "central.sock"), "status", {}, 30.0)

    def vsctl(self, *argv: str) -> str:
        """ovs-vsctl on the node's database."""
        return processes.run(
            ["ovs-vsctl", f"--db=unix:{self.rundir}/db.sock", "--timeout=30", *argv]
        )

    def appctl(self, *argv: str) -> str:
        """ovs-appctl to the node's vswitchd.

        Its main thread takes no connection while it makes packet buffers, which takes seconds in
        memory that nobody has touched yet: ovs-appctl then ends with "Protocol error".
        """
        command = ["ovs-appctl", "--timeout=30", "-t", f"{self.rundir}/ovs-vswitchd.ctl", *argv]
        until = time.monotonic() + _ANSWERS_WITHIN_S
        while True:
            try:
                return processes.run(command)
            except processes.ProcessError as error:
                busy = "(Protocol error)" in str(error) and self.pid("ovs-vswitchd") is not None
                if not busy or time.monotonic() > until:
                    raise
            time.sleep(0.2)

    def let_pmd_sleep(self) -> None:
        """Let an idle PMD give its core away."""
        self.vsctl("set", "Open_vSwitch", ".", f"other_config:pmd-maxsleep={SLEEP_US}")

    def pmd(self) -> PmdCounters:
        """What the datapath's threads have done so far, the main thread (veth ports) too."""
        return pmd_counters(self.appctl("dpif-netdev/pmd-stats-show"), main_thread=True)

    def megaflows(self) -> list[str]:
        """The datapath's flows, a line each."""
        return [line for line in self.appctl("dpctl/dump-flows").splitlines() if "actions:" in line]

    def program(self, device: str) -> ProgramRun:
        """The XDP program attached to a device, and its run statistics."""
        shown = self.namespace.run("ip", "-j", "-d", "link", "show", "dev", device)
        program_id = json.loads(shown)[0]["xdp"]["prog"]["id"]
        told = json.loads(processes.run(["bpftool", "-j", "prog", "show", "id", str(program_id)]))
        return ProgramRun(
            str(told["tag"]), int(told.get("run_cnt", 0)), int(told.get("run_time_ns", 0))
        )

    def services(self) -> dict[str, dict[str, Any]]:
        """The daemon's services by their VIP's address."""
        listed = self.ask("services")["services"]
        return {str(one["vip"]).rpartition(":")[0]: one for one in listed}

    def wait_served(self, vips: Collection[str], timeout_s: float = 60) -> float:
        """Wait until the daemon serves these addresses by XDP; the seconds it took."""

        def served() -> bool:
            try:
                by_vip = self.services()
                status = self.ask("status")
            except (WireError, RemoteError):
                return False
            # Before its first whole round a daemon has planned nothing that could be wrong.
            made = sum(table["rows"] for table in status["tables"] if table["name"] == "vips")
            return (
                bool(status["converged"])
                and made >= len(vips)
                and all(by_vip.get(vip, {}).get("served_by") == "xdp" for vip in vips)
            )

        return processes.wait_until(
            served, f"VIPs served by XDP; see {self.rundir}/node.log", timeout_s=timeout_s
        )
