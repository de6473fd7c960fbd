"""Rearrangements of queues that can be checked by hand."""

from __future__ import annotations

from dataplane.plan.rebalance import Core, Hold, QueueLoad, highest, propose, variance

TWO = (Core(2), Core(3))


def test_a_skewed_load_is_divided_and_one_thread_stays_open() -> None:
    queues = [
        QueueLoad("vm0", 0, 2, 40),
        QueueLoad("vm1", 0, 2, 30),
        QueueLoad("vm2", 0, 3, 5),
        QueueLoad("vm3", 0, 3, 5),
    ]
    found = propose(TWO, queues)
    assert found.present == {2: 70.0, 3: 10.0}
    assert highest(found.proposed) == 40
    assert variance(found.present) == 900
    assert variance(found.proposed) == 0
    assert [(move.port, move.before, move.after) for move in found.moves] == [("vm1", 2, 3)]
    # The other thread's queues have no pins, so OVS deals them to the one that is left.
    assert found.affinity == {"vm1": {0: 3}, "vm2": {0: 3}, "vm3": {0: 3}}


def test_two_queues_of_one_guest_go_apart() -> None:
    found = propose(TWO, [QueueLoad("vm0", 0, 2, 45), QueueLoad("vm0", 1, 2, 45)])
    assert found.proposed == {2: 45.0, 3: 45.0}
    assert len(found.moves) == 1


def test_a_small_gain_is_not_worth_a_move() -> None:
    found = propose(
        TWO, [QueueLoad("a", 0, 2, 40), QueueLoad("b", 0, 2, 4), QueueLoad("c", 0, 3, 38)]
    )
    assert found.moves == ()
    assert found.reasons == {0: "the highest load would fall from 44 to 42 %: less than 5 points"}


def test_one_thread_has_nothing_to_choose_from() -> None:
    found = propose([Core(1)], [QueueLoad("a", 0, 1, 99)])
    assert found.affinity == {}
    assert found.reasons == {0: "one PMD thread: nothing to choose from"}


def test_nothing_is_moved_to_another_numa_node() -> None:
    cores = (Core(0, 0), Core(1, 0), Core(8, 1))
    found = propose(cores, [QueueLoad("a", 0, 0, 50), QueueLoad("b", 0, 0, 50)])
    assert found.proposed == {0: 50.0, 1: 50.0, 8: 0.0}


def test_an_operators_pins_stay_and_are_counted() -> None:
    queues = [
        QueueLoad("nic", 0, 2, 60, Hold.PINNED),
        QueueLoad("vm0", 0, 2, 30, pinned=True),
        QueueLoad("vm1", 0, 3, 10),
    ]
    found = propose(TWO, queues)
    assert found.proposed == {2: 60.0, 3: 40.0}
    # Thread 2 is the operator's; what has no pin has to find thread 3.
    assert found.affinity == {}


def test_pins_that_leave_no_thread_open_are_taken_back_whatever_it_gains() -> None:
    queues = [QueueLoad("a", 0, 2, 50, pinned=True), QueueLoad("b", 0, 3, 50, pinned=True)]
    found = propose(TWO, queues)
    assert found.moves == ()
    assert sum(map(len, found.affinity.values())) == 1


def test_without_isolation_every_queue_is_pinned() -> None:
    queues = [QueueLoad("a", 0, 2, 50), QueueLoad("b", 0, 2, 40)]
    found = propose(TWO, queues, isolates=False)
    assert sum(map(len, found.affinity.values())) == 2
