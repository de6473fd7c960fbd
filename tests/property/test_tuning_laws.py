"""Laws of the tuning plan over random machines, and of the file that holds one."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.model.machine import HugepagePool
from dataplane.model.topology import (
    NO_NODE,
    Boot,
    Core,
    Guest,
    GuestPort,
    NicPort,
    NumaNode,
    Origin,
    OriginKind,
    Taken,
    Topology,
    cpu_list,
    cpu_ranges,
)
from dataplane.model.topologyjson import TopologyFault, topology_from_json, topology_to_json
from dataplane.plan.tuning.compute import every_nic, tuning
from dataplane.plan.tuning.outcome import Pins, Refused, TuningPlan, Wants
from tests.labs.topologies import FILES, broken_laws

SIZES = st.sampled_from([2048, 1 << 20])


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    """Any machine: uneven nodes, odd siblings, CPUs offline, whoever reserves what."""
    count = draw(st.integers(1, 8))
    threads = draw(st.integers(1, 4))
    homes = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=24))
    numbers = draw(st.permutations(range(len(homes) * threads)))
    cores, offline = [], set[int]()
    for index, home in enumerate(homes):
        cpus = frozenset(numbers[index * threads : (index + 1) * threads])
        gone = draw(st.sets(st.sampled_from(sorted(cpus)), max_size=threads - 1))
        offline |= gone
        cores.append(Core(cpus - gone, home, home // 2, draw(st.integers(0, 3))))
    cores.sort(key=lambda core: sorted(core.cpus))
    online = st.frozensets(st.sampled_from(sorted(set(numbers) - offline)))
    some = st.one_of(st.just(frozenset[int]()), online)
    nodes = tuple(
        NumaNode(
            number,
            draw(st.integers(0, 1 << 18)),
            {size: HugepagePool(n, n) for size, n in draw(
                st.dictionaries(SIZES, st.sampled_from([0, 1, 40, 256, 4096]), max_size=2)
            ).items()},
            draw(st.dictionaries(st.integers(0, count - 1), st.integers(10, 255))),
        )
        for number in range(count)
    )  # fmt: skip
    nics = tuple(
        NicPort(
            f"0000:{index:02x}:00.0",
            draw(st.sampled_from(["", f"eth{index}"])),
            draw(st.sampled_from(["ice", "mlx5_core"])),
            draw(st.integers(NO_NODE, count - 1)),
            draw(st.integers(1, 70)),
            draw(st.sampled_from([0, 1000, 25_000, 100_000, 400_000])),
            draw(st.sampled_from([1500, 1800, 9000])),
            draw(st.booleans()),
        )
        for index in range(draw(st.integers(0, 4)))
    )
    guests = tuple(
        Guest(
            f"vm{index}",
            draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, 4096), max_size=2)),
            (GuestPort(f"vhu{index}", draw(st.integers(1, 8))),),
        )
        for index in range(draw(st.integers(0, 3)))
    )
    return Topology(
        Origin(OriginKind.CONSTRUCTED, "drawn"),
        draw(st.sampled_from(["x86_64", "aarch64"])),
        draw(st.sampled_from(["GenuineIntel", "AuthenticAMD", ""])),
        draw(st.text(max_size=5)),
        nodes,
        tuple(cores),
        frozenset(offline),
        nics,
        guests,
        Taken(draw(some), draw(st.none() | some), draw(some), draw(st.none() | online)),
        Boot((), draw(some), draw(some), draw(some), draw(st.integers(0, 3))),
        tuple(sorted(draw(st.sets(SIZES)))),
        draw(st.dictionaries(st.sampled_from(["/dev/hugepages", "/mnt/huge"]), SIZES)),
    )


WANTS = st.builds(
    Wants,
    guest_mtus=st.lists(st.integers(576, 9216), max_size=3).map(tuple),
    guest_ports=st.integers(0, 64),
    hugepages=st.none() | st.tuples(st.just(2048), st.integers(1, 4096)),
    pmd_cores=st.none() | st.integers(1, 4),
    flows=st.none() | st.integers(0, 1_000_000),
    saves_power=st.booleans(),
)


def planned(topology: Topology, wants: Wants) -> TuningPlan | Refused:
    try:
        return tuning(topology, wants, Pins())
    except Refused as error:
        return error


def read(text: str) -> Topology | TopologyFault:
    try:
        return topology_from_json(text, "t.json")
    except TopologyFault as error:
        return error


@given(machines(), WANTS)
def test_a_plan_keeps_the_laws_or_says_that_there_is_none(topology: Topology, wants: Wants) -> None:
    wants = replace(wants, ports=every_nic(topology).ports)
    plan = planned(topology, wants)
    if isinstance(plan, Refused):
        # Only want of cores refuses: a free core, and another CPU for the main thread.
        assert {one.key for one in plan.refusals} <= {"pmd", "lcore"}
        free = [c for c in topology.cores if not c.cpus & topology.forbidden().keys()]
        taken = topology.taken
        mains = topology.cpus if taken.allowed is None else topology.cpus & taken.allowed
        assert len(free) <= 1 or not mains - taken.exclusive
        return
    if wants.hugepages is None:
        assert broken_laws(topology, wants, plan) == []
    assert plan == tuning(topology, wants, Pins())


@given(machines(), st.randoms())
def test_the_order_of_what_is_given_does_not_matter(topology: Topology, random: object) -> None:
    wants = every_nic(topology)
    mixed = list(wants.ports)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    plan = planned(topology, wants)
    if isinstance(plan, Refused):
        return
    assert tuning(topology, replace(wants, ports=tuple(mixed)), Pins()).tuning.ports == (
        plan.tuning.ports
    )


@given(machines(), st.data())
def test_pinned_cores_are_taken_or_refused(topology: Topology, data: st.DataObject) -> None:
    some = st.frozensets(st.integers(0, 100), max_size=6)
    online = st.frozensets(st.sampled_from(sorted(topology.cpus)), max_size=6)
    pins = Pins(
        lcore=data.draw(st.none() | online | some), pmd=data.draw(st.none() | online | some)
    )
    try:
        values = tuning(topology, Wants(), pins).tuning
    except Refused:
        return
    assert pins.lcore in (None, values.lcore)
    assert pins.pmd in (None, values.pmd)
    assert not values.lcore & values.pmd
    assert values.lcore | values.pmd <= topology.cpus
    assert not values.pmd & topology.forbidden().keys()


@given(machines())
def test_a_machine_comes_back_from_its_file(topology: Topology) -> None:
    text = topology_to_json(topology)
    assert topology_from_json(text, "t.json") == topology


@given(st.frozensets(st.integers(0, 9999)))
def test_cpu_lists_come_back(cpus: frozenset[int]) -> None:
    assert cpu_list(cpu_ranges(cpus)) == cpus


@given(st.text(max_size=40) | st.text("0123456789-,", max_size=12))
def test_a_cpu_list_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert all(0 <= cpu <= 9999 for cpu in cpu_list(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below),
    max_leaves=8,
)
SAMPLES = [path.read_text(encoding="utf-8") for path in FILES]


def places(value: object) -> list[tuple[object, object]]:
    """Every container of a document with every key or index in it."""
    found: list[tuple[object, object]] = []
    if isinstance(value, dict):
        for key, below in value.items():
            found += [(value, key), *places(below)]
    elif isinstance(value, list):
        for index, below in enumerate(value):
            found += [(value, index), *places(below)]
    return found


@given(st.sampled_from(SAMPLES), st.data())
def test_a_damaged_file_is_read_or_refused_by_place(text: str, data: st.DataObject) -> None:
    document = json.loads(text)
    holder, key = data.draw(st.sampled_from(places(document)))
    if data.draw(st.booleans()):
        holder[key] = data.draw(JSON)  # type: ignore[index]
    elif isinstance(holder, dict):
        holder[data.draw(st.text(max_size=8))] = holder.pop(key)
    topology = read(json.dumps(document))
    if isinstance(topology, TopologyFault):
        assert topology.faults
        assert all(fault.startswith("t.json") for fault in topology.faults)
    else:
        assert read(topology_to_json(topology)) == topology


@given(st.text(max_size=60) | JSON.map(json.dumps))
def test_what_is_no_topology_is_refused(text: str) -> None:
    with pytest.raises(TopologyFault, match=r"^t\.json"):
        topology_from_json(text, "t.json")


@given(st.sampled_from(SAMPLES), st.data())
def test_a_torn_file_is_refused(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text.rstrip()) - 1))
    with pytest.raises(TopologyFault, match=r"^t\.json: this is not JSON"):
        topology_from_json(text[:cut], "t.json")
