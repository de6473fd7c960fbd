"""Table `polls`: devices whose receive queues are polled by threads of the kernel's.

Threaded NAPI (Documentation/networking/napi.rst): the kernel makes a thread for each queue while
the device's `threaded` is 1. Ours are on one core, and first come first served at the lowest
real-time priority (SCHED_FIFO, sched(7)), so that they come before any ordinary thread there, as
softirqs did. How our own is recognised after a restart: by the flag at a veth that is ours
(`dataplane.drivers.links`), which nobody else has reason to touch. A device made anew has no flag,
and a program attached anew has new threads: both differ from the plan, and are told again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import NetlinkError
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.generic import GenericNetlinkSocket

from dataplane.drivers.links import ALIAS
from dataplane.drivers.nicsettings import namespace_sysfs
from dataplane.drivers.rtnl import LinkState, find_link, links, route_socket
from dataplane.model.rows import NapiThread
from dataplane.ports import Failure, ObserveError

PRIORITY = 1
_FLAG = "threaded"
_FAMILY, _NAPI_GET = "netdev", 11
"""linux/netdev.h; it tells threads since Linux 6.8."""

_NOWHERE = NapiThread(-1)
"""Threads that are not all where, and as, one row can say: equal to no plan."""


class _Napi(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    prefix = ""
    nla_map = (
        ("UNSPEC", "none"),
        ("IFINDEX", "uint32"),
        ("ID", "uint32"),
        ("IRQ", "uint32"),
        ("PID", "uint32"),
    )


class NapiThreadsTable:
    """Table `polls`: device name -> NapiThread.

    Args:
        proc: where processes are seen; the kernel's threads have to be among them.
    """

    name = "polls"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def observe(self) -> Mapping[str, NapiThread]:
        """Pairs of ours that have the flag, with where their threads are.

        Raises:
            ObserveError: the kernel does not show them.
        """
        with route_socket() as ipr:
            ours = [link for link in links(ipr) if link.alias == ALIAS and link.kind == "veth"]
        try:
            return {link.name: self._where(link) for link in ours if _is_threaded(link.name)}
        except OSError as error:
            msg = f"who polls {', '.join(link.name for link in ours)}: {error}"
            raise ObserveError(msg) from error

    def upsert(self, batch: Sequence[tuple[str, NapiThread]]) -> Mapping[str, Failure]:
        """Have the threads made, and put them where they belong."""
        failures: dict[str, Failure] = {}
        for device, wanted in batch:
            try:
                self._put(device, wanted)
            except OSError as error:
                waiting = error.errno in (errno.ENODEV, errno.ESRCH)
                failures[device] = Failure(
                    f"no thread to poll {device}: {error.strerror or error}", waiting=waiting
                )
                # Half of it would be worse than none: any core, behind any other thread.
                with contextlib.suppress(OSError):
                    _tell(device, 0)
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Leave the polls to softirqs again; a device that is gone needs nothing."""
        failures: dict[str, Failure] = {}
        for device in keys:
            try:
                _tell(device, 0)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    failures[device] = Failure(str(error.strerror or error))
        return failures

    def _put(self, device: str, wanted: NapiThread) -> None:
        with route_socket() as ipr:
            link = find_link(ipr, device)
        if link is None or link.alias != ALIAS:
            raise OSError(errno.ENODEV, f"there is no device {device} of ours")
        try:
            _tell(device, 1)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                # The kernel's word for a device that nothing polls.
                raise OSError(errno.ESRCH, "it has no program yet") from error
            raise
        threads = self._threads(link)
        if not threads:
            raise OSError(
                errno.ESRCH,
                "its threads are out of sight (hostPID), or nobody says whose are whose",
            )
        for pid in threads:
            os.sched_setaffinity(pid, {wanted.core})
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(PRIORITY))

    def _where(self, link: LinkState) -> NapiThread:
        """The one core of a device's threads, if they are as we make them."""
        found: set[int] = set()
        for pid in self._threads(link):
            try:
                policy, priority = os.sched_getscheduler(pid), os.sched_getparam(pid)
                cores = os.sched_getaffinity(pid)
            except ProcessLookupError:
                return _NOWHERE  # ended in between
            if (policy, priority.sched_priority) != (os.SCHED_FIFO, PRIORITY) or len(cores) != 1:
                return _NOWHERE
            found |= cores
        return NapiThread(found.pop()) if len(found) == 1 else _NOWHERE

    def _threads(self, link: LinkState) -> list[int]:
        """The process ids of a device's threads; none of another device's with the same name."""
        try:
            told = _pids_told(link.index)
        except (NetlinkError, OSError):
            # A kernel that does not say whose a thread is. With another namespace's device of this
            # name there are more of them than queues, and nobody knows.
            everybody = (int(one.name) for one in self._proc.iterdir() if one.name.isdecimal())
            named = [pid for pid in everybody if self._polls(pid, link.name)]
            return sorted(named) if len(named) <= link.queues else []
        # Numbers of the first PID namespace: in another one they are somebody else's.
        return sorted(pid for pid in told if self._polls(pid, link.name))

    def _polls(self, pid: int, device: str) -> bool:
        try:
            comm = (self._proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False  # ended in between
        return comm.startswith(f"napi/{device}-")


def _pids_told(index: int) -> set[int]:
    """The threads of a device's queues, by its number.

    Raises:
        NetlinkError, OSError: this kernel does not tell.
    """
    request: Any = _Napi()
    request["cmd"], request["version"] = _NAPI_GET, 1
    request["attrs"] = [("IFINDEX", index)]
    with GenericNetlinkSocket() as sock:
        sock.bind(_FAMILY, _Napi)
        answers = sock.nlm_request(
            request, msg_type=sock.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP
        )
        return {pid for one in answers if (pid := one.get_attr("PID")) is not None}


def _is_threaded(device: str) -> bool:
    with namespace_sysfs() as root:
        try:
            return (root / "class/net" / device / _FLAG).read_text(encoding="ascii").strip() == "1"
        except (FileNotFoundError, NotADirectoryError):
            return False  # gone, or a kernel before 5.12


def _tell(device: str, value: int) -> None:
    with namespace_sysfs() as root:
        folder = root / "class/net" / device
        if not folder.exists():
            raise OSError(errno.ENODEV, f"no such device: {device}")
        (folder / _FLAG).write_text(f"{value}\n", encoding="ascii")
