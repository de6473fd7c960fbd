"""Rows of the units put into a northbound database that has none of them yet, in one transaction.

Nothing of the controller's own writer is in it: what is judged with it is what rows say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from controller.network.rows import Row, RowKey, Value
from tests.labs.ovnsandbox import OvnSandbox, run


def put(ovn: OvnSandbox, rows: Mapping[RowKey, Row]) -> None:
    """Insert these rows; parents that are none of them are found by their name."""
    names = {key: f"row{at}" for at, key in enumerate(rows)}
    operations: list[Any] = ["OVN_Northbound"]
    for key, row in rows.items():
        columns = {column: _json(value) for column, value in row.columns.items()}
        for column, refs in row.refs.items():
            columns[column] = _refs([names[ref] for ref in refs])
        operations.append(
            {"op": "insert", "table": key.table, "row": columns, "uuid-name": names[key]}
        )
    for key, row in rows.items():
        if row.parent is not None:
            parent, column = row.parent
            where = (
                ["_uuid", "==", ["named-uuid", names[parent]]]
                if parent in names
                else ["name", "==", parent.name]
            )
            mutation = [column, "insert", _refs([names[key]])]
            operations.append(
                {"op": "mutate", "table": parent.table, "where": [where], "mutations": [mutation]}
            )
    answers = json.loads(run("ovsdb-client", "transact", ovn.nb, json.dumps(operations)))
    problems = [answer for answer in answers if answer and "error" in answer]
    assert problems == [], problems
    mutated = [a["count"] for a in answers if a and "count" in a]
    assert all(mutated), "a row's parent is not there"
    ovn.sync()


def _refs(names: list[str]) -> list[Any]:
    return ["set", [["named-uuid", name] for name in sorted(names)]]


def _json(value: Value) -> Any:
    if isinstance(value, frozenset):
        return ["set", sorted(value)]
    if isinstance(value, tuple):
        return ["map", [list(pair) for pair in value]]
    return value
