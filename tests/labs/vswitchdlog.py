"""What vswitchd's log says of certain ports; its other lines (upcalls, memory) are not counted."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from dataplane.drivers.processes import wait_until

QUIET_S = 1.0
"""A port that is tried again without pause makes thousands of lines in this time."""


def about(log: Path, ports: Collection[str]) -> list[str]:
    """The lines that name one of these ports."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if any(port in line for port in ports)]


def when(line: str) -> float:
    """The time at which a line was written [s since the epoch]."""
    return datetime.fromisoformat(line.partition("|")[0]).timestamp()


def fallen_silent(log: Path, ports: Collection[str]) -> list[str]:
    """The lines about these ports, as soon as no more come.

    vswitchd still takes a port down when its row is gone from the database.

    Raises:
        ProcessError: more and more come.
    """

    def quiet() -> bool:
        before = about(log, ports)
        time.sleep(QUIET_S)
        return about(log, ports) == before

    wait_until(quiet, f"{log} falls silent about {', '.join(ports)}")
    return about(log, ports)
