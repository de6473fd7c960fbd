"""From two polls of OVS to conditions: differences, guests that are gone, other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controller.conditions import Conditions
from dataplane.drivers.ovsinterfaces import InterfaceState
from dataplane.drivers.ovsscrape import OvsFigures
from dataplane.drivers.ovstext import PmdThread, Rxq
from dataplane.drivers.pmdtasks import Switches
from dataplane.model.state import PortKind
from dataplane.plan.advice import LEAST_PACKETS
from tests.labs.attachments import WEB

VM = replace(WEB, kind=PortKind.VHOST_USER, device="vhu1", socket="/run/x/eth0.sock")
QUEUES = (Rxq("vhu1", 0, True, 10), Rxq("vhu1", 1, False, 0))


def _state(**status: str) -> Mapping[str, InterfaceState]:
    one = InterfaceState(
        "vhu1", "br-int", "dpdkvhostuserclient", 1, "", "up", "up", 1442, {}, status, {}
    )
    return {"vhu1": one}


def _figures(busy: int, lost: int) -> OvsFigures:
    thread = PmdThread(0, 3, counters={"Lost upcalls": lost}, rxqs=QUEUES)
    return OvsFigures(pmds=(thread,), cycles={(0, 3): (1000, busy)})


def _kinds(watch: Conditions, now: float, figures: OvsFigures | None, **status: str) -> set[str]:
    forced = {3: Switches(0, int(now * 2))}
    found = watch.take(now, figures, forced, _state(**status), [VM], {}, {})
    return {one.kind for one in found}


def test_rates_are_those_between_two_polls() -> None:
    watch = Conditions(lambda _: True)
    there = {"status": "connected", "numa": "0"}
    # The first poll has nothing to compare with, but says which queues are off.
    assert _kinds(watch, 0, _figures(10_000, 5), **there) == {"guest-queues"}
    assert _kinds(watch, 10, _figures(20_000, 7), **there) == {
        "guest-queues", "lost-upcalls", "pmd-overload", "pmd-preempted",
    }  # fmt: skip
    # Another process counts from nought again.
    assert _kinds(watch, 20, _figures(5, 0), **there) == {"guest-queues"}
    assert _kinds(watch, 30, None, **there) == set()


def test_a_thread_that_sleeps_is_as_busy_as_it_is_awake() -> None:
    """OVS counts no cycles while it sleeps: nearly all of those that are left have packets."""

    def busy(slept_us: int) -> list[str]:
        watch = Conditions(lambda _: True)
        for now, busy, slept in ((0, 0, 0), (10, 970, slept_us)):
            thread = PmdThread(0, 3, counters={"Sleep time (us)": slept})
            figures = OvsFigures(pmds=(thread,), cycles={(0, 3): (3 * now, busy)})
            found = watch.take(now, figures, {}, {}, [], {}, {})
        return [one.cause for one in found if one.kind == "pmd-overload"]

    assert busy(9_000_000) == []
    (cause,) = busy(100_000)
    assert "busy 96 %" in cause


def test_a_guest_is_gone_once_its_socket_waits_for_it() -> None:
    sockets = {VM.socket}
    watch = Conditions(lambda path: path in sockets)
    assert _kinds(watch, 0, None, status="disconnected") == set()
    assert _kinds(watch, 29, None, status="disconnected") == set()
    assert _kinds(watch, 31, None, status="disconnected") == {"guest-gone"}
    assert _kinds(watch, 40, None, status="connected") == set()
    assert _kinds(watch, 60, None, status="disconnected") == set()
    sockets.clear()  # QEMU has ended: nobody is missed
    assert _kinds(watch, 100, None, status="disconnected") == set()


def test_the_caches_are_judged_by_what_ovs_was_told() -> None:
    def advised(settings: Mapping[str, str]) -> list[str]:
        watch = Conditions(lambda _: True)
        for now, packets in ((0, 0), (10, LEAST_PACKETS)):
            thread = PmdThread(0, 3, counters={"Rx packets": packets, "SMC hits": packets})
            found = watch.take(now, OvsFigures(pmds=(thread,)), {}, {}, [], settings, {})
        return [one.next_step for one in found if one.kind == "flow-cache"]

    # Whoever turned the SMC on, the plan or a hand: nobody is told to do it again.
    assert advised({}) == ['write [tuning] flow_cache = "smc"']
    assert advised({"smc-enable": "true", "emc-insert-inv-prob": "0"}) == []
    assert advised({"emc-insert-inv-prob": "0"}) == []


def test_memory_of_another_numa_node_is_named() -> None:
    watch = Conditions(lambda _: True)
    found = watch.take(0, _figures(0, 0), {}, _state(status="connected", numa="1"), [VM], {}, {})
    (one,) = [condition for condition in found if condition.kind == "guest-numa"]
    assert one.subject == "web-0.shop (vhu1)"
