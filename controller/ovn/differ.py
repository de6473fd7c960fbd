"""One transaction: what has to be done to rows so that they are as wanted, as OVSDB operations.

Decided from the committed contents alone, so it may be made anew at any time. Rows of others are
never in it, but for the one column by which a foreign parent would hold a child of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from controller.network.rows import Row, RowKey
from controller.ovn.ours import EXTRA_KEY, NAME_KEY, OWNER, OWNER_KEY, Ours
from controller.ovn.spelling import (
    IDS,
    RefusedError,
    atom,
    canonical,
    encoded,
    now_of,
    of_row,
    pairs_of,
    ref_of,
    told,
)
from dataplane.drivers.idl import Replica
from dataplane.drivers.operations import Operation

WHOLE = frozenset({"Meter"})
"""Tables whose rows may not be without children: those are made in the same transaction."""
LARGE = 16
"""Sets with at least so many elements are changed by what differs, not written whole."""
MEMBERS = frozenset({("Port_Group", "ports"), ("Address_Set", "addresses")})
"""Columns that lose nobody while it is not known who belongs to them."""
PORTS = "Logical_Switch_Port"

Ref = list[str]


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
        failed: Collection[RowKey], *, members: bool = False,
        mute: Callable[[RowKey], bool] | None = None,
    ) -> None:  # fmt: skip
        """What is wanted, against what is there.

        `members`: groups keep all their members; whom they have to is not known. `mute` says
        whether a row of ours stays for which nobody speaks: whoever refers to it goes on to.
        """
        self._members, self._mute = members, mute
        self._addresses: frozenset[str] | None = None
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
                "where": of_row(uuid),
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
                wanted[column] = canonical(key, column, value, self._type(key.table, column))
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
        wanted = {column: told(row, column, value) for column, value in wanted.items()}
        values = {column: encoded(value) for column, value in wanted.items()}
        if self._replica.has(key.table, IDS):
            values[IDS] = encoded(self._ids(key, row))
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
            now = now_of(has, column)
            value = self._kept(key.table, column, value, now)
            if now == value:
                continue
            if isinstance(value, frozenset) and len(value) >= LARGE and now:
                goes, comes = told(row, column, now - value), told(row, column, value - now)
                self._mutate(key.table, uuid, column, "delete", goes)
                self._mutate(key.table, uuid, column, "insert", comes)
                changed[column] = (goes, comes) if column in row.refs else (now, value)
            else:
                changed[column] = (told(row, column, now), told(row, column, value))
                whole[column] = encoded(changed[column][1])
        if self._replica.has(key.table, IDS):
            ids = now_of(has, IDS)
            after = {**ids, **self._ids(key, row)}
            for name in set(ids.get(EXTRA_KEY, "").split(",")) - dict(pairs_of(row)).keys():
                after.pop(name, None)
            if EXTRA_KEY in after and not pairs_of(row):
                del after[EXTRA_KEY]
            if after != ids:
                changed[IDS] = (ids, after)
                whole[IDS] = encoded(after)
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
            where = of_row(uuid)
            self._updates.append({"op": "update", "table": key.table, "where": where, "row": whole})

    def _kept(self, table: str, column: str, value: Any, now: Any) -> Any:
        """The value, and what of the one before belongs to somebody who says nothing."""
        if self._mute is None or not isinstance(value, frozenset) or not now - value:
            return value
        if self._members and (table, column) in MEMBERS:
            return value | now
        if (table, column) == ("Address_Set", "addresses"):
            return value | (now & self._mute_addresses())
        refers = self._type(table, column).key.ref_table
        if refers is None:
            return value
        gone = ((one, self._ours.key(refers.name, UUID(int=one))) for one in now - value)
        return value | {one for one, key in gone if key is not None and self._mute(key)}

    def _mute_addresses(self) -> frozenset[str]:
        if self._addresses is None:
            assert self._mute is not None
            rows = self._replica.tables[PORTS].rows
            ports = (key for key in [*self._ours.keys()] if key.table == PORTS and self._mute(key))
            texts = (
                text
                for key in ports
                for uuid in self._ours.find(key)
                for text in now_of(rows[uuid], "addresses")
            )
            self._addresses = frozenset(word for text in texts for word in text.split()[1:])
        return self._addresses

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
                self._deletes.append({"op": "delete", "table": key.table, "where": of_row(uuid)})
            for holder, (table, column) in self._ours.holders(uuid).items():
                self._mutate(table, holder, column, "delete", [("uuid", str(uuid))])

    # References

    def _resolve(self, key: RowKey) -> Ref | None:
        """How a row of ours is referred to in this transaction; None: there is none."""
        found = self._refer(key)
        return None if found is None else list(ref_of(found))

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
            found.setdefault((column, how), []).extend(atom(value) for value in values)

    def _guard(self, table: str, uuid: UUID) -> None:
        """Only if it still is the row that we saw: somebody may have taken it away or over."""
        if self._replica.has(table, IDS):
            ids = now_of(self._replica.tables[table].rows[uuid], IDS)
            self._before.append({
                "op": "wait", "timeout": 0, "table": table, "where": of_row(uuid),
                "columns": [IDS], "until": "==", "rows": [{IDS: encoded(ids)}],
            })  # fmt: skip
