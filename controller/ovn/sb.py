"""OVN's southbound database, watched: each change becomes one frozen `SbSnapshot`.

Logical flows, by far the largest table, and learned MAC bindings are not replicated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from uuid import UUID

from controller.ovn.rows import refs, text_or_none
from controller.translate.ovn import Chassis, PortBinding, SbSnapshot, ServiceMonitor
from dataplane.drivers.idl import DatabaseClient, NotYetError, Replica, Row, optional, read

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

_ALL: list[object] = [True]
_NONE: list[object] = [False]
_OF_PORTS = ("Port_Binding", "Datapath_Binding", "Service_Monitor")


class Bindings:
    """Which Port_Binding rows a node is sent: of its own chassis, or `everything`.

    The server evaluates the condition (OVSDB's monitor_cond), so that ports that come and go
    elsewhere are no message here. It names the chassis's row, which no one knows before it is read.
    """

    def __init__(self, chassis: str, *, everything: bool = False) -> None:
        self.chassis = chassis
        self.everything = everything
        """May be set by any thread; `DatabaseClient.again` makes it so."""

    def prepare(self, replica: Replica) -> None:
        """Have the first answer of the server be no more than the later ones."""
        replica.cond_change("Port_Binding", _ALL if self.everything else _NONE)

    def snapshot(self, replica: Replica) -> SbSnapshot:
        """What the replica holds, once it has what was asked for.

        Raises:
            NotYetError: it has not.
        """
        wanted = self._wanted(replica)
        condition = replica.tables["Port_Binding"].condition_state
        if condition.latest != wanted:
            replica.cond_change("Port_Binding", wanted)
        if condition.acked != wanted:
            raise NotYetError(self.chassis)
        return replace(snapshot(replica), partial=wanted != _ALL)

    def _wanted(self, replica: Replica) -> list[object]:
        if self.everything:
            return _ALL
        row = replica.find("Chassis", "name", self.chassis)
        # Without a chassis nothing is bound to it.
        return [["chassis", "==", ["uuid", str(row.uuid)]]] if row is not None else _NONE


def client(
    remote: str,
    on_change: Callable[[SbSnapshot], None] = lambda _: None,
    on_connection: Callable[[bool], None] = lambda _: None,
    *,
    ports: bool = True,
    bindings: Bindings | None = None,
) -> DatabaseClient[SbSnapshot]:
    """A client of the southbound database at `remote`; see `DatabaseClient`, start it.

    Without `ports` only chassis are watched: all that the cluster controller asks for. With
    `bindings` no more of ports than they say: a node is not sent what others have.
    """
    return DatabaseClient(
        remote=remote,
        database=DATABASE,
        tables={name: TABLES[name] for name in TABLES if ports or name not in _OF_PORTS},
        snapshot=snapshot if bindings is None else bindings.snapshot,
        prepare=(lambda _: None) if bindings is None else bindings.prepare,
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
