"""The oldest kernel that we promise, Debian 12's, in a guest: what it makes of our objects.

The guest has no network and no disk; it loads what is in its initramfs and powers off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import image

SOURCE = Path(__file__).with_name("loadall.c")
LIBRARIES = ("bpf", "elf", "z")
MEMORY_MIB = 512
BOOT_S = 600.0

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox --install -s /bin
export PATH=/bin
dmesg -n 1
echo "kernel $(uname -r)"
cd /objects
/loadall *
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the guest's console says."""

    kernel: str
    refused: dict[str, str]
    """Of each object that did not load, by its file's name: the error."""

    loaded: frozenset[str]
    console: str


def judge(objects: Sequence[Path], scratch: Path) -> Judged:
    """Load each object on the guest's kernel, with maps of its own.

    Args:
        objects: Compiled objects, with names of their own.
        scratch: A directory for the guest's initramfs.

    Raises:
        ProcessError: the guest could not be built, or did not end in time.
    """
    kernel, loader = image.guest_kernel(), image.static_program(SOURCE, *LIBRARIES)
    initramfs = scratch / "oldest.gz"
    files = [
        ("init", INIT.encode()),
        ("loadall", loader.read_bytes()),
        ("bin", None),
        ("bin/busybox", Path("/bin/busybox").read_bytes()),
        ("objects", None),
        *((f"objects/{path.name}", path.read_bytes()) for path in objects),
    ]
    initramfs.write_bytes(image.archive(files))
    console = processes.run(
        [
            "nice", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB),
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-kernel", str(kernel), "-initrd", str(initramfs),
            "-append", "console=ttyS0 quiet panic=-1",
        ],
        timeout_s=BOOT_S,
    )  # fmt: skip
    told = [line.strip().partition(" ") for line in console.splitlines()]
    return Judged(
        kernel=next((rest for word, _, rest in told if word == "kernel"), ""),
        refused=dict(rest.split(": ", 1) for word, _, rest in told if word == "FAIL"),
        loaded=frozenset(rest for word, _, rest in told if word == "OK"),
        console=console,
    )
