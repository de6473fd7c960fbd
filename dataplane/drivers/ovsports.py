"""The table `ports`: one Port with one Interface of the same name, and what OVS thinks of it.

A port that OVS refuses must not stay in the database: vswitchd tries it again without pause, fills
its log, and leaks packet buffers until correct AF_XDP ports fail too. So `upsert` waits for
vswitchd's verdict and takes a refused port back at once, with OVS's own words; what OVS refuses
later, `rejected` reports, and the reconciler takes it back.

OVS does not notice when the network device below an AF_XDP port is deleted and made anew: the port
stays in place, polling a device that is gone. So the device's ifindex is kept beside the port
(external_ids:millrace-ifindex), and a port on another incarnation of its device is made anew; while
there is no device, there is no port, and the row waits for it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import REJECTED_OFPORT, Ovs
from dataplane.drivers.ovstables import (
    KEYS,
    NOT_YET,
    RECONFIGURE_TIMEOUT,
    RowRefusedError,
    batched,
    wait_configured,
)
from dataplane.drivers.replica import Replica, Row, optional, read, references, refers, write
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.model.rows import Port
from dataplane.ports import Failure

IFINDEX = "millrace-ifindex"
"""external_ids key of a Port: the kernel's number of its device when the port was made."""

BOND = "millrace-bond"
"""external_ids key of a bond's Port and Interfaces (`dataplane.drivers.ovsbonds`): its name."""

UNREADY = ""
"""Type of an observed port that does not work as it is."""

DEVICE_TYPES = frozenset({"afxdp", "afxdp-nonpmd", "system"})
"""Types of a port that is a network device of the same name."""


def kernel_ifindex(name: str) -> int | None:
    """The number of a network device of this namespace, None if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


class PortsTable:
    """Table `ports`: port name -> Port.

    `ifindex` numbers the network devices that vswitchd sees; another namespace's in tests.
    """

    name = "ports"

    def __init__(self, ovs: Ovs, ifindex: Callable[[str], int | None] = kernel_ifindex) -> None:
        self._ovs = ovs
        self._ifindex = ifindex

    def observe(self) -> Mapping[str, Port]:
        """Ports of ours; `rejected` says which of them vswitchd refused.

        One that vswitchd has not looked at, or whose device is gone or another one by now, is
        shown with the type `UNREADY`: different from any plan, but there, to be made or removed.
        """
        rows: dict[str, tuple[Port, str]] = self._ovs.look(_observe)
        return {
            name: port
            if not known or known == str(self._ifindex(name))
            else replace(port, type=UNREADY)
            for name, (port, known) in rows.items()
        }

    def rejected(self) -> Mapping[Hashable, str]:
        """Ports of ours that are in the database and that OVS cannot make, with its own words."""
        return {
            port.name: port.rejected
            for port in self._ovs.state().ports.values()
            if port.owner == OWNER and port.rejected and BOND not in port.external_ids
        }

    def upsert(self, batch: Sequence[tuple[str, Port]]) -> Mapping[str, Failure]:
        """Write the ports, wait for vswitchd's verdict, and take back what it refuses.

        A port that changes its bridge or type is removed and added in the same transaction.
        """
        devices = {name: self._ifindex(name) for name, port in batch if port.type in DEVICE_TYPES}
        absent = [name for name, index in devices.items() if index is None]
        failures: dict[str, Failure] = dict(self.delete(absent)) if absent else {}
        for name in absent:
            failures.setdefault(name, Failure(f"device {name} is not there yet", waiting=True))
        present = [row for row in batch if row[0] not in failures]
        if devices:
            self._forget(devices)
        if present:
            put = partial(_put_port, devices)
            failures.update(batched(self._ovs, present, _name_of, put))
        names = [name for name, _ in present if name not in failures]
        if not names:
            return failures
        wait_configured(
            self._ovs,
            lambda replica: all(_looked_at(replica, name) for name in names),
            RECONFIGURE_TIMEOUT,
        )
        state = self._ovs.state()
        refused: list[str] = []
        for name in names:
            port = state.ports.get(name)
            if port is not None and port.rejected:
                failures[name] = Failure(port.rejected, quarantine=True)
                refused.append(name)
            elif port is None or port.ofport is None:
                failures[name] = Failure(NOT_YET, waiting=True)
        if refused:
            self.delete(refused)
        return failures

    def _forget(self, devices: Mapping[str, int | None]) -> None:
        """Have vswitchd let go of ports whose device was made anew.

        It goes by names: a port that is removed and added in one transaction stays as it is, open
        on the device that is gone.
        """
        rows = self._ovs.look(_observe)
        stale = [
            name
            for name, index in devices.items()
            if name in rows and rows[name][1] and rows[name][1] != str(index)
        ]
        if stale:
            self.delete(stale)
            wait_configured(self._ovs, lambda _: True, RECONFIGURE_TIMEOUT)

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Remove the ports; one that is missing, or not ours, is success."""
        return batched(self._ovs, keys, str, _drop_port)


def _name_of(row: tuple[str, Any]) -> str:
    return row[0]


def _looked_at(replica: Replica, name: str) -> bool:
    row = replica.find("Interface", "name", name)
    return row is not None and (
        optional(row, "ofport") is not None or optional(row, "error") is not None
    )


def _bridge_of(replica: Replica) -> dict[Any, str]:
    """Port UUID -> name of its bridge, for the whole database."""
    return {
        uuid: read(row, "name")
        for row in replica.rows("Bridge")
        for uuid in references(row, "ports")
    }


def _observe(replica: Replica) -> dict[str, tuple[Port, str]]:
    """Ports of ours, each with the ifindex that its device had, "" if none was noted."""
    bridge_of = _bridge_of(replica)
    ports: dict[str, tuple[Port, str]] = {}
    for row in replica.rows("Port"):
        ids = read(row, "external_ids")
        if ids.get(OWNER_KEY) != OWNER or BOND in ids or row.uuid not in bridge_of:
            continue
        interface = read(row, "interfaces")[0]
        port = _value(row, interface, bridge_of[row.uuid])
        if optional(interface, "ofport") is None:
            port = replace(port, type=UNREADY)
        ports[read(row, "name")] = (port, ids.get(IFINDEX, ""))
    return ports


def _value(port: Row, interface: Row, bridge: str) -> Port:
    ours = set(read(port, "external_ids").get(KEYS, "").split())
    return Port(
        bridge=bridge,
        type=read(interface, "type") or "system",
        options=tuple(sorted(read(interface, "options").items())),
        external_ids=tuple(
            sorted((k, v) for k, v in read(interface, "external_ids").items() if k in ours)
        ),
        mtu_request=optional(interface, "mtu_request"),
        tag=optional(port, "tag"),
        ofport=optional(interface, "ofport_request"),
    )


def _put_port(
    devices: Mapping[str, int | None],
    replica: Replica,
    txn: Transaction,
    item: tuple[str, Port],
) -> None:
    name, wanted = item
    marks = _marks(wanted, devices.get(name))
    bridge = replica.find("Bridge", "name", wanted.bridge)
    if bridge is None:
        reason = f"bridge {wanted.bridge} is not there yet"
        raise RowRefusedError(Failure(reason, waiting=True))
    port = replica.find("Port", "name", name)
    if port is not None and port.external_ids.get(OWNER_KEY) != OWNER:
        reason = (
            f"a port of the name {name} exists and was not made by Millrace: remove it with "
            f"`ovs-vsctl del-port {name}`"
        )
        raise RowRefusedError(Failure(reason))
    if port is not None:
        interface = port.interfaces[0]
        same_bridge = refers(bridge, "ports", port.uuid)
        # A port that OVS has refused before is made anew: in place, nothing of it would change
        # and vswitchd would not look at it again.
        refused = optional(interface, "ofport") == REJECTED_OFPORT or optional(interface, "error")
        stale = IFINDEX in port.external_ids and port.external_ids[IFINDEX] != marks.get(IFINDEX)
        other = not same_bridge or (interface.type or "system") != wanted.type
        if other or refused or stale:
            remove_port(replica, port)
            port = None
    if port is None:
        interface = txn.insert(replica.tables["Interface"])
        write(interface, "name", name)
        write(interface, "type", wanted.type)
        port = txn.insert(replica.tables["Port"])
        write(port, "name", name)
        write(port, "interfaces", [interface])
        write(port, "external_ids", marks)
        write(interface, "external_ids", dict(wanted.external_ids))
        bridge.addvalue("ports", port)
    else:
        _merge_ids(port, interface, wanted, marks)
    write(interface, "options", dict(wanted.options))
    write(interface, "mtu_request", [] if wanted.mtu_request is None else [wanted.mtu_request])
    write(interface, "ofport_request", [] if wanted.ofport is None else [wanted.ofport])
    write(port, "tag", [] if wanted.tag is None else [wanted.tag])


def _marks(wanted: Port, ifindex: int | None) -> dict[str, str]:
    """What we note on a Port row."""
    marks = {OWNER_KEY: OWNER, KEYS: " ".join(key for key, _ in wanted.external_ids)}
    return marks if ifindex is None else {**marks, IFINDEX: str(ifindex)}


def _merge_ids(port: Row, interface: Row, wanted: Port, marks: Mapping[str, str]) -> None:
    """Set our keys of the interface's external_ids; others' (ovn-installed) stay."""
    before = set(port.external_ids.get(KEYS, "").split())
    present = dict(interface.external_ids)
    ours = dict(wanted.external_ids)
    for key in (before & present.keys()) - ours.keys():
        interface.delkey("external_ids", key)
    for key, value in ours.items():
        if present.get(key) != value:
            interface.setkey("external_ids", key, value)
    for key, value in marks.items():
        if port.external_ids.get(key) != value:
            port.setkey("external_ids", key, value)


def _drop_port(replica: Replica, _: Transaction, name: str) -> None:
    port = replica.find("Port", "name", name)
    if port is None or BOND in port.external_ids:
        return
    if port.external_ids.get(OWNER_KEY) == OWNER:
        remove_port(replica, port)


def remove_port(replica: Replica, port: Row) -> None:
    """Take a Port row and its Interface rows away."""
    for bridge in replica.rows("Bridge"):
        if refers(bridge, "ports", port.uuid):
            bridge.delvalue("ports", port)
    for interface in port.interfaces:
        interface.delete()
    port.delete()
