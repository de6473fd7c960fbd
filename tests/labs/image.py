"""The guest's kernel and initramfs, and the lab's server: built once, kept in tests/labs/cache.

The kernel and the virtio modules come out of Debian's own cloud kernel package, which is unpacked
and never installed; the initramfs is a static busybox, the modules and the lab's server.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.processes import ProcessError

CACHE = Path(__file__).with_name("cache")
SOURCE = Path(__file__).with_name("answerd.c")
META_PACKAGE = "linux-image-cloud-amd64"

MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
)
"""In the order in which they load: each needs those before it."""

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /etc /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
dmesg -n 1
for module in {modules}; do insmod /modules/$module.ko; done
for word in $(cat /proc/cmdline); do
	case $word in mr.*=*) eval "$(echo ${{word#mr.}} | sed 's/=\\(.*\\)/="\\1"/')" ;; esac
done
ip link set lo up
[ -n "$mtu" ] && ip link set eth0 mtu $mtu
ip link set eth0 up
if [ "$ip" = dhcp ]; then
	until udhcpc -i eth0 -n -q -t 3 -T 1 -s /udhcpc; do echo "dhcp: no answer"; done
else
	ip address add $ip dev eth0
	[ -n "$gw" ] && ip route add default via $gw
fi
if [ -n "$ip6" ]; then
	echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
	ip -6 address add $ip6 dev eth0
	ip -6 route add default via $gw6
fi
if [ -n "$shell" ]; then
	# Open before the host hears that the guest is ready, for a closed tty drops what comes.
	exec 3<>/dev/ttyS1
	stty raw -echo <&3
	while read -r line <&3; do eval "$line" >&3 2>&1; done &
fi
echo "guest $name ready $(ip -o -4 address show dev eth0 | tr -s ' ' | cut -d' ' -f4)"
/answerd $name $port
echo "guest $name: the server ended"
poweroff -f
"""

UDHCPC = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
/bin/busybox ip address add $ip/$mask dev $interface
[ -n "$router" ] && /bin/busybox ip route add default via $router
[ -n "$mtu" ] && /bin/busybox ip link set $interface mtu $mtu
exit 0
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path


def answerd() -> Path:
    """The lab's server, compiled if its source is newer."""
    return static_program(SOURCE)


def static_program(source: Path, *libraries: str) -> Path:
    """A guest's program, compiled if its source is newer; a guest has no libraries but these in it.

    Raises:
        ProcessError: there is no compiler, a library is missing, or the source is wrong.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    binary = CACHE / source.stem
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        partial = CACHE / f"{source.stem}.new"
        compiler = shutil.which("cc") or shutil.which("clang") or "cc"
        linked = [f"-l{name}" for name in libraries]
        wanted = ["-O2", "-Wall", "-static", "-o", str(partial), str(source), *linked]
        processes.run([compiler, *wanted])
        partial.replace(binary)
    return binary


def guest_image() -> Image:
    """The guest's kernel and initramfs, built if they are not in the cache.

    Raises:
        ProcessError: the package cannot be downloaded, or its name has changed.
    """
    server, kernel = answerd(), guest_kernel()
    initramfs = CACHE / "initramfs.gz"
    newest = max(server.stat().st_mtime, Path(__file__).stat().st_mtime)
    if not initramfs.exists() or initramfs.stat().st_mtime < newest:
        _build_initramfs(initramfs, server)
    return Image(kernel, initramfs)


def guest_kernel() -> Path:
    """The guest's kernel; its modules are beside it.

    Raises:
        ProcessError: the package cannot be downloaded, or its name has changed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    kernel = CACHE / "vmlinuz"
    if not kernel.exists() or not (CACHE / "modules").is_dir():
        _unpack_kernel(kernel)
    return kernel


def _unpack_kernel(kernel: Path) -> None:
    package = package_of(META_PACKAGE)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        where = Path(scratch)
        unpack(package, where)
        modules = where / "modules"
        modules.mkdir()
        for name in MODULES:
            found = next((where / "root/lib/modules").rglob(f"{name}.ko"), None)
            if found is None:
                msg = f"{package} has no module {name}; look at its list with dpkg-deb -c"
                raise ProcessError(msg)
            shutil.copy(found, modules / found.name)
        shutil.rmtree(CACHE / "modules", ignore_errors=True)
        modules.rename(CACHE / "modules")
        shutil.copy(next((where / "root/boot").glob("vmlinuz-*")), kernel)


def unpack(package: str, where: Path) -> None:
    """A package of Debian's into `where`/root, without installing it.

    Raises:
        ProcessError: it cannot be downloaded.
    """
    processes.run(
        # apt's own user may not write here.
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package],
        cwd=where,
        timeout_s=300,
    )
    fetched = next(where.glob(f"{package}_*.deb"))
    processes.run(["dpkg-deb", "-x", str(fetched), str(where / "root")], timeout_s=120)
    fetched.unlink()


def package_of(meta: str) -> str:
    """The kernel package that a meta package stands for; apt's lists are fetched if they lack it.

    Raises:
        ProcessError: it stands for none.
    """
    prefix = "-".join(meta.split("-")[:2])
    for lists_are_fresh in (False, True):
        if lists_are_fresh:
            processes.run(["apt-get", "-q", "update"], timeout_s=300)
        # An unknown package is an exit code, one that is known by name only has no dependency.
        depends = processes.run(["apt-cache", "depends", meta], check=False)
        for line in depends.splitlines():
            if f"Depends: {prefix}-" in line:
                return line.split()[1]
    msg = f"{meta} names no kernel, even after `apt-get update`; look at apt's sources"
    raise ProcessError(msg)


def _build_initramfs(initramfs: Path, server: Path) -> None:
    files = [
        ("init", INIT.format(modules=" ".join(MODULES)).encode()),
        ("udhcpc", UDHCPC.encode()),
        ("answerd", server.read_bytes()),
        ("bin", None),
        ("bin/busybox", Path("/bin/busybox").read_bytes()),
        ("modules", None),
    ]
    files += [
        (f"modules/{path.name}", path.read_bytes())
        for path in sorted((CACHE / "modules").iterdir())
    ]
    partial = initramfs.with_suffix(".new")
    partial.write_bytes(archive(files))
    partial.replace(initramfs)


def archive(files: list[tuple[str, bytes | None]]) -> bytes:
    """An initramfs of these files; None for the content makes a directory."""
    return gzip.compress(_cpio(files), compresslevel=1)


def _cpio(files: list[tuple[str, bytes | None]]) -> bytes:
    """An archive in cpio's newc form (kernel doc driver-api/early-userspace/buffer-format).

    None for the content makes a directory.
    """
    out = bytearray()
    for number, (name, content) in enumerate([*files, ("TRAILER!!!", b"")], start=1):
        mode = 0o040755 if content is None else 0o100755
        body = content or b""
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08x" % value for value in fields) + path
        out += b"\0" * (-len(out) % 4) + body
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
