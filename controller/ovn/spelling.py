"""Columns' values in three spellings: as units say them, as they are compared, as OVSDB has them.

Source: RFC 7047 (5.1).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from controller.network.rows import Row, RowKey, Value

IDS = "external_ids"


class RefusedError(Exception):
    """A row cannot be made so; the text says why and what to do."""


def pairs_of(row: Row) -> tuple[tuple[str, str], ...]:
    """Our own keys of external_ids beside the owner's."""
    more = row.columns.get(IDS, ())
    return more if isinstance(more, tuple) else ()


def of_row(uuid: UUID) -> list[Any]:
    """The condition that means one row."""
    return [["_uuid", "==", ["uuid", str(uuid)]]]


def now_of(row: Any, column: str) -> Any:
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


def ref_of(refer: int | str) -> tuple[str, str]:
    """A reference as RFC 7047 (5.1) writes it."""
    return ("uuid", str(UUID(int=refer))) if isinstance(refer, int) else ("named-uuid", refer)


def told(row: Row, column: str, value: Any) -> Any:
    """A column's value as it is written, from the words of comparison."""
    return frozenset(map(ref_of, value)) if column in row.refs else value


_WORDS = {"string": str, "integer": int, "boolean": bool}


def canonical(key: RowKey, column: str, value: Value, type_: Any) -> Any:
    """A value in the words of comparison: scalars, frozensets, dicts.

    Raises:
        RefusedError: it is of another type than the column.
    """
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


def atom(value: Any) -> Any:
    """A value that is no collection."""
    return list(value) if isinstance(value, tuple) else value


def encoded(value: Any) -> Any:
    """As RFC 7047 (5.1) writes a value."""
    if isinstance(value, dict):
        return ["map", [[name, text] for name, text in value.items()]]
    if isinstance(value, frozenset):
        return ["set", [atom(one) for one in value]]
    return value
