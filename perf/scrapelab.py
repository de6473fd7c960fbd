"""An OVS-DPDK with many guests' ports, and the node daemon beside it, for `millrace perf scrape`.

Every port has a guest: testpmd has the virtio-user ports of thirty at once, connected and at rest,
because a connected port reports ninety numbers and one without a guest six. The lcores of a
testpmd that does not forward do nothing, so that the guests cost no processor.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import machine, ovsprocess, processes
from dataplane.drivers.bpfstate import remove_pins
from dataplane.drivers.ovsinterfaces import interface_states
from dataplane.drivers.processes import Daemon
from perf.ovsdbwire import Database, insert
from perf.vhostlab import HUGEPAGES, VhostLab

METRICS = "127.0.0.1:9478"
PORTS_OF_GUEST = 30
"""Of one testpmd: DPDK ends at 32."""

PAGES_OF_GUEST = 80
"""Hugepages of 2 MiB for one testpmd, the rings of its ports included."""

NODE = """\
[node]
name = "{name}"
rundir = "{rundir}"
statedir = "{rundir}/state/millrace/{name}"
bpf_root = "{bpf_root}"
metrics = "{metrics}"
[[bridge]]
name = "br-ex"
physnet = "physnet1"
"""


@dataclass(slots=True)
class ScrapeLab:
    """One OVS with `ports` guests' ports; `build`, then `remove`."""

    vhost: VhostLab
    ports: int
    _guests: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def node(self) -> Daemon:
        """The node daemon."""
        path = self.vhost.rundir / "node.toml"
        return Daemon("node", self.vhost.rundir / "node.pid", f"node --config {path}")

    @property
    def bpf_root(self) -> str:
        """Where the node's maps are pinned."""
        return f"/sys/fs/bpf/millrace/{self.vhost.name}"

    def build(self) -> None:
        """OVS with all ports connected; the daemon does not run yet."""
        self.vhost.build()
        count = HUGEPAGES + PAGES_OF_GUEST * -(-self.ports // PORTS_OF_GUEST)
        rundir = self.vhost.rundir
        machine.borrow(rundir, size_kib=2048, count=count, mount=Path("/dev/hugepages"))
        for name, schema in (("nb", ovsprocess.NB_SCHEMA), ("sb", ovsprocess.SB_SCHEMA)):
            ovsprocess.start_database(
                self.vhost.instance,
                name,
                schema=schema,
                database=rundir / f"{name}.db",
                socket=rundir / f"{name}.sock",
            )
        with Database(rundir / "nb.sock", "OVN_Northbound") as nb:
            nb.transact(insert("NB_Global"))
        with Database(rundir / "sb.sock", "OVN_Southbound") as sb:
            sb.transact(insert("SB_Global"))
        self._add_ports()
        for first in range(0, self.ports, PORTS_OF_GUEST):
            self._start_guest(range(first, min(first + PORTS_OF_GUEST, self.ports)))
        processes.wait_until(self._connected, "all guests are connected", timeout_s=180)
        text = NODE.format(
            name=self.vhost.name, rundir=rundir, bpf_root=self.bpf_root, metrics=METRICS
        )
        (rundir / "node.toml").write_text(text, encoding="utf-8")

    def remove(self) -> None:
        """All of it, in whatever state it is."""
        try:
            processes.stop(self.node)
        finally:
            for guest in self._guests:
                guest.kill()
                guest.wait()
            remove_pins(self.bpf_root)
            with contextlib.suppress(OSError):
                Path(self.bpf_root).parent.rmdir()
            self.vhost.remove()

    def start_daemon(self) -> int:
        """The node daemon as its installed command; its pid."""
        word, option, path = self.node.marker.split()
        pid = processes.spawn(
            [str(Path(sys.executable).with_name("millrace")), word, option, path],
            log=self.vhost.rundir / "node.log",
            pidfile=self.node.pidfile,
            netns=self.vhost.name,
            env=self.vhost.instance.environment,
        )
        processes.note_start(self.node)
        return pid

    def pid_of(self, name: str) -> int:
        """A daemon of OVS.

        Raises:
            ProcessError: it does not run.
        """
        pid = processes.running_pid(self.vhost.instance.daemon(name))
        if pid is None:
            msg = f"{name} does not run; see {self.vhost.instance.log(name)}"
            raise processes.ProcessError(msg)
        return pid

    def _socket(self, number: int) -> Path:
        return self.vhost.rundir / f"g{number}.sock"

    def _add_ports(self) -> None:
        words = ["--may-exist", "add-br", "br-int", "--", "set", "Bridge", "br-int"]
        words += ["datapath_type=netdev", "fail_mode=secure"]
        for number in range(self.ports):
            name = f"vhu{number:08x}"
            words += ["--", "add-port", "br-int", name, "--", "set", "Interface", name]
            words += ["type=dpdkvhostuserclient", f"external_ids:iface-id=vm-{number}.bench"]
            words += [f"options:vhost-server-path={self._socket(number)}"]
        processes.run(
            ["ovs-vsctl", f"--db={self.vhost.database}", "--timeout=120", *words],
            env=self.vhost.instance.environment,
            timeout_s=150,
        )

    def _start_guest(self, numbers: range) -> None:
        core = self.vhost.guest_core
        devices = [
            f"--vdev=net_virtio_user{at},path={self._socket(number)},server=1,queues=1"
            for at, number in enumerate(numbers)
        ]
        log = (self.vhost.rundir / f"guest-{numbers[0]}.log").open("wb")
        with log:
            self._guests.append(
                subprocess.Popen(  # noqa: S603 - our own list
                    [
                        "/usr/bin/dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--no-pci",
                        "--in-memory", f"--file-prefix={self.vhost.name}-guests-{numbers[0]}",
                        "--single-file-segments", "--socket-mem", "96", *devices,
                        # Interactive with an input that never comes: it forwards nothing.
                        "--", "-i", "--no-mlockall", "--total-num-mbufs=16384",
                    ],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )  # fmt: skip

    def _connected(self) -> bool:
        states = interface_states(self.vhost.database)
        guests = [one for one in states.values() if one.type == "dpdkvhostuserclient"]
        return len(guests) == self.ports and all(
            one.status.get("status") == "connected" and one.statistics.get("rx_packets") is not None
            for one in guests
        )
