"""`millrace dump`: the packets of one port, into a file or to another port, for a while.

It needs no daemon. A port of OVS is mirrored by OVS; however that ends, the mirror goes: by itself,
by a signal, or, if it was killed, by the node daemon's next round or the next `millrace dump`. A
container on the trunk has no such port, and is listened to at its own interface.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from controller.attachments import AttachmentStore
from controller.vswitchd import control_socket, running_pid
from dataplane.drivers import mirrors
from dataplane.drivers.mirrors import MirrorError, MirrorsTable, Output
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.pcapfile import beginning, keep_first, record
from dataplane.drivers.podtap import PodTap, TapGoneError
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import NodeConfig
from dataplane.model.names import TRUNK_PORT
from dataplane.model.state import Attachment

POLL_S = 0.2
MAX_MIB = 256
"""A capture ends when its file is as large: the run directory is in memory."""

FILE_MODE = 0o600
BY_COUNT, BY_TIME, BY_SIGNAL = (
    "as many packets as were asked for",
    "its time is over",
    "a signal",
)
BY_END = "the container's interface, which is gone or down"
BY_SIZE = f"{MAX_MIB} MiB, the most that one file gets"


@dataclass(frozen=True, slots=True)
class Order:
    """What to capture. `file` None: copies go to the port `to`. None of the others: no bound."""

    port: str
    file: Path | None
    to: str | None
    count: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was captured: packets in the file (None: there is none), and what ended it.

    `lost`: packets that a container's interface had while the file was not written fast enough.
    """

    port: str
    packets: int | None
    ended_by: str
    lost: int = 0


def dump(config: NodeConfig, order: Order) -> Outcome:
    """Capture a port's packets until the order's bounds, or a signal.

    Raises:
        DataplaneError: no such port, OVS refused, or it is out of reach; the container is gone.
        OSError: the file cannot be written.
    """
    container = AttachmentStore(Path(config.statedir) / "attachments").look(order.port)
    if container is not None and container.tag:
        with _signals() as stop:
            return _tapped(container, order, stop)
    ovs = Ovs(config.ovs_remote)
    ovs.start()
    try:
        ovs.wait_synced(ovs.timeout)
        stale = MirrorsTable(ovs)
        stale.delete(list(stale.observe()))
        with _signals() as stop:
            return _mirrored(ovs, Path(config.ovs_rundir), order, stop)
    finally:
        ovs.stop()


def _mirrored(ovs: Ovs, rundir: Path, order: Order, stop: threading.Event) -> Outcome:
    source = mirrors.find(ovs, order.port)
    if order.file is None:
        assert order.to is not None
        into = mirrors.find(ovs, order.to)
        if into.name == source.name:
            msg = f"{source.name} cannot be its own copy's port"
            raise MirrorError(msg)
        with _mirror(ovs, source, Output(into.name, None)):
            return Outcome(source.name, None, _wait(rundir, order, None, stop))
    # vswitchd writes it, as whoever it runs as: where it can, and not in a stranger's directory.
    raw = mirrors.raw_file(rundir, mirrors.name_of_process())
    try:
        with _opened(order.file) as file:
            _make_raw(raw, rundir)
            with _mirror(ovs, source, Output(mirrors.name_of_process(), raw)):
                ended_by = _wait(rundir, order, raw, stop)
            return Outcome(source.name, keep_first(raw, file, order.count), ended_by)
    finally:
        raw.unlink(missing_ok=True)


def _tapped(container: Attachment, order: Order, stop: threading.Event) -> Outcome:
    """The packets of a container on the trunk; `stop` is looked at every POLL_S."""
    if order.file is None:
        msg = (
            f"{container.iface_id} is a container on the trunk, which has no port in OVS to copy "
            f"from; write its packets to a file (-w), or copy those of {TRUNK_PORT}, where its "
            f"VLAN tag is {container.tag}"
        )
        raise MirrorError(msg)
    deadline = None if order.seconds is None else time.monotonic() + order.seconds
    with PodTap(container.netns, container.ifname) as tap, _opened(order.file) as file:
        size, packets = file.write(beginning()), 0

        def ended() -> str | None:
            if order.count is not None and packets >= order.count:
                return BY_COUNT
            if size >= MAX_MIB << 20:
                return BY_SIZE
            if deadline is not None and time.monotonic() >= deadline:
                return BY_TIME
            return BY_SIGNAL if stop.is_set() else None

        while (ended_by := ended()) is None:
            try:
                packet = tap.next(POLL_S)
            except TapGoneError:
                ended_by = BY_END
                break
            if packet is not None:
                size += file.write(record(packet))
                packets += 1
        return Outcome(container.iface_id, packets, ended_by, tap.lost())


def _opened(path: Path) -> BinaryIO:
    """The file that packets go to: only its user reads what guests say."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    return os.fdopen(handle, "wb")


def _make_raw(raw: Path, rundir: Path) -> None:
    """An empty file for vswitchd to fill: only its user reads what guests say."""
    raw.unlink(missing_ok=True)  # of an earlier process of our number
    handle = os.open(raw, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    owner = rundir.stat()
    os.fchown(handle, owner.st_uid, owner.st_gid)
    os.close(handle)


@contextlib.contextmanager
def _mirror(ovs: Ovs, source: mirrors.Mirrored, output: Output) -> Iterator[None]:
    try:
        mirrors.start(ovs, source, output)
        yield
    finally:
        mirrors.stop(ovs, mirrors.name_of_process())


def _wait(rundir: Path, order: Order, raw: Path | None, stop: threading.Event) -> str:
    deadline = None if order.seconds is None else time.monotonic() + order.seconds
    while not stop.wait(POLL_S):
        if deadline is not None and time.monotonic() >= deadline:
            return BY_TIME
        if raw is None:
            continue
        if order.count is not None and _copied(rundir) >= order.count:
            return BY_COUNT
        if raw.exists() and raw.stat().st_size >= MAX_MIB << 20:
            return BY_SIZE
    return BY_SIGNAL


def _copied(rundir: Path) -> int:
    """Packets that OVS has sent to our output port so far."""
    pid = running_pid(rundir / "ovs-vswitchd.pid")
    if pid is None:
        msg = "ovs-vswitchd does not run"
        raise MirrorError(msg)
    client = UnixctlClient(str(control_socket(rundir, pid)))
    return sent_packets(client.call("dpctl/show", "-s"), mirrors.name_of_process())


def sent_packets(text: str, port: str) -> int:
    """The TX packets of a port in the answer to `dpctl/show -s`; 0 if it is not there."""
    found = re.search(
        rf"^\s*port \d+: {re.escape(port)}\b.*?^\s*TX packets:(\d+)", text, re.DOTALL | re.MULTILINE
    )
    return int(found[1]) if found else 0


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
