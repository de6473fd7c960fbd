"""A whole node for `millrace perf eastwest`: the tests' lab, and two virtual machines on a switch.

Both machines are one process of ours (guestload.c): the client sends to the backend's own address
and to a service of it, in any mix; the backend sends each packet back. Two ways to the service: its
range is routed to svc0, or a load balancer of OVN's is on the machines' switch.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from dataplane.drivers import processes
from dataplane.model.addr import Mac, mac_of_address
from dataplane.ports import DataplaneError
from perf.compiled import program
from perf.eastwest import SVC0, SWITCH, WAYS
from tests.labs import lab as topology
from tests.labs import logical
from tests.labs.guests import HUGEPAGE_MIB, file_prefix, sweep_eal
from tests.labs.lab import Lab
from tests.labs.logical import Service
from tests.labs.workloads import POD_NAMESPACE, Workload

PREFIX = "mreast"
CLIENT, BACKEND = topology.QEMU, topology.TESTPMD
NETWORK = "sw0"
PLAIN_PORT, SERVICE_PORT, BACKEND_PORT = 9, 53, 10
"""The backend's for plain packets; the VIP's, and the backend's behind it (guestload.c)."""

FIRST_PORT = 20000
FRAME_SIZE = 64
_VIPS = {SVC0: "10.96.0.30", SWITCH: "10.97.0.30"}
_LOAD_BALANCER = "east-ovn"
SOURCE = Path(__file__).with_name("guestload.c")


@dataclass(frozen=True, slots=True)
class Counts:
    """What guestload counted in one run; pairs are of plain and of service packets."""

    seconds: float
    sent: tuple[int, int]
    requests: tuple[int, int]
    replies: tuple[int, int]
    unsent: int
    strangers: int

    @classmethod
    def parsed(cls, line: str) -> Self:
        """From a line of JSON."""
        told = json.loads(line)
        pairs = {key: tuple(told[key]) for key in ("sent", "requests", "replies")}
        return cls(**(told | pairs))

    @property
    def packets(self) -> int:
        """Both directions: what OVS got from the two machines."""
        return sum(self.sent) + sum(self.requests) - self.unsent


@dataclass(slots=True)
class EastLab:
    """The lab while it runs."""

    lab: Lab
    client: Workload
    backend: Workload
    core: int
    flows: int
    _guests: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def _rundir(self) -> Path:
        return self.lab.dir

    def declare(self) -> None:
        """The service, once for each way."""
        nb = self.lab.nb
        targets = (f"{BACKEND[1]}:{BACKEND_PORT}",)
        vip = _VIPS[SVC0]
        logical.add_service(nb, Service("east", f"{vip}:{SERVICE_PORT}", "udp", targets))
        foreign = f"{_VIPS[SWITCH]}:{SERVICE_PORT}"
        logical.nbctl(nb, "lb-add", _LOAD_BALANCER, foreign, targets[0], "udp")
        self.lab.node.wait_served([vip])

    @contextmanager
    def reached(self, way: str) -> Iterator[None]:
        """OVN's load balancer is on the switch for the block alone."""
        if way == SWITCH:
            self._nbctl("ls-lb-add", NETWORK, _LOAD_BALANCER)
        try:
            yield
        finally:
            if way == SWITCH:
                self._nbctl("ls-lb-del", NETWORK, _LOAD_BALANCER)

    @contextmanager
    def with_policy(self, *, stateful: bool) -> Iterator[None]:
        """What a network policy makes of the switch: conntrack for every packet, whatever else."""
        if stateful:
            for direction in ("from-lport", "to-lport"):
                self._nbctl("acl-add", NETWORK, direction, "1000", "ip4", "allow-related")
        try:
            yield
        finally:
            if stateful:
                self._nbctl("acl-del", NETWORK)

    def _nbctl(self, *words: str) -> None:
        logical.nbctl(self.lab.nb, "--wait=hv", *words)

    def start_guests(self) -> None:
        """Attach both machines, and start the program that is both of them."""
        for work in (self.client, self.backend):
            work.attach()
            work.socket.unlink(missing_ok=True)
        devices = [
            f"--vdev=net_virtio_user{number},path={work.socket},server=1,queues=1,mac={work.mac}"
            for number, work in enumerate((self.client, self.backend))
        ]
        prefix = file_prefix(self._rundir, BACKEND[0])
        for way in WAYS:
            frames = self._rundir / f"frames-{way}"
            frames.write_bytes(self._frames(way))
        with (self._rundir / "guestload.log").open("wb") as log:
            self._guests["both"] = subprocess.Popen(  # noqa: S603 - our own program
                [
                    str(program(SOURCE)), "--lcores", f"0@{self.core}", "--no-pci", "--in-memory",
                    "--single-file-segments", f"--file-prefix={prefix}",
                    "--socket-mem", str(HUGEPAGE_MIB), *devices,
                    "--", *(str(self._rundir / f"frames-{way}") for way in WAYS),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=processes.clean_environment(),
            )  # fmt: skip
        self._answer()
        for work in (self.client, self.backend):
            port = f"{work.pod}.{POD_NAMESPACE}"
            logical.nbctl(self.lab.nb, "wait-until", "Logical_Switch_Port", port, "up=true")

    def stop_guests(self) -> None:
        """End it."""
        for process in self._guests.values():
            process.kill()
            process.communicate()
        self._guests.clear()
        sweep_eal(self._rundir, BACKEND[0])

    def run(self, way: str, share: int, rate: int, seconds: float) -> Counts:
        """Send for so long: `share` service packets of a hundred, `rate` a second (0: all it can).

        Raises:
            DataplaneError: the guests' program ended.
        """
        process = self._guests["both"]
        assert process.stdin is not None
        process.stdin.write(f"{WAYS.index(way)} {share} {rate} {int(seconds * 1000)}\n")
        process.stdin.flush()
        return Counts.parsed(self._answer())

    def _answer(self) -> str:
        process = self._guests["both"]
        assert process.stdout is not None
        # EAL's own lines are no objects.
        for line in process.stdout:
            if line.startswith("{"):
                return line
        msg = f"guestload ended:\n{processes.tail(self._rundir / 'guestload.log')}"
        raise DataplaneError(msg)

    def _frames(self, way: str) -> bytes:
        router = mac_of_address(IPv4Address("10.1.0.1"))
        client, backend = (Mac(work.mac) for work in (self.client, self.backend))
        source = IPv4Address(CLIENT[1])
        ends = (
            (backend, IPv4Address(BACKEND[1]), PLAIN_PORT),
            (router, IPv4Address(_VIPS[way]), SERVICE_PORT),
        )
        return b"".join(
            datagram(to, client, (source, FIRST_PORT + number), (address, port))
            for to, address, port in ends
            for number in range(self.flows)
        )


def datagram(
    to_mac: Mac, own_mac: Mac, source: tuple[IPv4Address, int], to: tuple[IPv4Address, int]
) -> bytes:
    """A UDP packet of FRAME_SIZE octets, checksums right."""
    size = FRAME_SIZE - 14
    ends = source[0].packed + to[0].packed
    udp = struct.pack("!HHHH", source[1], to[1], size - 20, 0).ljust(size - 20, b"\0")
    pseudo = ends + struct.pack("!HH", 17, size - 20)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp)) + udp[8:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0x4000, 64, 17, 0) + ends
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    return to_mac.packed() + own_mac.packed() + b"\x08\x00" + ip + udp


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@contextmanager
def built(progress: Callable[[str], None], core: int, flows: int) -> Iterator[EastLab]:
    """The lab with everything in it, removed at the end whatever happened."""
    with Lab(PREFIX, progress, guests=False) as lab:
        client, backend = (
            Workload(name, f"{PREFIX}-{name}", lab.node.cni_socket, "vhost-user")
            for name in (CLIENT[0], BACKEND[0])
        )
        made = EastLab(lab, client, backend, core, flows)
        try:
            made.declare()
            made.start_guests()
            yield made
        finally:
            made.stop_guests()
