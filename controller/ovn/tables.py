"""The northbound tables that we own rows of, for the reconciler.

How we know ours after a restart: `controller.translate.nbrows`. A batch is one transaction (a very
large one several); if OVSDB refuses it, its rows are tried one by one, so that a bad row keeps no
other from being made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from controller.ovn import groups, writes
from controller.ovn.nb import snapshot
from controller.ovn.writes import Batch, RefusedError
from controller.translate.nbrows import NbPlan
from controller.translate.ovn import NbSnapshot
from controller.translate.owned import owned
from dataplane.drivers.idl import DatabaseClient, DatabaseTimeoutError, Replica, Transaction
from dataplane.ports import DataplaneError, Failure, ObserveError

K = TypeVar("K")
V = TypeVar("V")

TIMEOUT_S = 30.0
MAX_BATCH = 500
"""Rows of one transaction. ovsdb-server's time for one grows faster than its rows."""


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
    put: Callable[[Batch, K, V], None]
    drop: Callable[[Batch, K], None]
    observed: _Observed

    def observe(self) -> Mapping[K, V]:
        """The rows of ours that are there.

        Raises:
            ObserveError: the database is out of reach.
        """

        def rows(replica: Replica) -> Mapping[K, V]:
            found: Mapping[K, V] = getattr(self.observed.at(replica), self.name)
            return found

        try:
            return self.client.read(rows, TIMEOUT_S)
        except DatabaseTimeoutError as error:
            raise ObserveError(str(error)) from error

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Make these rows so; the keys that failed, with why.

        Raises:
            ObserveError: the database is out of reach.
        """
        return self._change([(key, partial(self._put, key, value)) for key, value in batch])

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove these rows; the keys that failed, with why.

        Raises:
            ObserveError: the database is out of reach.
        """
        return self._change([(key, partial(self._drop, key)) for key in keys])

    def _put(self, key: K, value: V, batch: Batch) -> None:
        self.put(batch, key, value)

    def _drop(self, key: K, batch: Batch) -> None:
        self.drop(batch, key)

    def _change(self, changes: Sequence[tuple[K, Callable[[Batch], None]]]) -> dict[K, Failure]:
        failed: dict[K, Failure] = {}
        for start in range(0, len(changes), MAX_BATCH):
            failed.update(self._transaction(changes[start : start + MAX_BATCH]))
        return failed

    def _transaction(
        self, changes: Sequence[tuple[K, Callable[[Batch], None]]]
    ) -> dict[K, Failure]:
        def work(replica: Replica, txn: Transaction) -> dict[K, Failure]:
            batch, failed = Batch(replica, txn), {}
            for key, change in changes:
                try:
                    change(batch)
                except RefusedError as error:
                    failed[key] = Failure(str(error))
            return failed

        try:
            return self.client.transact(work, TIMEOUT_S)
        except DatabaseTimeoutError as error:
            raise ObserveError(str(error)) from error
        except DataplaneError as error:
            if len(changes) == 1:
                return {changes[0][0]: Failure(str(error))}
        failed = {}
        for change in changes:
            failed.update(self._transaction([change]))
        return failed


def tables(client: DatabaseClient[NbSnapshot]) -> tuple[NbTable[Any, Any], ...]:
    """Every table, in the order of application; removal goes the other way."""
    observed = _Observed()

    def table(
        name: str, put: Callable[[Batch, K, V], None], drop: Callable[[Batch, K], None]
    ) -> NbTable[K, V]:
        return NbTable(name, client, put, drop, observed)

    return (
        table("switches", writes.put_switch, writes.drop_switch),
        table("routers", writes.put_router, writes.drop_router),
        table("router_ports", writes.put_router_port, writes.drop_router_port),
        table("switch_ports", writes.put_switch_port, writes.drop_switch_port),
        table("static_macs", writes.put_mac, writes.drop_mac),
        table("routes", writes.put_route, writes.drop_route),
        table("policies", writes.put_policy, writes.drop_policy),
        table("address_sets", writes.put_set, writes.drop_set),
        table("nats", writes.put_nat, writes.drop_nat),
        table("balancer_groups", groups.put_group, groups.drop_group),
        table("grouped_switches", groups.put_grouped, groups.drop_grouped),
    )
