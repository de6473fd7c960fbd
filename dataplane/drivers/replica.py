"""A database's contents in memory, with the look-ups that the library's IDL lacks.

`ovs.db.idl.Idl` finds a row by name only by walking the table (28-59 ms among 10,000 ports), and
reading a column costs microseconds. A `Replica` adds two things, both kept up from the change
notices of the IDL: a hash index per column, and the parsed value of each row, made anew only for
rows that changed. The library's own indices are not used: before OVS 3.4 they miss modifications,
and a reconnection drops them.

A replica belongs to the thread of its `dataplane.drivers.idl.DatabaseClient`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar
from uuid import UUID

import ovs.db.data
import ovs.db.error
import ovs.db.idl
import ovs.db.types

from dataplane.model.layered import Layered
from dataplane.ports import DataplaneError

T = TypeVar("T")

Row = Any
"""An `ovs.db.idl.Row`; the library has no types."""


RECONNECT_MIN_MS = 200
RECONNECT_MAX_MS = 4_000


class SharedEmpty(ovs.db.data.Datum):  # type: ignore[misc]  # the library has no types
    """An empty column that many rows may hold: the library would put one's new value into all."""

    __slots__ = ()

    def diff(self, datum: Any) -> Any:
        """What comes of a change: all of it is new."""
        return datum


class _Index:
    """Rows of one table by the value of one column."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.rows_of: object = None
        self._uuids: dict[Hashable, set[UUID]] = {}
        self._value: dict[UUID, Hashable] = {}

    def rebuild(self, rows: Mapping[UUID, Row]) -> None:
        self.rows_of = rows
        self._uuids.clear()
        self._value.clear()
        for row in rows.values():
            self.put(row)

    def put(self, row: Row) -> None:
        self.drop(row.uuid)
        value = read(row, self.column)
        if not isinstance(value, Hashable):
            value = tuple(value)
        self._value[row.uuid] = value
        self._uuids.setdefault(value, set()).add(row.uuid)

    def drop(self, uuid: UUID) -> None:
        if uuid not in self._value:
            return
        value = self._value.pop(uuid)
        uuids = self._uuids[value]
        uuids.discard(uuid)
        if not uuids:
            del self._uuids[value]

    def get(self, value: Hashable) -> set[UUID]:
        return self._uuids.get(value, set())


class _Keyed:
    """One table's rows as parsed, by a key of their own."""

    def __init__(self) -> None:
        self.rows_of: Mapping[UUID, Row] | None = None
        self.changed: set[UUID] = set()
        self.keys: dict[UUID, str] = {}
        self.values: Layered[str, Any] = Layered({})

    def rebuild(self, rows: Mapping[UUID, Row], parse: Callable[[Row], tuple[str, Any]]) -> None:
        self.rows_of = rows
        self.keys, self.values, self.changed = {}, Layered({}), set(rows)
        self.refresh(rows, parse)

    def refresh(self, rows: Mapping[UUID, Row], parse: Callable[[Row], tuple[str, Any]]) -> None:
        """Another mapping if a row changed; who has the one before keeps it as it was."""
        changed, self.changed = self.changed, set()
        if not changed:
            return
        values: dict[str, Any] = {}
        # First what goes: a row that comes may have the key of one that went.
        for uuid in changed:
            if uuid not in rows and (key := self.keys.pop(uuid, None)) is not None:
                values[key] = None
        for uuid in changed:
            if (row := rows.get(uuid)) is None:
                continue
            key, value = parse(row)
            if (before := self.keys.get(uuid, key)) != key:
                values.setdefault(before, None)
            self.keys[uuid] = key
            values[key] = value
        self.values = self.values.changed(values)


class Replica(ovs.db.idl.Idl):  # type: ignore[misc]  # the library has no types
    """An `Idl` with hash indices and cached parsed rows.

    `listeners` are told table and UUID of each row that comes, goes or changes; a reconnection
    may replace a whole table (`tables[name].rows` is another object then) without telling.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._indices: dict[str, dict[str, _Index]] = {}
        self._parsed: dict[tuple[str, Callable[[Row], Any]], dict[UUID, Any]] = {}
        self._keyed: dict[tuple[str, Callable[[Row], Any]], _Keyed] = {}
        self.listeners: list[Callable[[str, UUID], None]] = []
        super().__init__(*args, **kwargs)
        # The library waits 1-8 s between tries; a local server is back within a fraction of it.
        self._session.reconnect.set_backoff(RECONNECT_MIN_MS, RECONNECT_MAX_MS)

    def notify(self, event: str, row: Row, updates: Row | None = None) -> None:
        """Keep the indices and parsed rows up with one change (called by the library)."""
        del updates
        name = row._table.name  # noqa: SLF001  # the library offers no public way
        for listener in self.listeners:
            listener(name, row.uuid)
        for (table, _), cache in self._parsed.items():
            if table == name:
                cache.pop(row.uuid, None)
        for (table, _), keyed in self._keyed.items():
            if table == name:
                keyed.changed.add(row.uuid)
        for index in self._indices.get(name, {}).values():
            if event == ovs.db.idl.ROW_DELETE:
                index.drop(row.uuid)
            else:
                index.put(row)

    @property
    def synced(self) -> bool:
        """The connection is up and the contents are those of the server."""
        return bool(self._session.is_connected()) and self.state == self.IDL_S_MONITORING

    def steal_lock(self) -> None:
        """Take the lock that was asked for from whoever has it (RFC 7047, 4.1.9)."""
        # Who waits for a lock has to give that up before he may steal it.
        send = self._Idl__do_send_lock_request
        send("unlock")
        self._lock_request_id = send("steal")

    def refusal(self) -> str:
        """Why we do not take the server that answers: "cause; next step"; "" if it may do."""
        table = (self.server_tables or {}).get("Database")
        if table is None or not self.leader_only or self.synced:
            return ""
        models = {read(row, "model") for row in table.rows.values() if row.name == self._db.name}
        if "relay" not in models:
            return ""
        return (
            f"{self.session_name()} is a relay, and who writes {self._db.name} needs its leader; "
            "name the database's own servers"
        )

    def has(self, table: str, column: str | None = None) -> bool:
        """Whether the server's schema has this table (and column) and we asked for it."""
        known = self.tables.get(table)
        return known is not None and (column is None or column in known.columns)

    def find_all(self, table: str, column: str, value: Hashable) -> Iterator[Row]:
        """Committed rows whose column equals `value` (a set column: the tuple of its elements).

        Inside a transaction, rows that it deleted are left out and rows that it inserted are not
        seen.
        """
        rows = self.tables[table].rows
        index = self._indices.setdefault(table, {}).setdefault(column, _Index(column))
        if index.rows_of is not rows:
            # Never filled, or a reconnection replaced the whole table without notices.
            index.rebuild(rows)
        for uuid in tuple(index.get(value)):
            row = rows.get(uuid)
            if row is not None:
                yield row

    def find(self, table: str, column: str, value: Hashable) -> Row | None:
        """The committed row whose column equals `value`; any of them if several do."""
        return next(self.find_all(table, column, value), None)

    def parsed(self, table: str, parse: Callable[[Row], T]) -> Mapping[UUID, T]:
        """`parse` of every row of the table, called again only for rows that changed.

        `parse` must depend on the row's own columns alone (read references with `references`),
        must not be a lambda made anew for each call, and is not called inside transactions.
        """
        cache = self._parsed.setdefault((table, parse), {})
        result: dict[UUID, T] = {}
        for uuid, row in self.tables[table].rows.items():
            value = cache.get(uuid)
            if value is None:
                value = parse(row)
            result[uuid] = value
        self._parsed[table, parse] = result
        return dict(result)

    def keyed(self, table: str, parse: Callable[[Row], tuple[str, T]]) -> Mapping[str, T]:
        """What `parse` makes of every row of the table, by the key that it gives.

        See `parsed`. As long as no row changes, the very same mapping comes again; what changes
        makes another one, with the same objects for the rows that did not.
        """
        held = self._keyed.setdefault((table, parse), _Keyed())
        rows = self.tables[table].rows
        known = held.rows_of is rows
        if known:
            held.refresh(rows, parse)
        else:
            # Never filled, or a reconnection replaced the whole table without notices.
            held.rebuild(rows, parse)
        return held.values

    def rows(self, table: str) -> list[Row]:
        """All rows of a table; none if the server's schema lacks it."""
        return list(self.tables[table].rows.values()) if self.has(table) else []


def read(row: Row, column: str) -> Any:
    """A column's value, several times faster than attribute access when nothing is pending.

    Sets come as lists, maps as dicts, an optional column as a list of none or one.
    """
    if row._idl.txn is None and row._data is not None:  # noqa: SLF001  # see the docstring
        return row._data[column].to_python(row._uuid_to_row)  # noqa: SLF001
    return getattr(row, column)


def optional(row: Row, column: str) -> Any | None:
    """The element of an optional column, or None."""
    value = read(row, column)
    return value[0] if value else None


def references(row: Row, column: str) -> list[UUID]:
    """The UUIDs that a reference column holds, without looking the rows up."""
    return [atom.value for atom in row._data[column].values]  # noqa: SLF001  # no public way


def refers(row: Row, column: str, uuid: UUID) -> bool:
    """Whether a committed reference column holds this UUID; without walking the set."""
    if row._data is None:  # noqa: SLF001  # no public way
        return False
    atom = ovs.db.data.Atom(ovs.db.types.UuidType, uuid)
    return atom in row._data[column].values  # noqa: SLF001


def write(row: Row, column: str, value: object) -> None:
    """Set a column inside a transaction.

    Raises:
        DataplaneError: the value does not fit the column's type. (Plain assignment would log
            that and go on.)
    """
    type_ = row._table.columns[column].type  # noqa: SLF001  # the library offers no public way
    try:
        ovs.db.data.Datum.from_python(type_, value, _uuid_of)
    except ovs.db.error.Error as error:
        msg = f"{row._table.name}.{column} cannot be {value!r}: {error}"  # noqa: SLF001
        raise DataplaneError(msg) from error
    setattr(row, column, value)


def _uuid_of(value: Any) -> Any:
    return value.uuid if isinstance(value, ovs.db.idl.Row) else value
