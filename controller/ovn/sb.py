"""OVN's southbound database, watched: each change becomes one frozen `SbSnapshot`.

Logical flows, by far the largest table, and learned MAC bindings are not replicated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import UUID

from controller.ovn.rows import refs, text_or_none
from controller.translate.ovn import Chassis, PortBinding, SbSnapshot, ServiceMonitor
from dataplane.drivers.idl import DatabaseClient, Replica, Row, optional, read

DATABASE = "OVN_Southbound"

TABLES: Mapping[str, tuple[str, ...]] = {
    "Port_Binding": (
        "logical_port", "type", "chassis", "mac", "up", "options", "parent_port", "tag", "datapath",
    ),
    "Datapath_Binding": ("tunnel_key",),
    "Chassis": ("name", "hostname", "encaps", "other_config"),
    "Encap": ("ip",),
    "Service_Monitor": ("ip", "port", "protocol", "status"),
}  # fmt: skip

_OF_PORTS = ("Port_Binding", "Datapath_Binding", "Service_Monitor")


def client(
    remote: str,
    on_change: Callable[[SbSnapshot], None] = lambda _: None,
    on_connection: Callable[[bool], None] = lambda _: None,
    *,
    ports: bool = True,
) -> DatabaseClient[SbSnapshot]:
    """A client of the southbound database at `remote`; see `DatabaseClient`, start it.

    Without `ports` only chassis are watched: all that the cluster controller asks for.
    """
    return DatabaseClient(
        remote=remote,
        database=DATABASE,
        tables={name: TABLES[name] for name in TABLES if ports or name not in _OF_PORTS},
        snapshot=snapshot,
        on_change=on_change,
        on_connection=on_connection,
    )


def snapshot(replica: Replica) -> SbSnapshot:
    """What the replica holds. Only rows that changed are parsed again."""
    encaps = replica.keyed("Encap", _encap)
    bindings: Mapping[str, PortBinding] = {}
    monitors: Mapping[str, ServiceMonitor] = {}
    datapaths: Mapping[str, int] = {}
    if replica.has("Port_Binding"):
        bindings = replica.keyed("Port_Binding", _port_binding)
        datapaths = replica.keyed("Datapath_Binding", _datapath)
        monitors = replica.keyed("Service_Monitor", _service_monitor)
    return SbSnapshot(
        port_bindings=bindings,
        # A chassis is few columns and there are at most thousands: resolved anew each time.
        chassis={str(row.uuid): _chassis(row, encaps) for row in replica.rows("Chassis")},
        service_monitors=monitors,
        datapaths=datapaths,
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a nested port is to be: in which trunk, under which tag, on which chassis."""

    parent: str
    tag: int
    chassis: str


def when_claimed(
    client: DatabaseClient[SbSnapshot], port: str, place: Place, timeout: float
) -> Future[tuple[PortBinding, int | None]]:
    """Done when the chassis has claimed the nested port: its binding, its datapath's number.

    Asked of the replica: snapshots wait for the rest of their burst. `DatabaseTimeoutError` after
    `timeout` seconds.
    """

    def answer(replica: Replica) -> tuple[PortBinding, int | None] | None:
        row = replica.find("Port_Binding", "logical_port", port)
        if row is None:
            return None
        _, found = _port_binding(row)
        if not found.up or (found.parent, found.tag) != (place.parent, place.tag):
            return None
        chassis = _row(replica, "Chassis", found.chassis)
        if chassis is None or read(chassis, "name") != place.chassis:
            return None
        datapath = _row(replica, "Datapath_Binding", found.datapath)
        return found, _datapath(datapath)[1] if datapath is not None else None

    return client.submit_wait(answer, timeout)


def _row(replica: Replica, table: str, ref: str | None) -> Row | None:
    return replica.tables[table].rows.get(UUID(ref)) if ref else None


def _encap(row: Row) -> tuple[str, str]:
    return str(row.uuid), str(read(row, "ip"))


def _chassis(row: Row, encaps: Mapping[str, str]) -> Chassis:
    addresses = {encaps[ref] for ref in refs(row, "encaps") if ref in encaps}
    return Chassis(
        name=read(row, "name"),
        hostname=read(row, "hostname"),
        encap_ips=tuple(sorted(addresses)),
        other_config=read(row, "other_config"),
    )


def _port_binding(row: Row) -> tuple[str, PortBinding]:
    chassis, datapath = refs(row, "chassis"), refs(row, "datapath")
    name = str(read(row, "logical_port"))
    return name, PortBinding(
        logical_port=name,
        type=read(row, "type"),
        chassis=chassis[0] if chassis else None,
        mac=tuple(read(row, "mac")),
        up=bool(optional(row, "up")),
        options=read(row, "options"),
        parent=text_or_none(row, "parent_port"),
        tag=optional(row, "tag"),
        datapath=datapath[0] if datapath else None,
        ref=str(row.uuid),
    )


def _datapath(row: Row) -> tuple[str, int]:
    return str(row.uuid), int(read(row, "tunnel_key"))


def _service_monitor(row: Row) -> tuple[str, ServiceMonitor]:
    return str(row.uuid), ServiceMonitor(
        ip=read(row, "ip"),
        port=read(row, "port"),
        protocol=optional(row, "protocol"),
        status=optional(row, "status"),
    )
