"""The table `affinity`: which PMD thread polls which queue of our ports (pmd-rxq-affinity).

An operator may have pinned a port by hand. So what we write is noted on the Port row beside it
(external_ids:millrace-affinity), and a pin is ours only while it says what we wrote: anything else
is somebody else's, is left alone, and counts as given in the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovstables import RowRefusedError, batched
from dataplane.drivers.replica import Replica, Row, read
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.model.rows import Affinity
from dataplane.plan.rebalance import parsed
from dataplane.ports import Failure

KEY = "pmd-rxq-affinity"
NOTE = "millrace-affinity"
"""external_ids key of a Port: the pins that we gave its interface."""


class AffinityTable:
    """Table `affinity`: port name -> Affinity."""

    name = "affinity"

    def __init__(self, ovs: Ovs) -> None:
        self._ovs = ovs

    def observe(self) -> Mapping[str, Affinity]:
        """Pins of ours; one that somebody has changed since is not ours any more."""
        pins: Mapping[str, tuple[str, bool]] = self._ovs.look(_all_pins)
        return {name: Affinity(text) for name, (text, ours) in pins.items() if ours}

    def foreign(self) -> Mapping[str, Mapping[int, int]]:
        """Pins that somebody else gave, by interface and queue.

        Raises:
            ObserveError: the database is out of reach.
        """
        pins: Mapping[str, tuple[str, bool]] = self._ovs.look(_all_pins)
        return {name: parsed(text) for name, (text, ours) in pins.items() if not ours}

    def upsert(self, batch: Sequence[tuple[str, Affinity]]) -> Mapping[str, Failure]:
        """Pin the ports' queues; vswitchd acts on it by itself."""
        return batched(self._ovs, batch, lambda row: row[0], _put)

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Take our pins back."""
        return batched(self._ovs, keys, str, _drop)


def _all_pins(replica: Replica) -> dict[str, tuple[str, bool]]:
    """By interface: its pins, and whether they are ours."""
    notes = {}
    for port in replica.rows("Port"):
        ids = read(port, "external_ids")
        if ids.get(OWNER_KEY) == OWNER and NOTE in ids:
            notes[read(port, "name")] = ids[NOTE]
    found = {}
    for interface in replica.rows("Interface"):
        name, text = read(interface, "name"), read(interface, "other_config").get(KEY)
        if text is not None:
            found[name] = (text, notes.get(name) == text)
    return found


def _rows(replica: Replica, name: str) -> tuple[Row, Row] | None:
    port, interface = replica.find("Port", "name", name), replica.find("Interface", "name", name)
    if port is None or interface is None or port.external_ids.get(OWNER_KEY) != OWNER:
        return None
    return port, interface


def _put(replica: Replica, _: Transaction, item: tuple[str, Affinity]) -> None:
    name, wanted = item
    rows = _rows(replica, name)
    if rows is None:
        reason = f"port {name} is not there yet"
        raise RowRefusedError(Failure(reason, waiting=True))
    port, interface = rows
    there = read(interface, "other_config").get(KEY)
    if there not in (None, wanted.pins, read(port, "external_ids").get(NOTE)):
        reason = (
            f"somebody else has pinned its queues to {there}: take that back with "
            f"`ovs-vsctl remove Interface {name} other_config {KEY}` if it need not be"
        )
        raise RowRefusedError(Failure(reason))
    interface.setkey("other_config", KEY, wanted.pins)
    port.setkey("external_ids", NOTE, wanted.pins)


def _drop(replica: Replica, _: Transaction, name: str) -> None:
    rows = _rows(replica, name)
    if rows is None:
        return
    port, interface = rows
    note = read(port, "external_ids").get(NOTE)
    if note is None:
        return
    if read(interface, "other_config").get(KEY) == note:
        interface.delkey("other_config", KEY)
    port.delkey("external_ids", NOTE)
