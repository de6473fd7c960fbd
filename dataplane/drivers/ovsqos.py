"""The table `qos`: what a guest may send and receive through its vhost-user port.

Two places of OVS hold one row: Interface.ingress_policing_rate and _burst for what the guest sends,
and a QoS row of type egress-policer, which the Port refers to, for what it receives. Both are
policers of netdev-dpdk; its kernel-style shapers (linux-htb and the like) answer EOPNOTSUPP there.

How we recognise our own after a restart: a QoS row carries external_ids:owner=millrace and the
name of its port, which also finds the row of a port that is gone; a Port whose Interface we police
carries external_ids:millrace-policed. A QoS row of anybody else's on a port of ours stays, and the
row fails with its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovstables import RowRefusedError, batched
from dataplane.drivers.replica import Replica, Row, read, write
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.model.rows import Policer
from dataplane.ports import Failure

POLICED = "millrace-policed"
"""external_ids key of a Port: its Interface's ingress policing is ours."""

PORT = "millrace-port"
"""external_ids key of a QoS row: the name of the port that it was made for."""

EGRESS_POLICER = "egress-policer"
_TAKEN: Mapping[str, frozenset[str]] = {
    "dpdk": frozenset({EGRESS_POLICER, "trtcm-policer"}),
    "dpdkvhostuserclient": frozenset({EGRESS_POLICER, "trtcm-policer"}),
    "afxdp": frozenset(),
}
"""Types of QoS rows that do anything, by the type of the interface that PMD threads poll
(ovs-vswitchd.conf.db(5), QoS)."""


class QosTable:
    """Table `qos`: port name -> Policer."""

    name = "qos"

    def __init__(self, ovs: Ovs) -> None:
        self._ovs = ovs

    def observe(self) -> Mapping[str, Policer]:
        """Ports that we police; also those that are gone and have left a QoS row."""
        return self._ovs.look(_observe)  # type: ignore[no-any-return]

    def upsert(self, batch: Sequence[tuple[str, Policer]]) -> Mapping[str, Failure]:
        """Police these ports; one that is not there yet is waited for."""
        return batched(self._ovs, batch, _name_of, _put)

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Let everything through again; what others set stays."""
        return batched(self._ovs, keys, str, _drop)


def void_shapers(replica: Replica) -> dict[str, str]:
    """Ports with a QoS row that limits nothing there, and its type; for `Ovs.look`."""
    found: dict[str, str] = {}
    for port in replica.rows("Port"):
        for row in read(port, "qos"):
            for interface in read(port, "interfaces"):
                taken = _TAKEN.get(read(interface, "type"))
                if taken is not None and read(row, "type") not in taken:
                    found[read(port, "name")] = read(row, "type")
    return found


def _name_of(row: tuple[str, Any]) -> str:
    return row[0]


def _observe(replica: Replica) -> dict[str, Policer]:
    qos = {read(row, "external_ids")[PORT]: row for row in _ours(replica)}
    policed = {
        read(port, "name"): port
        for port in replica.rows("Port")
        if POLICED in read(port, "external_ids")
    }
    found: dict[str, Policer] = {}
    for name in sorted(qos.keys() | policed.keys()):
        ingress = (0, 0)
        if name in policed:
            interface = read(policed[name], "interfaces")[0]
            ingress = (
                read(interface, "ingress_policing_rate"),
                read(interface, "ingress_policing_burst"),
            )
        found[name] = Policer(*ingress, *_egress(replica, name, qos.get(name)))
    return found


def _ours(replica: Replica) -> Iterator[Row]:
    for row in replica.rows("QoS"):
        ids = read(row, "external_ids")
        if ids.get(OWNER_KEY) == OWNER and PORT in ids:
            yield row


def _egress(replica: Replica, name: str, row: Row | None) -> tuple[int, int]:
    """What a QoS row of ours does: nothing, if its port does not refer to it."""
    if row is None:
        return (0, 0)
    port = replica.find("Port", "name", name)
    refers = port is not None and [one.uuid for one in read(port, "qos")] == [row.uuid]
    if not refers or read(row, "type") != EGRESS_POLICER or read(row, "queues"):
        return (-1, -1)  # equal to no plan, so it is put right or removed
    config = read(row, "other_config")
    numbers = [config.get(key, "") for key in ("cir", "cbs")]
    if config.keys() - {"cir", "cbs"} or not all(text.isdecimal() for text in numbers):
        return (-1, -1)
    return (int(numbers[0]), int(numbers[1]))


def _put(replica: Replica, txn: Transaction, item: tuple[str, Policer]) -> None:
    name, wanted = item
    port = replica.find("Port", "name", name)
    if port is None:
        raise RowRefusedError(Failure(f"port {name} is not there yet", waiting=True))
    if port.external_ids.get(OWNER_KEY) != OWNER:
        reason = f"port {name} was not made by Millrace: remove it with `ovs-vsctl del-port {name}`"
        raise RowRefusedError(Failure(reason))
    ours = [row for row in _ours(replica) if row.external_ids[PORT] == name]
    _refuse_foreign(port, name, wanted, {row.uuid for row in ours})
    interface = port.interfaces[0]
    if wanted.ingress_kbps:
        write(interface, "ingress_policing_rate", wanted.ingress_kbps)
        write(interface, "ingress_policing_burst", wanted.ingress_burst_kb)
        port.setkey("external_ids", POLICED, "true")
    elif POLICED in port.external_ids:
        _let_in(port)
    for spare in ours[1:] if wanted.cir else ours:
        _remove(port, spare)
    if not wanted.cir:
        return
    row = ours[0] if ours else txn.insert(replica.tables["QoS"])
    write(row, "type", EGRESS_POLICER)
    write(row, "other_config", {"cir": str(wanted.cir), "cbs": str(wanted.cbs)})
    write(row, "queues", {})
    write(row, "external_ids", {OWNER_KEY: OWNER, PORT: name})
    write(port, "qos", [row])


def _refuse_foreign(port: Row, name: str, wanted: Policer, ours: set[Any]) -> None:
    for row in port.qos:
        if wanted.cir and row.uuid not in ours:
            reason = (
                f"port {name} has a QoS row of type {row.type} that is not ours and stays: what "
                f"the guest receives has no limit; `ovs-vsctl clear Port {name} qos` ends that"
            )
            raise RowRefusedError(Failure(reason))
    rate = port.interfaces[0].ingress_policing_rate
    if wanted.ingress_kbps and rate and POLICED not in port.external_ids:
        reason = (
            f"somebody else set ingress_policing_rate={rate} on {name}, which stays: `ovs-vsctl "
            f"set Interface {name} ingress_policing_rate=0` hands it over"
        )
        raise RowRefusedError(Failure(reason))


def _let_in(port: Row) -> None:
    interface = port.interfaces[0]
    write(interface, "ingress_policing_rate", 0)
    write(interface, "ingress_policing_burst", 0)
    port.delkey("external_ids", POLICED)


def _remove(port: Row | None, row: Row) -> None:
    if port is not None and [one.uuid for one in port.qos] == [row.uuid]:
        write(port, "qos", [])
    row.delete()


def _drop(replica: Replica, _: Transaction, name: str) -> None:
    port = replica.find("Port", "name", name)
    if port is not None and POLICED in port.external_ids:
        _let_in(port)
    for row in list(_ours(replica)):
        if row.external_ids[PORT] == name:
            _remove(port, row)
