"""Threads of the kernel's that poll a veth: whose they are, where they run, who puts them back."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers.links import LinksTable
from dataplane.drivers.napithreads import PRIORITY, NapiThreadsTable
from dataplane.drivers.nicsettings import namespace_sysfs
from dataplane.drivers.processes import run
from dataplane.model.addr import Mac
from dataplane.model.rows import Link, NapiThread
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.sandbox import wait_until
from tests.netns.conftest import CLONE_NEWNET

pytestmark = pytest.mark.netns

QUEUES = 2
LINK = Link("svc0-ovs", Mac("0a:58:64:40:ff:01"), 1500, QUEUES, ())
LAST = max(os.sched_getaffinity(0))
HERE = NapiThread(LAST)


def is_threaded() -> bool:
    with namespace_sysfs() as root:
        return (root / "class/net/svc0/threaded").read_text().strip() == "1"


def threads() -> set[int]:
    """All on this machine that poll a device of this name."""
    found = set()
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdecimal() and (place / "comm").read_text().startswith("napi/svc0-"):
                found.add(int(place.name))
        except OSError:
            continue
    return found


def polled_by_napi(*, on: bool = True) -> None:
    """A veth has queues to poll only with a program, or while it merges packets."""
    run(["ethtool", "-K", "svc0", "gro", "on" if on else "off"])


@pytest.fixture
def others() -> set[int]:
    """Threads that were there before."""
    return threads()


@pytest.fixture
def svc0(others: set[int]) -> Iterator[set[int]]:
    assert LinksTable().upsert([("svc0", LINK)]) == {}
    polled_by_napi()
    yield others
    LinksTable().delete(["svc0"])
    wait_until(lambda: threads() <= others, "the link's threads end with it")


def test_each_queue_has_a_thread_ahead_of_all_others_on_that_core(svc0: set[int]) -> None:
    table = NapiThreadsTable()
    assert table.observe() == {}
    assert table.upsert([("svc0", HERE)]) == {}
    ours = threads() - svc0
    assert len(ours) == QUEUES
    for pid in ours:
        assert os.sched_getscheduler(pid) == os.SCHED_FIFO
        assert os.sched_getparam(pid).sched_priority == PRIORITY
        assert os.sched_getaffinity(pid) == {LAST}
    assert NapiThreadsTable().observe() == {"svc0": HERE}


def test_a_restart_writes_nothing_and_another_hand_is_undone(svc0: set[int]) -> None:
    def reconciled() -> int:
        return (
            Reconciler([NapiThreadsTable()], Backoff()).apply({"polls": {"svc0": HERE}}, 0).writes
        )

    assert reconciled() == 1
    assert reconciled() == 0
    (one, *_) = sorted(threads() - svc0)
    os.sched_setscheduler(one, os.SCHED_OTHER, os.sched_param(0))
    assert reconciled() == 1
    # Threads of a device that is polled anew are where the scheduler puts them.
    polled_by_napi(on=False)
    polled_by_napi()
    assert NapiThreadsTable().observe() != {"svc0": HERE}
    assert reconciled() == 1
    assert reconciled() == 0


def test_softirqs_poll_again_when_the_row_goes(svc0: set[int]) -> None:
    table = NapiThreadsTable()
    assert table.upsert([("svc0", HERE)]) == {}
    assert is_threaded()
    assert table.delete(["svc0"]) == {}
    assert not is_threaded()
    assert table.observe() == {}
    assert table.delete(["svc0", "nowhere0"]) == {}


def test_a_link_without_a_program_waits_and_is_left_to_softirqs(others: set[int]) -> None:
    assert LinksTable().upsert([("svc0", LINK)]) == {}
    table = NapiThreadsTable()
    try:
        failure = table.upsert([("svc0", HERE)])["svc0"]
        assert failure.waiting
        assert "no program yet" in failure.reason
        assert not is_threaded()
        polled_by_napi()
        assert threads() == others
        assert table.upsert([("svc0", HERE)]) == {}
    finally:
        LinksTable().delete(["svc0"])


def test_a_link_that_is_not_there_or_not_ours_is_refused(others: set[int]) -> None:
    table = NapiThreadsTable()
    assert "no device svc0 of ours" in table.upsert([("svc0", HERE)])["svc0"].reason
    run(["ip", "link", "add", "svc0", "type", "veth", "peer", "name", "other0"])
    try:
        polled_by_napi()
        assert "no device svc0 of ours" in table.upsert([("svc0", HERE)])["svc0"].reason
        assert threads() == others
        assert table.observe() == {}
    finally:
        run(["ip", "link", "del", "svc0"])


def test_a_core_that_is_not_there_leaves_the_polls_to_softirqs(svc0: set[int]) -> None:
    failure = NapiThreadsTable().upsert([("svc0", NapiThread(1023))])["svc0"]
    assert "no thread to poll svc0" in failure.reason
    assert not is_threaded()
    assert threads() == svc0


def test_another_namespaces_link_of_this_name_keeps_its_threads(svc0: set[int]) -> None:
    table = NapiThreadsTable()
    assert table.upsert([("svc0", HERE)]) == {}
    ours = threads() - svc0
    found: list[object] = []

    def elsewhere() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        assert LinksTable().upsert([("svc0", LINK)]) == {}
        polled_by_napi()
        found.append(table.observe())
        found.append(table.upsert([("svc0", HERE)]))
        found.append(len(threads() - svc0 - ours))
        LinksTable().delete(["svc0"])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [{}, {}, QUEUES]
    assert threads() - svc0 == ours
    assert table.observe() == {"svc0": HERE}


def test_a_kernel_that_does_not_tell_whose_threads_they_are(
    svc0: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake: the refusal of a kernel before 6.8, which this one does not make."""

    def refused(index: int) -> set[int]:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("dataplane.drivers.napithreads._pids_told", refused)
    table, alone = NapiThreadsTable(), not svc0
    failures = table.upsert([("svc0", HERE)])
    assert bool(failures) != alone
    assert (table.observe() == {"svc0": HERE}) == alone
    assert is_threaded() == alone
