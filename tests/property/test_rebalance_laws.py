"""What holds of every rearrangement of queues, whatever the loads, pins and threads."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from dataplane.plan.rebalance import (
    LEAST_POINTS,
    LEAST_SHARE,
    Core,
    Hold,
    QueueLoad,
    Rebalance,
    highest,
    pairs,
    parsed,
    propose,
)

Machine = tuple[tuple[Core, ...], tuple[QueueLoad, ...]]


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    cpus = draw(st.lists(st.integers(0, 63), min_size=1, max_size=8, unique=True))
    cores = tuple(Core(cpu, draw(st.integers(0, 1))) for cpu in cpus)
    queues = []
    for number in range(draw(st.integers(0, 12))):
        hold = draw(st.sampled_from((Hold.OURS, Hold.OURS, Hold.OURS, Hold.PINNED, Hold.LOOSE)))
        cpu = draw(st.sampled_from(cpus))
        pinned = hold is Hold.OURS and draw(st.booleans())
        load = float(draw(st.integers(0, 100)))
        queues.append(QueueLoad(f"p{number // 2}", number % 2, cpu, load, hold, pinned))
    return cores, tuple(queues)


def _after(found: Rebalance, queues: tuple[QueueLoad, ...]) -> dict[tuple[str, int], int]:
    moved = {(move.port, move.queue): move.after for move in found.moves}
    return {queue.name: moved.get(queue.name, queue.cpu) for queue in queues}


@given(machines(), st.booleans())
def test_the_highest_load_never_rises_and_no_load_is_lost(machine: Machine, isolates: bool) -> None:
    cores, queues = machine
    found = propose(cores, queues, isolates=isolates)
    assert highest(found.proposed) <= highest(found.present)
    for numa in {core.numa for core in cores}:
        here = [core.cpu for core in cores if core.numa == numa]
        assert (
            abs(sum(found.present[c] for c in here) - sum(found.proposed[c] for c in here)) < 1e-6
        )
        assert max(found.proposed[c] for c in here) <= max(found.present[c] for c in here)


@given(machines(), st.booleans())
def test_every_queue_is_polled_once_on_its_numa_node(machine: Machine, isolates: bool) -> None:
    cores, queues = machine
    numa = {core.cpu: core.numa for core in cores}
    found = propose(cores, queues, isolates=isolates)
    assert len({(move.port, move.queue) for move in found.moves}) == len(found.moves)
    by_name = {queue.name: queue for queue in queues}
    for move in found.moves:
        queue = by_name[move.port, move.queue]
        assert queue.hold is Hold.OURS
        assert (move.before, move.load) == (queue.cpu, queue.load)
        assert numa[move.before] == numa[move.after]
    places = _after(found, queues)
    for port, pins in found.affinity.items():
        for queue_number, cpu in pins.items():
            assert by_name[port, queue_number].hold is Hold.OURS
            assert places[port, queue_number] == cpu


@given(machines())
def test_a_queue_without_a_pin_always_finds_a_thread(machine: Machine) -> None:
    """Unless somebody else's pins have taken all of a NUMA node already."""
    cores, queues = machine
    found = propose(cores, queues)
    for numa in {core.numa for core in cores}:
        here = {core.cpu for core in cores if core.numa == numa}
        others = {q.cpu for q in queues if q.hold is Hold.PINNED and q.cpu in here}
        ours = {cpu for pins in found.affinity.values() for cpu in pins.values()} & here
        if len(here) > 1 and here - others and any(
            q.hold is Hold.OURS for q in queues if q.cpu in here
        ):  # fmt: skip
            assert here - others - ours, (found, here)


@given(machines())
def test_where_nothing_is_gained_nothing_changes(machine: Machine) -> None:
    cores, queues = machine
    found = propose(cores, queues)
    for numa in found.reasons:
        here = {core.cpu for core in cores if core.numa == numa}
        kept = {q.name: q.cpu for q in queues if q.pinned and q.cpu in here}
        pins = {
            (port, queue): cpu
            for port, queues_of in found.affinity.items()
            for queue, cpu in queues_of.items()
            if cpu in here
        }
        assert pins == kept
        assert not [move for move in found.moves if move.before in here]


@given(machines())
def test_a_second_look_at_the_same_loads_moves_nothing(machine: Machine) -> None:
    cores, queues = machine
    first = propose(cores, queues)
    places = _after(first, queues)
    moved = tuple(
        QueueLoad(
            q.port, q.queue, places[q.name], q.load, q.hold,
            pinned=q.hold is Hold.OURS and q.queue in first.affinity.get(q.port, {}),
        )
        for q in queues
        if q.hold is not Hold.LOOSE
    )  # fmt: skip
    if len(moved) == len(queues):
        assert propose(cores, moved).moves == ()


@given(st.lists(st.integers(1, 100), min_size=2, max_size=7), st.integers(2, 3))
def test_it_is_close_to_the_best_partition(loads: list[int], count: int) -> None:
    """Within the bound of longest-first (Graham 1969), and what is not worth a move."""
    queues = [QueueLoad(f"p{number}", 0, 0, float(load)) for number, load in enumerate(loads)]
    best = min(
        max(
            sum(load for load, at in zip(loads, places, strict=True) if at == cpu) for cpu in places
        )
        for places in product(range(count), repeat=len(loads))
    )
    found = propose([Core(cpu) for cpu in range(count)], queues)
    bound = best * (4 / 3 - 1 / (3 * count)) + 1.5
    assert highest(found.proposed) <= bound + max(LEAST_POINTS, LEAST_SHARE * sum(loads))
    if found.moves:
        assert highest(found.proposed) <= bound


@given(st.dictionaries(st.integers(0, 64), st.integers(0, 255)))
def test_pins_read_back_as_they_were_written(pins: dict[int, int]) -> None:
    assert parsed(pairs(pins)) == pins
