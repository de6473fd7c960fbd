"""What an OVN deployment has that decides which encapsulations can carry it, asked for once.

No node keeps these tables: the largest of them, the ports, would be one row for each workload of
the cluster. They are read when somebody asks for VXLAN, and let go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from controller.ovn import nb, sb
from controller.ovn.rows import refs
from controller.translate.vxlan import Datapath, Deployment, EgressRule, Port
from dataplane.drivers.idl import DatabaseClient, Replica, Row, optional, read

_NB_TABLES: Mapping[str, tuple[str, ...]] = {
    "ACL": ("direction", "match", "name", "priority"),
    "QoS": ("direction", "match", "priority"),
    "Logical_Switch": ("name", "acls", "qos_rules", "other_config"),
    "Port_Group": ("name", "acls"),
    "NB_Global": ("options",),
}

_SB_TABLES: Mapping[str, tuple[str, ...]] = {
    "Datapath_Binding": ("tunnel_key", "external_ids"),
    "Port_Binding": ("logical_port", "datapath", "tunnel_key"),
    "Chassis": ("name", "encaps"),
    "Encap": ("type",),
}

_VERSION = re.compile(r"(\d+)\.(\d+)")


def deployment(nb_remote: str, sb_remote: str, timeout: float = 30.0) -> Deployment:
    """Read both databases once.

    Raises:
        DatabaseTimeoutError: a database did not answer in time.
    """
    rules, transit, options = _ask(nb_remote, nb.DATABASE, _NB_TABLES, _northbound, timeout)
    datapaths, ports, encaps = _ask(sb_remote, sb.DATABASE, _SB_TABLES, _southbound, timeout)
    version = _VERSION.match(options.get("northd_internal_version", ""))
    mode = options.get("vxlan_mode")
    return Deployment(
        datapaths=tuple(
            Datapath(name, key, transit=name in transit) for name, key in sorted(datapaths)
        ),
        ports=ports,
        rules=rules,
        encaps=encaps,
        version=(int(version[1]), int(version[2])) if version else None,
        vxlan_mode=None if mode is None else mode != "false",
    )


def _ask(
    remote: str,
    database: str,
    tables: Mapping[str, tuple[str, ...]],
    answer: Callable[[Replica], Any],
    timeout: float,
) -> Any:
    client = DatabaseClient[None](
        remote=remote, database=database, tables=tables, snapshot=lambda _: None
    )
    with client:
        client.wait_synced(timeout)
        return client.read(answer, timeout)


def _northbound(
    replica: Replica,
) -> tuple[tuple[EgressRule, ...], frozenset[str], Mapping[str, str]]:
    owners: dict[str, str] = {}
    for table, word in (("Logical_Switch", "switch"), ("Port_Group", "port group")):
        for row in replica.rows(table):
            for column in ("acls", "qos_rules"):
                if replica.has(table, column):
                    owners.update(dict.fromkeys(refs(row, column), f"{word} {read(row, 'name')}"))
    rules = tuple(
        _rule(row, table, owners)
        for table in ("ACL", "QoS")
        for row in replica.rows(table)
        if read(row, "direction") == "to-lport"
    )
    transit = frozenset(
        str(read(row, "name"))
        for row in replica.rows("Logical_Switch")
        if "interconn-ts" in read(row, "other_config")
    )
    options: Mapping[str, str] = {}
    for row in replica.rows("NB_Global"):
        options = read(row, "options")
    return rules, transit, options


def _rule(row: Row, table: str, owners: Mapping[str, str]) -> EgressRule:
    name = optional(row, "name") if table == "ACL" else None
    words = [table, *([str(name)] if name else []), f"of priority {read(row, 'priority')}"]
    if owner := owners.get(str(row.uuid)):
        words.append(f"of {owner}")
    return EgressRule(" ".join(words), str(read(row, "match")))


def _southbound(
    replica: Replica,
) -> tuple[list[tuple[str, int]], tuple[Port, ...], tuple[tuple[str, frozenset[str]], ...]]:
    names = {str(row.uuid): _datapath_name(row) for row in replica.rows("Datapath_Binding")}
    datapaths = [
        (names[str(row.uuid)], int(read(row, "tunnel_key")))
        for row in replica.rows("Datapath_Binding")
    ]
    kinds = {str(row.uuid): str(read(row, "type")) for row in replica.rows("Encap")}
    encaps = tuple(
        (str(read(row, "name")), frozenset(kinds[ref] for ref in refs(row, "encaps")))
        for row in replica.rows("Chassis")
    )
    return datapaths, tuple(sorted(_ports(replica, names), key=lambda p: p.name)), encaps


def _datapath_name(row: Row) -> str:
    ids = read(row, "external_ids")
    return str(ids.get("name") or row.uuid)


def _ports(replica: Replica, names: Mapping[str, str]) -> Iterator[Port]:
    for row in replica.rows("Port_Binding"):
        datapath = refs(row, "datapath")
        yield Port(
            name=str(read(row, "logical_port")),
            datapath=names.get(datapath[0], datapath[0]) if datapath else "",
            key=int(read(row, "tunnel_key")),
        )
