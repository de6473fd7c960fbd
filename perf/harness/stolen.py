"""Processor time that the host gave to somebody else, as far as it says so."""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")
_STEAL = 8
"""proc_stat(5): the eighth number of a line."""


def stolen_s(stat: Path = STAT) -> float:
    """Since start, of all processors together [s]; 0 where the host does not tell."""
    try:
        words = stat.read_text(encoding="ascii").partition("\n")[0].split()
        return int(words[_STEAL]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def counters(before_s: float, took_s: float, stat: Path = STAT) -> dict[str, float]:
    """The share of all processors' time that was stolen since `before_s`, in `took_s` [s]."""
    share = (stolen_s(stat) - before_s) / (took_s * (os.cpu_count() or 1)) if took_s > 0 else 0.0
    return {"stolen_share": max(0.0, share)}
