"""The table `nested`: containers' logical ports, nested in this chassis's trunk.

Of a Logical_Switch_Port that somebody else made we write two columns, `parent_name` and `tag`, and
a mark in external_ids by which we recognise what is ours to take back; everything else in the row
is its maker's. `tag` and not `tag_request`: the tag is allocated here, where it is recorded before
anybody uses it, and ovn-northd leaves a `tag` without `tag_request` as it is (ovn-nb(5)).

All rows of a round are one transaction. A port that another chassis's trunk has is not taken back
from it by a round, or two nodes would take it from each other without end; a CNI ADD takes it
(`take`), for the newest sandbox of a pod is the one that lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from controller.ovn.rows import committed
from controller.translate.ovn import NbSnapshot
from dataplane.drivers.idl import (
    DatabaseClient,
    DatabaseTimeoutError,
    Replica,
    Row,
    Transaction,
    write,
)
from dataplane.model.names import TRUNK_KEY
from dataplane.model.rows import Nested
from dataplane.plan.trunk import trunk_name
from dataplane.ports import DataplaneError, Failure, ObserveError

TIMEOUT_S = 10.0
_TABLE = "Logical_Switch_Port"


class NestedTable:
    """Table `nested`: name of a logical switch port -> Nested, of one chassis."""

    name = "nested"

    def __init__(self, client: DatabaseClient[NbSnapshot], chassis: str) -> None:
        self._client, self._chassis = client, chassis
        self._parent = trunk_name(chassis)
        self._taken: set[str] = set()

    def take(self, name: str) -> None:
        """Let the next round nest this port here though another chassis has it."""
        self._taken.add(name)

    def observe(self) -> Mapping[str, Nested]:
        """Ports that we nested in this chassis's trunk.

        Raises:
            ObserveError: the database is out of reach.
        """
        try:
            return self._client.read(self._observe, TIMEOUT_S)
        except DatabaseTimeoutError as error:
            raise ObserveError(str(error)) from error

    def _observe(self, replica: Replica) -> dict[str, Nested]:
        found = {}
        for row in replica.find_all(_TABLE, "parent_name", (self._parent,)):
            tag = committed(row, "tag")
            if committed(row, "external_ids").get(TRUNK_KEY) == self._chassis:
                found[str(committed(row, "name"))] = Nested(self._parent, tag[0] if tag else 0)
        return found

    def upsert(self, batch: Sequence[tuple[str, Nested]]) -> Mapping[str, Failure]:
        """Nest these ports; one that OVN does not have is waited for."""
        return self._change(lambda replica, txn: self._nest(replica, txn, batch), dict(batch))

    def _nest(
        self, replica: Replica, _: Transaction, batch: Sequence[tuple[str, Nested]]
    ) -> dict[str, Failure]:
        failures: dict[str, Failure] = {}
        holders = {
            tag[0]: str(committed(row, "name"))
            for row in replica.find_all(_TABLE, "parent_name", (self._parent,))
            if (tag := committed(row, "tag"))
        }
        for name, wanted in batch:
            row = replica.find(_TABLE, "name", name)
            if row is None:
                reason = f"OVN has no logical switch port {name} (any more)"
                failures[name] = Failure(reason, waiting=True)
            elif other := self._holder(name, row):
                failures[name] = Failure(f"{name} is nested in {other}, and not by this node")
            elif holders.get(wanted.tag, name) != name:
                reason = f"tag {wanted.tag} is {holders[wanted.tag]}'s in OVN"
                failures[name] = Failure(reason, waiting=True)
            elif not self._is_nested(row, wanted):
                # If somebody writes it in between, this is decided anew.
                row.verify("parent_name")
                write(row, "parent_name", [wanted.parent])
                write(row, "tag", [wanted.tag])
                row.setkey("external_ids", TRUNK_KEY, self._chassis)
        return failures

    def _is_nested(self, row: Row, wanted: Nested) -> bool:
        return (committed(row, "parent_name"), committed(row, "tag")) == (
            [wanted.parent],
            [wanted.tag],
        ) and committed(row, "external_ids").get(TRUNK_KEY) == self._chassis

    def _holder(self, name: str, row: Row) -> str:
        """In what somebody else nested a port; "" if nobody did, or it may be taken."""
        parent = committed(row, "parent_name")
        if not parent or parent[0] == self._parent:
            return ""
        by_us = TRUNK_KEY in committed(row, "external_ids")
        return "" if by_us and name in self._taken else str(parent[0])

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Make them plain ports again; one that is gone, or another's by now, is success."""
        return self._change(lambda replica, _: self._release(replica, keys), dict.fromkeys(keys))

    def _release(self, replica: Replica, keys: Sequence[str]) -> dict[str, Failure]:
        for name in keys:
            row = replica.find(_TABLE, "name", name)
            if row is None or committed(row, "external_ids").get(TRUNK_KEY) != self._chassis:
                continue
            row.delkey("external_ids", TRUNK_KEY)
            if committed(row, "parent_name") == [self._parent]:
                row.verify("parent_name")
                write(row, "parent_name", [])
                write(row, "tag", [])
        return {}

    def _change(
        self,
        work: Callable[[Replica, Transaction], dict[str, Failure]],
        keys: Mapping[str, object],
    ) -> Mapping[str, Failure]:
        try:
            failures = self._client.transact(work, TIMEOUT_S)
        except DatabaseTimeoutError as error:
            raise ObserveError(str(error)) from error
        except DataplaneError as error:
            return {key: Failure(str(error)) for key in keys}
        self._taken.difference_update(keys.keys() - failures.keys())
        return failures
