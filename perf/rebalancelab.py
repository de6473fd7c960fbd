"""Guests with several queues on an OVS-DPDK with two PMD threads, for `millrace perf rebalance`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import ovsprocess, processes
from dataplane.drivers.ovsinterfaces import interface_states
from dataplane.drivers.ovstext import PmdThread, pmd_threads
from dataplane.plan.rebalance import pairs
from dataplane.ports import DataplaneError
from perf.compiled import program
from perf.vhostlab import VhostLab

SOURCE = Path(__file__).with_name("queueload.c")
SLEEP_US = 50
LOOKUPS = 30
"""In conntrack, for each packet, of one zone: work that grows with packets and needs little memory,
so that it costs the same whatever else ran since the last. Looking up makes no recirculation;
beyond six OVS drops, and logs each batch."""

FLOWS = 32
FIRST_SOURCE_PORT = 1000
"""As in queueload.c. Each has a rule, so each has a megaflow: a packet is a batch of its own, and
costs the same however many were waiting."""

BRIDGE = "br0"


@dataclass(slots=True)
class RebalanceLab:
    """`guests` ports of `queues` queues each; `build`, then `remove`.

    Each guest's packets go to its neighbour, looked up `LOOKUPS` times in conntrack on their way,
    so that the threads have the work, and the guests' side needs little of the cores: what it
    offers must not depend on what the threads leave it.
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

    def start(self, assign: str) -> None:
        """New ports with guests that are still silent, dealt out by `assign`: pmd-rxq-assign.

        Raises:
            ProcessError: the guests did not come up.
        """
        self._set(f"pmd-rxq-assign={assign}")
        words = ["--", "add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev"]
        for port in self.ports:
            words += ["--", "add-port", BRIDGE, port, "--", "set", "Interface", port]
            words += ["type=dpdkvhostuserclient", f"options:vhost-server-path={self._socket(port)}"]
        self._vsctl(*words)
        work = ",".join(["ct(zone=1)"] * LOOKUPS)
        flows = [
            f"udp,in_port={port},tp_src={source},actions={work},output:{self.ports[number ^ 1]}"
            for number, port in enumerate(self.ports)
            for source in range(FIRST_SOURCE_PORT, FIRST_SOURCE_PORT + FLOWS)
        ]
        manage = f"unix:{self.vhost.rundir}/{BRIDGE}.mgmt"
        processes.run(["ovs-ofctl", "del-flows", manage])
        rules = self.vhost.rundir / "flows.txt"
        rules.write_text("\n".join(flows), encoding="utf-8")
        processes.run(["ovs-ofctl", "--names", "add-flows", manage, str(rules)])
        self._start_guests()
        processes.wait_until(self._connected, "all guests' queues are polled", timeout_s=60)
        self._first_in_line()

    def load(self, rates: Sequence[int]) -> None:
        """Let the guests send: packets per second by queue, the first port's first."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, rates)) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """End the guests, remove their ports."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None
            ovsprocess.remove_hugepage_files(Path("/dev/hugepages"), self._prefix)
            self._vsctl("--if-exists", "del-br", BRIDGE)

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

    def received(self) -> int:
        """Packets that the PMD threads have had since they were made."""
        text = self.vhost.appctl("dpif-netdev/pmd-stats-show")
        return sum(
            int(line.split()[-1]) for line in text.splitlines() if "packets received:" in line
        )

    @property
    def _prefix(self) -> str:
        return f"{self.vhost.name}-guests"

    def _socket(self, port: str) -> Path:
        return self.vhost.rundir / f"{port}.sock"

    def _start_guests(self) -> None:
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
                    str(program(SOURCE)), "--lcores", f"0@({cores})", "--no-pci", "--in-memory",
                    "--single-file-segments", f"--file-prefix={self._prefix}",
                    "--socket-mem", "256", *devices,
                    "--", str(self.queues),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
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
        """Nothing preempts a PMD thread, as on isolated CPUs, but the guests, who need little.

        pmd-rxq-show counts cycles from before a batch to after it, whoever had the CPU meanwhile;
        and what the guests offer must not depend on what the threads leave them.
        """
        process = processes.running_pid(self.vhost.instance.daemon("ovs-vswitchd"))
        assert process is not None
        assert self._process is not None
        for pid, name, priority in ((process, "pmd-c", 1), (self._process.pid, "", 2)):
            for task in Path(f"/proc/{pid}/task").iterdir():
                if (task / "comm").read_text().startswith(name):
                    os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(priority))

    def _set(self, pair: str) -> None:
        self._vsctl("set", "Open_vSwitch", ".", f"other_config:{pair}")

    def _vsctl(self, *words: str) -> str:
        return processes.run(["ovs-vsctl", f"--db={self.vhost.database}", "--timeout=30", *words])
