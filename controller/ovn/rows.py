"""Reading a row of an OVN database: references as sorted text, empty text as nothing."""

from __future__ import annotations

from typing import Any

from dataplane.drivers.idl import Row, optional, references


def refs(row: Row, column: str) -> tuple[str, ...]:
    """The UUIDs that a reference column holds, sorted."""
    return tuple(sorted(str(uuid) for uuid in references(row, column)))


def text_or_none(row: Row, column: str) -> str | None:
    """The element of an optional text column; an empty text says as little as none."""
    value = optional(row, column)
    return str(value) if value else None


def committed(row: Row, column: str) -> Any:
    """A column's committed value, whatever the open transaction has pending for it.

    As `dataplane.drivers.idl.read`, which inside a transaction is some ten times slower.
    """
    return row._data[column].to_python(row._uuid_to_row)  # noqa: SLF001  # no public way
