"""Virtual machines on a vhost-user socket: testpmd in a machine's place, and a real one (QEMU).

Both are servers of the socket; OVS's `dpdkvhostuserclient` port connects to it, and again after
either side was restarted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import ovsprocess, processes
from dataplane.drivers.processes import Daemon, ProcessError
from tests.labs import image

HUGEPAGES = Path("/dev/hugepages")
HUGEPAGE_MIB = 256
"""Hugepage memory of one guest, real or not."""


def wait_booted(name: str, console: Path, timeout_s: float) -> float:
    """Wait until a guest's console says that its server runs; the seconds it took."""
    return processes.wait_until(
        lambda: console.exists() and f"guest {name} ready" in console.read_text(errors="replace"),
        f"guest {name} boots; console {console} ends:\n{processes.tail(console, 5)}",
        timeout_s=timeout_s,
        every_s=0.2,
    )


def file_prefix(rundir: Path, name: str) -> str:
    """EAL's name for a guest's testpmd: what it leaves in /run/dpdk is found by it."""
    return f"{rundir.name}-{name}"


def sweep_eal(rundir: Path, name: str) -> None:
    """Remove what an ended testpmd leaves outside the lab's directory."""
    ovsprocess.remove_hugepage_files(HUGEPAGES, file_prefix(rundir, name))


@dataclass(frozen=True, slots=True)
class TestpmdGuest:
    """A virtio-user device in testpmd's icmpecho mode.

    It answers every ARP request with its MAC and every ICMP echo request, whatever the address:
    the address is OVN's affair.
    """

    __test__ = False

    name: str
    socket: Path
    mac: str
    rundir: Path
    core: int = 0

    @property
    def daemon(self) -> Daemon:
        """How its process is recognised."""
        return Daemon(self.name, self.rundir / f"{self.name}.pid", str(self.socket))

    @property
    def log(self) -> Path:
        """What testpmd prints."""
        return self.rundir / f"{self.name}.log"

    def start(self) -> None:
        """Start it; it listens on its socket soon after (`wait_ready`)."""
        self.socket.unlink(missing_ok=True)
        processes.spawn(
            [
                # It polls without end: everything else on its core goes first.
                "nice", "-n", "19", "dpdk-testpmd",
                # Both of testpmd's threads on one core, so that OVS's PMD keeps the other.
                "--lcores", f"0@{self.core},1@{self.core}",
                "--no-pci", "--in-memory", "--single-file-segments",
                f"--file-prefix={file_prefix(self.rundir, self.name)}",
                "--socket-mem", str(HUGEPAGE_MIB),
                f"--vdev=net_virtio_user0,path={self.socket},server=1,queues=1,mac={self.mac}",
                "--", "--no-mlockall", "--total-num-mbufs=16384",
                "--forward-mode=icmpecho", "--auto-start",
                # Without a period it would read its standard input, and end at its end.
                "--stats-period=3600",
            ],
            log=self.log,
            pidfile=self.daemon.pidfile,
        )  # fmt: skip
        processes.note_start(self.daemon)

    def wait_ready(self) -> None:
        """Wait until the socket is there.

        Raises:
            ProcessError: testpmd ended, or did not listen in time.
        """
        processes.wait_until(
            lambda: self.socket.exists() or processes.running_pid(self.daemon) is None,
            f"{self.name} listens; look at {self.log}",
        )
        if processes.running_pid(self.daemon) is None:
            msg = f"testpmd of {self.name} ended:\n{processes.tail(self.log)}"
            raise ProcessError(msg)

    def stop(self) -> None:
        """End it, and take away what EAL made for it."""
        processes.stop(self.daemon, grace_s=5)
        self.socket.unlink(missing_ok=True)
        sweep_eal(self.rundir, self.name)


@dataclass(frozen=True, slots=True)
class QemuGuest:
    """A machine under TCG whose only program is the lab's server.

    `address` is "a.b.c.d/len" or "dhcp", `address6` has its length, too. It boots in about ten
    seconds; its console is `console`.
    """

    name: str
    socket: Path
    mac: str
    address: str
    gateway: str
    port: int
    rundir: Path
    mtu: int = 1442
    address6: str = ""
    gateway6: str = ""

    @property
    def daemon(self) -> Daemon:
        """How its process is recognised."""
        return Daemon(self.name, self.rundir / f"{self.name}.pid", str(self.socket))

    @property
    def log(self) -> Path:
        """What QEMU itself prints."""
        return self.rundir / f"{self.name}.log"

    @property
    def console(self) -> Path:
        """The serial console's output."""
        return self.rundir / f"{self.name}.console"

    def start(self, hugepages: str = "/dev/hugepages") -> None:
        """Power on."""
        booted = image.guest_image()
        self.socket.unlink(missing_ok=True)
        self.console.unlink(missing_ok=True)
        words = [
            "console=ttyS0", "quiet", "panic=-1", f"mr.name={self.name}", f"mr.ip={self.address}",
            f"mr.gw={self.gateway}", f"mr.port={self.port}", f"mr.mtu={self.mtu}",
            *([f"mr.ip6={self.address6}", f"mr.gw6={self.gateway6}"] if self.address6 else []),
        ]  # fmt: skip
        processes.spawn(
            [
                "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(HUGEPAGE_MIB),
                "-nodefaults", "-display", "none", "-no-reboot",
                "-serial", f"file:{self.console}",
                "-kernel", str(booted.kernel), "-initrd", str(booted.initramfs),
                "-append", " ".join(words),
                # vhost-user shares the guest's whole memory with OVS.
                "-object", f"memory-backend-file,id=mem,size={HUGEPAGE_MIB}M,"
                f"mem-path={hugepages},share=on",
                "-numa", "node,memdev=mem",
                "-chardev", f"socket,id=c0,path={self.socket},server=on,wait=off",
                "-netdev", "vhost-user,id=n0,chardev=c0",
                # vectors=0: QEMU 7.2 under TCG crashes in its MSI-X notifiers otherwise.
                "-device", f"virtio-net-pci,netdev=n0,mac={self.mac},romfile=,vectors=0",
            ],
            log=self.log,
            pidfile=self.daemon.pidfile,
        )  # fmt: skip
        processes.note_start(self.daemon)

    def wait_ready(self, timeout_s: float = 180) -> float:
        """Wait until its server runs; the seconds it took."""
        return wait_booted(self.name, self.console, timeout_s)

    def stop(self) -> None:
        """Power off, the hard way."""
        processes.stop(self.daemon, grace_s=5)
        self.socket.unlink(missing_ok=True)
