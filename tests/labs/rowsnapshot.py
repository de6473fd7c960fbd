"""Rows of the units as a node daemon's replica would have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.network.rows import Row, RowKey
from controller.translate.ovn import (
    LogicalRouter,
    LogicalRouterPort,
    LogicalSwitch,
    LogicalSwitchPort,
    NbSnapshot,
)
from dataplane.model.names import KUBERNETES_OWNER, OWNER_KEY


def snapshot(rows: Mapping[RowKey, Row]) -> NbSnapshot:
    """Switches, routers and their ports; a row's name is its UUID."""
    below: dict[RowKey, list[str]] = {}
    for key, row in rows.items():
        if row.parent is not None and row.parent[1] == "ports":
            below.setdefault(row.parent[0], []).append(key.name)
    made: dict[str, dict[str, Any]] = {}
    for key, row in rows.items():
        columns = {name: _plain(value) for name, value in row.columns.items()}
        columns["external_ids"] = {
            **columns.get("external_ids", {}),
            OWNER_KEY: KUBERNETES_OWNER,
        }
        columns["ports"] = tuple(sorted(below.get(key, ())))
        made.setdefault(key.table, {})[key.name] = columns
    return NbSnapshot(
        switches=_rows(
            made, "Logical_Switch", LogicalSwitch, "name", "ports", "other_config", "external_ids"
        ),
        switch_ports=_rows(
            made, "Logical_Switch_Port", LogicalSwitchPort, "name", "type", "addresses", "options",
            "external_ids",
        ),
        routers=_rows(made, "Logical_Router", LogicalRouter, "name", "ports", "external_ids"),
        router_ports=_rows(
            made, "Logical_Router_Port", LogicalRouterPort, "name", "mac", "networks",
            "external_ids",
        ),
    )  # fmt: skip


def _rows(made: dict[str, dict[str, Any]], table: str, kind: type[Any], *names: str) -> Any:
    return {
        key: kind(**{name: columns[name] for name in names if name in columns})
        for key, columns in made.get(table, {}).items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return tuple(sorted(value))
    return dict(value) if isinstance(value, tuple) else value
