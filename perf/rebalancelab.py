"""Guests with several queues on an OVS-DPDK with two PMD threads, for `millrace perf rebalance`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import ovsprocess, processes
from dataplane.drivers.ovsinterfaces import interface_states
from dataplane.drivers.ovstext import PmdThread, pmd_threads
from dataplane.plan.rebalance import pairs
from dataplane.ports import DataplaneError
from perf.vhostlab import VhostLab
from tests.labs import image

SOURCE = Path(__file__).with_name("queueload.c")
SLEEP_US = 50
NICE = -15
PASSES = 8
BRIDGE = "br0"


@dataclass(slots=True)
class RebalanceLab:
    """`guests` ports of `queues` queues each; `build`, then `remove`.

    Each guest's packets go to its neighbour, `PASSES` times through the datapath and conntrack in
    between, so that the threads have the work, and the guests' side needs little of the cores: what
    it offers must not depend on what the threads leave it.
    """

    vhost: VhostLab
    guests: int
    queues: int
    guest_cores: Sequence[int]
    _process: subprocess.Popen[str] | None = field(default=None)

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the guests' ports."""
        return tuple(f"vm{number}" for number in range(self.guests))

    def build(self) -> None:
        """OVS without a bridge. Its threads sleep when idle: the guests share their cores."""
        self.vhost.build()
        # The second is the first's name from OVS 3.2 on; each release ignores the other.
        for key in ("pmd-maxsleep", "pmd-sleep-max"):
            self._set(f"{key}={SLEEP_US}")

    def remove(self) -> None:
        """All of it, in whatever state it is."""
        try:
            self.stop()
        finally:
            self.vhost.remove()

    def start(self, assign: str, rates: Sequence[int]) -> None:
        """New ports, whose queues have cost nothing yet, dealt out by `assign`; then traffic.

        Args:
            assign: pmd-rxq-assign.
            rates: packets per second by queue, the first port's first.

        Raises:
            ProcessError: the guests did not come up.
        """
        self._set(f"pmd-rxq-assign={assign}")
        words = ["--", "add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev"]
        for port in self.ports:
            words += ["--", "add-port", BRIDGE, port, "--", "set", "Interface", port]
            words += ["type=dpdkvhostuserclient", f"options:vhost-server-path={self._socket(port)}"]
        self._vsctl(*words)
        flows = [
            f"table={table},priority=1,ip,actions=ct(table={table + 1},zone={table + 1})"
            for table in range(PASSES - 1)
        ]
        for number, port in enumerate(self.ports):
            there = self.ports[number ^ 1]
            flows.append(f"table={PASSES - 1},in_port={port},actions=output:{there}")
        manage = f"unix:{self.vhost.rundir}/{BRIDGE}.mgmt"
        processes.run(["ovs-ofctl", "del-flows", manage])
        for flow in flows:
            processes.run(["ovs-ofctl", "--names", "add-flow", manage, flow])
        self._start_guests(rates)
        processes.wait_until(self._connected, "all guests' queues are polled", timeout_s=60)
        self._first_in_line()

    def stop(self) -> Mapping[str, object]:
        """End the guests, remove their ports; what the guests counted."""
        told: Mapping[str, object] = {}
        if self._process is not None:
            self._process.terminate()
            try:
                out, _ = self._process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                out, _ = self._process.communicate()
            lines = [line for line in out.splitlines() if line.startswith("{")]
            told = json.loads(lines[-1]) if lines else {}
            self._process = None
            ovsprocess.remove_hugepage_files(Path("/dev/hugepages"), self._prefix)
            self._vsctl("--if-exists", "del-br", BRIDGE)
        return told

    def pin(self, affinity: Mapping[str, Mapping[int, int]]) -> None:
        """Exactly these pins."""
        words: list[str] = []
        for port in self.ports:
            words += ["--", "remove", "Interface", port, "other_config", "pmd-rxq-affinity"]
            if affinity.get(port):
                words += ["--", "set", "Interface", port]
                words.append(f'other_config:pmd-rxq-affinity="{pairs(affinity[port])}"')
        self._vsctl(*words)

    def deal_again(self) -> None:
        """OVS's own answer to a skewed load, when somebody asks for it."""
        self.vhost.appctl("dpif-netdev/pmd-rxq-rebalance")

    def threads(self, seconds: int) -> tuple[PmdThread, ...]:
        """The PMD threads with their queues' usage over the last `seconds` (5 at least)."""
        text = self.vhost.appctl("dpif-netdev/pmd-rxq-show", "-secs", str(seconds))
        return pmd_threads("", text)

    @property
    def _prefix(self) -> str:
        return f"{self.vhost.name}-guests"

    def _socket(self, port: str) -> Path:
        return self.vhost.rundir / f"{port}.sock"

    def _start_guests(self, rates: Sequence[int]) -> None:
        cores = ",".join(map(str, self.guest_cores))
        devices = [
            f"--vdev=net_virtio_user{number},path={self._socket(port)},server=1,"
            f"queues={self.queues},queue_size=1024"
            for number, port in enumerate(self.ports)
        ]
        for port in self.ports:
            self._socket(port).unlink(missing_ok=True)
        with (self.vhost.rundir / "queueload.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [
                    str(queueload()), "--lcores", f"0@({cores})", "--no-pci", "--in-memory",
                    "--single-file-segments", f"--file-prefix={self._prefix}",
                    "--socket-mem", "256", *devices,
                    "--", str(self.queues), *map(str, rates),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=processes.clean_environment(),
            )  # fmt: skip

    def _connected(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            tail = processes.tail(self.vhost.rundir / "queueload.log")
            msg = f"the guests' program ended:\n{tail}"
            raise DataplaneError(msg)
        states = interface_states(self.vhost.database)
        enabled = [rxq for thread in self.threads(5) for rxq in thread.rxqs if rxq.enabled]
        return len(enabled) == self.guests * self.queues and all(
            states[port].status.get("status") == "connected" for port in self.ports
        )

    def _first_in_line(self) -> None:
        """Nothing preempts a PMD thread, as on isolated CPUs; the guests go before other work.

        pmd-rxq-show counts cycles from before a batch to after it, whoever had the CPU meanwhile.
        The threads sleep when idle, and leave the rest to the guests.
        """
        process = processes.running_pid(self.vhost.instance.daemon("ovs-vswitchd"))
        assert process is not None
        assert self._process is not None
        for task in Path(f"/proc/{process}/task").iterdir():
            if (task / "comm").read_text().startswith("pmd-c"):
                os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(1))
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), NICE)

    def _set(self, pair: str) -> None:
        self._vsctl("set", "Open_vSwitch", ".", f"other_config:{pair}")

    def _vsctl(self, *words: str) -> str:
        return processes.run(["ovs-vsctl", f"--db={self.vhost.database}", "--timeout=30", *words])


def queueload() -> Path:
    """The guests' program, compiled if its source is newer."""
    image.CACHE.mkdir(parents=True, exist_ok=True)
    binary = image.CACHE / "queueload"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        partial = image.CACHE / "queueload.new"
        compiler = shutil.which("cc") or shutil.which("clang") or "cc"
        flags = processes.run(["pkg-config", "--cflags", "--libs", "libdpdk"]).split()
        wanted = ["-O2", "-Wall", "-Wextra", "-o", str(partial), str(SOURCE), *flags]
        processes.run([compiler, *wanted], timeout_s=120)
        partial.replace(binary)
    return binary
