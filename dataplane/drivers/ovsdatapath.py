"""The table `datapath`: what OVN is told that OVS's userspace datapath can do.

ovn-controller asks the row of the table Datapath that Open_vSwitch.datapaths has for `netdev`
(ovs-vswitchd.conf.db(5)). vswitchd fills its capabilities in once, when it first sees the row
after its start, and leaves them alone after that. So a change of ours holds until vswitchd is
started again, and this table makes it anew then.

The row's external_ids:millrace-capabilities has each key that we changed with what vswitchd said
of it: that is how ours are recognised, and what they say again when the plan drops them. Where
there is no ovn-controller yet the row is made, and left to OVN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import Ovs, netdev_datapath, root
from dataplane.drivers.ovstables import RowRefusedError, batched
from dataplane.drivers.replica import Replica, Row, read, write
from dataplane.model.rows import Capability
from dataplane.plan.ovsowner import words_of
from dataplane.ports import Failure

NOTE = "millrace-capabilities"
NOT_TOLD = "ovs-vswitchd has not said yet what its datapath can do: is it running?"


class DatapathTable:
    """Table `datapath`: key of Datapath.capabilities -> Capability."""

    name = "datapath"

    def __init__(self, ovs: Ovs) -> None:
        self._ovs = ovs

    def observe(self) -> Mapping[str, Capability]:
        """The keys that we have changed, as they are now."""
        return self._ovs.look(_observe)  # type: ignore[no-any-return]

    def upsert(self, batch: Sequence[tuple[str, Capability]]) -> Mapping[str, Failure]:
        """Say so in the row; where vswitchd has not filled it in, it is waited for."""
        self._ovs.db.transact(make_row, self._ovs.timeout)
        return batched(self._ovs, batch, lambda row: row[0], _put)

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Say again what vswitchd said."""
        return batched(self._ovs, keys, str, _drop)


def _notes(row: Row) -> dict[str, str]:
    return words_of(read(row, "external_ids").get(NOTE, ""))


def _note(row: Row, notes: Mapping[str, str]) -> None:
    row.setkey("external_ids", NOTE, " ".join(f"{key}={notes[key]}" for key in sorted(notes)))


def _observe(replica: Replica) -> dict[str, Capability]:
    row = netdev_datapath(replica)
    if row is None:
        return {}
    said = read(row, "capabilities")
    return {key: Capability(said.get(key, "")) for key in _notes(row)}


def make_row(replica: Replica, txn: Transaction) -> None:
    """The row, unless somebody has made it: vswitchd would not fill in one in its place."""
    if netdev_datapath(replica) is not None:
        return
    root(replica).verify("datapaths")
    row = txn.insert(replica.tables["Datapath"])
    write(row, "external_ids", {})  # a row with nothing written to it is not inserted
    root(replica).setkey("datapaths", "netdev", row)
    root(replica).increment("next_cfg")


def _put(replica: Replica, _: Transaction, item: tuple[str, Capability]) -> None:
    key, wanted = item
    row = netdev_datapath(replica)
    said = read(row, "capabilities").get(key) if row is not None else None
    if row is None or said is None:
        raise RowRefusedError(Failure(NOT_TOLD, waiting=True))
    notes = _notes(row)
    # A value that differs from ours is vswitchd's own word, of its latest start.
    _note(row, {**notes, key: said if said != wanted.value else notes.get(key, said)})
    row.setkey("capabilities", key, wanted.value)


def _drop(replica: Replica, _: Transaction, key: str) -> None:
    row = netdev_datapath(replica)
    notes = _notes(row) if row is not None else {}
    if row is None or key not in notes:
        return
    row.setkey("capabilities", key, notes.pop(key))
    if notes:
        _note(row, notes)
        return
    row.delkey("external_ids", NOTE)
