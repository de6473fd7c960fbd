"""A private OVS-DPDK for measuring: its own namespace and run directory, and two guests.

The guests are the two virtio-user ports of one testpmd, one thread for both, so that the guests'
side costs one core and no context switches. testpmd swaps the MACs and sends each packet back
where it came from: a closed loop through OVS that neither loses nor makes packets.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataplane.drivers import machine, ovsprocess, processes
from dataplane.drivers.bpfstate import remove_pins
from dataplane.drivers.netns import delete_named
from dataplane.drivers.ovsprocess import Instance
from dataplane.drivers.processes import Daemon
from dataplane.model.config import DpdkConfig
from dataplane.plan.ovs import dpdk_settings

PREFIX = "mrperf-"
PORTS = ("pa", "pb")
MACS = ("0a:58:c6:12:00:01", "0a:58:c6:12:00:02")
BURST = 128
"""Packets in flight for each direction; a vring holds 256."""

SETTLE_S = 0.5
"""From a port's link to its queues, which vswitchd's main thread maps a little later."""

HUGEPAGES = 640
"""Of 2 MiB: 512 MiB for OVS, 256 for testpmd, and room for vhost's own."""


def eal_prefixes(name: str, runtime: Path = Path("/run/dpdk")) -> list[str]:
    """DPDK's file prefixes of a lab: its vswitchd's, and its guests', however many processes.

    A process that ends by SIGKILL leaves its runtime directory, which is named by its prefix.
    """
    guests = f"{name}-guests"
    found = {entry.name for entry in runtime.glob(f"{guests}*")}
    # Without a directory there may be hugepage files all the same.
    return sorted({name, guests} | found)


@dataclass(frozen=True, slots=True)
class VhostLab:
    """One run's OVS, named by the pid of the process that measures."""

    dpdk: DpdkConfig
    guest_core: int
    pid: int = field(default_factory=os.getpid)
    running: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        """Of the namespace, the run directory and DPDK's file prefix."""
        return f"{PREFIX}{self.pid}"

    @property
    def pods(self) -> str:
        """Of the containers' namespace, in a run that has any."""
        return f"{self.name}-pods"

    @property
    def bpf_root(self) -> str:
        """Where the maps of such a run are pinned."""
        return str(machine.BPFFS / self.name)

    @property
    def rundir(self) -> Path:
        """Where everything of this run is."""
        return machine.STATE_DIR / self.name

    @property
    def instance(self) -> Instance:
        """OVS's and OVN's daemons."""
        return Instance(self.rundir, self.name)

    @property
    def database(self) -> str:
        """The OVS database's remote."""
        return f"unix:{self.rundir}/db.sock"

    @property
    def guests(self) -> Daemon:
        """Testpmd."""
        return Daemon("testpmd", self.rundir / "testpmd.pid", str(self.rundir))

    def build(self) -> None:
        """OVS with DPDK up, no bridge yet; what a killed run left is removed first."""
        self.sweep()
        self.rundir.mkdir(parents=True, mode=0o750)
        machine.borrow(self.rundir, size_kib=2048, count=HUGEPAGES, mount=Path("/dev/hugepages"))
        processes.run(["ip", "netns", "add", self.name])
        processes.run(["ip", "link", "set", "lo", "up"], netns=self.name)
        ovsprocess.start_database(
            self.instance,
            "db",
            schema=ovsprocess.OVS_SCHEMA,
            database=self.rundir / "conf.db",
            socket=self.rundir / "db.sock",
        )
        ovsprocess.set_open_vswitch(
            self.instance,
            self.database,
            other_config=dpdk_settings(self.dpdk, self.name),
            external_ids={
                "system-id": self.name,
                "hostname": self.name,
                "ovn-remote": f"unix:{self.rundir}/sb.sock",
                "ovn-bridge-datapath-type": "netdev",
                "ovn-encap-type": "geneve",
                "ovn-encap-ip": "127.0.0.1",
            },
        )
        ovsprocess.start_vswitchd(self.instance, self.database)

    def sweep(self) -> None:
        """Remove the labs of processes that are no more."""
        for left in machine.STATE_DIR.glob(f"{PREFIX}*"):
            number = left.name.removeprefix(PREFIX)
            if number.isdigit() and processes.command_line(int(number)) is None:
                replace(self, pid=int(number)).remove()

    def remove(self) -> None:
        """All of it, in whatever state it is."""
        self.stop_guests()
        for name in ("ovn-controller", "ovn-northd", "sb", "nb", "ovs-vswitchd", "db"):
            processes.stop(self.instance.daemon(name))
        for prefix in eal_prefixes(self.name):
            ovsprocess.remove_hugepage_files(Path("/dev/hugepages"), prefix)
        for space in (self.pods, self.name):
            delete_named(space)
        remove_pins(self.bpf_root)
        shutil.rmtree(self.rundir, ignore_errors=True)
        machine.give_back(self.rundir)

    def connect_by_flows(self) -> None:
        """The two ports on a bridge with one flow in each direction."""
        self.vsctl("--", "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
        self._add_ports("br0", ("", ""))
        manage = f"unix:{self.rundir}/br0.mgmt"
        processes.run(["ovs-ofctl", "del-flows", manage])
        for here, there in (PORTS, PORTS[::-1]):
            flow = f"in_port={here},actions=output:{there}"
            processes.run(["ovs-ofctl", "--names", "add-flow", manage, flow])

    def disconnect_flows(self) -> None:
        """Take that bridge away."""
        self.vsctl("--if-exists", "del-br", "br0")

    def connect_by_ovn(self) -> None:
        """The two ports on a logical switch, port security on."""
        self.start_ovn()
        self.plug_into_ovn()

    def start_ovn(self) -> None:
        """A logical switch with both logical ports, and OVN's daemons."""
        for name, schema in (("nb", ovsprocess.NB_SCHEMA), ("sb", ovsprocess.SB_SCHEMA)):
            ovsprocess.start_database(
                self.instance,
                name,
                schema=schema,
                database=self.rundir / f"{name}.db",
                socket=self.rundir / f"{name}.sock",
            )
        ovsprocess.start(
            self.instance,
            "ovn-northd",
            [
                "ovn-northd",
                f"--ovnnb-db=unix:{self.rundir}/nb.sock",
                f"--ovnsb-db=unix:{self.rundir}/sb.sock",
            ],
        )
        ovsprocess.start_ovn_controller(self.instance, self.database)
        words = ["ls-add", "sw0"]
        for port, mac in zip(PORTS, MACS, strict=True):
            words += ["--", "lsp-add", "sw0", port, "--", "lsp-set-addresses", port, mac]
            words += ["--", "lsp-set-port-security", port, mac]
        self.nbctl(*words)
        processes.wait_until(self._has_br_int, "ovn-controller makes br-int")

    def plug_into_ovn(self) -> None:
        """The two ports on br-int, until OVN has their flows."""
        self._add_ports("br-int", PORTS)
        for port in PORTS:
            self.nbctl("wait-until", "Logical_Switch_Port", port, "up=true")

    def unplug_from_ovn(self) -> None:
        """Take both ports off br-int."""
        for port in PORTS:
            self.vsctl("del-port", "br-int", port)

    def set_acls(self, verb: str, number: int) -> None:
        """So many ACLs in each direction; packets match the last one alone. 0: none at all."""
        words = ["acl-del", "sw0"]
        for direction in ("from-lport", "to-lport"):
            for place in range(number):
                match = "ip4" if place == number - 1 else f"udp.dst == {20000 + place}"
                words += ["--", "acl-add", "sw0", direction, str(2000 - place), match, verb]
        self.nbctl("--wait=hv", *words)

    def nbctl(self, *words: str) -> str:
        """Ask or change the northbound database."""
        database = f"--db=unix:{self.rundir}/nb.sock"
        return processes.run(["ovn-nbctl", database, "--timeout=30", *words])

    def flows_of(self, bridge: str) -> str:
        """A bridge's OpenFlow flows."""
        return processes.run(["ovs-ofctl", "dump-flows", f"unix:{self.rundir}/{bridge}.mgmt"])

    def start_guests(self, frame_size: int = 64) -> None:
        """testpmd, and the first packets of the loop; `frame_size` counts the check sequence."""
        for port in PORTS:
            self._socket(port).unlink(missing_ok=True)
        devices = [
            f"--vdev=net_virtio_user{number},path={self._socket(port)},server=1,queues=1,mac={mac}"
            for number, (port, mac) in enumerate(zip(PORTS, MACS, strict=True))
        ]
        core = self.guest_core
        with (self.rundir / "testpmd.log").open("ab") as log:
            started = subprocess.Popen(  # noqa: S603 - a program of DPDK's
                [
                    "dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--no-pci", "--in-memory",
                    f"--file-prefix={self.name}-guests", "--single-file-segments",
                    "--socket-mem", "256", *devices,
                    "--", "-i", "--no-mlockall", "--total-num-mbufs=16384",
                    "--forward-mode=macswap", "--port-topology=loop",
                    f"--burst={BURST}", f"--txpkts={frame_size - 4}",
                    f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}",
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=processes.clean_environment(),
                start_new_session=True,
            )  # fmt: skip
        self.running[self.guests.name] = started
        self.guests.pidfile.write_text(f"{started.pid}\n", encoding="ascii")
        processes.note_start(self.guests)
        # What is sent before OVS has given both ports their queues is lost, and with it a part of
        # the packets that go round, or all.
        processes.wait_until(self._connected, "OVS has both guests' ports")
        time.sleep(SETTLE_S)
        assert started.stdin is not None
        started.stdin.write(b"start tx_first\n")
        started.stdin.flush()

    def stop_guests(self) -> None:
        """End testpmd."""
        processes.stop(self.guests, grace_s=5)
        started = self.running.pop(self.guests.name, None)
        if started is not None and started.stdin is not None:
            started.stdin.close()
            started.wait()

    def _connected(self) -> bool:
        states = self.vsctl("get", "Interface", PORTS[0], "link_state", "--", "get", "Interface",
                            PORTS[1], "link_state")  # fmt: skip
        return states.split() == ["up", "up"]

    def appctl(self, *words: str) -> str:
        """Ask vswitchd."""
        control = self.instance.control("ovs-vswitchd")
        return processes.run(["ovs-appctl", "--timeout=30", "-t", str(control), *words])

    def pmd_threads(self) -> list[int]:
        """The kernel's numbers of vswitchd's PMD threads."""
        vswitchd = processes.running_pid(self.instance.daemon("ovs-vswitchd"))
        found = []
        for comm in Path(f"/proc/{vswitchd}/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if comm.read_text(encoding="ascii").startswith("pmd"):
                    found.append(int(comm.parent.name))
        return found

    def _socket(self, port: str) -> Path:
        return self.rundir / f"{port}.sock"

    def _has_br_int(self) -> bool:
        return "br-int" in self.vsctl("list-br").split()

    def _add_ports(self, bridge: str, iface_ids: tuple[str, str]) -> None:
        words: list[str] = []
        for port, iface_id in zip(PORTS, iface_ids, strict=True):
            words += ["--", "add-port", bridge, port, "--", "set", "Interface", port]
            words += ["type=dpdkvhostuserclient", f"options:vhost-server-path={self._socket(port)}"]
            if iface_id:
                words.append(f"external_ids:iface-id={iface_id}")
        self.vsctl(*words)

    def vsctl(self, *words: str) -> str:
        """Ask or change OVS's database."""
        return processes.run(["ovs-vsctl", f"--db={self.database}", "--timeout=30", *words])
