"""What the kernel says while programs run: its log, and whether it calls itself tainted.

Looked at: records of /dev/kmsg of level warning and worse that are about BPF, XDP, memory or the
processors (others may work on the machine, so not every warning is ours), and the taint flags of
/proc/sys/kernel/tainted. The format of a record: Linux, Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

LOG = Path("/dev/kmsg")
TAINTED = Path("/proc/sys/kernel/tainted")
WARNING = 4
ROOM = 8192
"""A record is never longer [octets]."""

OURS = re.compile(
    r"bpf|xdp|BUG|WARNING|Oops|general protection|Call Trace|RIP:|KASAN|UBSAN|lockup|rcu:"
    r"|page fault|allocation failure|scheduling while atomic|refcount",
    re.IGNORECASE,
)


class KernelLog:
    """What the kernel says from here on.

    Raises:
        OSError: the kernel's log cannot be read; root can.
    """

    def __init__(self) -> None:
        self._fd = os.open(LOG, os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._tainted = TAINTED.read_text().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def complaints(self) -> list[str]:
        """Every complaint since this was asked last."""
        found = []
        while True:
            try:
                record = os.read(self._fd, ROOM).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:  # some were overwritten; the next read goes on behind them
                continue
            head, _, text = record.partition(";")
            level = int(head.split(",")[0]) & 7
            if level <= WARNING and OURS.search(text):
                found.append(text.partition("\n")[0])
        now = TAINTED.read_text().strip()
        if now != self._tainted:
            found.append(f"tainted was {self._tainted} and is {now}")
            self._tainted = now
        return found
