"""One transaction: what has to be done to rows so that they are as wanted, as OVSDB operations.

Decided from the committed contents alone, so it may be made anew at any time. Rows of others are
never in it, but for the one column by which a foreign parent would hold a child of ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from controller.network.rows import Row, RowKey, Value
from controller.ovn.ours import EXTRA_KEY, NAME_KEY, OWNER, OWNER_KEY, Ours
from dataplane.drivers.idl import Replica
from dataplane.drivers.operations import Operation

WHOLE = frozenset({"Meter"})
"""Tables whose rows may not be without children: those are made in the same transaction."""
LARGE = 16
"""Sets with at least so many elements are changed by what differs, not written whole."""
IDS = "external_ids"
MEMBERS = frozenset({("Port_Group", "ports"), ("Address_Set", "addresses")})
"""Columns that lose nobody while it is not known who belongs to them."""

Ref = list[str]


class RefusedError(Exception):
    """A row cannot be made so; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done to one row: `insert`, `update` or `delete`, and the columns that change."""

    action: str
    key: RowKey
    columns: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """From what to what; of large sets of references what goes, and what comes."""


@dataclass(slots=True)
class Desired:
    """What is wanted, and who waits below whom."""

    rows: dict[RowKey, Row] = field(default_factory=dict)
    children: dict[RowKey, set[RowKey]] = field(default_factory=dict)

    def put(self, key: RowKey, row: Row | None) -> None:
        """Want this row, or none."""
        old = self.rows.get(key)
        if old is not None and old.parent is not None and old.parent[0].table in WHOLE:
            self.children[old.parent[0]].discard(key)
        if row is None:
            self.rows.pop(key, None)
            return
        self.rows[key] = row
        if row.parent is not None and row.parent[0].table in WHOLE:
            self.children.setdefault(row.parent[0], set()).add(key)


class Plan:
    """A transaction in the making.

    Attributes:
        deeds: by key; what is as wanted already has none.
        same: keys that were looked at and need nothing.
        held: keys that wait, and for which other key; nothing is done to them.
        partly: keys of rows that are made without some of their references, which do not exist.
        refused: keys of rows that cannot be made, and why.
    """

    def __init__(
        self, replica: Replica, ours: Ours, desired: Desired, dirty: Collection[RowKey],
        failed: Collection[RowKey], *, keep: bool = False,
    ) -> None:  # fmt: skip
        """`keep`: groups keep their members; some of whom they have to are not known."""
        self._keep = keep
        self._replica, self._ours, self._desired = replica, ours, desired
        self._dirty, self._failed = dirty, failed
        self.deeds: dict[RowKey, Deed] = {}
        self.same: set[RowKey] = set()
        self.held: dict[RowKey, RowKey] = {}
        self.partly: dict[RowKey, frozenset[RowKey]] = {}
        self.refused: dict[RowKey, str] = {}
        self._names: dict[RowKey, Ref] = {}
        self._inserts: dict[RowKey, Operation] = {}
        self._before: list[Operation] = []
        self._updates: list[Operation] = []
        self._deletes: list[Operation] = []
        self._mutations: dict[UUID, tuple[str, dict[tuple[str, str], list[Any]]]] = {}
        self._seen: set[RowKey] = set()

    @property
    def size(self) -> int:
        """How many rows it changes."""
        return len(self.deeds)

    def operations(self) -> list[Operation]:
        """The operations, as RFC 7047 (5.2) writes them."""
        mutations = [
            {
                "op": "mutate",
                "table": table,
                "where": _where(uuid),
                "mutations": [[c, how, ["set", values]] for (c, how), values in found.items()],
            }
            for uuid, (table, found) in self._mutations.items()
        ]
        # What goes goes first: a holder that is gone need not let its children go.
        changes = [*self._inserts.values(), *self._deletes, *self._updates, *mutations]
        return [*self._before, *changes]

    def add(self, key: RowKey) -> None:
        """Have this row as it should be."""
        if key in self._seen:
            return
        self._seen.add(key)
        row = self._desired.rows.get(key)
        uuids = self._ours.find(key)
        if row is None:
            if uuids:
                self._delete(key, uuids)
                self.deeds[key] = Deed("delete", key)
            else:
                self.same.add(key)
            return
        if not self._replica.has(key.table):
            self.refused[key] = f"this OVN has no table {key.table}; use a later one"
            return
        try:
            self._put(key, row, uuids)
        except RefusedError as error:
            self.refused[key] = str(error)
        except Exception as error:  # noqa: BLE001  # any defect of ours
            # It must cost one row, and not all that are to be written.
            self._names.pop(key, None)
            self._inserts.pop(key, None)
            self.deeds.pop(key, None)
            self.refused[key] = f"{error!r}; report this as a defect"

    # One row

    def _put(self, key: RowKey, row: Row, uuids: list[UUID]) -> None:
        parent: Ref | None = None
        if row.parent is not None:
            parent = self._resolve(row.parent[0])
            if parent is None:
                self.held[key] = row.parent[0]
                return
        wanted = self._wanted(key, row)
        missing: set[RowKey] = set()
        for column, keys in row.refs.items():
            many = self._type(key.table, column).n_max > 1
            found = {one: self._refer(one) for one in keys}
            lost = [one for one, ref in found.items() if ref is None]
            if lost and (not many or len(lost) == len(keys)) and self._needs(key.table, column):
                self.held[key] = lost[0]
                return
            missing.update(lost)
            wanted[column] = frozenset(ref for ref in found.values() if ref is not None)
        if missing:
            self.partly[key] = frozenset(missing)
        if uuids:
            self._update(key, row, uuids, wanted, parent)
        else:
            self._insert(key, row, wanted, parent)

    def _needs(self, table: str, column: str) -> bool:
        """Whether a row means something else without this reference: one that has only one."""
        type_ = self._type(table, column)
        return bool(type_.n_max == 1 or type_.n_min >= 1)

    def _wanted(self, key: RowKey, row: Row) -> dict[str, Any]:
        """Columns in the words of comparison: scalars, frozensets, dicts."""
        wanted: dict[str, Any] = {}
        for column, value in row.columns.items():
            if column != IDS:
                wanted[column] = _canonical(key, column, value, self._type(key.table, column))
        return wanted

    def _type(self, table: str, column: str) -> Any:
        if not self._replica.has(table, column):
            msg = f"this OVN's {table} has no column {column}; use a later one, or do without"
            raise RefusedError(msg)
        return self._replica.tables[table].columns[column].type

    def _ids(self, key: RowKey, row: Row) -> dict[str, str]:
        """Our keys of external_ids."""
        more = row.columns.get(IDS, ())
        assert isinstance(more, tuple), f"{key}: external_ids are pairs"
        ids = {OWNER_KEY: OWNER, NAME_KEY: key.name, **dict(more)}
        if more:
            ids[EXTRA_KEY] = ",".join(sorted(name for name, _ in more))
        return ids

    def _insert(self, key: RowKey, row: Row, wanted: Mapping[str, Any], parent: Ref | None) -> None:
        name = f"r{len(self._inserts)}"
        self._names[key] = ["named-uuid", name]
        wanted = {column: _told(row, column, value) for column, value in wanted.items()}
        values = {column: _encoded(value) for column, value in wanted.items()}
        if self._replica.has(key.table, IDS):
            values[IDS] = _encoded(self._ids(key, row))
        self._inserts[key] = {
            "op": "insert", "table": key.table, "uuid-name": name, "row": values,
        }  # fmt: skip
        self.deeds[key] = Deed("insert", key, {c: (None, value) for c, value in wanted.items()})
        if parent is not None and row.parent is not None:
            self._adopt(row.parent[0], row.parent[1], parent, ["named-uuid", name])
        if key.table in WHOLE:
            for child in sorted(self._desired.children.get(key, ())):
                self.add(child)

    def _update(
        self, key: RowKey, row: Row, uuids: list[UUID], wanted: Mapping[str, Any],
        parent: Ref | None,
    ) -> None:  # fmt: skip
        uuid = uuids[0]
        has = self._replica.tables[key.table].rows[uuid]
        changed: dict[str, tuple[Any, Any]] = {}
        whole: dict[str, Any] = {}
        for column, value in wanted.items():
            now = _now(has, column)
            if self._keep and (key.table, column) in MEMBERS:
                value = value | now
            if now == value:
                continue
            if isinstance(value, frozenset) and len(value) >= LARGE and now:
                goes, comes = _told(row, column, now - value), _told(row, column, value - now)
                self._mutate(key.table, uuid, column, "delete", goes)
                self._mutate(key.table, uuid, column, "insert", comes)
                changed[column] = (goes, comes) if column in row.refs else (now, value)
            else:
                changed[column] = (_told(row, column, now), _told(row, column, value))
                whole[column] = _encoded(changed[column][1])
        if self._replica.has(key.table, IDS):
            ids = _now(has, IDS)
            after = {**ids, **self._ids(key, row)}
            for name in set(ids.get(EXTRA_KEY, "").split(",")) - dict(_pairs(row)).keys():
                after.pop(name, None)
            if EXTRA_KEY in after and not _pairs(row):
                del after[EXTRA_KEY]
            if after != ids:
                changed[IDS] = (ids, after)
                whole[IDS] = _encoded(after)
        if parent is not None and row.parent is not None:
            moved = self._move(uuid, row.parent, parent)
            if moved:
                changed["(parent)"] = (moved, str(row.parent[0]))
        if len(uuids) > 1:
            self._delete(key, uuids[1:])
            changed["(rows)"] = (len(uuids), 1)
        if not changed:
            self.same.add(key)
            return
        self.deeds[key] = Deed("update", key, changed)
        self._guard(key.table, uuid)
        if whole:
            where = _where(uuid)
            self._updates.append({"op": "update", "table": key.table, "where": where, "row": whole})

    def _move(self, uuid: UUID, wanted: tuple[RowKey, str], parent: Ref) -> str:
        """Have one holder and no other; who held it before, if that changes."""
        place = (wanted[0].table, wanted[1])
        holders = self._ours.holders(uuid)
        right = [
            one for one, where in holders.items() if parent == ["uuid", str(one)] and where == place
        ]
        if not right:
            self._adopt(wanted[0], wanted[1], parent, ["uuid", str(uuid)])
        wrong = {one: where for one, where in holders.items() if one not in right}
        for one, (table, column) in wrong.items():
            self._mutate(table, one, column, "delete", [("uuid", str(uuid))])
        return "" if right and not wrong else ", ".join(map(str, holders)) or "nobody"

    def _delete(self, key: RowKey, uuids: list[UUID]) -> None:
        for uuid in uuids:
            if self._replica.tables[key.table].is_root:
                self._guard(key.table, uuid)
                self._deletes.append({"op": "delete", "table": key.table, "where": _where(uuid)})
            for holder, (table, column) in self._ours.holders(uuid).items():
                self._mutate(table, holder, column, "delete", [("uuid", str(uuid))])

    # References

    def _resolve(self, key: RowKey) -> Ref | None:
        """How a row of ours is referred to in this transaction; None: there is none."""
        found = self._refer(key)
        return None if found is None else list(_ref(found))

    def _refer(self, key: RowKey) -> int | str | None:
        """The same in the words of comparison: the number of its UUID, or its name in here."""
        name = self._names.get(key)
        if name is not None:
            return name[1]
        if key not in self._desired.rows:
            return None
        if uuids := self._ours.find(key):
            return uuids[0].int
        if key in self._dirty and key not in self._failed:
            # It is to be made anyway: now, so that what refers to it need not wait.
            self.add(key)
            name = self._names.get(key)
        return name[1] if name is not None else None

    def _adopt(self, key: RowKey, column: str, parent: Ref, child: Ref) -> None:
        if key in self._inserts:
            row = self._inserts[key]["row"]
            row.setdefault(column, ["set", []])[1].append(child)
        else:
            self._mutate(key.table, UUID(parent[1]), column, "insert", [(child[0], child[1])])

    def _mutate(
        self, table: str, uuid: UUID, column: str, how: str, values: Collection[Any]
    ) -> None:
        if values:
            _, found = self._mutations.setdefault(uuid, (table, {}))
            found.setdefault((column, how), []).extend(_atom(value) for value in values)

    def _guard(self, table: str, uuid: UUID) -> None:
        """Only if it still is the row that we saw: somebody may have taken it away or over."""
        if self._replica.has(table, IDS):
            ids = _now(self._replica.tables[table].rows[uuid], IDS)
            self._before.append({
                "op": "wait", "timeout": 0, "table": table, "where": _where(uuid),
                "columns": [IDS], "until": "==", "rows": [{IDS: _encoded(ids)}],
            })  # fmt: skip


def _pairs(row: Row) -> tuple[tuple[str, str], ...]:
    more = row.columns.get(IDS, ())
    return more if isinstance(more, tuple) else ()


def _where(uuid: UUID) -> list[Any]:
    return [["_uuid", "==", ["uuid", str(uuid)]]]


def _now(row: Any, column: str) -> Any:
    """A committed column in the words of comparison; references as numbers, which compare fast."""
    datum = row._data[column]  # noqa: SLF001  # no public way, and twenty times faster than it
    type_ = datum.type
    if type_.is_map():
        return {key.value: value.value for key, value in datum.values.items()}
    if type_.key.ref_table is not None:
        return frozenset(atom.value.int for atom in datum.values)
    if type_.n_min == 1 and type_.n_max == 1:
        return next(iter(datum.values)).value
    return frozenset(atom.value for atom in datum.values)


def _ref(refer: int | str) -> tuple[str, str]:
    """A reference as RFC 7047 (5.1) writes it."""
    return ("uuid", str(UUID(int=refer))) if isinstance(refer, int) else ("named-uuid", refer)


def _told(row: Row, column: str, value: Any) -> Any:
    """A column's value as it is written, from the words of comparison."""
    return frozenset(map(_ref, value)) if column in row.refs else value


_WORDS = {"string": str, "integer": int, "boolean": bool}


def _canonical(key: RowKey, column: str, value: Value, type_: Any) -> Any:
    if type_.is_map():
        if not isinstance(value, tuple):
            msg = f"{key}: {column} is a map, not {value!r}"
            raise RefusedError(msg)
        return dict(value)
    word = _WORDS.get(type_.key.type.to_string())
    elements = value if isinstance(value, frozenset) else (value,)
    if isinstance(value, tuple) or any(type(one) is not word for one in elements):
        msg = f"{key}: {column} is of {type_.key.type.to_string()}, not {value!r}"
        raise RefusedError(msg)
    if type_.n_min == 1 and type_.n_max == 1:
        if isinstance(value, frozenset):
            msg = f"{key}: {column} has one value, not the set {sorted(map(str, value))}"
            raise RefusedError(msg)
        return value
    return frozenset(elements)


def _atom(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _encoded(value: Any) -> Any:
    """As RFC 7047 (5.1) writes a value."""
    if isinstance(value, dict):
        return ["map", [[name, text] for name, text in value.items()]]
    if isinstance(value, frozenset):
        return ["set", [_atom(one) for one in value]]
    return value
