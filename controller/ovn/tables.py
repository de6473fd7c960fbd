"""The northbound tables that we own rows of, for the reconciler.

How we know ours after a restart: `controller.translate.nbrows`. Each batch is one transaction; if
OVSDB refuses it, its rows are tried one by one, so that a bad row keeps no other from being made.
Rows of others are never written; a foreign parent gets our child by a mutation of the one column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from controller.ovn.nb import snapshot
from controller.translate.nbrows import (
    PORT_PREFIXES,
    MacKey,
    MacRow,
    NbPlan,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    RouterPortRow,
    RouterRow,
    SwitchPortRow,
    SwitchRow,
)
from controller.translate.ovn import NbSnapshot
from controller.translate.owned import owned
from dataplane.drivers.idl import (
    DatabaseClient,
    DatabaseTimeoutError,
    Replica,
    Row,
    Transaction,
    TransactionError,
    read,
    references,
    write,
)
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.ports import DataplaneError, Failure, ObserveError

K = TypeVar("K")
V = TypeVar("V")

TIMEOUT_S = 10.0

_SWITCH, _SWITCH_PORT = "Logical_Switch", "Logical_Switch_Port"
_ROUTER, _ROUTER_PORT = "Logical_Router", "Logical_Router_Port"
_ROUTE, _POLICY = "Logical_Router_Static_Route", "Logical_Router_Policy"
_MAC = "Static_MAC_Binding"


class _RefusedError(Exception):
    """One row cannot be made; its text is for the operator."""


@dataclass(slots=True)
class _Observed:
    """What is ours, computed once for each state of the database; lives in the IDL's thread."""

    seqno: int = -1
    plan: NbPlan = field(default_factory=NbPlan)

    def at(self, replica: Replica) -> NbPlan:
        if self.seqno != replica.change_seqno:
            self.plan, self.seqno = owned(snapshot(replica)), replica.change_seqno
        return self.plan


@dataclass(slots=True)
class NbTable(Generic[K, V]):
    """One table of the northbound plan: a `dataplane.ports.Table`."""

    name: str
    client: DatabaseClient[NbSnapshot]
    rows: Callable[[NbPlan], Mapping[K, V]]
    put: Callable[[Replica, Transaction, K, V], None]
    drop: Callable[[Replica, K], None]
    observed: _Observed

    def observe(self) -> Mapping[K, V]:
        """The rows of ours that are there.

        Raises:
            ObserveError: the database is out of reach.
        """
        try:
            return self.client.read(lambda replica: self.rows(self.observed.at(replica)), TIMEOUT_S)
        except DatabaseTimeoutError as error:
            raise ObserveError(str(error)) from error

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Make these rows so, in one transaction if OVSDB takes it."""

        def put(replica: Replica, txn: Transaction, item: tuple[K, V]) -> None:
            self.put(replica, txn, *item)

        return self._each(batch, put, key_of=lambda item: item[0])

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove these rows, in one transaction if OVSDB takes it."""

        def drop(replica: Replica, _: Transaction, key: K) -> None:
            self.drop(replica, key)

        return self._each(keys, drop, key_of=lambda key: key)

    def _each(
        self,
        items: Sequence[Any],
        change: Callable[[Replica, Transaction, Any], None],
        key_of: Callable[[Any], K],
    ) -> dict[K, Failure]:
        def work(replica: Replica, txn: Transaction) -> dict[K, Failure]:
            failed: dict[K, Failure] = {}
            for item in items:
                try:
                    change(replica, txn, item)
                except _RefusedError as error:
                    failed[key_of(item)] = Failure(str(error))
            return failed

        if not items:
            return {}
        try:
            return self.client.transact(work, TIMEOUT_S)
        except DatabaseTimeoutError as error:
            raise ObserveError(str(error)) from error
        except (TransactionError, DataplaneError) as error:
            if len(items) == 1:
                return {key_of(items[0]): Failure(str(error))}
        failed = {}
        for item in items:
            failed.update(self._each([item], change, key_of))
        return failed


def tables(client: DatabaseClient[NbSnapshot]) -> tuple[NbTable[Any, Any], ...]:
    """Every table, in the order of application; removal goes the other way."""
    observed = _Observed()

    def table(
        name: str,
        rows: Callable[[NbPlan], Mapping[K, V]],
        put: Callable[[Replica, Transaction, K, V], None],
        drop: Callable[[Replica, K], None],
    ) -> NbTable[K, V]:
        return NbTable(name, client, rows, put, drop, observed)

    return (
        table("switches", lambda plan: plan.switches, _put_switch, _drop_switch),
        table("routers", lambda plan: plan.routers, _put_router, _drop_router),
        table("router_ports", lambda plan: plan.router_ports, _put_router_port, _drop_router_port),
        table("switch_ports", lambda plan: plan.switch_ports, _put_switch_port, _drop_switch_port),
        table("static_macs", lambda plan: plan.static_macs, _put_mac, _drop_mac),
        table("routes", lambda plan: plan.routes, _put_route, _drop_route),
        table("policies", lambda plan: plan.policies, _put_policy, _drop_policy),
    )


# -- rows ---------------------------------------------------------------------------------------


def _is_ours(row: Row) -> bool:
    return bool(read(row, "external_ids").get(OWNER_KEY) == OWNER)


def _mark(row: Row, values: Mapping[str, str]) -> None:
    """Write our keys and leave those of others, who may annotate our rows."""
    present = read(row, "external_ids")
    for key, value in {OWNER_KEY: OWNER, **values}.items():
        if present.get(key) != value:
            row.setkey("external_ids", key, value)


def _named(replica: Replica, txn: Transaction, table: str, name: str) -> Row:
    """Our row of that name, made if need be; a row of another owner is not taken over."""
    found = sorted(replica.find_all(table, "name", name), key=lambda row: str(row.uuid))
    ours = [row for row in found if _is_ours(row)]
    if not ours and found:
        msg = (
            f"{table} {name} is there and not ours (external_ids:{OWNER_KEY}); rename it, "
            f"or set that key to {OWNER} to hand it over"
        )
        raise _RefusedError(msg)
    if ours:
        return ours[0]
    row = txn.insert(replica.tables[table])
    write(row, "name", name)
    write(row, "external_ids", {OWNER_KEY: OWNER})
    return row


def _parent(replica: Replica, table: str, name: str) -> Row:
    found = list(replica.find_all(table, "name", name))
    if len(found) != 1:
        msg = f"{'several rows are' if found else 'no row is'} {table} {name}"
        raise _RefusedError(msg)
    return found[0]


def _adopt(replica: Replica, child: Row, table: str, column: str, parent: Row) -> None:
    """Have `parent`, and nobody else, refer to `child`."""
    if child.uuid in replica.tables[child._table.name].rows:  # noqa: SLF001  # no public way
        for row in _holders(replica, child, table, column):
            if row.uuid == parent.uuid:
                return
            row.delvalue(column, child.uuid)
    parent.addvalue(column, child.uuid)


def _holders(replica: Replica, child: Row, table: str, column: str) -> Iterator[Row]:
    for row in replica.rows(table):
        if child.uuid in references(row, column):
            yield row


def _drop_named(replica: Replica, table: str, name: str) -> None:
    for row in list(replica.find_all(table, "name", name)):
        if _is_ours(row):
            row.delete()


def _drop_child(replica: Replica, table: str, name: str, parent: str) -> None:
    """Rows that are no roots vanish with the last reference to them."""
    for row in list(replica.find_all(table, "name", name)):
        if _is_ours(row):
            for holder in _holders(replica, row, parent, "ports"):
                holder.delvalue("ports", row.uuid)


def _put_switch(replica: Replica, txn: Transaction, name: str, _: SwitchRow) -> None:
    _named(replica, txn, _SWITCH, name)


def _drop_switch(replica: Replica, name: str) -> None:
    _drop_named(replica, _SWITCH, name)


def _put_router(replica: Replica, txn: Transaction, name: str, value: RouterRow) -> None:
    row = _named(replica, txn, _ROUTER, name)
    write(row, "options", dict(value.options))
    _mark(row, dict(value.external_ids))


def _drop_router(replica: Replica, name: str) -> None:
    _drop_named(replica, _ROUTER, name)


def _put_router_port(replica: Replica, txn: Transaction, name: str, value: RouterPortRow) -> None:
    parent = _parent(replica, _ROUTER, value.router)
    row = _named(replica, txn, _ROUTER_PORT, name)
    write(row, "mac", value.mac)
    write(row, "networks", list(value.networks))
    _adopt(replica, row, _ROUTER, "ports", parent)


def _drop_router_port(replica: Replica, name: str) -> None:
    _drop_child(replica, _ROUTER_PORT, name, _ROUTER)


def _put_switch_port(replica: Replica, txn: Transaction, name: str, value: SwitchPortRow) -> None:
    parent = _parent(replica, _SWITCH, value.switch)
    row = _named(replica, txn, _SWITCH_PORT, name)
    write(row, "type", value.type)
    write(row, "addresses", list(value.addresses))
    write(row, "options", dict(value.options))
    _adopt(replica, row, _SWITCH, "ports", parent)


def _drop_switch_port(replica: Replica, name: str) -> None:
    _drop_child(replica, _SWITCH_PORT, name, _SWITCH)


def _macs(replica: Replica, key: MacKey) -> list[Row]:
    # The schema's index makes (logical_port, ip) unique.
    return [
        row
        for row in replica.find_all(_MAC, "logical_port", key.logical_port)
        if read(row, "ip") == key.ip
    ]


def _put_mac(replica: Replica, txn: Transaction, key: MacKey, value: MacRow) -> None:
    found = _macs(replica, key)
    if found:
        row = found[0]
    else:
        row = txn.insert(replica.tables[_MAC])
        write(row, "logical_port", key.logical_port)
        write(row, "ip", key.ip)
    write(row, "mac", value.mac)
    write(row, "override_dynamic_mac", value.override)


def _drop_mac(replica: Replica, key: MacKey) -> None:
    if key.logical_port.startswith(PORT_PREFIXES):
        for row in _macs(replica, key):
            row.delete()


def _ours_of(
    replica: Replica, router: str, column: str, table: str, match: Callable[[Row], bool]
) -> Iterator[tuple[Row, Row]]:
    """Our rows below routers of that name that match: the router's row and the row."""
    for parent in list(replica.find_all(_ROUTER, "name", router)):
        for uuid in references(parent, column):
            row = replica.tables[table].rows.get(uuid)
            if row is not None and _is_ours(row) and match(row):
                yield parent, row


def _put_below(
    replica: Replica,
    txn: Transaction,
    found: list[tuple[Row, Row]],
    where: tuple[str, str, str],
    values: Mapping[str, object],
) -> None:
    """One row of ours below a router with these values; `found` are those that are there."""
    table, column, router = where
    if found:
        row = found[0][1]
    else:
        row = txn.insert(replica.tables[table])
        write(row, "external_ids", {OWNER_KEY: OWNER})
        _parent(replica, _ROUTER, router).addvalue(column, row.uuid)
    for name, value in values.items():
        write(row, name, value)
    for parent, twin in found[1:]:
        parent.delvalue(column, twin.uuid)


def _routes(replica: Replica, key: RouteKey) -> list[tuple[Row, Row]]:
    return list(
        _ours_of(
            replica,
            key.router,
            "static_routes",
            _ROUTE,
            lambda row: bool(read(row, "ip_prefix") == key.prefix),
        )
    )


def _put_route(replica: Replica, txn: Transaction, key: RouteKey, value: RouteRow) -> None:
    output_port = [value.output_port] if value.output_port else []
    _put_below(
        replica,
        txn,
        _routes(replica, key),
        (_ROUTE, "static_routes", key.router),
        {"ip_prefix": key.prefix, "nexthop": value.nexthop, "output_port": output_port},
    )


def _drop_route(replica: Replica, key: RouteKey) -> None:
    for parent, row in _routes(replica, key):
        parent.delvalue("static_routes", row.uuid)


def _policies(replica: Replica, key: PolicyKey) -> list[tuple[Row, Row]]:
    def match(row: Row) -> bool:
        return bool(read(row, "priority") == key.priority and read(row, "match") == key.match)

    return list(_ours_of(replica, key.router, "policies", _POLICY, match))


def _put_policy(replica: Replica, txn: Transaction, key: PolicyKey, value: PolicyRow) -> None:
    _put_below(
        replica,
        txn,
        _policies(replica, key),
        (_POLICY, "policies", key.router),
        {
            "priority": key.priority,
            "match": key.match,
            "action": value.action,
            "nexthops": [value.nexthop] if value.nexthop else [],
        },
    )


def _drop_policy(replica: Replica, key: PolicyKey) -> None:
    for parent, row in _policies(replica, key):
        parent.delvalue("policies", row.uuid)
