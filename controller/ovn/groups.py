"""How our load balancer group is written, and switches are given it.

The group's name says that it is ours: the table has no external_ids, and its names are unique. A
switch, whoever's it is, gets and loses the one reference; its other columns and groups stay.
"""

from __future__ import annotations

from uuid import UUID

from controller.ovn.writes import Batch, RefusedError
from controller.translate.nbrows import GROUP, GroupedRow, GroupRow
from dataplane.drivers.idl import Row, references, write

_GROUP, _SWITCH = "Load_Balancer_Group", "Logical_Switch"


def _groups(batch: Batch, name: str) -> list[Row]:
    return list(batch.replica.find_all(_GROUP, "name", name))


def put_group(batch: Batch, name: str, value: GroupRow) -> None:
    """Have the group hold these load balancers; a member that is gone is left out."""
    known = batch.replica.tables["Load_Balancer"].rows
    wanted = {uuid for ref in value.balancers if (uuid := UUID(ref)) in known}
    found = _groups(batch, name)
    if not found:
        row = batch.insert(_GROUP)
        write(row, "name", name)
        write(row, "load_balancer", sorted(wanted))
        return
    # Mutations, so that one service of many thousands is one element and not the whole column.
    held = set(references(found[0], "load_balancer"))
    for uuid in wanted - held:
        found[0].addvalue("load_balancer", uuid)
    for uuid in held - wanted:
        found[0].delvalue("load_balancer", uuid)


def drop_group(batch: Batch, name: str) -> None:
    """Remove the group."""
    for row in _groups(batch, name):
        row.delete()


def put_grouped(batch: Batch, switch: str, _: GroupedRow) -> None:
    """Give a switch the group.

    Raises:
        RefusedError: there is no group yet, or no one switch of that name.
    """
    found = _groups(batch, GROUP)
    if not found:
        msg = f"there is no Load_Balancer_Group {GROUP} yet"
        raise RefusedError(msg)
    batch.parent(_SWITCH, switch).addvalue("load_balancer_group", found[0].uuid)


def drop_grouped(batch: Batch, switch: str) -> None:
    """Take the group from the switches of that name."""
    ours = {row.uuid for row in _groups(batch, GROUP)}
    for row in list(batch.replica.find_all(_SWITCH, "name", switch)):
        for uuid in ours & set(references(row, "load_balancer_group")):
            row.delvalue("load_balancer_group", uuid)
