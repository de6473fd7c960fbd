"""The local Open_vSwitch database: what OVS is, and what it says of its bridges and ports.

How we recognise our own after a restart: bridges and ports carry external_ids:owner=millrace; the
keys that we set in the one Open_vSwitch row, and in the maps of an Interface, are listed beside
them (external_ids:millrace-keys), so that a key of ours is removed when the plan drops it and a
key of anybody else's never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from dataplane.drivers.idl import DatabaseClient
from dataplane.drivers.ovsinterfaces import InterfaceState, interface_states
from dataplane.drivers.replica import Replica, Row, optional, read, references
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.ports import ObserveError

DATABASE = "Open_vSwitch"
TABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Open_vSwitch": (
            "bridges", "datapaths", "other_config", "external_ids", "next_cfg", "cur_cfg",
            "ovs_version", "db_version", "dpdk_initialized", "dpdk_version", "iface_types",
        ),
        "Datapath": ("capabilities", "external_ids"),
        "Bridge": (
            "name", "ports", "mirrors", "datapath_type", "fail_mode", "other_config",
            "external_ids",
        ),
        "Mirror": (
            "name", "select_src_port", "select_dst_port", "output_port", "external_ids",
        ),
        "Port": (
            "name", "interfaces", "tag", "qos", "bond_mode", "lacp", "other_config",
            "external_ids", "protected",
        ),
        "QoS": ("type", "other_config", "queues", "external_ids"),
        "Interface": (
            "name", "type", "options", "external_ids", "other_config", "mtu_request", "mtu",
            "ofport", "ofport_request", "error",
            "link_state", "mac_in_use", "ifindex", "ingress_policing_rate",
            "ingress_policing_burst",
        ),
    }
)  # fmt: skip

REJECTED_OFPORT = -1
"""Interface.ofport of a port that could not be made (ovs-vswitchd.conf.db(5))."""


@dataclass(frozen=True, slots=True)
class PortState:
    """A port and its interface as vswitchd sees them, without the counters.

    `ofport` None: vswitchd has not looked at it yet. `error` is OVS's own text, empty if none.
    """

    name: str
    bridge: str
    type: str
    owner: str
    ofport: int | None
    error: str
    link_state: str
    mtu: int | None
    external_ids: Mapping[str, str]

    @property
    def rejected(self) -> str:
        """Why OVS refuses it; empty if it does not."""
        if self.error:
            return self.error
        if self.ofport == REJECTED_OFPORT:
            return "OVS gave it no OpenFlow port number, and no reason; see vswitchd's log"
        return ""

    @property
    def ovn_installed(self) -> bool:
        """ovn-controller has put all flows of this port into OVS."""
        return self.external_ids.get("ovn-installed") == "true"


@dataclass(frozen=True, slots=True)
class OvsState:
    """The database at one moment.

    `version` is empty unless whoever started OVS wrote it (ovs-ctl does): ask vswitchd itself over
    unixctl. `cur_cfg` < `next_cfg`: vswitchd has work to do, or is away.
    """

    version: str
    db_version: str
    dpdk_initialized: bool
    dpdk_version: str
    iface_types: frozenset[str]
    next_cfg: int
    cur_cfg: int
    bridges: tuple[str, ...]
    ports: Mapping[str, PortState]
    capabilities: Mapping[str, str] = field(default_factory=dict)
    """What OVN is told of the userspace datapath."""


def root(replica: Replica) -> Row:
    """The one Open_vSwitch row.

    Raises:
        ObserveError: the database is empty (`ovs-vsctl init` makes the row).
    """
    rows = replica.rows("Open_vSwitch")
    if not rows:
        msg = "the Open_vSwitch table has no row: run `ovs-vsctl init` on this database first"
        raise ObserveError(msg)
    return rows[0]


def netdev_datapath(replica: Replica) -> Row | None:
    """The row of the userspace datapath; ovn-controller makes it, and vswitchd fills it in."""
    rows = replica.rows("Open_vSwitch")
    found: Row | None = read(rows[0], "datapaths").get("netdev") if rows else None
    return found


@dataclass(frozen=True, slots=True)
class _BridgeRow:
    name: str
    ports: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class _PortRow:
    name: str
    owner: str
    interfaces: tuple[UUID, ...]


def _bridge(row: Row) -> _BridgeRow:
    return _BridgeRow(read(row, "name"), tuple(references(row, "ports")))


def _port(row: Row) -> _PortRow:
    owner = read(row, "external_ids").get("owner", "")
    return _PortRow(read(row, "name"), owner, tuple(references(row, "interfaces")))


def _interface(row: Row) -> PortState:
    """The state of an interface; bridge and owner are filled in by `snapshot`."""
    return PortState(
        name=read(row, "name"),
        bridge="",
        type=read(row, "type"),
        owner="",
        ofport=optional(row, "ofport"),
        error=optional(row, "error") or "",
        link_state=optional(row, "link_state") or "",
        mtu=optional(row, "mtu"),
        external_ids=read(row, "external_ids"),
    )


def snapshot(replica: Replica) -> OvsState:
    """The replica as a frozen value."""
    rows = replica.rows("Open_vSwitch")
    bridges = replica.parsed("Bridge", _bridge)
    interfaces = replica.parsed("Interface", _interface)
    port_rows = replica.parsed("Port", _port)
    ports: dict[str, PortState] = {}
    for bridge in bridges.values():
        for port in (port_rows[uuid] for uuid in bridge.ports if uuid in port_rows):
            for state in (interfaces[uuid] for uuid in port.interfaces if uuid in interfaces):
                ports[state.name] = PortState(
                    state.name, bridge.name, state.type, port.owner, state.ofport, state.error,
                    state.link_state, state.mtu, state.external_ids,
                )  # fmt: skip
    datapath = netdev_datapath(replica)
    capabilities = read(datapath, "capabilities") if datapath is not None else {}
    return _state_of(rows[0] if rows else None, bridges.values(), ports, capabilities)


def _state_of(
    row: Row | None,
    bridges: Iterable[_BridgeRow],
    ports: Mapping[str, PortState],
    capabilities: Mapping[str, str],
) -> OvsState:
    def column(name: str) -> Any:
        return read(row, name) if row is not None else None

    return OvsState(
        version="".join(column("ovs_version") or ()),
        db_version="".join(column("db_version") or ()),
        dpdk_initialized=bool(column("dpdk_initialized")),
        dpdk_version="".join(column("dpdk_version") or ()),
        iface_types=frozenset(column("iface_types") or ()),
        next_cfg=column("next_cfg") or 0,
        cur_cfg=column("cur_cfg") or 0,
        bridges=tuple(sorted(bridge.name for bridge in bridges)),
        ports=MappingProxyType(dict(ports)),
        capabilities=MappingProxyType(dict(capabilities)),
    )


class Ovs:
    """The connection to one node's OVS; the tables of `dataplane.drivers.ovstables` write by it.

    `on_change` gets an `OvsState` after every change but those of counters; both callbacks run in
    the database's thread and must return at once.
    """

    def __init__(
        self,
        remote: str,
        on_change: Callable[[OvsState], None] = lambda _: None,
        on_connection: Callable[[bool], None] = lambda _: None,
        timeout: float = 10.0,
    ) -> None:
        self.timeout = timeout
        self._latest: OvsState | None = None
        self._on_change = on_change
        self.db: DatabaseClient[OvsState] = DatabaseClient(
            remote, DATABASE, TABLES, snapshot, self._changed, on_connection
        )

    def _changed(self, state: OvsState) -> None:
        if state != self._latest:
            self._latest = state
            self._on_change(state)

    def start(self) -> None:
        """Start the thread; it connects, and reconnects, by itself."""
        self.db.start()

    def stop(self) -> None:
        """Close the connection; the database keeps what we wrote."""
        self.db.stop()

    def wait_synced(self, timeout: float) -> OvsState:
        """The first state, once it is here.

        Raises:
            DatabaseTimeoutError: not within `timeout` seconds.
        """
        self.db.wait_synced(timeout)
        assert self._latest is not None
        return self._latest

    @property
    def connected(self) -> bool:
        """The database answers and our copy is current."""
        return self.db.connected

    @property
    def latest(self) -> OvsState | None:
        """The last state that `on_change` got."""
        return self._latest

    def look(self, fn: Callable[[Replica], Any]) -> Any:
        """`fn` of the replica as it is now.

        Raises:
            ObserveError: the database is out of reach.
        """
        if not self.db.connected:
            msg = f"not connected to the OVS database at {self.db.remote}: is ovsdb-server running?"
            raise ObserveError(msg)
        return self.db.read(fn, self.timeout)

    def state(self) -> OvsState:
        """The state as it is now, after every transaction that has returned.

        Raises:
            ObserveError: the database is out of reach.
        """
        result: OvsState = self.look(snapshot)
        return result

    def interface_states(self) -> Mapping[str, InterfaceState]:
        """Every interface of this OVS by name, with its counters.

        Raises:
            ObserveError: the database is out of reach.
        """
        return interface_states(self.db.remote, self.timeout)

    def other_config(self) -> Mapping[str, str]:
        """Open_vSwitch.other_config, whoever wrote it.

        Raises:
            ObserveError: the database is out of reach, or empty.
        """
        found: Mapping[str, str] = self.look(lambda replica: read(root(replica), "other_config"))
        return found

    def openflow_ports(self) -> Mapping[str, Mapping[str, int]]:
        """Bridges (but br-int, whose rules are ovn-controller's) -> ports -> OpenFlow numbers.

        Raises:
            ObserveError: the database is out of reach.
        """
        state = self.state()
        ports: dict[str, dict[str, int]] = {
            bridge: {} for bridge in state.bridges if bridge != INTEGRATION_BRIDGE
        }
        for port in state.ports.values():
            if port.bridge in ports and port.ofport is not None and port.ofport > 0:
                ports[port.bridge][port.name] = port.ofport
        return ports

    def ovn_installed(self, name: str) -> bool:
        """Whether ovn-controller has installed all flows of this port."""
        port = self.state().ports.get(name)
        return port is not None and port.ovn_installed

    def when_ovn_installed(self, name: str, timeout: float) -> Future[bool]:
        """Done when ovn-controller has installed the port's flows, or when OVS refused the port.

        The result is True in the first case. `DatabaseTimeoutError` after `timeout` seconds.
        """

        def answer(replica: Replica) -> bool | None:
            row = replica.find("Interface", "name", name)
            if row is None:
                return None
            state = _interface(row)
            if state.rejected:
                return False
            return True if state.ovn_installed else None

        return self.db.submit_wait(answer, timeout)

    def when_port_known(self, name: str, timeout: float) -> Future[PortState]:
        """Done when vswitchd has looked at the port: see `ofport` and `rejected` of the result."""

        def answer(replica: Replica) -> PortState | None:
            row = replica.find("Interface", "name", name)
            state = _interface(row) if row is not None else None
            return (
                state if state is not None and (state.ofport is not None or state.error) else None
            )

        return self.db.submit_wait(answer, timeout)
