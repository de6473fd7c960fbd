"""A machine as KubeVirt runs one: its address from OVN's DHCP, a shell to ask, a live migration.

`guests.QemuGuest` is the short form for labs that only need somebody who answers.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.processes import Daemon
from tests.labs import image
from tests.labs.guests import wait_booted
from tests.labs.qmp import Monitor

MEMORY_KIB = 192 * 1024
UNEVEN_KIB = 8
"""What a machine that may migrate has more. Under TCG QEMU 7.2 loses some of what the guest writes:
it clears the log of dirty pages 64 pages at a time, and leaves the translated code's TLB as it is,
which does not mark them again. The guest dies of it, the sooner the busier the host (mended in
QEMU 9.0, "physmem: Fix migration dirty bitmap coherency with TCG memory access"). A size that is no
multiple of 64 pages goes page by page, and that way is right."""

FAST_MIB_S, SLOW_MIB_S = 1024, 24
"""How fast a machine is sent: at once, and for so long that it writes much of its memory anew."""

PROMPT_S = 60.0


class Memory(StrEnum):
    """What backs the guest's memory, which OVS maps too."""

    HUGEPAGES = "memory-backend-file,mem-path=/dev/hugepages"
    MEMFD = "memory-backend-memfd"


@dataclass(frozen=True, slots=True)
class Machine:
    """One QEMU process; a migrating machine has two of them, each with its `key`.

    `announces` is virtio's GUEST_ANNOUNCE: the guest itself tells its new place with an ARP, and
    then vhost's RARP is not sent. `incoming` is the socket that the machine is migrated to.
    """

    name: str
    key: str
    socket: Path
    mac: str
    port: int
    rundir: Path
    memory: Memory = Memory.MEMFD
    queues: int = 1
    announces: bool = False
    incoming: bool = False

    @property
    def daemon(self) -> Daemon:
        """How its process is recognised."""
        return Daemon(self.key, self._file("pid"), str(self.socket))

    @property
    def console(self) -> Path:
        """The serial console's output."""
        return self._file("console")

    @property
    def migration(self) -> Path:
        """Where an `incoming` machine waits for its state."""
        return self._file("migration")

    @property
    def log(self) -> Path:
        """What QEMU itself says."""
        return self._file("log")

    def _file(self, suffix: str) -> Path:
        return self.rundir / f"{self.key}.{suffix}"

    def start(self) -> None:
        """Power on, or wait for the state of the machine elsewhere."""
        booted = image.guest_image()
        for old in (self.socket, self.console, *map(self._file, ("qmp", "shell", "migration"))):
            old.unlink(missing_ok=True)
        # Of huge pages there are whole ones only; such a machine is not migrated here.
        memory = MEMORY_KIB + (UNEVEN_KIB if self.memory is Memory.MEMFD else 0)
        words = f"console=ttyS0 quiet panic=-1 mr.name={self.name} mr.ip=dhcp mr.port={self.port}"
        kind, _, rest = self.memory.partition(",")
        # vectors=0: QEMU 7.2 under TCG crashes in its MSI-X notifiers otherwise.
        device = f"virtio-net-pci,netdev=n0,mac={self.mac},romfile=,vectors=0"
        if self.queues > 1:
            device += ",mq=on"
        if not self.announces:
            device += ",guest_announce=off"
        processes.spawn(
            [
                "nice", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max",
                "-m", f"{memory}K", "-smp", str(self.queues),
                "-nodefaults", "-display", "none", "-no-reboot",
                "-serial", f"file:{self.console}",
                "-serial", f"unix:{self._file('shell')},server=on,wait=off",
                "-qmp", f"unix:{self._file('qmp')},server=on,wait=off",
                "-kernel", str(booted.kernel), "-initrd", str(booted.initramfs),
                "-append", f"{words} mr.shell=1",
                "-object", ",".join(
                    filter(None, (kind, "id=mem", f"size={memory}K", "share=on", rest))
                ),
                "-numa", "node,memdev=mem",
                "-chardev", f"socket,id=c0,path={self.socket},server=on,wait=off",
                "-netdev", f"vhost-user,id=n0,chardev=c0,queues={self.queues}",
                "-device", device,
                *(("-incoming", f"unix:{self.migration}") if self.incoming else ()),
            ],
            log=self.log,
            pidfile=self.daemon.pidfile,
        )  # fmt: skip
        processes.note_start(self.daemon)

    def wait_ready(self, timeout_s: float = 180) -> float:
        """Wait until its server runs; the seconds it took."""
        return wait_booted(self.name, self.console, timeout_s)

    def run(self, command: str, timeout_s: float = PROMPT_S) -> str:
        """A command of the guest's shell; what it prints, standard error too."""
        end = f"end-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX) as conn:
            conn.settimeout(timeout_s)
            conn.connect(str(self._file("shell")))
            conn.sendall(f"{{ {command}; }} 2>&1; echo; echo {end}\n".encode())
            said = b""
            while end.encode() not in said:
                chunk = conn.recv(4096)
                assert chunk, f"{self.key} closed its shell after {said!r}"
                said += chunk
        return said.decode(errors="replace").partition(end)[0].replace("\r", "").strip()

    def monitor(self) -> Monitor:
        """Its monitor, as soon as it is there."""
        path = self._file("qmp")
        processes.wait_until(path.exists, f"{self.key} has a monitor; see {self.log}")
        return Monitor(path)

    def migrate(
        self, target: Machine, *, mib_s: int = FAST_MIB_S, timeout_s: float = 120
    ) -> dict[str, float]:
        """Send it to another process, no faster than `mib_s`; what QEMU says of it, times in ms."""
        processes.wait_until(target.migration.exists, f"{target.key} waits for the migration")
        with self.monitor() as monitor:
            monitor.ask("migrate-set-parameters", max_bandwidth=mib_s << 20, downtime_limit=300)
            monitor.ask("migrate", uri=f"unix:{target.migration}")

            def ended() -> bool:
                return monitor.ask("query-migrate").get("status") in {"completed", "failed"}

            processes.wait_until(ended, f"{self.key} migrates", timeout_s=timeout_s, every_s=0.05)
            told = monitor.ask("query-migrate")
        assert told["status"] == "completed", told
        return {
            "downtime": float(told["downtime"]),
            "total": float(told["total-time"]),
            "transferred_kib": told["ram"]["transferred"] / 1024,
        }

    def stop(self) -> None:
        """Power off, the hard way."""
        processes.stop(self.daemon, grace_s=5)
        self.socket.unlink(missing_ok=True)
