"""How each northbound row of ours is written and removed, inside one transaction.

Rows of others are never written; a foreign parent gets our child by a mutation of the one column.
Everything is decided from the committed rows: no key is in a batch twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any
from uuid import UUID

from controller.ovn.rows import committed
from controller.translate.nbrows import (
    PORT_PREFIXES,
    ROUTER_KEYS,
    MacKey,
    MacRow,
    NatKey,
    NatRow,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    RouterPortRow,
    RouterRow,
    SetRow,
    SwitchPortRow,
    SwitchRow,
)
from dataplane.drivers.idl import Replica, Row, Transaction, read, references, write
from dataplane.model.names import OWNER, OWNER_KEY

_SWITCH, _SWITCH_PORT = "Logical_Switch", "Logical_Switch_Port"
_ROUTER, _ROUTER_PORT = "Logical_Router", "Logical_Router_Port"
_ROUTE, _POLICY = "Logical_Router_Static_Route", "Logical_Router_Policy"
_MAC, _NAT, _SET = "Static_MAC_Binding", "NAT", "Address_Set"

Below = dict[Hashable, list[tuple[Row, Row]]]
"""Rows below a parent, by what tells them apart: the parent's row and the row."""


class RefusedError(Exception):
    """One row cannot be made; its text is for the operator."""


class Batch:
    """One transaction, and look-ups that are made once for all of its rows."""

    def __init__(self, replica: Replica, txn: Transaction) -> None:
        self.replica, self.txn = replica, txn
        self._below: dict[tuple[str, str], Below] = {}
        self._holders: dict[str, dict[UUID, Row]] = {}

    def insert(self, table: str) -> Row:
        """A new row."""
        return self.txn.insert(self.replica.tables[table])

    def named(self, table: str, name: str) -> Row:
        """Our row of that name, made if need be; a row of another owner is not taken over.

        Raises:
            RefusedError: there is a foreign row of that name.
        """
        found = sorted(self.replica.find_all(table, "name", name), key=lambda row: str(row.uuid))
        ours = [row for row in found if _is_ours(row)]
        if not ours and found:
            msg = (
                f"{table} {name} is there and not ours (external_ids:{OWNER_KEY}); rename it, "
                f"or set that key to {OWNER} to hand it over"
            )
            raise RefusedError(msg)
        if ours:
            return ours[0]
        row = self.insert(table)
        write(row, "name", name)
        write(row, "external_ids", {OWNER_KEY: OWNER})
        return row

    def parent(self, table: str, name: str) -> Row:
        """The one row of that name.

        Raises:
            RefusedError: there is none, or several.
        """
        found = list(self.replica.find_all(table, "name", name))
        if len(found) != 1:
            msg = f"{'several rows are' if found else 'no row is'} {table} {name}"
            raise RefusedError(msg)
        return found[0]

    def holder(self, child: Row, table: str) -> Row | None:
        """The switch or router that a port belongs to (strong references: at most one)."""
        if table not in self._holders:
            self._holders[table] = {
                uuid: row for row in self.replica.rows(table) for uuid in references(row, "ports")
            }
        return self._holders[table].get(child.uuid)

    def adopt(self, child: Row, table: str, parent: Row) -> None:
        """Have `parent`, and nobody else, refer to a port."""
        before = self.holder(child, table)
        if before is not None:
            if before.uuid == parent.uuid:
                return
            before.delvalue("ports", child.uuid)
        parent.addvalue("ports", child.uuid)

    def below(
        self, router: str, table: str, column: str, key_of: Callable[[Row], Hashable]
    ) -> Below:
        """Our rows that a column of the routers of that name refers to."""
        where = (router, column)
        if where not in self._below:
            found: Below = {}
            rows = self.replica.tables[table].rows
            for parent in list(self.replica.find_all(_ROUTER, "name", router)):
                for uuid in references(parent, column):
                    row = rows.get(uuid)
                    if row is not None and _is_ours(row):
                        found.setdefault(key_of(row), []).append((parent, row))
            self._below[where] = found
        return self._below[where]


def _is_ours(row: Row) -> bool:
    return bool(committed(row, "external_ids").get(OWNER_KEY) == OWNER)


def put_switch(batch: Batch, name: str, _: SwitchRow) -> None:
    """Make a switch so."""
    batch.named(_SWITCH, name)


def drop_switch(batch: Batch, name: str) -> None:
    """Remove a switch of ours."""
    _drop_named(batch, _SWITCH, name)


def put_router(batch: Batch, name: str, value: RouterRow) -> None:
    """Make a router so; keys that others put into its external_ids stay."""
    row = batch.named(_ROUTER, name)
    write(row, "options", dict(value.options))
    for key, text in value.external_ids:
        row.setkey("external_ids", key, text)
    wanted = dict(value.external_ids).keys()
    for key in (ROUTER_KEYS - wanted) & read(row, "external_ids").keys():
        row.delkey("external_ids", key)


def drop_router(batch: Batch, name: str) -> None:
    """Remove a router of ours."""
    _drop_named(batch, _ROUTER, name)


def _drop_named(batch: Batch, table: str, name: str) -> None:
    for row in list(batch.replica.find_all(table, "name", name)):
        if _is_ours(row):
            row.delete()


def put_router_port(batch: Batch, name: str, value: RouterPortRow) -> None:
    """Make a router port so, below its router."""
    parent = batch.parent(_ROUTER, value.router)
    was_there = any(True for _ in batch.replica.find_all(_ROUTER_PORT, "name", name))
    row = batch.named(_ROUTER_PORT, name)
    write(row, "mac", value.mac)
    write(row, "networks", list(value.networks))
    if value.table:
        row.setkey("options", "route_table", value.table)
    elif was_there and "route_table" in committed(row, "options"):
        row.delkey("options", "route_table")
    batch.adopt(row, _ROUTER, parent)


def drop_router_port(batch: Batch, name: str) -> None:
    """Remove a router port of ours."""
    _drop_port(batch, _ROUTER_PORT, name, _ROUTER)


def put_switch_port(batch: Batch, name: str, value: SwitchPortRow) -> None:
    """Make a switch port so, below its switch."""
    parent = batch.parent(_SWITCH, value.switch)
    row = batch.named(_SWITCH_PORT, name)
    write(row, "type", value.type)
    write(row, "addresses", list(value.addresses))
    write(row, "port_security", list(value.port_security))
    write(row, "options", dict(value.options))
    batch.adopt(row, _SWITCH, parent)


def drop_switch_port(batch: Batch, name: str) -> None:
    """Remove a switch port of ours."""
    _drop_port(batch, _SWITCH_PORT, name, _SWITCH)


def _drop_port(batch: Batch, table: str, name: str, parents: str) -> None:
    """Rows that are no roots vanish with the last reference to them."""
    for row in list(batch.replica.find_all(table, "name", name)):
        holder = batch.holder(row, parents)
        if _is_ours(row) and holder is not None:
            holder.delvalue("ports", row.uuid)


def _macs(batch: Batch, key: MacKey) -> list[Row]:
    # The schema's index makes (logical_port, ip) unique.
    found = batch.replica.find_all(_MAC, "logical_port", key.logical_port)
    return [row for row in found if committed(row, "ip") == key.ip]


def put_mac(batch: Batch, key: MacKey, value: MacRow) -> None:
    """Make a static MAC binding so."""
    found = _macs(batch, key)
    if found:
        row = found[0]
    else:
        row = batch.insert(_MAC)
        write(row, "logical_port", key.logical_port)
        write(row, "ip", key.ip)
    write(row, "mac", value.mac)
    write(row, "override_dynamic_mac", value.override)


def drop_mac(batch: Batch, key: MacKey) -> None:
    """Remove a static MAC binding of a port of ours."""
    if key.logical_port.startswith(PORT_PREFIXES):
        for row in _macs(batch, key):
            row.delete()


def _put_below(
    batch: Batch,
    router: str,
    where: tuple[str, str],
    found: list[tuple[Row, Row]],
    values: Mapping[str, Any],
) -> None:
    """One row of ours below a router with these values; `found` are those that are there."""
    table, column = where
    if found:
        row = found[0][1]
    else:
        row = batch.insert(table)
        write(row, "external_ids", {OWNER_KEY: OWNER})
        batch.parent(_ROUTER, router).addvalue(column, row.uuid)
    for name, value in values.items():
        write(row, name, value)
    for parent, twin in found[1:]:
        parent.delvalue(column, twin.uuid)


def _routes(batch: Batch, key: RouteKey) -> list[tuple[Row, Row]]:
    rows = batch.below(
        key.router,
        _ROUTE,
        "static_routes",
        lambda row: (committed(row, "ip_prefix"), committed(row, "route_table")),
    )
    return rows.get((key.prefix, key.table), [])


def put_route(batch: Batch, key: RouteKey, value: RouteRow) -> None:
    """Make a static route so."""
    output_port = [value.output_port] if value.output_port else []
    values = {
        "ip_prefix": key.prefix,
        "nexthop": value.nexthop,
        "output_port": output_port,
        "route_table": key.table,
    }
    _put_below(batch, key.router, (_ROUTE, "static_routes"), _routes(batch, key), values)


def drop_route(batch: Batch, key: RouteKey) -> None:
    """Remove a static route of ours."""
    for parent, row in _routes(batch, key):
        parent.delvalue("static_routes", row.uuid)


def _policies(batch: Batch, key: PolicyKey) -> list[tuple[Row, Row]]:
    rows = batch.below(
        key.router,
        _POLICY,
        "policies",
        lambda row: (committed(row, "priority"), committed(row, "match")),
    )
    return rows.get((key.priority, key.match), [])


def put_policy(batch: Batch, key: PolicyKey, value: PolicyRow) -> None:
    """Make a router policy so."""
    values = {
        "priority": key.priority,
        "match": key.match,
        "action": value.action,
        "nexthops": list(value.nexthops),
    }
    _put_below(batch, key.router, (_POLICY, "policies"), _policies(batch, key), values)


def drop_policy(batch: Batch, key: PolicyKey) -> None:
    """Remove a router policy of ours."""
    for parent, row in _policies(batch, key):
        parent.delvalue("policies", row.uuid)


def put_set(batch: Batch, name: str, value: SetRow) -> None:
    """Make an address set so."""
    write(batch.named(_SET, name), "addresses", list(value.addresses))


def drop_set(batch: Batch, name: str) -> None:
    """Remove an address set of ours."""
    _drop_named(batch, _SET, name)


def _nats(batch: Batch, key: NatKey) -> list[tuple[Row, Row]]:
    rows = batch.below(key.router, _NAT, "nat", lambda row: committed(row, "logical_ip"))
    return rows.get(key.inside, [])


def put_nat(batch: Batch, key: NatKey, value: NatRow) -> None:
    """Make a translation of source addresses so."""
    values = {
        "type": "snat",
        "external_ip": value.outside,
        "logical_ip": key.inside,
        "exempted_ext_ips": [batch.parent(_SET, value.kept).uuid] if value.kept else [],
    }
    _put_below(batch, key.router, (_NAT, "nat"), _nats(batch, key), values)


def drop_nat(batch: Batch, key: NatKey) -> None:
    """Remove a translation of ours."""
    for parent, row in _nats(batch, key):
        parent.delvalue("nat", row.uuid)
