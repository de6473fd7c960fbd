"""The table `hugepages`: enough pages of a size, and a hugetlbfs to take them from.

Pages belong to the machine, not to us: the row says "at least", and nothing here ever lowers a
number, since somebody else may have come to need them. So there is nothing to recognise as ours,
and a row that the plan drops is left as it is. (`millrace down` gives back what an embedded node
had borrowed; that record is `dataplane.drivers.machine`'s.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.processes import ProcessError
from dataplane.model.rows import Hugepages
from dataplane.ports import Failure, ObserveError

SYSFS = Path("/sys/kernel/mm/hugepages")
MOUNTINFO = Path("/proc/self/mountinfo")


class HugepagesTable:
    """Table `hugepages`: size [KiB] -> Hugepages.

    `wanted` gives the planned rows: a row counts as equal when the machine has at least its
    pages, and which they are only the plan knows. `sysfs` and `mountinfo` are other files in
    tests.
    """

    name = "hugepages"

    def __init__(
        self,
        wanted: Callable[[], Mapping[int, Hugepages]],
        sysfs: Path = SYSFS,
        mountinfo: Path = MOUNTINFO,
    ) -> None:
        self._wanted = wanted
        self._sysfs = sysfs
        self._mountinfo = mountinfo

    def observe(self) -> Mapping[int, Hugepages]:
        """The planned row where it is fulfilled, else what there is."""
        rows: dict[int, Hugepages] = {}
        for size_kib, wanted in self._wanted().items():
            count = self._pages(size_kib)
            mounted = self._mounted(wanted.mount)
            if count is not None:
                rows[size_kib] = Hugepages(
                    count=min(wanted.count, count),
                    mount=wanted.mount if mounted else "",
                )
        return rows

    def upsert(self, batch: Sequence[tuple[int, Hugepages]]) -> Mapping[int, Failure]:
        """Raise the number of pages and mount hugetlbfs where these are short."""
        failures: dict[int, Failure] = {}
        for size_kib, wanted in batch:
            reason = self._ensure(size_kib, wanted)
            if reason:
                failures[size_kib] = Failure(reason)
        return failures

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Leave everything as it is: others may use the pages by now."""
        del keys
        return {}

    def _ensure(self, size_kib: int, wanted: Hugepages) -> str:
        """Make one row so; why it could not be, empty if it could."""
        count = self._pages(size_kib)
        if count is None:
            return f"this kernel has no hugepages of {size_kib} KiB: see {self._sysfs}"
        if count < wanted.count:
            self._file(size_kib).write_text(f"{wanted.count}\n", encoding="ascii")
            count = self._pages(size_kib) or 0
        if count < wanted.count:
            return (
                f"the kernel made {count} of {wanted.count} hugepages of {size_kib} KiB: memory "
                "is short or in pieces; free some, or reserve them at boot (hugepages=)"
            )
        if not self._mounted(wanted.mount):
            mount = Path(wanted.mount)
            try:
                mount.mkdir(parents=True, exist_ok=True)
                options = ["-o", f"pagesize={size_kib}K"]
                processes.run(["mount", "-t", "hugetlbfs", *options, "hugetlbfs", str(mount)])
            except (OSError, ProcessError) as error:
                return f"hugetlbfs cannot be mounted at {wanted.mount}: {error}"
        return ""

    def _file(self, size_kib: int) -> Path:
        return self._sysfs / f"hugepages-{size_kib}kB" / "nr_hugepages"

    def _pages(self, size_kib: int) -> int | None:
        """Pages of this size that there are; None if the kernel has no such size."""
        try:
            return int(self._file(size_kib).read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            msg = f"{self._file(size_kib)} cannot be read: {error}"
            raise ObserveError(msg) from error

    def _mounted(self, mount: str) -> bool:
        """Whether a hugetlbfs is mounted exactly there (proc_pid_mountinfo(5))."""
        kind = ""
        for line in self._mountinfo.read_text(encoding="utf-8").splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[4] == mount.rstrip("/"):
                kind = right.split()[0]
        return kind == "hugetlbfs"
