"""What sends packets: which senders this machine has, and those that somebody else brings.

A sender that is missing is said to be missing, with the reason and what to do. One that no adapter
of ours drives (TRex, Pktgen-DPDK, a hardware tester) is a command: it reads a JSON object from its
standard input, {"schema": "millrace.perf.sender/1", "rate_pps": packets/s, null: as much as goes,
"duration_s": .., "sizes": [[octets with check sequence, share], ..], "flows": .., "dst_mac": ".."},
sends, and prints one, {"tx": .., "rx": .., "seconds": how long it sent, "reordered": 0,
"latency_ns": [[upper end, packets], ..]} or {"error": ".."}, in its last line. What it
leaves in its process group is ended with the trial.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dataplane.drivers import processes
from perf.harness.generator import Counts, HarnessError, Traffic

SCHEMA = "millrace.perf.sender/1"
PATIENCE_S = 60.0
"""How much longer than it was asked to a command may take: it may have to start its sender."""

_BY_COMMAND = "p2p*, pvp, pvvp, vm-vm-rate-*, two-nodes-* by --sender; no adapter of ours"

Which = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Sender:
    """One kind. `used_by`: what asks for it; `missing`: why it is not here, empty: it is."""

    name: str
    used_by: str
    missing: str = ""


def senders(which: Which = shutil.which, root: Path = Path("/")) -> tuple[Sender, ...]:
    """Every kind that there is a use for, whether this machine has it or not."""
    return (
        Sender("pktgen (perf/pktgen)", "p2p*, pvp, pvvp, svc-*, two-nodes-*, --port", _ours(which)),
        Sender("testpmd", "vm-vm-flows, vm-vm-ovn*, east-west-*, out-*", _program(
            which, "dpdk-testpmd", "apt-get install dpdk-dev")),
        Sender("iperf3", "out-*, pod-*, host-*, ends-*", _program(
            which, "iperf3", "apt-get install iperf3")),
        Sender("pktgen (the kernel's)", "nothing by itself: load beside a run", kernel_pktgen(
            root)),
        Sender("Pktgen-DPDK", _BY_COMMAND, _program(
            which, "pktgen", "build it from its sources, Debian has none")),
        Sender("TRex", _BY_COMMAND, _trex(which, root)),
    )  # fmt: skip


def _program(which: Which, name: str, how: str) -> str:
    return "" if which(name) else f"no {name} on PATH; {how}"


def _ours(which: Which) -> str:
    for name, package in (("cc", "gcc"), ("pkg-config", "pkg-config")):
        if not which(name):
            return f"no {name} on PATH to compile it with; apt-get install {package}"
    try:
        processes.run(["pkg-config", "--exists", "libdpdk"])
    except processes.ProcessError:
        return "no libdpdk to compile it with; apt-get install libdpdk-dev"
    return ""


def kernel_pktgen(root: Path) -> str:
    """Why the kernel's own generator is not there; empty: it is."""
    if (root / "proc/net/pktgen").exists():
        return ""
    release = platform.release()
    if any((root / "lib/modules" / release).glob("kernel/net/core/pktgen.ko*")):
        return "the module is not loaded; modprobe pktgen"
    return f"kernel {release} has no such module; another kernel (CONFIG_NET_PKTGEN) has it"


def _trex(which: Which, root: Path) -> str:
    if which("t-rex-64") or any((root / "opt").glob("trex*/**/t-rex-64")):
        return ""
    return "no t-rex-64 on PATH or below /opt/trex*; unpack its release there"


def table(found: Sequence[Sender]) -> str:
    """For people."""
    wide = max(len(each.name) for each in found)
    lines = [
        f"{each.name:<{wide}}  {'absent: ' + each.missing if each.missing else 'here'}"
        f"\n{'':<{wide}}  for {each.used_by}"
        for each in found
    ]
    return "\n".join(lines)


class _Answer(msgspec.Struct, frozen=True):
    tx: int
    rx: int
    seconds: float
    reordered: int = 0
    latency_ns: list[tuple[int, int]] = []
    error: str = ""


def command_of(words: str) -> tuple[str, ...]:
    """A command's words, as a shell reads them.

    Raises:
        HarnessError: there are none, or a quote does not end.
    """
    try:
        found = tuple(shlex.split(words))
    except ValueError as error:
        msg = f"--sender {words!r}: {error}"
        raise HarnessError(msg) from error
    if not found:
        msg = "--sender: no command"
        raise HarnessError(msg)
    return found


def check(words: str, which: Which = shutil.which) -> None:
    """Whether a command can be run here, before anything is started.

    Raises:
        HarnessError: it cannot, or is none.
    """
    program = command_of(words)[0]
    if which(program) is None:
        msg = f"--sender {words}: there is no program {program!r} that can be run"
        raise HarnessError(msg)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A sender behind a command, which is run for each trial."""

    command: tuple[str, ...]
    dst_mac: str = ""

    @property
    def name(self) -> str:
        """For results and messages."""
        return shlex.join(self.command)

    @property
    def paced(self) -> bool:
        """Whoever is asked by this protocol keeps rates; the search sees who does not."""
        return True

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """One trial.

        Raises:
            HarnessError: the command fails, says why not, or answers what is no answer.
        """
        asked: dict[str, Any] = {
            "schema": SCHEMA, "rate_pps": traffic.rate_pps, "duration_s": duration_s,
            "sizes": traffic.sizes, "flows": traffic.flows, "dst_mac": self.dst_mac,
        }  # fmt: skip
        code, said, complained = self._run(json.dumps(asked), duration_s)
        last = said.strip().rpartition("\n")[2]
        # Who fails may still say why in its answer; counts of a failure are no trial.
        counts = self._counts(last) if last.startswith("{") or not code else None
        if counts is None or code:
            why = complained.strip().rpartition("\n")[2] or "it said nothing"
            msg = f"{self.name}: exit code {code}: {why}"
            raise HarnessError(msg)
        return counts

    def _run(self, asked: str, duration_s: float) -> tuple[int, str, str]:
        """Exit code, output and errors; nothing of the command's process group sends on after."""
        try:
            running = subprocess.Popen(  # noqa: S603 - who gives the command runs it
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            msg = f"{self.name}: {error}"
            raise HarnessError(msg) from error
        with running:
            try:
                said, complained = running.communicate(asked, duration_s + PATIENCE_S)
            except UnicodeDecodeError as error:
                msg = f"{self.name}: {error}"
                raise HarnessError(msg) from error
            except subprocess.TimeoutExpired as error:
                msg = f"{self.name}: no answer {PATIENCE_S:g} s after a trial of {duration_s:g} s"
                raise HarnessError(msg) from error
            finally:
                # A wrapper's children, too: one that is left would be in the next trial's way.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
        return running.returncode, said, complained

    def _counts(self, line: str) -> Counts:
        try:
            told = json.loads(line)
            if isinstance(told, dict) and told.get("error"):
                msg = f"{self.name}: {told['error']}"
                raise HarnessError(msg)
            found = msgspec.convert(told, _Answer)
        except (ValueError, msgspec.ValidationError) as error:
            msg = f"{self.name}: its last line is no answer ({error}): {line[:200]!r}"
            raise HarnessError(msg) from error
        sane = 0 <= found.rx <= found.tx and found.reordered >= 0
        if not (sane and 0 < found.seconds < float("inf")):
            msg = (
                f"{self.name}: tx {found.tx}, rx {found.rx}, reordered {found.reordered}, "
                f"{found.seconds} s are no counts"
            )
            raise HarnessError(msg)
        if any(at < 0 or count < 0 for at, count in found.latency_ns):
            msg = f"{self.name}: a latency or a number of packets below 0 is none"
            raise HarnessError(msg)
        return Counts(found.tx, found.rx, found.seconds, found.reordered, tuple(found.latency_ns))
