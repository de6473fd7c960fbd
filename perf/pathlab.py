"""A whole node for `millrace perf path`: the tests' lab, one container and one vhost-user guest.

Three ways to the same backend: its own address, a VIP that XDP serves, and a VIP of a load balancer
of OVN's on the node's gateway router. The container answers iperf3; the guest is testpmd, which
sends each UDP packet back, ports and addresses swapped.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import processes, xdphook
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE, Map
from dataplane.drivers.libbpf_programs import Object
from dataplane.drivers.netns import inside_named
from dataplane.drivers.processes import Daemon
from dataplane.model.addr import Mac
from perf.peerprogs import Source
from tests.labs import lab as topology
from tests.labs import logical, netns
from tests.labs.guests import HUGEPAGE_MIB, file_prefix, sweep_eal
from tests.labs.lab import Lab
from tests.labs.logical import Service
from tests.labs.workloads import Workload

PREFIX = "mrpath"
TCP_PORT, UDP_PORT = 5201, 9
CONTAINER, GUEST = "c1", topology.TESTPMD[0]
ADDRESS = {CONTAINER: topology.CONTAINERS[CONTAINER], GUEST: topology.TESTPMD[1]}
FRAME_SIZE = 64
_POLLED_WITHIN_S, _ANSWERS, _AT_ONCE_S = 60.0, 6, 0.2
FLOOD = 500_000
"""Frames of one call of the kernel: between two of them there are some 20 ms."""

WAYS = ("no service", "Millrace", "OVN")
"""Of each backend; what the client sends to is `target`."""

_VIPS = {
    ("Millrace", CONTAINER): "10.96.0.20",
    ("Millrace", GUEST): "10.96.0.21",
    ("OVN", CONTAINER): "10.97.0.20",
    ("OVN", GUEST): "10.97.0.21",
}

_PORTS = (
    (CONTAINER, "tcp", TCP_PORT),
    (CONTAINER, "udp", TCP_PORT),
    (GUEST, "udp", UDP_PORT),
)
"""Backend, protocol, port: iperf3 speaks TCP to its server whatever it measures."""


def _foreign(backend: str, protocol: str) -> str:
    return f"ovn-{backend}-{protocol}"


def target(way: str, backend: str) -> str:
    """The address that a way goes by."""
    return _VIPS.get((way, backend), ADDRESS[backend])


@dataclass(slots=True)
class PathLab:
    """The lab while it runs."""

    lab: Lab
    guest: Workload

    @property
    def _rundir(self) -> Path:
        return self.lab.dir

    @property
    def testpmd(self) -> Daemon:
        """The guest's process."""
        return Daemon(GUEST, self._rundir / f"{GUEST}.pid", str(self.guest.socket))

    def declare(self) -> None:
        """Both kinds of load balancers, and the way to OVN's."""
        nb, vips = self.lab.nb, []
        for backend, protocol, port in _PORTS:
            targets = (f"{ADDRESS[backend]}:{port}",)
            vip = target("Millrace", backend)
            vips.append(vip)
            name = f"path-{backend}-{protocol}"
            logical.add_service(nb, Service(name, f"{vip}:{port}", protocol, targets))
            foreign = target("OVN", backend)
            words = [_foreign(backend, protocol), f"{foreign}:{port}", targets[0], protocol]
            logical.nbctl(nb, "lb-add", *words)
            route = [f"{foreign}/32", "via", topology.GATEWAY_ADDRESS]
            self.lab.client.run("ip", "route", "replace", *route)
        self.lab.node.wait_served(vips)

    @contextmanager
    def reached(self, way: str) -> Iterator[None]:
        """OVN's load balancers are there for the block alone: they cost every packet conntrack."""
        if way != "OVN":
            yield
            return
        names = [_foreign(backend, protocol) for backend, protocol, _ in _PORTS]
        self._attach("lr-lb-add", names)
        try:
            yield
        finally:
            self._attach("lr-lb-del", names)

    def _attach(self, how: str, names: list[str]) -> None:
        gateway = f"GR_{self.lab.node.name}"
        words = [word for name in names for word in ("--", how, gateway, name)]
        logical.nbctl(self.lab.nb, *words[1:])
        logical.nbctl(self.lab.nb, "--wait=hv", "sync")

    def start_iperf(self) -> None:
        """Its server in the container."""
        processes.spawn(
            ["iperf3", "-s", "-p", str(TCP_PORT)],
            log=self._rundir / "iperf3.log",
            netns=self.lab.containers[CONTAINER].name,
        )

    def start_guest(self, core: int) -> None:
        """Testpmd, both of its threads on one core."""
        self.guest.attach()
        self.guest.socket.unlink(missing_ok=True)
        processes.spawn(
            [
                "dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--no-pci", "--in-memory",
                "--single-file-segments", f"--file-prefix={file_prefix(self._rundir, GUEST)}",
                "--socket-mem", str(HUGEPAGE_MIB),
                f"--vdev=net_virtio_user0,path={self.guest.socket},server=1,queues=1,"
                f"mac={self.guest.mac}",
                "--", "--no-mlockall", "--total-num-mbufs=16384", "--forward-mode=5tswap",
                "--auto-start", "--stats-period=3600",
            ],
            log=self._rundir / f"{GUEST}.log",
            pidfile=self.testpmd.pidfile,
        )  # fmt: skip
        processes.note_start(self.testpmd)
        processes.wait_until(self.guest.socket.exists, f"{GUEST} listens")
        # For a guest that connects vswitchd's main thread makes buffers, in hugepages that nobody
        # may have touched yet: seconds, in which no packet reaches it.
        processes.wait_until(
            self._polled, f"OVS polls {GUEST}", timeout_s=_POLLED_WITHIN_S, every_s=0.2
        )

    def _polled(self) -> bool:
        """Its queue is on, and vswitchd has answered at once for a while."""
        for _ in range(_ANSWERS):
            began = time.monotonic()
            told = self.lab.node.appctl("dpif-netdev/pmd-rxq-show").splitlines()
            if time.monotonic() - began > _AT_ONCE_S:
                return False
            if not any("vhu" in line and "(enabled)" in line for line in told):
                return False
            time.sleep(_AT_ONCE_S)
        return True

    def stop_guest(self) -> None:
        """End it."""
        processes.stop(self.testpmd, grace_s=5)
        sweep_eal(self._rundir, GUEST)

    def next_hop(self, way: str) -> Mac:
        """The MAC that the client's frames go to."""
        if way == "Millrace":
            return Mac(netns.mac_of(self.lab.namespace, "up0"))
        return Mac(str(self.lab.node.ask("status")["gateway"]["mac"]))

    def request(self, way: str, source_port: int) -> bytes:
        """A UDP packet of FRAME_SIZE octets to the guest, checksums right."""
        own = Mac(netns.mac_of(self.lab.client, "eth0"))
        source, to = IPv4Address(topology.CLIENT_ADDRESS), IPv4Address(target(way, GUEST))
        size = FRAME_SIZE - 14
        udp = struct.pack("!HHHH", source_port, UDP_PORT, size - 20, 0).ljust(size - 20, b"\0")
        pseudo = source.packed + to.packed + struct.pack("!HH", 17, size - 20)
        udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp)) + udp[8:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0x4000, 64, 17, 0)
        ip += source.packed + to.packed
        ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
        return self.next_hop(way).packed() + own.packed() + b"\x08\x00" + ip + udp

    def send(self, frames: list[bytes]) -> None:
        """Put frames on the client's wire."""

        def put() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
                wire.bind(("eth0", 0))
                for frame in frames:
                    wire.send(frame)

        inside_named(self.lab.client.name, put)


@contextmanager
def answering(space: str) -> Iterator[Map]:
    """Each UDP packet that comes to `space`'s eth0 goes out again; the map counts them."""
    with Object(OBJECT_DIRECTORY / "perf_peers.bpf.o") as made:
        made.load()
        with made.program("peers_loop") as program, made.map("peers_count") as count:
            number = inside_named(space, lambda: socket.if_nametoindex("eth0"))
            inside_named(space, lambda: xdphook.attach(number, program, XDP_FLAGS_DRV_MODE))
            try:
                yield count
            finally:
                inside_named(space, lambda: xdphook.detach(number, program, XDP_FLAGS_DRV_MODE))


@contextmanager
def flooded(space: str, frame: bytes, flows: int) -> Iterator[Source]:
    """`space` sends frames by its eth0 as fast as it can; what comes to it is counted and ends."""
    stop = threading.Event()
    with Source("peers_flood") as source:
        number = inside_named(space, lambda: socket.if_nametoindex("eth0"))
        source.aim(frame, flows)

        def send() -> None:
            while not stop.is_set():
                source.send(number, frame, FLOOD)

        inside_named(space, lambda: xdphook.attach(number, source.sink, XDP_FLAGS_DRV_MODE))
        sender = threading.Thread(target=inside_named, args=(space, send))
        sender.start()
        try:
            yield source
        finally:
            stop.set()
            sender.join()
            inside_named(space, lambda: xdphook.detach(number, source.sink, XDP_FLAGS_DRV_MODE))


@contextmanager
def built(progress: Callable[[str], None], guest_core: int) -> Iterator[PathLab]:
    """The lab with everything in it, removed at the end whatever happened."""
    with Lab(PREFIX, progress, guests=False) as lab:
        guest = Workload(GUEST, f"{PREFIX}-{GUEST}", lab.node.cni_socket, "vhost-user")
        made = PathLab(lab, guest)
        try:
            made.declare()
            made.start_iperf()
            made.start_guest(guest_core)
            yield made
        finally:
            if guest.result:
                made.stop_guest()


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
