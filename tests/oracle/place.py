"""Where a bench stands when no pytest made the place: a namespace, a BPF filesystem."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.bpfstate import remove_pins
from tests.labs.netns import Namespace
from tests.oracle.bench import Bench, bench
from tests.oracle.tables import Table
from tests.oracle.worlds import SVC, UPLINK, UPLINK_TWO

CLONE_NEWNET = 0x40000000
DEVICES = {UPLINK: "up0", UPLINK_TWO: "up1", SVC: "svc0"}
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(name: str) -> Iterator[dict[int, int]]:
    """This thread is in a namespace of its own with a device for each door: their ifindexes."""
    made = Namespace(name).create()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        made.quiet()
        for device in DEVICES.values():
            made.run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}-peer")
            for end in (device, f"{device}-peer"):
                made.run("ip", "link", "set", end, "up")
        with made.path.open("rb") as there:
            if _libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {made.path}")
        yield {door: socket.if_nametoindex(device) for door, device in DEVICES.items()}
    finally:
        assert not _libc.setns(home, CLONE_NEWNET)
        os.close(home)
        made.delete()


@contextmanager
def mounted() -> Iterator[Path]:
    """A BPF filesystem that nobody else has."""
    with tempfile.TemporaryDirectory(prefix="mr-oracle-") as path:
        subprocess.run(["mount", "-t", "bpf", "bpf", path], check=True)
        try:
            yield Path(path)
        finally:
            subprocess.run(["umount", path], check=True)


@contextmanager
def standing(
    table: Table = Table.ROOMY, objects: Path = OBJECT_DIRECTORY, cpu: int = 0
) -> Iterator[Bench]:
    """A bench, with everything around it."""
    with mounted() as root, inside(f"mro-{os.getpid()}") as devices:
        try:
            with bench(root / "node", devices, table, objects, cpu) as made:
                yield made
        finally:
            remove_pins(str(root / "node"))
