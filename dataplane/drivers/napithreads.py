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
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import NetlinkError
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.generic import GenericNetlinkSocket

from dataplane.drivers.links import ALIAS
from dataplane.drivers.nicsettings import namespace_sysfs
from dataplane.drivers.pmdtasks import switches_in
from dataplane.drivers.rtnl import LinkState, find_link, links, route_socket
from dataplane.model.rows import NapiThread
from dataplane.ports import Failure, ObserveError

PRIORITY = 1
_FLAG = "threaded"
_FAMILY, _NAPI_GET = "netdev", 11
"""linux/netdev.h; it tells threads since Linux 6.8."""

_UNTOLD = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
"""A kernel before 6.3 has no such family, and one before 6.8 no such request."""

_WAITING = frozenset({errno.ENODEV, errno.EOPNOTSUPP, errno.ESRCH})
"""No device, nothing that polls it, no thread of it: what other tables, or a moment, put right."""

_OF_THE_KERNEL = 0x00200000
"""PF_KTHREAD (linux/sched.h) among the flags in /proc/PID/stat (proc_pid_stat(5))."""

_KTHREADD = 2
"""Its number in the first PID namespace; no other has any thread of the kernel's."""

_STAT = re.compile(r"^\d+ \((?P<comm>.*)\) \S(?: -?\d+){5} (?P<flags>\d+) ", re.DOTALL)

_NOWHERE = NapiThread(-1)
"""Threads that are not all where, and as, one row can say: equal to no plan."""


class _OutOfSightError(OSError):
    """There are threads, and which of those that can be seen are the device's nobody says."""


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
        """Have the threads made, and put them where they belong.

        What only an operator can put right is quarantined: softirqs poll as well, so nothing else
        of the node may wait for it.
        """
        failures: dict[str, Failure] = {}
        for device, wanted in batch:
            with route_socket() as ipr:
                link = find_link(ipr, device)
            if link is None or link.alias != ALIAS:
                failures[device] = Failure(f"there is no device {device} of ours", waiting=True)
                continue
            try:
                self._put(link, wanted)
            except OSError as error:
                waiting = error.errno in _WAITING
                failures[device] = Failure(
                    _reason(device, error), waiting=waiting, quarantine=not waiting
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

    def turns(self, rows: Mapping[str, NapiThread]) -> Mapping[int, int]:
        """By core, how often the threads of these rows have slept, so polled, since they began.

        Raises:
            ObserveError: the kernel does not show them.
        """
        found: dict[int, int] = {}
        for device, row in rows.items():
            with route_socket() as ipr:
                link = find_link(ipr, device)
            try:
                threads = self._threads(link) if link is not None and link.alias == ALIAS else []
                for pid in threads:
                    status = (self._proc / str(pid) / "status").read_text(encoding="utf-8")
                    if switches := switches_in(status):
                        found[row.core] = found.get(row.core, 0) + switches.voluntary
            except OSError as error:
                msg = f"who polls {device}: {error}"
                raise ObserveError(msg) from error
        return found

    def _put(self, link: LinkState, wanted: NapiThread) -> None:
        _tell(link.name, 1)
        threads = self._threads(link)
        if not threads:
            raise OSError(errno.ESRCH, "it has no thread yet")
        for pid in threads:
            os.sched_setaffinity(pid, {wanted.core})
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(PRIORITY))

    def _where(self, link: LinkState) -> NapiThread:
        """The one core of a device's threads, if they are as we make them."""
        found: set[int] = set()
        try:
            threads = self._threads(link)
        except _OutOfSightError:
            return _NOWHERE
        for pid in threads:
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
        """The process ids of a device's threads.

        Raises:
            OSError: among others that nobody says which they are, for good.
        """
        told = _pids_told(link.index)
        if not self._kernel_name(_KTHREADD):
            raise _OutOfSightError(errno.EPERM, "its threads are out of sight (hostPID)")
        if told is not None:
            return sorted(pid for pid in told if self._polls(pid, link.name))
        everybody = (int(one.name) for one in self._proc.iterdir() if one.name.isdecimal())
        named = sorted(pid for pid in everybody if self._polls(pid, link.name))
        if len(named) > link.queues:
            words = "this kernel does not tell its threads from those of another namespace's link"
            raise _OutOfSightError(errno.EPERM, words)
        return named

    def _polls(self, pid: int, device: str) -> bool:
        """Whether it is a thread of the kernel's for a device of this name.

        The name alone says little: any process may give itself one (PR_SET_NAME in prctl(2)), and
        would be ahead of every other on the PMD thread's core.
        """
        comm = self._kernel_name(pid)
        return re.fullmatch(rf"napi/{re.escape(device)}-\d+", comm) is not None

    def _kernel_name(self, pid: int) -> str:
        """The name of a thread of the kernel's; empty for any other, and for none."""
        try:
            stat = (self._proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""  # ended in between
        found = _STAT.match(stat)
        return found["comm"] if found and int(found["flags"]) & _OF_THE_KERNEL else ""


def _reason(device: str, error: OSError) -> str:
    text = f"no thread to poll {device}: {error.strerror or error}"
    if error.errno == errno.EOPNOTSUPP:
        return f"{text}: it has no program yet"  # the kernel's word for what nothing polls
    if error.errno in _WAITING:
        return text
    if error.errno == errno.EPERM and not isinstance(error, _OutOfSightError):
        text += ": the daemon needs CAP_SYS_NICE, and a unit without RestrictRealtime"
    return f"{text}; softirqs poll it, as with poll_thread = false below [services]"


def _pids_told(index: int) -> set[int] | None:
    """The threads of a device's queues, by its number; None: this kernel does not tell.

    Raises:
        OSError: it does, and did not.
    """
    request: Any = _Napi()
    request["cmd"], request["version"] = _NAPI_GET, 1
    request["attrs"] = [("IFINDEX", index)]
    try:
        with GenericNetlinkSocket() as sock:
            sock.bind(_FAMILY, _Napi)
            answers = sock.nlm_request(
                request, msg_type=sock.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP
            )
            return {pid for one in answers if (pid := one.get_attr("PID")) is not None}
    except NetlinkError as error:
        if error.code in _UNTOLD:
            return None
        raise OSError(error.code, os.strerror(error.code)) from error


def _is_threaded(device: str) -> bool:
    try:
        with namespace_sysfs() as root:
            return (root / "class/net" / device / _FLAG).read_text(encoding="ascii").strip() == "1"
    except (FileNotFoundError, NotADirectoryError):
        return False  # gone, or a kernel before 5.12
    except PermissionError:
        return False  # who may not look could not have set it, and the node must not wait for it


def _tell(device: str, value: int) -> None:
    with namespace_sysfs() as root:
        folder = root / "class/net" / device
        if not folder.exists():
            raise OSError(errno.ENODEV, f"no such device: {device}")
        (folder / _FLAG).write_text(f"{value}\n", encoding="ascii")
