"""What embedded nodes change on the machine itself, and how it is put back.

Hugepages, hugetlbfs and bpffs belong to the machine, not to one node, and several embedded nodes
may share it. One record, `/run/millrace/machine.json`, keeps what was there before the first of
them came and who is here now, with the hugepages that each needs: the machine gets their sum, each
takes its own along, and the last one to leave puts everything back. A user whose run directory is
gone no longer counts, so a node that was removed by hand does not hold the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.processes import ProcessError

STATE_DIR = Path("/run/millrace")
BPFFS = Path("/sys/fs/bpf")
LIBXDP = "xdp"
"""Made there by vswitchd's libxdp with its first AF_XDP port; it stays when vswitchd ends."""


@dataclass(slots=True)
class Record:
    """The machine as it was before the first user, and the users.

    `users` maps a run directory to its hugepages: page size in KiB, as text, and count.
    """

    users: dict[str, tuple[str, int]] = field(default_factory=dict)
    hugepages_before: dict[str, int] = field(default_factory=dict)
    mounts_made: list[str] = field(default_factory=list)
    directories_made: list[str] = field(default_factory=list)


def borrow(user: Path, *, size_kib: int, count: int, mount: Path) -> list[str]:
    """Make the machine ready for `user`; what was changed, in words. Safe to repeat.

    The user's run directory must exist: it is what keeps the entry alive.

    Raises:
        ProcessError: the kernel has not enough free memory for the hugepages.
    """
    did: list[str] = []
    with _record() as record:
        record.users = _present(record)
        record.users[str(user)] = (str(size_kib), count)
        # Written before anything is changed: a crash in between must not lose what was.
        record.hugepages_before.setdefault(str(size_kib), _pages(size_kib))
        _save(record)
        for target, kind in ((BPFFS, "bpf"), (mount, "hugetlbfs")):
            if _filesystem_at(target) == kind:
                continue
            if not target.is_dir():
                target.mkdir(parents=True)
                record.directories_made.append(str(target))
            record.mounts_made.append(str(target))
            _save(record)
            options = ["-o", f"pagesize={size_kib}K"] if kind == "hugetlbfs" else []
            processes.run(["mount", "-t", kind, *options, kind, str(target)])
            did.append(f"mounted {kind} at {target}")
        libxdp = BPFFS / LIBXDP
        if not libxdp.is_dir() and str(libxdp) not in record.directories_made:
            record.directories_made.append(str(libxdp))
            _save(record)
        wanted = _wanted(record, str(size_kib))
        if _pages(size_kib) < wanted:
            _make_pages(size_kib, wanted)
            did.append(f"{wanted} hugepages of {size_kib} KiB")
    return did


def give_back(user: Path) -> list[str]:
    """Take `user` off the record, and undo everything if it was the last; what was undone."""
    did: list[str] = []
    if not (STATE_DIR / "machine.json").exists():
        return did
    with _record() as record:
        record.users.pop(str(user), None)
        record.users = _present(record)
        if record.users:
            _save(record)
            for size in record.hugepages_before:
                _set_pages(int(size), _wanted(record, size))
            return did
        libxdp = BPFFS / LIBXDP
        if str(libxdp) in record.directories_made:
            # Before its file system goes. Another's programs may be in it by now: then it stays.
            record.directories_made.remove(str(libxdp))
            _remove_if_empty(libxdp)
        for target in reversed(record.mounts_made):
            if _filesystem_at(Path(target)) is not None:
                processes.run(["umount", target])
                did.append(f"unmounted {target}")
        for size, before in record.hugepages_before.items():
            if _pages(int(size)) != before:
                _set_pages(int(size), before)
                did.append(f"hugepages of {size} KiB back to {before}")
        for made in reversed(record.directories_made):
            try:
                Path(made).rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                did.append(f"left {made}, which `millrace up` made: {error.strerror}")
        (STATE_DIR / "machine.json").unlink(missing_ok=True)
        # With the lock held: whoever waits for it looks whether its file is still the one there.
        (STATE_DIR / ".machine" / "lock").unlink(missing_ok=True)
        _remove_if_empty(STATE_DIR / ".machine")
    _remove_if_empty(STATE_DIR)
    return did


def _remove_if_empty(directory: Path) -> None:
    # Other nodes' directories may be there, or a waiter's new lock; then the directory stays.
    with contextlib.suppress(OSError):
        directory.rmdir()


def _present(record: Record) -> dict[str, tuple[str, int]]:
    """The users whose run directory is still there."""
    return {user: need for user, need in record.users.items() if Path(user).is_dir()}


def _wanted(record: Record, size: str) -> int:
    """Pages of one size for everybody, those of before included."""
    needed = sum(count for one, count in record.users.values() if one == size)
    return record.hugepages_before.get(size, 0) + needed


@contextmanager
def _record() -> Iterator[Record]:
    """The record, under a lock that goes with this process.

    Raises:
        ProcessError: the record is not one.
    """
    with _locked():
        yield _load()


@contextmanager
def _locked() -> Iterator[None]:
    """The one lock of the machine. The last to leave removes its file, so it is looked at again."""
    path = STATE_DIR / ".machine" / "lock"
    while True:
        try:
            if not STATE_DIR.is_dir():
                STATE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
                STATE_DIR.chmod(0o755)
            path.parent.mkdir(exist_ok=True, mode=0o750)
            lock = path.open("w")
        except FileNotFoundError:
            continue  # the last one to leave removed a directory in between
        except FileExistsError:
            if _is_in_the_way(STATE_DIR) or _is_in_the_way(path.parent):
                raise
            continue  # likewise, while mkdir looked at what was in its way
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                is_current = path.stat().st_ino == os.fstat(lock.fileno()).st_ino
            except FileNotFoundError:
                is_current = False
            if not is_current:
                continue
            yield
            return


def _is_in_the_way(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _load() -> Record:
    path = STATE_DIR / "machine.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            users={str(k): (str(v[0]), int(v[1])) for k, v in raw["users"].items()},
            hugepages_before={str(k): int(v) for k, v in raw["hugepages_before"].items()},
            mounts_made=[str(one) for one in raw["mounts_made"]],
            directories_made=[str(one) for one in raw["directories_made"]],
        )
    except FileNotFoundError:
        return Record()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        msg = (
            f"{path}, the record of what nodes changed on this machine, cannot be read "
            f"({error!r}); mend it, or remove it: hugepages and mounts then stay as they are now"
        )
        raise ProcessError(msg) from error


def _save(record: Record) -> None:
    partial = STATE_DIR / "machine.json.new"
    partial.write_text(
        json.dumps(
            {
                "users": record.users,
                "hugepages_before": record.hugepages_before,
                "mounts_made": record.mounts_made,
                "directories_made": record.directories_made,
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    partial.replace(STATE_DIR / "machine.json")


def _pages_file(size_kib: int) -> Path:
    return Path(f"/sys/kernel/mm/hugepages/hugepages-{size_kib}kB/nr_hugepages")


def _pages(size_kib: int) -> int:
    try:
        return int(_pages_file(size_kib).read_text(encoding="ascii"))
    except FileNotFoundError as error:
        msg = f"this kernel has no hugepages of {size_kib} KiB; look in /sys/kernel/mm/hugepages"
        raise ProcessError(msg) from error


def _make_pages(size_kib: int, wanted: int) -> None:
    missing_kib = (wanted - _pages(size_kib)) * size_kib
    # Asked for more than there is, the kernel would take all that anybody else needs.
    available_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable:")
    )
    if missing_kib < available_kib:
        _set_pages(size_kib, wanted)
    got = _pages(size_kib)
    if got < wanted:
        msg = (
            f"{wanted} hugepages of {size_kib} KiB wanted, there are {got} and "
            f"{available_kib // 1024} MiB of memory available, or it is fragmented; "
            "lower [hugepages] count or free memory"
        )
        raise ProcessError(msg)


def _set_pages(size_kib: int, count: int) -> None:
    _pages_file(size_kib).write_text(f"{count}\n", encoding="ascii")


def _filesystem_at(target: Path) -> str | None:
    """The type of the file system mounted exactly at `target` (proc_pid_mountinfo(5))."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[4] == str(target):
            found = right.split()[0]
    return found
