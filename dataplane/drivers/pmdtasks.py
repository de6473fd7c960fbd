"""The PMD threads as the kernel sees them: how often one was taken off its core.

A PMD thread never sleeps of its own will (unless load-based sleep is on), so whatever switches it
out non-voluntarily stole its core: a wrong CPU isolation, an interrupt thread, another process.
Where a thread of ours polls svc0 on that core (`dataplane.drivers.napithreads`), each of its turns
is one such switch, and as planned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"^pmd-c(\d+)")
_VOLUNTARY = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)", re.MULTILINE)
_FORCED = re.compile(r"^nonvoluntary_ctxt_switches:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Switches:
    """Context switches of one thread since it began (proc_pid_status(5)).

    `turns`: how often our polling threads on its core had a turn since they began.
    """

    voluntary: int
    forced: int
    turns: int = 0

    def stolen_since(self, before: Switches) -> int:
        """How often something that was not planned took its core since then.

        A turn is counted a moment before or after the switch that it is: one in a hundred too many
        is forgiven. Polling threads made anew count from nought, and nobody knows then.
        """
        turns = self.turns - before.turns
        if turns < 0:
            return 0
        return max(self.forced - before.forced - turns - turns // 100, 0)


def switches_of_pmds(pid: int, proc: Path = Path("/proc")) -> dict[int, Switches]:
    """By core, the context switches of vswitchd's PMD threads; a process that is gone has none.

    OVS names a thread "pmd-cCORE/id:N" (dpif-netdev.c), with at least two digits of the core.
    """
    found: dict[int, Switches] = {}
    try:
        tasks = sorted((proc / str(pid) / "task").iterdir())
    except OSError:
        return found
    for task in tasks:
        try:
            name = _NAME.match((task / "comm").read_text(encoding="utf-8", errors="replace"))
            if name is None:
                continue
            status = (task / "status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # ended in between
        if switches := switches_in(status):
            found[int(name[1])] = switches
    return found


def switches_in(status: str) -> Switches | None:
    """What /proc/PID/status says of them."""
    voluntary, forced = _VOLUNTARY.search(status), _FORCED.search(status)
    return Switches(int(voluntary[1]), int(forced[1])) if voluntary and forced else None
