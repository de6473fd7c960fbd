"""A cluster's databases of a given size, and one node's daemons on them, in a namespace of its own.

Real: both OVN databases, northd, ovn-controller, a vswitchd with its userspace datapath, the node
daemon and the cluster controller as installed commands, pinned maps, an XDP program on a veth. Not
there: DPDK and traffic, for nothing forwards; the uplink's mode is `kernel`.

The cluster has a switch and a chassis for every 100 ports, a VPC router for every 10 switches, and
for every ten ports a service with ten backends. The node is the gateway of the first VPC.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bpf import abi
from cni.wire import RemoteError, WireError, call
from dataplane.drivers import machine, ovsprocess, processes
from dataplane.drivers.bpfmaps import packed
from dataplane.drivers.bpfstate import remove_pins, version_directory
from dataplane.drivers.netns import delete_named
from dataplane.drivers.ovsprocess import Instance
from dataplane.drivers.processes import Daemon
from dataplane.model.addr import Protocol, mac_of_address
from dataplane.model.names import FAST_PATH_KEY
from perf import ovsdbwire as wire
from perf.ovsdbwire import Database

VSWITCHD = "/usr/lib/openvswitch-switch/ovs-vswitchd"
PORTS_OF_SWITCH, SWITCHES_OF_ROUTER, PORTS_OF_CHASSIS = 100, 10, 100
BACKENDS, PORTS_OF_SERVICE = 10, 10
PATIENCE_S = 300.0

NODE = """\
[node]
name = "{name}"
rundir = "{rundir}"
statedir = "{rundir}/state/millrace/{name}"
bpf_root = "{bpf_root}"
[[bridge]]
name = "br-ex"
physnet = "physnet1"
[[uplink]]
device = "up0"
bridge = "br-ex"
mode = "kernel"
services = true
"""
CLUSTER = """\
[cluster]
nb = "unix:{rundir}/nb.sock"
sb = "unix:{rundir}/sb.sock"
[[gateway]]
chassis = "{name}"
physnet = "physnet1"
address = "172.18.0.111/24"
routers = ["vpc0"]
"""


def port_address(number: int) -> IPv4Address:
    """The address of a port: 10.0.0.0/24 is the first switch's, and so on."""
    switch, place = divmod(number, PORTS_OF_SWITCH)
    return IPv4Address(f"10.{switch // 250}.{switch % 250}.{place + 11}")


def port_name(number: int) -> str:
    """The logical switch port of a pod."""
    return f"pod-{number}.bench"


def vip_address(service: int) -> IPv4Address:
    """The VIP of a service."""
    return IPv4Address(f"10.{200 + service // 250}.{service % 250}.10")


@dataclass(frozen=True, slots=True)
class ControlLab:
    """One cluster of `ports` logical switch ports; `build`, then `remove`.

    There is a service for each `ports_of_service` of them, of ten backends each.
    """

    ports: int
    ports_of_service: int = PORTS_OF_SERVICE

    @property
    def name(self) -> str:
        """Of the node, its namespace and its chassis."""
        return f"mrctl-{self.ports}"

    @property
    def rundir(self) -> Path:
        """Everything that is not a pin."""
        return Path("/run/millrace") / self.name

    @property
    def bpf_root(self) -> str:
        """Where the node's maps are pinned."""
        return f"/sys/fs/bpf/millrace/{self.name}"

    @property
    def services(self) -> int:
        """How many."""
        return self.ports // self.ports_of_service

    @property
    def instance(self) -> Instance:
        """OVS's and OVN's daemons."""
        return Instance(self.rundir, self.name)

    @property
    def node(self) -> Daemon:
        """The node daemon."""
        path = self.rundir / "node.toml"
        return Daemon("node", self.rundir / "node.pid", f"node --config {path}")

    @property
    def central(self) -> Daemon:
        """The cluster controller."""
        path = self.rundir / "cluster.toml"
        return Daemon("central", self.rundir / "central.pid", f"central --cluster {path}")

    def nb(self) -> Database:
        """The northbound database."""
        return Database(self.rundir / "nb.sock", "OVN_Northbound")

    def sb(self) -> Database:
        """The southbound database."""
        return Database(self.rundir / "sb.sock", "OVN_Southbound")

    def map_path(self, name: str) -> Path:
        """A pinned map of the node."""
        return version_directory(self.bpf_root) / name

    # -- life ----------------------------------------------------------------------------------

    def build(self) -> None:
        """Databases filled and in sync, OVS and ovn-controller up; neither daemon of ours runs."""
        self.remove()
        self.rundir.mkdir(parents=True, mode=0o750)
        machine.borrow(self.rundir, size_kib=2048, count=0, mount=Path("/dev/hugepages"))
        processes.run(["ip", "netns", "add", self.name])
        for words in (
            ["link", "set", "lo", "up"],
            ["link", "add", "up0", "type", "veth", "peer", "name", "wire0"],
            ["link", "set", "up0", "up"],
            ["link", "set", "wire0", "up"],
        ):
            processes.run(["ip", *words], netns=self.name)
        values = {"name": self.name, "rundir": self.rundir, "bpf_root": self.bpf_root}
        for name, text in (("node.toml", NODE), ("cluster.toml", CLUSTER)):
            (self.rundir / name).write_text(text.format(**values), encoding="utf-8")
        for name, schema in (
            ("db", ovsprocess.OVS_SCHEMA),
            ("nb", ovsprocess.NB_SCHEMA),
            ("sb", ovsprocess.SB_SCHEMA),
        ):
            ovsprocess.start_database(
                self.instance,
                name,
                schema=schema,
                database=self.rundir / f"{name}.conf",
                socket=self.rundir / f"{name}.sock",
            )
        with self.nb() as nb:
            nb.transact(wire.insert("NB_Global"))
            self._fill_nb(nb)
        self._start_others()
        self._bind()

    def remove(self) -> None:
        """All of it, in whatever state it is."""
        for daemon in (self.node, self.central):
            processes.stop(daemon)
        for name in ("ovn-controller", "ovn-northd", "sb", "nb", "ovs-vswitchd", "db"):
            processes.stop(self.instance.daemon(name))
        self.forget_maps()
        # The kernel removes the namespace's links and taps with it.
        delete_named(self.name)
        shutil.rmtree(self.rundir, ignore_errors=True)
        machine.give_back(self.rundir)

    def forget_maps(self) -> None:
        """Remove the pins: the next daemon writes everything. It must not run now."""
        remove_pins(self.bpf_root)
        with contextlib.suppress(OSError):
            Path(self.bpf_root).parent.rmdir()

    def spawn(self, daemon: Daemon) -> int:
        """Start a daemon of ours as its installed command; its pid."""
        word, option, path = daemon.marker.split()
        pid = processes.spawn(
            [str(Path(sys.executable).with_name("millrace")), word, option, path],
            log=self.rundir / f"{daemon.name}.log",
            pidfile=daemon.pidfile,
            netns=self.name,
            env=self.instance.environment,
        )
        processes.note_start(daemon)
        return pid

    def kill(self, daemon: Daemon) -> None:
        """`kill -9`."""
        pid = processes.running_pid(daemon)
        if pid is not None:
            processes.end(pid, daemon.marker, first=signal.SIGKILL)

    # -- questions -----------------------------------------------------------------------------

    def total_writes(self) -> int | None:
        """The daemon's writes so far, once it has converged on all services; None before."""
        try:
            status: dict[str, Any] = call(str(self.rundir / "agent.sock"), "status", {}, 60.0)
        except (WireError, RemoteError, OSError):
            return None
        rows = {table["name"]: table["rows"] for table in status["tables"]}
        if not status["converged"] or rows.get("vips", 0) != self.services:
            return None
        return int(status["last_apply"]["total_writes"])

    def vip_key(self, service: int) -> bytes:
        """The key of a service in the map of VIPs."""
        return abi.VIP_KEY.pack(addr=packed(vip_address(service)), port=80, proto=Protocol.TCP)

    def backends_text(self, service: int, first: int | None = None) -> str:
        """Backends of a service as OVN spells them; those of service `first`, if given."""
        begin = (service if first is None else first) * self.ports_of_service
        numbers = ((begin + n) % self.ports for n in range(BACKENDS))
        return ",".join(f"{port_address(number)}:8080" for number in numbers)

    def change(self, service: int, backends: str) -> dict[str, wire.Json]:
        """The operation that gives a service other backends."""
        vips = wire.string_map({f"{vip_address(service)}:80": backends})
        return wire.update("Load_Balancer", "name", f"svc-{service}", vips=vips)

    # -- parts ---------------------------------------------------------------------------------

    def _fill_nb(self, nb: Database) -> None:
        switches = -(-self.ports // PORTS_OF_SWITCH)
        for begin in range(0, switches, SWITCHES_OF_ROUTER):
            nb.transact(*self._vpc(range(begin, min(begin + SWITCHES_OF_ROUTER, switches))))
        nb.in_chunks(
            [
                wire.insert(
                    "Load_Balancer",
                    name=f"svc-{service}",
                    protocol="tcp",
                    vips=wire.string_map(
                        {f"{vip_address(service)}:80": self.backends_text(service)}
                    ),
                    external_ids=wire.string_map({FAST_PATH_KEY: "true"}),
                )
                for service in range(self.services)
            ]
        )

    def _vpc(self, switches: range) -> list[dict[str, wire.Json]]:
        """One router with its switches and their ports."""
        router = f"vpc{switches[0] // SWITCHES_OF_ROUTER}"
        operations: list[dict[str, wire.Json]] = []
        router_ports = []
        for switch in switches:
            gateway = IPv4Address(int(port_address(switch * PORTS_OF_SWITCH)) - 10)
            router_ports.append(wire.row_name())
            operations.append(
                wire.insert(
                    "Logical_Router_Port",
                    router_ports[-1],
                    name=f"{router}-sw{switch}",
                    mac=str(mac_of_address(gateway)),
                    networks=f"{gateway}/24",
                )
            )
            ports = [wire.row_name()]
            operations.append(
                wire.insert(
                    "Logical_Switch_Port",
                    ports[0],
                    name=f"sw{switch}-{router}",
                    type="router",
                    addresses="router",
                    options=wire.string_map({"router-port": f"{router}-sw{switch}"}),
                )
            )
            first = switch * PORTS_OF_SWITCH
            for number in range(first, min(first + PORTS_OF_SWITCH, self.ports)):
                both = f"{mac_of_address(port_address(number))} {port_address(number)}"
                ports.append(wire.row_name())
                operations.append(
                    wire.insert(
                        "Logical_Switch_Port",
                        ports[-1],
                        name=port_name(number),
                        addresses=both,
                        port_security=both,
                        external_ids=wire.string_map({"pod": port_name(number)}),
                    )
                )
            operations.append(
                wire.insert(
                    "Logical_Switch",
                    name=f"sw{switch}",
                    ports=wire.set_of(wire.named(port) for port in ports),
                )
            )
        operations.append(
            wire.insert(
                "Logical_Router",
                name=router,
                ports=wire.set_of(wire.named(port) for port in router_ports),
            )
        )
        return operations

    def _start_others(self) -> None:
        sockets = [f"--ovn{name}-db=unix:{self.rundir}/{name}.sock" for name in ("nb", "sb")]
        ovsprocess.start(self.instance, "ovn-northd", ["ovn-northd", *sockets])
        self.sync()
        database = f"unix:{self.rundir}/db.sock"
        ids = {
            "system-id": self.name,
            "hostname": self.name,
            "ovn-remote": f"unix:{self.rundir}/sb.sock",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": "127.0.0.1",
            "ovn-bridge-datapath-type": "netdev",
        }
        ovsprocess.set_open_vswitch(self.instance, database, other_config={}, external_ids=ids)
        ovsprocess.start(self.instance, "ovs-vswitchd", [VSWITCHD, database])
        ovsprocess.start_ovn_controller(self.instance, database)

    def sync(self) -> float:
        """Wait until northd has done all that the northbound database holds; seconds."""
        with self.nb() as nb:
            began = time.monotonic()
            target = bump(nb)
            while synced(nb) < target:
                time.sleep(0.002)
                if time.monotonic() - began > PATIENCE_S:
                    msg = f"northd is not done after {PATIENCE_S:g} s"
                    raise processes.ProcessError(msg)
            return time.monotonic() - began

    def _bind(self) -> None:
        """Write what ovn-controllers of the other chassis would: chassis, and ports bound there."""
        with self.sb() as sb:
            chassis: list[str] = []
            for number in range(max(1, self.ports // PORTS_OF_CHASSIS)):
                name, encap = f"chassis-{number}", wire.row_name()
                address = f"192.168.{number // 250}.{number % 250 + 1}"
                made = sb.transact(
                    wire.insert("Encap", encap, type="geneve", ip=address, chassis_name=name),
                    wire.insert(
                        "Chassis", name=name, hostname=name, encaps=wire.set_of([wire.named(encap)])
                    ),
                )
                chassis.append(made[1]["uuid"][1])
            # By UUID: the server finds a row by any other column by walking through the table.
            bindings = sb.select("Port_Binding", ["_uuid"], [["type", "==", ""]])
            sb.in_chunks(
                [
                    wire.update(
                        "Port_Binding",
                        "_uuid",
                        binding["_uuid"],
                        chassis=wire.reference(chassis[number % len(chassis)]),
                        up=True,
                    )
                    for number, binding in enumerate(bindings)
                ]
            )
        self.sync()


def bump(nb: Database) -> int:
    """Ask northd to tell when it has done everything so far; the number to wait for."""
    nb.transact(bump_operation())
    return int(nb.select("NB_Global", ["nb_cfg"])[0]["nb_cfg"])


def bump_operation() -> dict[str, wire.Json]:
    """The same as an operation of another transaction."""
    return {"op": "mutate", "table": "NB_Global", "where": [], "mutations": [["nb_cfg", "+=", 1]]}


def synced(nb: Database) -> int:
    """The last number that northd has done."""
    return int(nb.select("NB_Global", ["sb_cfg"])[0]["sb_cfg"])
