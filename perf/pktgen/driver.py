"""The generator as its users have it: start it on DPDK's ports, and ask for runs.

Source of the words for what is lost or out of order: RFC 2544, RFC 4737.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dataplane.drivers import ovsprocess, processes
from dataplane.ports import DataplaneError
from perf.compiled import program

SOURCE = Path(__file__).with_name("pktgen.c")
HUGEPAGES = Path("/dev/hugepages")
FCS = 4
"""Octets of a frame's check sequence, which frames here do not have."""

SLACK_S = 20.0
"""How much longer than it was asked to a run may take before the generator counts as stuck."""


class GeneratorError(DataplaneError):
    """The generator does not start, ended, or refuses what it was asked for."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run sends.

    Args:
        pps: frames a second; 0: as many as the device takes.
        seconds: how long it sends; it listens a while longer.
        sizes: octets of frames with check sequence, sent in turn (RFC 2544: 64 to 1518).
        flows: as many source addresses and ports, in turn; at most 1,048,576.
        tx, rx: DPDK's numbers of the ports.
        src_mac .. dst_port: of the frames; "" and 0: the generator's own.
        drain_ms: how long it listens.
        relays: ports between which frames are passed on meanwhile, one way, as a guest does that
            forwards; a port and itself: what comes is sent back, addresses changed over.
        watch: a process whose time without a processor is told, too; 0: nobody's.
    """

    pps: float
    seconds: float = 1.0
    sizes: tuple[int, ...] = (64,)
    flows: int = 1
    tx: int = 0
    rx: int = 1
    src_mac: str = ""
    dst_mac: str = ""
    src_ip: str = ""
    dst_ip: str = ""
    dst_port: int = 0
    drain_ms: int = 100
    relays: tuple[tuple[int, int], ...] = ()
    watch: int = 0

    def command(self) -> str:
        """As the generator reads it."""
        sizes = ",".join(str(size - FCS) for size in self.sizes)
        words = [f"pps={self.pps:.17g}", f"seconds={self.seconds:.9g}", f"sizes={sizes}"]
        words += [f"flows={self.flows}", f"tx={self.tx}", f"rx={self.rx}"]
        words += [f"drain_ms={self.drain_ms}"]
        for key in ("src_mac", "dst_mac", "src_ip", "dst_ip", "dst_port", "watch"):
            if value := getattr(self, key):
                words.append(f"{key}={value}")
        if self.relays:
            words.append("relay=" + ",".join(f"{here}:{there}" for here, there in self.relays))
        return " ".join(["run", *words])


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    `received` counts each frame once; `reordered` those that came behind a later one of their
    flow; `strangers` what else came in by `rx`; `relayed` and `relay_full` what the relays passed
    on and lost. `behind_ns`: how far sending was behind schedule at worst; `refused_ns`: how long
    the device did not take frames that were due; `away_ns`: how long the sender had no processor,
    because of another program or, where the kernel is told, the host; `watched_away_ns`: how long
    the watched process had none meanwhile. `delay` has (upper end of a
    cell [ns], frames) in order; a cell is 1/64 of its value wide.
    """

    seconds: float
    sent: int
    octets: int
    received: int
    duplicates: int
    reordered: int
    strangers: int
    relayed: int
    relay_full: int
    behind_ns: float
    refused_ns: float
    away_ns: float
    watched_away_ns: float
    max_ns: float
    delay: tuple[tuple[float, int], ...] = field(default=())

    @property
    def lost(self) -> int:
        """Frames that were sent and did not come, as long as the run listened."""
        return self.sent - self.received

    @property
    def loss(self) -> float:
        """The same, of all that were sent."""
        return self.lost / self.sent if self.sent else 0.0

    @property
    def pps(self) -> float:
        """Frames a second that were sent."""
        return self.sent / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """The delay that so many of a hundred frames stayed below [ns]; nan: none came."""
        wanted, found = percent / 100 * sum(count for _, count in self.delay), 0
        for end, count in self.delay:
            found += count
            if found >= wanted:
                return min(end, self.max_ns)
        return float("nan")


class Pktgen:
    """A running generator. `start` it, or use it in a `with`; `stop` removes all that it made.

    Args:
        prefix: EAL's name for the process, and its directory's in `rundir`.
        rundir: where socket and log go.
        devices: EAL's words for the ports, in their order ("--vdev=net_virtio_user0,path=...").
        core: the processor that it keeps busy.
        max_size: the largest frame of any run, with check sequence.
        memory_mib: hugepages it takes; `huge=False` takes ordinary memory instead.
        enter: a command before it ("nsenter", ...).
        probe: whether PCI devices among `devices` are looked for.
    """

    def __init__(
        self,
        prefix: str,
        rundir: Path,
        devices: Sequence[str],
        *,
        core: int = 0,
        max_size: int = 1518,
        memory_mib: int = 256,
        huge: bool = True,
        enter: Sequence[str] = (),
        probe: bool = False,
    ) -> None:
        self._prefix = prefix
        self._socket = rundir / f"{prefix}.sock"
        self._log = rundir / f"{prefix}.log"
        memory = ["--in-memory", "--single-file-segments", "--socket-mem", str(memory_mib)]
        if not huge:
            memory = ["--no-huge", "-m", str(memory_mib)]
        self._words = [
            *enter, str(program(SOURCE)), "--lcores", f"0@{core}", "--no-telemetry",
            *([] if probe else ["--no-pci"]), f"--file-prefix={prefix}", *memory, *devices,
            "--", str(self._socket), str(max_size - FCS),
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self._connection: socket.socket | None = None

    def start(self) -> None:
        """Start it; returns when it listens.

        Raises:
            GeneratorError: it ended instead; the last lines of its log are in the message.
        """
        self._socket.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=processes.clean_environment(),
                # A session has one priority among all sessions (perf.priority): this one its own.
                start_new_session=True,
            )
        assert self._process.stdout is not None
        # EAL's own lines are no objects.
        if not any(line.startswith("{") for line in self._process.stdout):
            why = self._tail()
            self.stop()
            msg = f"the packet generator does not start:\n{why}"
            raise GeneratorError(msg)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(self._socket))

    def run(self, load: Load) -> Trial:
        """Send, listen, and say what came.

        Raises:
            GeneratorError: it refuses the load and says why, it ended, or it does not answer.
        """
        assert self._connection is not None, "start it first"
        self._connection.settimeout(load.seconds + load.drain_ms / 1000 + SLACK_S)
        try:
            self._connection.sendall(f"{load.command()}\n".encode())
            answer = next(self._lines(), "")
        except OSError as error:
            msg = f"the packet generator does not answer ({error}):\n{self._tail()}"
            raise GeneratorError(msg) from error
        if not answer:
            msg = f"the packet generator ended:\n{self._tail()}"
            raise GeneratorError(msg)
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            msg = f"the packet generator refuses {load.command()!r}: {found['error']}"
            raise GeneratorError(msg)
        delay = tuple((float(end), int(count)) for end, count in found.pop("delay"))
        return Trial(**found, delay=delay)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "start it first"
        return self._process.pid

    def stop(self) -> None:
        """End it, and remove what it left in the file system."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._socket.unlink(missing_ok=True)
        ovsprocess.remove_hugepage_files(HUGEPAGES, self._prefix)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _lines(self) -> Iterator[str]:
        assert self._connection is not None
        buffer = b""
        while chunk := self._connection.recv(1 << 16):
            buffer += chunk
            if buffer.endswith(b"\n"):
                yield buffer.decode()
                return

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return processes.tail(self._log)
        return ""
