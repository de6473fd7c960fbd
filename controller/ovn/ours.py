"""Which rows of the northbound database are ours, by key, and who refers to them.

Kept up from the change notices of the replica. Lives in the thread of the database's client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from controller.network.rows import RowKey
from controller.ovn.rows import committed
from dataplane.drivers.idl import Replica, Row, references
from dataplane.drivers.replica import SharedEmpty

OWNER = "millrace-kubernetes"
OWNER_KEY = "owner"
NAME_KEY = "millrace-key"
EXTRA_KEY = "millrace-keys"
"""Names which other keys of external_ids are ours: whoever else puts keys there keeps them."""
PREFIX = "mrk-"
"""Ours of a table without external_ids have names that begin so."""

PARENTS: Mapping[str, tuple[str, ...]] = {
    "Logical_Switch": ("ports", "acls", "qos_rules", "forwarding_groups"),
    "Logical_Router": ("ports", "static_routes", "policies", "nat", "load_balancer"),
    "Logical_Router_Port": ("gateway_chassis",),
    "Port_Group": ("acls",),
    "Load_Balancer": ("health_check",),
    "Meter": ("bands",),
    "HA_Chassis_Group": ("ha_chassis",),
}
"""Columns that hold a row's children: those keep what is no root alive (ovn-nb(5))."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "ACL": (
        "action", "direction", "external_ids", "label", "log", "match", "meter", "name", "options",
        "priority", "severity", "tier",
    ),
    "Address_Set": ("addresses", "external_ids", "name"),
    "BFD": (
        "detect_mult", "dst_ip", "external_ids", "logical_port", "min_rx", "min_tx", "options",
    ),
    "Chassis_Template_Var": ("chassis", "external_ids", "variables"),
    "Copp": ("external_ids", "meters", "name"),
    "DHCP_Options": ("cidr", "external_ids", "options"),
    "DNS": ("external_ids", "records"),
    "Forwarding_Group": ("child_port", "external_ids", "liveness", "name", "vip", "vmac"),
    "Gateway_Chassis": ("chassis_name", "external_ids", "name", "options", "priority"),
    "HA_Chassis": ("chassis_name", "external_ids", "priority"),
    "HA_Chassis_Group": ("external_ids", "ha_chassis", "name"),
    "Load_Balancer": (
        "external_ids", "health_check", "ip_port_mappings", "name", "options", "protocol",
        "selection_fields", "vips",
    ),
    "Load_Balancer_Group": ("load_balancer", "name"),
    "Load_Balancer_Health_Check": ("external_ids", "options", "vip"),
    "Logical_Router": (
        "copp", "enabled", "external_ids", "load_balancer", "load_balancer_group", "name", "nat",
        "options", "policies", "ports", "static_routes",
    ),
    "Logical_Router_Policy": (
        "action", "bfd_sessions", "chain", "external_ids", "jump_chain", "match", "nexthop",
        "nexthops", "options", "output_port", "priority",
    ),
    "Logical_Router_Port": (
        "enabled", "external_ids", "gateway_chassis", "ha_chassis_group", "ipv6_prefix",
        "ipv6_ra_configs", "mac", "name", "networks", "options", "peer",
    ),
    "Logical_Router_Static_Route": (
        "bfd", "external_ids", "ip_prefix", "nexthop", "options", "output_port", "policy",
        "route_table",
    ),
    "Logical_Switch": (
        "acls", "copp", "dns_records", "external_ids", "forwarding_groups", "load_balancer",
        "load_balancer_group", "name", "other_config", "ports", "qos_rules",
    ),
    "Logical_Switch_Port": (
        "addresses", "dhcpv4_options", "dhcpv6_options", "enabled", "external_ids",
        "ha_chassis_group", "mirror_rules", "name", "options", "parent_name", "port_security",
        "tag", "tag_request", "type",
    ),
    "Meter": ("bands", "external_ids", "fair", "name", "unit"),
    "Meter_Band": ("action", "burst_size", "external_ids", "rate"),
    "Mirror": ("external_ids", "filter", "index", "name", "sink", "type"),
    "NAT": (
        "allowed_ext_ips", "exempted_ext_ips", "external_ids", "external_ip", "external_mac",
        "external_port_range", "gateway_port", "logical_ip", "logical_port", "match", "options",
        "priority", "type",
    ),
    "Port_Group": ("acls", "external_ids", "name", "ports"),
    "QoS": ("action", "bandwidth", "direction", "external_ids", "match", "priority"),
    "Sampling_App": ("external_ids", "id", "type"),
    "Static_MAC_Binding": ("ip", "logical_port", "mac", "override_dynamic_mac"),
}  # fmt: skip
"""What is replicated: all that we may write; not what northd says of it (`up`), which changes
whenever a guest starts. Columns that the server's schema lacks are left out."""


def binding_name(logical_port: str, address: str) -> str:
    """The name by which a Static_MAC_Binding is known: its unique columns."""
    return f"{logical_port} {address}"


class Ours:
    """Our rows by key, the holders of those that are no roots, and what changed of either."""

    def __init__(self) -> None:
        self._rows_of: dict[str, Mapping[UUID, Row]] = {}
        self._changed: dict[str, set[UUID]] = {}
        self._found: dict[RowKey, set[UUID]] = {}
        self._keys: dict[str, dict[UUID, RowKey]] = {}
        self._held: dict[tuple[str, str], dict[UUID, frozenset[UUID]]] = {}
        self._holders: dict[UUID, dict[UUID, tuple[str, str]]] = {}
        self._listening: Replica | None = None
        self._kept: dict[Any, Any] = {}

    # Reading

    def find(self, key: RowKey) -> list[UUID]:
        """The rows of this key, in an order that does not change; more than one is too many."""
        found = self._found.get(key)
        if not found:
            return []
        return list(found) if len(found) == 1 else sorted(found)

    def keys(self) -> Iterable[RowKey]:
        """The keys of all rows that are there."""
        return self._found.keys()

    def key(self, table: str, uuid: UUID) -> RowKey | None:
        """The key of a row; None: it is not ours."""
        return self._keys.get(table, {}).get(uuid)

    def holders(self, uuid: UUID) -> Mapping[UUID, tuple[str, str]]:
        """Which rows have it in a column of `PARENTS`: to (table, column)."""
        return self._holders.get(uuid, {})

    # Following the database

    def absorb(self, replica: Replica) -> set[RowKey]:
        """Take in what changed; the keys whose rows may be otherwise than before."""
        if self._listening is not replica:
            self._listening = replica
            replica.listeners.append(self._note)
        touched: set[RowKey] = set()
        for table in COLUMNS:
            if not replica.has(table):
                continue
            rows = replica.tables[table].rows
            changed = self._changed.pop(table, None)
            if self._rows_of.get(table) is not rows:
                # Never filled, or replaced as a whole by a reconnection.
                self._rows_of[table] = rows
                changed = set(rows) | self._keys.get(table, {}).keys()
                for column in PARENTS.get(table, ()):
                    changed |= self._held.get((table, column), {}).keys()
            if changed:
                self._take(table, rows, changed, touched)
        return touched

    def _note(self, table: str, uuid: UUID) -> None:
        self._changed.setdefault(table, set()).add(uuid)

    def _take(
        self, table: str, rows: Mapping[UUID, Row], changed: set[UUID], touched: set[RowKey]
    ) -> None:
        keys = self._keys.setdefault(table, {})
        columns = PARENTS.get(table, ())
        for uuid in changed:
            row = rows.get(uuid)
            if row is not None:
                _share(self._kept, table, row)
            before = keys.get(uuid)
            # A row that was ours stays ours when somebody takes its mark away: it gets it again.
            now = None if row is None else _key(table, row) or before
            if before is not None and before != now:
                touched.add(before)
                found = self._found[before]
                found.discard(uuid)
                if not found:
                    del self._found[before]
                del keys[uuid]
            if now is not None:
                touched.add(now)
                if before != now:
                    self._found.setdefault(now, set()).add(uuid)
                    keys[uuid] = now
            for column in columns:
                self._hold(table, column, uuid, row, touched)

    def _hold(
        self, table: str, column: str, uuid: UUID, row: Row | None, touched: set[RowKey]
    ) -> None:
        held = self._held.setdefault((table, column), {})
        before = held.get(uuid, frozenset())
        now = frozenset(references(row, column)) if _has(row, column) else frozenset()
        if before == now:
            return
        if now:
            held[uuid] = now
        else:
            held.pop(uuid, None)
        for child in before - now:
            holders = self._holders[child]
            holders.pop(uuid, None)
            if not holders:
                del self._holders[child]
            self._touch(child, table, column, touched)
        for child in now - before:
            self._holders.setdefault(child, {})[uuid] = (table, column)
            self._touch(child, table, column, touched)

    def _touch(self, child: UUID, table: str, column: str, touched: set[RowKey]) -> None:
        key = self._keys.get(_CHILDREN[table, column], {}).get(child)
        if key is not None:
            touched.add(key)


_ALIKE = frozenset({OWNER_KEY, EXTRA_KEY, "ls"})
"""Keys of external_ids with few values."""

_KEYS_ALIKE = frozenset({"external_ids", "options", "other_config"})
"""Maps with few keys; those of others (`vips`, `ip_port_mappings`, `records`) come and go."""

_CHILDREN = {
    ("Logical_Switch", "ports"): "Logical_Switch_Port",
    ("Logical_Switch", "acls"): "ACL",
    ("Logical_Switch", "qos_rules"): "QoS",
    ("Logical_Switch", "forwarding_groups"): "Forwarding_Group",
    ("Logical_Router", "ports"): "Logical_Router_Port",
    ("Logical_Router", "static_routes"): "Logical_Router_Static_Route",
    ("Logical_Router", "policies"): "Logical_Router_Policy",
    ("Logical_Router", "nat"): "NAT",
    ("Logical_Router", "load_balancer"): "Load_Balancer",
    ("Logical_Router_Port", "gateway_chassis"): "Gateway_Chassis",
    ("Port_Group", "acls"): "ACL",
    ("Load_Balancer", "health_check"): "Load_Balancer_Health_Check",
    ("Meter", "bands"): "Meter_Band",
    ("HA_Chassis_Group", "ha_chassis"): "HA_Chassis",
}


def _share(kept: dict[Any, Any], table: str, row: Row) -> None:
    """Have what most rows hold equally once: empty columns, keys of external_ids and the like.

    The library makes an object of 160 bytes for each empty column and of 110 for each text.
    """
    data = row._data  # noqa: SLF001  # no public way
    for column, datum in data.items():
        if not datum.values:
            if not isinstance(datum, SharedEmpty):
                data[column] = kept.setdefault((table, column), SharedEmpty(datum.type, {}))
        elif datum.type.is_map() and column in _KEYS_ALIKE:
            datum.values = {
                kept.setdefault(key.value, key): (
                    kept.setdefault(("", key.value, value.value), value)
                    if key.value in _ALIKE
                    else value
                )
                for key, value in datum.values.items()
            }


def _has(row: Row | None, column: str) -> bool:
    return row is not None and row._data is not None and column in row._data  # noqa: SLF001


def _key(table: str, row: Row) -> RowKey | None:
    """The key of a row of ours; None: it is another's."""
    if table == "Static_MAC_Binding":
        port: Any = committed(row, "logical_port")
        if not port.startswith(PREFIX):
            return None
        return RowKey(table, binding_name(port, committed(row, "ip")))
    if table == "Load_Balancer_Group":
        name: Any = committed(row, "name")
        return RowKey(table, name) if name.startswith(PREFIX) else None
    ids: Any = committed(row, "external_ids")
    if ids.get(OWNER_KEY) != OWNER or NAME_KEY not in ids:
        return None
    return RowKey(table, ids[NAME_KEY])
