"""Keeps what units say equal to the facts, and computes only what a change touches.

Whoever is computed, a unit for a key or a derived fact, has each of its reads noted. A change marks
those who read it; those who only read a derived fact are marked as doubtful, and computed only if
that fact, computed anew, is another one. After any history the result is that of computing
everything: nothing depends on the order of changes. docs/decisions/ says why so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.network.booknodes import (
    CLEAN,
    DIRTY,
    DOUBTFUL,
    RUNNING,
    Node,
    Nodes,
    Raised,
    place_of,
    with_one,
    without,
)
from controller.network.merging import NOTHING, Changes, Merger, Sayer
from controller.network.rows import Row, RowKey
from controller.network.store import Store, Token
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, Kind
from controller.translate.ovn import Problem

T = TypeVar("T")

ObjectOf = Callable[[Kind[Any], Hashable], ObjectRef]
"""The object that a fact comes from, for texts."""


class CycleError(Exception):
    """A derived fact asks for itself."""


class _Noting:
    """The view of one computation: notes what it reads."""

    __slots__ = ("_book", "_derived", "_store", "asked", "reads")

    def __init__(self, book: Book, derived: Mapping[Derived[Any], Mapping[Hashable, Node]]) -> None:
        self._book, self._store, self._derived = book, book.store, derived
        self.reads: set[Token] = set()
        self.asked: dict[Node, None] = {}

    def get(self, kind: Kind[T], key: Hashable) -> T | None:
        """The fact of this key, if there is one."""
        self.reads.add((kind, key))
        return self._store.get(kind, key)

    def by(self, kind: Kind[T], index: str, value: Hashable) -> tuple[Any, ...]:
        """The keys found by an index, sorted."""
        self.reads.add((kind, index, value))
        return self._store.by(kind, index, value)

    def all(self, kind: Kind[T]) -> tuple[Any, ...]:
        """Every key, sorted."""
        self.reads.add((kind,))
        return self._store.all(kind)

    def ask(self, kind: Derived[T], key: Hashable) -> T:
        """A derived fact."""
        known = self._derived.get(kind)
        node = known.get(key) if known is not None else None
        if node is None or node.state != CLEAN:
            node = self._book.derive(kind, key)[1]
        self.asked[node] = None
        value = node.value
        if isinstance(value, Raised):
            raise value.error
        return value  # type: ignore[no-any-return]  # a node's value is of its Derived's type


@dataclass(slots=True)
class Work:
    """How much was computed, since the beginning."""

    units: int = 0
    derived: int = 0


class Book:
    """Facts in, changes of rows, writes and problems out. For one thread at a time.

    Attributes:
        work: counts what was computed.
        failed: units and keys whose computation raised; they say what they said before.
    """

    def __init__(self, units: tuple[Unit, ...], object_of: ObjectOf) -> None:
        self.store = Store()
        self.work = Work()
        self.failed: dict[Sayer, str] = {}
        self._object_of = object_of
        self._units: dict[Kind[Any], list[tuple[int, Unit]]] = {}
        for rank, unit in enumerate(units):
            self._units.setdefault(unit.of, []).append((rank, unit))
        self._applied: dict[tuple[int, Hashable], Node] = {}
        self._derived: dict[Derived[Any], dict[Hashable, Node]] = {}
        self._readers: dict[Token, Nodes] = {}
        self._tokens: dict[Token, Token] = {}
        self._pending: dict[Node, None] = {}
        self._orphans: set[Node] = set()
        self._merger = Merger()

    # Facts

    def put(self, kind: Kind[T], key: Hashable, fact: T | None) -> bool:
        """Have this fact, or none of this key; whether that is a change."""
        touched = self.store.put(kind, key, fact)
        if not touched:
            return False
        for rank, unit in self._units.get(kind, ()):
            where = (rank, key)
            node = self._applied.get(where)
            there = fact is not None and (unit.when is None or unit.when(fact))
            if not there and node is not None:
                del self._applied[where]
                self._pending.pop(node, None)
                self._unlink(node)
                self._say(node, NOTHING)
            elif there and node is None:
                node = self._applied[where] = Node(unit, key, rank)
                self._pending[node] = None
        for token in touched:
            for node in self._readers.get(token, ()):
                self._mark(node, DIRTY)
        return True

    def mute(self) -> set[Kind[Any]]:
        """Of which kinds units fail that never said anything that could stay."""
        nodes = (self._applied[one.rank, one.key] for one in self.failed)
        return {node.of.of for node in nodes if isinstance(node.of, Unit) and not node.value.rows}

    @property
    def pending(self) -> int:
        """How many units' answers are in doubt."""
        return len(self._pending)

    # Results

    def update(self) -> Changes:
        """Compute what is in doubt; what became otherwise."""
        pending, self._pending = self._pending, {}
        for node in pending:
            self._refresh(node)
        self._drop_orphans()
        return self._merger.flush()

    @property
    def rows(self) -> dict[RowKey, Row]:
        """All rows as they should be since the last update; not to be written to."""
        return self._merger.rows

    @property
    def writes(self) -> dict[ObjectRef, Wanted]:
        """What all objects should say of themselves; likewise."""
        return self._merger.writes

    @property
    def problems(self) -> dict[ObjectRef, tuple[Problem, ...]]:
        """All problems; likewise."""
        return self._merger.problems

    def sayers(self, row: RowKey) -> tuple[tuple[str, ObjectRef], ...]:
        """Which units say a row and for which objects; the first is the one that is heard."""
        nodes = (self._applied[one.rank, one.key] for one in self._merger.sayers(row))
        return tuple((node.of.name, self._ref(node)) for node in nodes)

    def behind(self, row: RowKey) -> tuple[ObjectRef, ...]:
        """All objects whose facts were read for a row, by whatever detour; sorted."""
        todo = [self._applied[one.rank, one.key] for one in self._merger.sayers(row)]
        seen: set[Node] = set(todo)
        found: set[ObjectRef] = set()
        while todo:
            node = todo.pop()
            found.update(
                self._object_of(token[0], token[1])
                for token in node.reads
                if len(token) == 2 and self.store.get(token[0], token[1]) is not None
            )
            new = [one for one in node.asked if one not in seen]
            seen.update(new)
            todo += new
        return tuple(sorted(found, key=str))

    # Computing

    def derive(self, kind: Derived[Any], key: Hashable) -> tuple[Any, Node]:
        """A derived fact as it is now, for a view.

        Raises:
            CycleError: it is being computed: it asks for itself.
        """
        known = self._derived.get(kind)
        if known is None:
            known = self._derived[kind] = {}
        node = known.get(key)
        if node is None:
            node = known[key] = Node(kind, key)
            self._orphans.add(node)
        elif node.state == RUNNING:
            msg = f"derived fact {kind.name} {key} asks for itself"
            raise CycleError(msg)
        if node.state != CLEAN:
            self._refresh(node)
        return node.value, node

    def _mark(self, node: Node, state: int) -> None:
        todo = [(node, state)]
        while todo:
            node, state = todo.pop()
            was = node.state
            if state <= was:
                continue
            node.state = state
            if node.rank >= 0:
                self._pending[node] = None
            elif was == CLEAN:
                todo += ((reader, DOUBTFUL) for reader in node.readers)

    def _refresh(self, node: Node) -> None:
        """Compute what has to be; a derived fact that comes out otherwise marks its readers."""
        if node.state == DOUBTFUL:
            # In the order in which they were asked: what is asked later may depend on the former.
            for one in node.asked:
                if one.state != CLEAN:
                    self._refresh(one)
                    if node.state == DIRTY:
                        break
            else:
                node.state = CLEAN
        if node.state != DIRTY:
            return
        node.state = RUNNING
        noting = _Noting(self, self._derived)
        if node.rank >= 0:
            value = self._applied_value(node, noting)
            self._link(node, noting)
            self._say(node, value)
            node.value = value
        else:
            value = self._derived_value(node, noting)
            self._link(node, noting)
            if not _same(value, node.value):
                node.value = value
                for reader in node.readers:
                    if reader.state < DIRTY:
                        reader.state = DIRTY
        node.state = CLEAN

    def _applied_value(self, node: Node, view: _Noting) -> Said:
        self.work.units += 1
        sayer = Sayer(node.rank, node.of.name, node.key)
        try:
            said: Said = node.of.compute(view, node.key)
        except Exception as error:  # noqa: BLE001  # any defect of ours
            # A defect of ours must cost one object its changes, and nobody his network.
            self.failed[sayer] = f"{error!r} at {place_of(error)}"
            ref = self._ref(node)
            problem = Problem(
                str(ref),
                f"{node.of.name} failed: {error!r}; what it said before stays",
                "report this as a defect",
            )
            before: Said = node.value
            problems = {**before.problems, ref: (problem,)}
            return Said(before.rows, before.writes, problems)
        self.failed.pop(sayer, None)
        return said if said.rows or said.writes or said.problems else NOTHING

    def _derived_value(self, node: Node, view: _Noting) -> Any:
        self.work.derived += 1
        try:
            return node.of.compute(view, node.key)
        except Exception as error:  # noqa: BLE001  # raised again to each unit that asks
            return Raised(error)

    def _say(self, node: Node, value: Said) -> None:
        if value is not node.value:
            sayer = Sayer(node.rank, node.of.name, node.key)
            self._merger.say(sayer, self._ref(node), node.value, value)
            if value is NOTHING:
                self.failed.pop(sayer, None)

    def _ref(self, node: Node) -> ObjectRef:
        of = node.of
        assert isinstance(of, Unit)
        return self._object_of(of.of, node.key)

    # Links

    def _link(self, node: Node, noting: _Noting) -> None:
        reads = noting.reads
        before = frozenset(node.reads)
        if reads != before:
            for token in before - reads:
                self._forget(token, node)
            for token in reads - before if before else reads:
                self._readers[token] = with_one(self._readers.get(token, ()), node)
            # One tuple for all who read the same.
            node.reads = tuple(self._tokens.setdefault(token, token) for token in reads)
        asked = tuple(noting.asked)
        if asked != node.asked:
            known = frozenset(node.asked)
            for one in node.asked:
                if one not in noting.asked:
                    one.readers = without(one.readers, node)
                    self._orphans.add(one)
            for one in asked:
                if one not in known:
                    one.readers = with_one(one.readers, node)
            node.asked = asked

    def _unlink(self, node: Node) -> None:
        for token in node.reads:
            self._forget(token, node)
        for one in node.asked:
            one.readers = without(one.readers, node)
            self._orphans.add(one)
        node.reads, node.asked = (), ()

    def _forget(self, token: Token, node: Node) -> None:
        left = without(self._readers[token], node)
        if not left:
            del self._readers[token]
            del self._tokens[token]
        else:
            self._readers[token] = left

    def _drop_orphans(self) -> None:
        """Forget derived facts that nobody reads any more."""
        while self._orphans:
            # Another set each time: to pop from one that was large once costs as if it still was.
            orphans, self._orphans = self._orphans, set()
            for node in orphans:
                assert isinstance(node.of, Derived)
                known = self._derived.get(node.of, {})
                if not node.readers and known.get(node.key) is node:
                    del known[node.key]
                    self._unlink(node)

    def __iter__(self) -> Iterator[tuple[RowKey, Row]]:
        return iter(self._merger.rows.items())


def _same(one: Any, other: Any) -> bool:
    return one is other or bool(one == other)
