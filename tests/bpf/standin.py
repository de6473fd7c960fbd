"""A stand-in for what OVS attaches to an AF_XDP port: libxdp's default program.

OVS is absent at this level, so the tests compile and attach a program of their own which, like
libxdp's, redirects everything into an XSKMAP.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.drivers import xdphook
from dataplane.drivers.libbpf import Map
from dataplane.drivers.libbpf_programs import Program, loaded

_SOURCE = Path(__file__).parent / "progs" / "standin.bpf.c"


def compiled(directory: Path) -> Path:
    """The stand-in's object."""
    made = directory / "standin.bpf.o"
    include = f"/usr/include/{os.uname().machine}-linux-gnu"
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-isystem", include]
    subprocess.run(["clang", *flags, "-c", str(_SOURCE), "-o", str(made)], check=True)
    return made


@contextmanager
def attached(path: Path, ifindex: int, mode: int, function: str) -> Iterator[Map]:
    """The stand-in on a device, as OVS would have it; gives its XSKMAP."""
    with loaded(path) as made, made.program(function) as program:
        held = xdphook.attached(ifindex)
        if held is None:
            xdphook.attach(ifindex, program, mode)
        else:
            with Program.by_id(held.prog_id) as old:
                xdphook.replace(ifindex, program, old, held.mode)
        with made.map("xsks_map") as sockets:
            yield sockets


def take_off(ifindex: int) -> None:
    """Nothing is attached by netlink any more."""
    held = xdphook.attached(ifindex)
    if held is not None:
        with Program.by_id(held.prog_id) as program:
            xdphook.detach(ifindex, program, held.mode)
