"""Northbound rows as they should be, in words that any table can be spoken of in.

A row is known by its table and a name that is unique among our rows of that table. In the database
the name is in `external_ids:millrace-key`; in tables without external_ids (Address_Set has some,
Static_MAC_Binding and Load_Balancer_Group have none) the row's own unique columns say it. Source:
ovn-nb(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Scalar = str | int | bool
Value = Scalar | frozenset[str] | frozenset[int] | tuple[tuple[str, str], ...]
"""A column: one scalar, a set (empty: the column is empty), or a map as sorted pairs."""


class RowKey(NamedTuple):
    """One row of ours: the OVN table and the row's name."""

    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class Row:
    """What a row should be.

    Attributes:
        columns: what we want columns to be; those not named are not touched. `external_ids` are
            the keys of ours beside the owner's, which the writer adds; other keys stay.
        refs: columns that refer to other rows of ours.
        parent: for tables whose rows live only while something refers to them (ports, ACLs, routes,
            policies, NAT, QoS): the row that does, and its column.
    """

    columns: Mapping[str, Value] = field(default_factory=dict)
    refs: Mapping[str, frozenset[RowKey]] = field(default_factory=dict)
    parent: tuple[RowKey, str] | None = None


def pairs(values: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """A map column's value."""
    return tuple(sorted((key, str(value)) for key, value in values.items()))
