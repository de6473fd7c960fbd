"""The packet generator with a line between its ports whose delay and faults are known."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.drivers import machine, ovsprocess, processes
from perf import priority
from perf.compiled import program
from perf.pktgen.driver import HUGEPAGES, Pktgen

SOURCE = Path(__file__).with_name("delayline.c")
PAGES = 280
"""Of 2 MiB: 256 MiB for each of the two programs, and a little more."""

PREFIX, LINE_PREFIX = "mrpktgen", "mrdelay"


@contextmanager
def pages(rundir: Path) -> Iterator[None]:
    """The machine has the hugepages for both meanwhile."""
    machine.borrow(rundir, size_kib=2048, count=PAGES, mount=HUGEPAGES)
    try:
        yield
    finally:
        machine.give_back(rundir)


@contextmanager
def delayline(rundir: Path, delay_us: int, *faults: int) -> Iterator[Pktgen]:
    """A generator, and a forwarder with these faults between its ports (tests/labs/delayline.c)."""
    with watched(rundir, delay_us, *faults) as (generator, _):
        yield generator


@contextmanager
def watched(
    rundir: Path, delay_us: int, *faults: int, pps: float = 0
) -> Iterator[tuple[Pktgen, int]]:
    """The same, and the forwarder's pid; `pps`: what it carries at most, 0: what it can."""
    sockets = [rundir / f"line{number}" for number in (0, 1)]
    for path in sockets:
        path.unlink(missing_ok=True)
    ports = [f"--vdev=net_virtio_user{n},path={p},server=1" for n, p in enumerate(sockets)]
    line = [f"--vdev=net_vhost{n},iface={p},client=1" for n, p in enumerate(sockets)]
    words = [
        str(program(SOURCE)), "--lcores", "0@1", "--no-pci", "--no-telemetry", "--in-memory",
        "--single-file-segments", "--socket-mem", "256", f"--file-prefix={LINE_PREFIX}", *line,
        "--", str(delay_us * 1000), *map(str, faults), *([f"{pps:.0f}"] if pps else []),
    ]  # fmt: skip
    generator = Pktgen(PREFIX, rundir, ports, core=0)
    # First, and it tries until the sockets are there: the generator does not start without a peer.
    with (rundir / "delayline.log").open("wb") as log:
        forwarder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=processes.clean_environment(), start_new_session=True,
        )  # fmt: skip
    try:
        with generator:
            for pid in (forwarder.pid, generator.pid):
                # What else the machine does is neither the line's nor the generator's.
                priority.give(pid, priority.FIRST)
            yield generator, forwarder.pid
    finally:
        forwarder.kill()
        forwarder.communicate()
        ovsprocess.remove_hugepage_files(HUGEPAGES, LINE_PREFIX)
