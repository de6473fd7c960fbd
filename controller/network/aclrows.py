"""ACLs, port groups, address sets and meters as rows of ours. Pure.

Source: ovn-nb(5), tables ACL, Port_Group, Address_Set, Meter, Meter_Band.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.network.rows import Row, RowKey, Value, pairs
from controller.policy.compiler import name_of
from controller.policy.rows import Acl

METER_UNIT = "pktps"


def group_row(name: str, ports: Iterable[str]) -> tuple[RowKey, Row]:
    """A port group with these logical switch ports."""
    members = frozenset(RowKey("Logical_Switch_Port", port) for port in ports)
    return RowKey("Port_Group", name), Row({"name": name}, {"ports": members})


def set_rows(base: str, addresses: Iterable[str]) -> dict[RowKey, Row]:
    """An address set of each family. `addresses`: texts of addresses and networks."""
    both: dict[int, list[str]] = {4: [], 6: []}
    for text in addresses:
        both[6 if ":" in text else 4].append(text)
    return {
        RowKey("Address_Set", f"{base}_{version}"): Row(
            {"name": f"{base}_{version}", "addresses": frozenset(found)}
        )
        for version, found in both.items()
    }


def acl_rows(acl: Acl) -> dict[RowKey, Row]:
    """An ACL of its port group, and the meter that limits its log."""
    columns: dict[str, Value] = {
        "direction": acl.direction,
        "priority": acl.priority,
        "match": str(acl.match),
        "action": acl.action,
        "options": pairs(acl.options),
        "log": acl.log,
        "name": acl.name[:63] or frozenset(),
        "severity": ("warning" if acl.action == "drop" else "info") if acl.log else frozenset(),
        "meter": frozenset(),
    }
    rows: dict[RowKey, Row] = {}
    if acl.log and acl.meter:
        name = f"mr_log_{acl.meter}"
        columns["meter"] = name
        meter = RowKey("Meter", name)
        band: dict[str, Value] = {"action": "drop", "rate": acl.meter, "burst_size": 0}
        rows[RowKey("Meter_Band", name)] = Row(band, parent=(meter, "bands"))
        rows[meter] = Row({"name": name, "unit": METER_UNIT, "fair": True})
    parent = (RowKey("Port_Group", acl.match.group), "acls")
    rows[RowKey("ACL", name_of("acl", *acl.key))] = Row(columns, parent=parent)
    return rows
