"""Threads of the kernel's that poll a veth: whose they are, where they run, who puts them back."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from controller.doctor_host import CAPABILITIES
from dataplane.drivers.links import LinksTable
from dataplane.drivers.napithreads import PRIORITY, NapiThreadsTable
from dataplane.drivers.nicsettings import namespace_sysfs
from dataplane.drivers.pmdtasks import Switches, switches_in
from dataplane.drivers.processes import run
from dataplane.model.addr import Mac
from dataplane.model.rows import Link, NapiThread
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.sandbox import wait_until
from tests.netns.conftest import CLONE_NEWNET

pytestmark = pytest.mark.netns

QUEUES = 2
SENDS = 20_000
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
    run(["ip", "link", "set", "svc0", "up"])
    try:
        polled_by_napi()
        with namespace_sysfs() as root:
            (root / "class/net/svc0/threaded").write_text("1\n")
        assert "no device svc0 of ours" in table.upsert([("svc0", HERE)])["svc0"].reason
        assert is_threaded(), "it is its owner's"
        theirs = threads() - others
        assert {os.sched_getscheduler(pid) for pid in theirs} == {os.SCHED_OTHER}
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

    monkeypatch.setattr("dataplane.drivers.napithreads._NAPI_GET", 99)
    table, alone = NapiThreadsTable(), not svc0
    failures = table.upsert([("svc0", HERE)])
    assert bool(failures) != alone
    assert (table.observe() == {"svc0": HERE}) == alone
    assert is_threaded() == alone


def test_a_process_of_that_name_is_no_thread_of_the_kernels(
    svc0: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.drivers.napithreads._NAPI_GET", 99)
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'napi/svc0-1'); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        assert other.pid in threads()
        failures = NapiThreadsTable().upsert([("svc0", HERE)])
        assert os.sched_getscheduler(other.pid) == os.SCHED_OTHER
        other.kill()
    assert bool(failures) == bool(svc0)


def quarantined(table: NapiThreadsTable) -> str:
    """Why the row is; nothing else of the node waits for it, and softirqs poll."""
    reconciler = Reconciler([table], Backoff())
    assert reconciler.apply({"polls": {"svc0": HERE}}, 0).failed == 1
    assert not is_threaded()
    assert reconciler.apply({"polls": {"svc0": HERE}}, 1).writes == 0
    (status,) = reconciler.statuses().values()
    assert status.quarantined
    return status.reason


def test_threads_out_of_sight_are_left_to_softirqs(svc0: set[int], tmp_path: Path) -> None:
    """A /proc without the kernel's threads: what a PID namespace of one's own has."""
    reason = quarantined(NapiThreadsTable(tmp_path))
    assert "out of sight" in reason
    assert "poll_thread = false" in reason
    assert threads() == svc0


Found = TypeVar("Found")


def without(capability: str, call: Callable[[], Found]) -> Found:
    """What this answers in a thread that lacks one right."""
    found: list[Found] = []

    def unprivileged() -> None:
        # linux/capability.h: version 3; of this thread alone, which ends with it.
        libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        sets[0] &= ~(1 << CAPABILITIES[capability])
        assert libc.capset(header, sets) == 0
        found.append(call())

    thread = threading.Thread(target=unprivileged)
    thread.start()
    thread.join()
    return found[0]


def test_without_the_right_to_it_softirqs_poll_and_the_reason_names_it(svc0: set[int]) -> None:
    assert "CAP_SYS_NICE" in without("CAP_SYS_NICE", lambda: quarantined(NapiThreadsTable()))
    assert threads() == svc0


def test_who_may_not_look_at_the_flag_has_no_row(svc0: set[int]) -> None:
    assert without("CAP_SYS_ADMIN", NapiThreadsTable().observe) == {}
    failed = without("CAP_SYS_ADMIN", lambda: NapiThreadsTable().upsert([("svc0", HERE)]))
    assert failed["svc0"].quarantine
    assert threads() == svc0


def test_each_turn_is_one_switch_that_a_busy_sender_did_not_want(svc0: set[int]) -> None:
    """The sender never sleeps, as a PMD thread: every turn takes its core."""
    table = NapiThreadsTable()
    assert table.upsert([("svc0", HERE)]) == {}
    rows = {"svc0": HERE}
    found: list[tuple[Switches, Switches]] = []

    def now() -> Switches:
        switches = switches_in(Path("/proc/thread-self/status").read_text())
        assert switches is not None
        return replace(switches, turns=table.turns(rows).get(LAST, 0))

    def busy() -> None:
        os.sched_setaffinity(0, {LAST})
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
            packets.bind(("svc0-ovs", 0))
            before = now()
            for _ in range(SENDS):
                packets.send(bytes(60))
            found.append((before, now()))

    thread = threading.Thread(target=busy)
    thread.start()
    thread.join()
    ((before, after),) = found
    assert after.turns - before.turns > SENDS / 2
    assert after.forced - before.forced > SENDS / 2
    assert after.stolen_since(before) < SENDS / 10
    assert table.turns({}) == {}
