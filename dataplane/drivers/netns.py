"""Work done inside another network namespace, reached by its path.

`ip netns exec` is never used: it remounts /sys, and bpffs and cgroup2 vanish below it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from dataplane.drivers import processes
from dataplane.drivers.processes import NETNS_DIR
from dataplane.ports import DataplaneError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
"""sched.h."""

_NS_GET_NSTYPE = 0xB703
"""ioctl_ns(2)."""


class NetnsError(DataplaneError):
    """The path leads to no network namespace, or to this process's own."""


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the namespace at `path`; it keeps the namespace alive while open.

    Raises:
        NetnsError: nothing is there, or it is the namespace that this thread is in: what is meant
            for a pod must never be done to the node.
    """
    try:
        # Not blocking: what is there may be a pipe, for all that we know.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"network namespace {path}: {reason}; did the container end?"
        raise NetnsError(msg) from error
    try:
        _require_network_kind(fd, path)
        found, own = os.fstat(fd), os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - as fstat
        if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
            msg = f"network namespace {path} is the node's own; give the container one"
            raise NetnsError(msg)
        yield fd
    finally:
        os.close(fd)


def delete_named(name: str) -> None:
    """Remove the namespace that `ip netns add` made under this name; none there is success.

    The first such namespace of a machine has NETNS_DIR mounted on itself (ip-netns(8)). The last
    to go takes that mount along: iproute2 would leave it for ever.
    """
    processes.run(["ip", "netns", "del", name], check=False)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    if any(line.split()[4] == str(NETNS_DIR) for line in mounts) and not any(NETNS_DIR.iterdir()):
        # Somebody may have made one since: then it is busy, and stays.
        processes.run(["umount", str(NETNS_DIR)], check=False)


def _require_network_kind(fd: int, path: str) -> None:
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        msg = f"{path} is no network namespace; did the container end?"
        raise NetnsError(msg)


def inside(fd: int, path: str, work: Callable[[], T]) -> T:
    """What `work` returns when run in the namespace behind `fd`; `path` names it in errors.

    A thread is made for it and ends there, so no other code can ever find itself in a pod's
    namespace, not even when something goes wrong on the way back.

    Raises:
        NetnsError: the kernel refused the descriptor.
        Exception: whatever `work` raises.
    """
    visit = _Visit(fd, path, work)
    visit.start()
    visit.join()
    return visit.outcome()


def inside_named(name: str | None, work: Callable[[], T]) -> T:
    """What `work` returns in the namespace of that name or path; None is this thread's own.

    Raises:
        NetnsError: nothing is there, or it is this thread's own by another name.
        Exception: whatever `work` raises.
    """
    if name is None:
        return work()
    path = str(_path_of(name))
    with opened(path) as fd:
        return inside(fd, path, work)


def is_there(name: str | None) -> bool:
    """Whether the namespace of that name or path exists; None is this thread's own."""
    return name is None or _path_of(name).exists()


def _path_of(name: str) -> Path:
    return Path(name) if "/" in name else NETNS_DIR / name


class _Visit(threading.Thread, Generic[T]):
    """One run of `work` in a namespace."""

    def __init__(self, fd: int, path: str, work: Callable[[], T]) -> None:
        super().__init__(name="netns-visit")
        self._fd = fd
        self._path = path
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(self._fd, CLONE_NEWNET) != 0:
                reason = os.strerror(ctypes.get_errno())
                msg = f"{self._path} cannot be entered as a network namespace: {reason}"
                raise NetnsError(msg)  # noqa: TRY301 - carried over to the caller's thread
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by outcome()
            self._error = error

    def outcome(self) -> T:
        """The result of a run that is over.

        Raises:
            BaseException: what the run raised.
        """
        if self._error is not None:
            raise self._error
        return self._results[0]
