"""The word by which a chassis tells all nodes that it does not answer for VIPs for a while.

ovn-controller copies Open_vSwitch.external_ids:ovn-cms-options to its row of the southbound table
Chassis (ovn-controller(8)), which every node reads: no right to write to OVN's databases is needed.
Words of others in the same list stay.
"""

from __future__ import annotations

from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import Ovs, root
from dataplane.drivers.replica import Replica, read
from dataplane.model.names import CMS_OPTIONS, WITHDRAWN
from dataplane.plan.ovsowner import Owned


def mark(ovs: Ovs, *, withdrawn: bool) -> bool:
    """Write the word, or take it away; whether it is as asked for.

    A list that the node's file names is left alone: the plan would take the word out again.

    Raises:
        DataplaneError: the database is out of reach, or refuses.
    """

    def is_planned(replica: Replica) -> bool:
        return ("external_ids", CMS_OPTIONS) in Owned.noted(
            read(root(replica), "external_ids")
        ).keys

    def words_of(replica: Replica) -> list[str]:
        listed = read(root(replica), "external_ids").get(CMS_OPTIONS, "")
        return [word for word in listed.split(",") if word]

    def is_so(replica: Replica) -> bool:
        return (WITHDRAWN in words_of(replica)) == withdrawn

    if ovs.look(is_so):
        return True
    if ovs.look(is_planned):
        return False

    def run(replica: Replica, _: Transaction) -> None:
        row = root(replica)
        words = [word for word in words_of(replica) if word != WITHDRAWN]
        words += [WITHDRAWN] if withdrawn else []
        if words:
            row.setkey("external_ids", CMS_OPTIONS, ",".join(words))
        else:
            row.delkey("external_ids", CMS_OPTIONS)

    ovs.db.transact(run, ovs.timeout)
    return True
