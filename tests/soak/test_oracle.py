"""Ten million packets of every kind through the programs and the model of them: no difference.

MILLRACE_ORACLE_PACKETS says how many, MILLRACE_ORACLE_SEED where the worlds begin (else anywhere).
Every processor has its own share, four fifths of it in worlds whose tables are never full, the
others in small and in wide ones that are.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.oracle.classes import EXPECTED, EXPECTED_REASONS
from tests.oracle.kernel import KernelLog
from tests.soak.verdicts import Verdicts

pytestmark = pytest.mark.soak

PACKETS = 10_000_000
FULL_SHARE = 10
"""One packet of so many is of a world with a small full table, and one of one with a wide one."""

APART = 1 << 32
"""Seeds between two processes' worlds: more than either of them comes to."""


@dataclass(slots=True)
class Share:
    """What one processor did."""

    cpu: int
    packets: int = 0
    failed: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def go(self, packets: int, seed: int, directory: Path, *kind: str) -> None:
        """One process with so many packets; its lines are shown as they come."""
        tally = directory / f"{self.cpu}{''.join(kind)}.json"
        command = [
            sys.executable, "-u", "-m", "tests.oracle", "--packets", str(packets),
            "--seed", str(seed), "--cpu", str(self.cpu), "--tally", str(tally),
            *kind,
        ]  # fmt: skip
        lines: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            assert running.stdout is not None
            for line in running.stdout:
                lines.append(line)
                # Every hundredth world, and all of a difference.
                if " worlds" not in line or "00 worlds" in line:
                    print(f"cpu {self.cpu}: {line}", end="", flush=True)
        if running.returncode:
            self.failed.append("".join(lines))
        if tally.exists():
            held = json.loads(tally.read_text())
            self.packets += held["packets"]
            self.counted.update(held["counted"])

    def all(self, packets: int, seed: int, directory: Path) -> None:
        """All kinds of worlds, one after the other."""
        full = packets // FULL_SHARE
        self.go(packets - 2 * full, seed, directory)
        self.go(full, seed, directory, "--crowded")
        self.go(full, seed, directory, "--laden")


def test_ten_million_packets(verdicts: Verdicts, tmp_path: Path) -> None:
    packets = int(os.environ.get("MILLRACE_ORACLE_PACKETS", PACKETS))
    seed = int(os.environ.get("MILLRACE_ORACLE_SEED", secrets.randbelow(1 << 40)))
    shares = [Share(cpu) for cpu in sorted(os.sched_getaffinity(0))]
    each = -(-packets // len(shares))
    began = time.monotonic()
    with KernelLog() as log:
        threads = [
            threading.Thread(target=share.all, args=(each, seed + APART * i, tmp_path))
            for i, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        complaints = log.complaints()
    took = time.monotonic() - began
    went = sum(share.packets for share in shares)
    failed = [text for share in shares for text in share.failed]
    counted = sum((share.counted for share in shares), Counter[str]())
    missing = (EXPECTED | EXPECTED_REASONS) - set(counted)
    held = [
        verdicts.note(
            f"{packets:,} packets through the programs and the model: no difference",
            f"{went:,} in {took / 60:.1f} min, {went / took:,.0f} a second on {len(shares)} CPUs, "
            f"seed {seed}; {len(failed) or 'no'} difference(s)",
            holds=went >= packets and not failed,
        ),
        verdicts.note(
            "every class of frame and every reason among them",
            ", ".join(sorted(missing)) or f"all {len(EXPECTED | EXPECTED_REASONS)}",
            holds=not missing,
        ),
        verdicts.note(
            "the kernel did not complain", "; ".join(complaints) or "nothing", holds=not complaints
        ),
    ]
    assert all(held), "\n".join(failed)
