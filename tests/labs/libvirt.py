"""libvirt without a daemon: its schema, and a machine that it starts itself.

`virt-qemu-run` loads libvirt's QEMU driver into one process, below a directory of ours. As root
it would need a user libvirt-qemu; here it runs as nobody, for KubeVirt's is not root either.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.processes import Daemon
from tests.labs import image

NOBODY = 65534


def validate(path: Path) -> None:
    """Check a domain against libvirt's own schema.

    Raises:
        ProcessError: it does not fit; with xmllint's words.
    """
    processes.run(["virt-xml-validate", str(path), "domain"])


@dataclass(frozen=True, slots=True)
class LibvirtGuest:
    """A machine that libvirt starts from its XML, below `root`, which others must be able to reach.

    `group` is what the directory of its socket belongs to; `name` is the domain's. `mounts` are of
    its own: what is mounted where, in a mount namespace of libvirt and QEMU alone.
    """

    name: str
    root: Path
    group: int
    mounts: tuple[tuple[Path, Path], ...] = ()

    @property
    def kernel(self) -> Path:
        """Where `prepare` puts the guest's kernel."""
        return self.root / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """Where `prepare` puts the guest's initramfs."""
        return self.root / "initramfs"

    @property
    def console(self) -> Path:
        """The serial console's output, if the domain writes it here."""
        return self.root / "console"

    @property
    def log(self) -> Path:
        """What libvirt prints."""
        return self.root / "virt-qemu-run.log"

    @property
    def qemu_log(self) -> Path:
        """QEMU's command and what it prints."""
        return self.root / f"state/log/qemu/{self.name}.log"

    @property
    def _launcher(self) -> Daemon:
        return Daemon(self.name, self.root / "launcher.pid", str(self.root))

    @property
    def _qemu(self) -> Daemon:
        return Daemon(self.name, self.root / f"state/run/qemu/{self.name}.pid", self.name)

    def prepare(self) -> None:
        """Make the directory anew, with a kernel and an initramfs in it."""
        shutil.rmtree(self.root, ignore_errors=True)
        settings = self.root / "state/etc/qemu.conf"
        settings.parent.mkdir(parents=True)
        # Without this libvirt asks a daemon of its own, virtlogd, to write the logs.
        settings.write_text('stdio_handler = "file"\n')
        booted = image.guest_image()
        shutil.copy(booted.kernel, self.kernel)
        shutil.copy(booted.initramfs, self.initramfs)
        for path in (self.root, *self.root.rglob("*")):
            os.chown(path, NOBODY, self.group)
            path.chmod(0o755)

    def start(self, domain_xml: bytes) -> None:
        """Power on; QEMU then waits until somebody has connected to its socket."""
        source = self.root / "domain.xml"
        source.write_bytes(domain_xml)
        validate(source)
        script = "".join(f"mount --rbind {what} {where} && " for what, where in self.mounts)
        processes.spawn(
            [
                "nice", "unshare", "--mount", "sh", "-c", script + 'exec "$@"', "sh",
                "setpriv", f"--reuid={NOBODY}", f"--regid={self.group}", "--clear-groups",
                "env", f"HOME={self.root}", f"XDG_RUNTIME_DIR={self.root}",
                "virt-qemu-run", f"--root={self.root / 'state'}", str(source),
            ],
            log=self.log,
            pidfile=self._launcher.pidfile,
        )  # fmt: skip

    def wait_ready(self, line: str, timeout_s: float = 180) -> str:
        """Wait for a line on the console; the console's text so far."""
        processes.wait_until(
            lambda: (
                (self.console.exists() and line in self.console.read_text(errors="replace"))
                or processes.running_pid(self._launcher) is None
            ),
            f"{self.name} says {line!r}",
            timeout_s=timeout_s,
            every_s=0.2,
        )
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        assert line in text, f"{processes.tail(self.log)}\n{processes.tail(self.qemu_log)}\n{text}"
        return text

    def stop(self) -> None:
        """Power off, the hard way; libvirt's process ends with its machine."""
        processes.stop(self._qemu, grace_s=5)
        processes.stop(self._launcher, grace_s=5)
