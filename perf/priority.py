"""Which busy loops of a lab come before everything else that the machine runs, and which after it.

Where the kernel groups processes by session (CONFIG_SCHED_AUTOGROUP, as Debian's and most others),
a priority orders the processes of one session among themselves alone: beside the best of one
session any process of another gets half of the processor. So the session's group is given the
priority, too (sched(7), "The autogroup feature"). Loops that never rest may not have it on all
processors: who asks them how it goes would wait for seconds.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FIRST, USUAL, LAST = -20, 0, 19
"""The best short of real-time, which would stop the harness itself; what all have; the least."""


def give(task: int, nice: int) -> None:
    """A thread's or process's priority, and if that is better than usual, its session's, too.

    A session is never put behind: a busy loop may be one thread of a program whose others are
    asked how it goes. It gets the usual priority back then.

    Raises:
        ProcessLookupError: it has ended.
        PermissionError: only root takes the better ones.
    """
    os.setpriority(os.PRIO_PROCESS, task, nice)
    # The kernel's own threads are in no session, and some kernels have no such groups.
    with contextlib.suppress(OSError):
        Path(f"/proc/{task}/autogroup").write_text(str(min(nice, USUAL)), encoding="ascii")
