"""Several virtual machines in one testpmd: each answers ARP and ICMP echo on a port of its own."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.ovsinterfaces import interface_states
from dataplane.drivers.processes import Daemon
from tests.labs.guests import HUGEPAGE_MIB, file_prefix, sweep_eal
from tests.labs.netns import Namespace


@dataclass(frozen=True, slots=True)
class GuestBank:
    """testpmd with a virtio-user device for each (socket, MAC); 30 at most, `queues` each."""

    name: str
    guests: Sequence[tuple[Path, str]]
    rundir: Path
    core: int = 0
    queues: int = 1

    @property
    def daemon(self) -> Daemon:
        """How its process is recognised."""
        prefix = f"--file-prefix={file_prefix(self.rundir, self.name)}"
        return Daemon(self.name, self.rundir / f"{self.name}.pid", prefix)

    def start(self) -> None:
        """Start it; OVS connects within a second or two."""
        devices = []
        for number, (socket, mac) in enumerate(self.guests):
            socket.unlink(missing_ok=True)
            device = f"--vdev=net_virtio_user{number},path={socket},server=1,mac={mac}"
            devices.append(f"{device},queues={self.queues}")
        processes.spawn(
            [
                "nice", "-n", "19", "dpdk-testpmd",
                "--lcores", f"0@{self.core},1@{self.core}", "--no-pci", "--in-memory",
                "--single-file-segments", self.daemon.marker,
                "--socket-mem", str(HUGEPAGE_MIB), *devices,
                "--", "--no-mlockall", "--total-num-mbufs=32768",
                f"--rxq={self.queues}", f"--txq={self.queues}",
                "--forward-mode=icmpecho", "--auto-start", "--stats-period=3600",
            ],
            log=self.rundir / f"{self.name}.log",
            pidfile=self.daemon.pidfile,
        )  # fmt: skip
        processes.note_start(self.daemon)

    def stop(self) -> None:
        """End it, and take its hugepages' files away."""
        processes.stop(self.daemon, grace_s=5)
        sweep_eal(self.rundir, self.name)


def connected(database: str) -> int:
    """How many vhost-user ports of this OVS have a guest at their other end."""
    return sum(
        one.type == "dpdkvhostuserclient" and one.status.get("status") == "connected"
        for one in interface_states(database).values()
    )


@dataclass(slots=True)
class Silence:
    """What a series of echo requests met: how many, and the longest time without an answer [s]."""

    address: str
    answered: int = 0
    longest_s: float = 0.0


@contextmanager
def pinged(where: Namespace, addresses: Sequence[str], every_s: float) -> Iterator[list[Silence]]:
    """Ping each address all the while; what each met is known after the block."""
    running = [
        subprocess.Popen(
            processes.in_netns(
                where.name, ["ping", "-n", "-D", "-O", "-i", str(every_s), "-W", "1", address]
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.clean_environment(),
        )
        for address in addresses
    ]
    found: list[Silence] = []
    try:
        yield found
    finally:
        for process in running:
            process.terminate()
        told = [process.communicate(timeout=30)[0] for process in running]
    found += [_silence(address, text) for address, text in zip(addresses, told, strict=True)]


def _silence(address: str, text: str) -> Silence:
    times = [
        float(line[1 : line.index("]")])
        for line in text.splitlines()
        if line.startswith("[") and "bytes from" in line
    ]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return Silence(address, len(times), max(gaps, default=0.0))
