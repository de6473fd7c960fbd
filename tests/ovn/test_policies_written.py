"""Policies by the writer in a real northbound database: logs, meters; one change, one's rows."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from controller.kube.resources import Key
from controller.network.facts import LEASES
from controller.network.policies import NETWORK_POLICIES
from controller.network.rows import Row, RowKey
from controller.policy.parse import network_policy
from tests.labs.ovnsandbox import OvnSandbox, run
from tests.ovn.test_keyed import nb, port, settle, switch, writing
from tests.property.test_policy_book_laws import cluster, filled, policy

__all__ = ["nb"]

TABLES = ("ACL", "Port_Group", "Address_Set", "Meter", "Meter_Band", "Logical_Switch_Port")
LOGS = {
    "ovn.kubernetes.io/enable_log": "true",
    "ovn.kubernetes.io/log_acl_actions": "allow,drop",
    "ovn.kubernetes.io/acl_log_meter_rate": "7",
}


def table(box: OvnSandbox, name: str) -> dict[str, Any]:
    """Rows by UUID."""
    said = json.loads(run("ovsdb-client", "dump", "--format=json", box.nb, "OVN_Northbound", name))
    at = said["headings"].index("_uuid")
    return {row[at][1]: row for row in said["data"]}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {uuid for uuid in {*before, *after} if before.get(uuid) != after.get(uuid)}


def test_one_policys_change_touches_its_rows_in_the_database(nb: OvnSandbox) -> None:
    found = cluster()
    book = filled(found)
    ports = dict([switch(), *(port(name) for name in found[LEASES])])

    async def scene() -> None:
        async with writing(nb.nb, {**ports, **book.rows}) as writer:
            before = {name: table(nb, name) for name in TABLES}
            groups = {row for row in book.rows if row.table == "Port_Group"}
            assert len(before["Port_Group"]) == len(groups)
            loud = policy("p", "blue", "a", 81)
            loud["metadata"]["annotations"] = LOGS
            book.put(NETWORK_POLICIES, Key("blue", "p"), network_policy(loud))
            changes: dict[RowKey, Row | None] = dict(book.update().rows)
            writer.want(changes)
            await settle(writer)
            after = {name: table(nb, name) for name in TABLES}
            for name in ("Address_Set", "Logical_Switch_Port"):
                assert after[name] == before[name]
            # The policy's own group has other ACLs; no other group was touched.
            assert len(changed(before["Port_Group"], after["Port_Group"])) == 1
            told = [key for key in changes if key.table == "ACL"]
            assert len(changed(before["ACL"], after["ACL"])) == len(told)

    asyncio.run(scene())
    (band,) = nb.nbctl("--bare", "--columns=rate", "list", "Meter_Band").split()
    assert band == "7"
    logged = nb.nbctl("--bare", "--columns=name,severity,meter", "find", "ACL", "log=true")
    assert logged.count("mr_log_7") == logged.count("np/p.blue/ingress") > 0
    assert {"warning", "info"} <= set(logged.split())


def test_what_is_no_longer_wanted_goes(nb: OvnSandbox) -> None:
    found = cluster()
    book = filled(found)
    ports = dict([switch(), *(port(name) for name in found[LEASES])])

    async def scene() -> None:
        async with writing(nb.nb, {**ports, **book.rows}) as writer:
            for key in list(found[NETWORK_POLICIES]):
                book.put(NETWORK_POLICIES, key, None)
            writer.want(dict(book.update().rows))
            await settle(writer)
            for name in ("ACL", "Port_Group", "Address_Set"):
                assert table(nb, name) == {}, name
            assert len(table(nb, "Logical_Switch_Port")) == len(found[LEASES])

    asyncio.run(scene())
