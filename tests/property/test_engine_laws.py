"""Whatever happens, and whenever the controller dies, no address is given twice or taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kinds.subnet import SUBNETS, Subnet
from controller.kube.resources import Key
from controller.network.engine import Engine
from controller.network.facts import NAMESPACES, NODES, PODS, NetNamespace, NetNode, NetPod
from controller.network.heldports import held_port
from controller.network.merging import Changes
from controller.network.rows import Row, RowKey
from controller.network.settings import NetSettings
from controller.network.units import ObjectRef, Wanted

PORT = "Logical_Switch_Port"
SETTINGS = NetSettings(default_cidr="10.9.0.0/28", join_cidr="100.64.0.0/28")
POD = st.integers(0, 11)


@dataclass(frozen=True, slots=True)
class There:
    """A port as the database has it."""

    name: str
    switch: str
    addresses: tuple[str, ...]


class World:
    """The API, the database, and a controller that may die between any two of its writes."""

    def __init__(self, length: int = 29) -> None:
        self.pods: dict[Key, NetPod] = {}
        self.past: list[dict[Key, NetPod]] = [{}]
        self.rows: dict[RowKey, Row] = {}
        self.unwritten: dict[RowKey, Row | None] = {}
        self.others: list[tuple[Any, Any, Any]] = [
            (NAMESPACES, "a", NetNamespace("a")),
            (NODES, "n", NetNode("n")),
            (SUBNETS, "small", Subnet("small", cidr=f"10.8.0.0/{length}", namespaces=("b",))),
            (NAMESPACES, "b", NetNamespace("b")),
        ]
        self.engine = self._begin(lambda _: True)

    def _begin(self, kept: Any, listed: Mapping[Key, NetPod] | None = None) -> Engine:
        engine = Engine(SETTINGS)
        engine.put(self.others)
        listed = self.pods if listed is None else listed
        engine.put((PODS, key, pod) for key, pod in listed.items())
        there = [
            There(key.name, row.parent[0].name if row.parent else "", _texts(row))
            for key, row in self.rows.items()
            if key.table == PORT
        ]
        engine.start([one for one in map(held_port, there) if one is not None])
        wanted = dict(engine.book.rows)
        gone = dict.fromkeys(key for key in self.rows if key not in wanted)
        self.unwritten = {}
        self._write(Changes({**gone, **wanted}, engine.book.writes), kept)
        return engine

    def put(self, key: Key, pod: NetPod | None, kept: Any) -> None:
        """A pod changes; what follows is written, as far as `kept` lets it."""
        if pod is None:
            self.pods.pop(key, None)
        else:
            self.pods[key] = pod
        self.engine.put([(PODS, key, pod)])
        self._write(self.engine.update(), kept)

    def come_or_go(self, what: str, key: Key, number: int, kept: Any) -> None:
        """A pod is made if there is none, or goes if there is one, as far as that is asked for."""
        there = key in self.pods
        if what == "put" and not there:
            self.put(key, NetPod(*key, uid=f"u{number}", node="n"), kept)
        elif what == "drop" and there:
            self.put(key, None, kept)

    def die(self, kept: Any) -> None:
        """The controller ends, and another begins."""
        self.engine = self._begin(kept)

    def lag(self, steps: int, kept: Any) -> None:
        """The controller ends; the next one's list is old, and its watch tells the rest."""
        old = self.past[max(0, len(self.past) - 1 - steps)]
        self.engine = self._begin(kept, old)
        self.engine.put((PODS, key, self.pods.get(key)) for key in {*old, *self.pods})
        self._write(self.engine.update(), kept)

    def _write(self, changes: Changes, kept: Any) -> None:
        # One transaction or none: what is lost is so as a whole, and goes with the next.
        self.unwritten |= changes.rows
        if kept("rows"):
            left, self.unwritten = self.unwritten, {}
            for key, row in left.items():
                if row is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = row
        for ref, wanted in changes.writes.items():
            if ref.resource == "pods" and kept("annotations"):
                self._annotate(ref, wanted)

    def _annotate(self, ref: ObjectRef, wanted: Wanted) -> None:
        key = Key(ref.namespace, ref.name)
        pod = self.pods.get(key)
        if pod is None:
            return
        merged = {**pod.annotations, **wanted.annotations}
        kept = {name: text for name, text in merged.items() if text is not None}
        self.pods[key] = replace(pod, annotations=kept)

    def catch_up(self) -> None:
        """The annotations come back as changes of the pods."""
        self.engine.put((PODS, key, pod) for key, pod in self.pods.items())
        self._write(self.engine.update(), lambda _: True)


def _texts(row: Row) -> tuple[str, ...]:
    found = row.columns.get("addresses", frozenset())
    return tuple(sorted(map(str, found))) if isinstance(found, frozenset) else ()


def _given(rows: Mapping[RowKey, Row]) -> dict[str, str]:
    """Addresses by port, of workloads."""
    found = {}
    for key, row in rows.items():
        if key.table == PORT and row.columns.get("type", "") == "":
            for text in _texts(row):
                mac, _, addresses = text.partition(" ")
                if ":" in mac and addresses:
                    found[key.name] = addresses
    return found


fates = st.lists(st.booleans(), min_size=0, max_size=6)
steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "drop", "die", "label"]), POD, fates),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_no_address_is_given_twice_or_taken_back(
    history: list[tuple[str, int, list[bool]]],
) -> None:
    world = World()
    told: dict[tuple[Key, str], str] = {}
    for number, (what, which, fate) in enumerate(history):
        left = iter(fate)
        kept = lambda _, left=left: next(left, True)  # noqa: E731
        key = Key("ab"[which % 2], f"p{which}")
        pod = world.pods.get(key)
        world.come_or_go(what, key, number, kept)
        if what == "label" and pod is not None:
            world.put(key, replace(pod, labels={"x": str(number)}), kept)
        elif what == "die":
            world.die(kept)
        found = _given(world.rows)
        assert len(set(found.values())) == len(found)
        assert len(set(_given(world.engine.book.rows).values())) == len(
            _given(world.engine.book.rows)
        )
        for one, there in world.pods.items():
            port = f"{one.name}.{one.namespace}"
            address = found.get(port)
            # Until it is written, a port may be that of an earlier pod of the name.
            if address is not None and address == _given(world.engine.book.rows).get(port):
                network = ip_network("10.8.0.0/29" if one.namespace == "b" else "10.9.0.0/28")
                assert all(part in {*map(str, network)} for part in address.split())
                assert told.setdefault((one, there.uid), address) == address
    world.die(lambda _: True)
    world.catch_up()
    final = dict(world.rows)
    world.die(lambda _: True)
    world.catch_up()
    # Who begins anew wants what is there, to the letter.
    assert world.rows == final == world.engine.book.rows


lagging = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "drop", "lag"]), POD, fates), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(lagging)
def test_a_list_that_is_old_gives_nobody_elses_address_away_and_takes_none_back(
    history: list[tuple[str, int, list[bool]]],
) -> None:
    world = World(length=27)
    gone: set[Key] = set()
    told: dict[tuple[Key, str], str] = {}
    for number, (what, which, fate) in enumerate(history):
        left = iter(fate)
        kept = lambda _, left=left: next(left, True)  # noqa: E731
        key = Key("ab"[which % 2], f"p{which}")
        # An old list's pod of the same name would be another one, and nothing says so.
        world.come_or_go(
            what, key if key not in gone else Key(key.namespace, f"r{number}"), number, kept
        )
        if what == "drop":
            gone.add(key)
        if what == "lag":
            world.lag(which, kept)
        world.past.append(dict(world.pods))
        found = _given(world.rows)
        assert len(set(found.values())) == len(found)
        for one, there in world.pods.items():
            if (address := found.get(f"{one.name}.{one.namespace}")) is not None:
                assert told.setdefault((one, there.uid), address) == address
    world.die(lambda _: True)
    world.catch_up()
    assert world.rows == world.engine.book.rows
