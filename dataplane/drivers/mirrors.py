"""Mirrors of OVS: what passes one port, copied into a pcap file or to another port.

A capture's output port is a vdev of DPDK (net_pcap), written by the PMD thread itself: no port of
the kernel is added, so the bridge's other traffic stays off the kernel's slow path. It costs the
PMD thread time all the same, and while a mirror is there OVS's datapath flows have one action more.

How our own is recognised: the Mirror and a capture's Port carry external_ids:millrace-mirror, the
process that wants it and when that started, or that it is planned. What a killed process left is in
the table `mirrors` and in no plan: the node daemon removes it, and so does the next capture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.drivers import processes
from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsports import remove_port
from dataplane.drivers.ovstables import (
    NOT_YET,
    RECONFIGURE_TIMEOUT,
    RowRefusedError,
    batched,
    wait_configured,
)
from dataplane.drivers.replica import Replica, Row, optional, read, refers, write
from dataplane.model.rows import PortMirror, StaleMirror
from dataplane.ports import DataplaneError, Failure

MARK = "millrace-mirror"
"""external_ids key: "PID:START" of the process that mirrors."""

PLANNED = "planned"
"""Its value on a mirror that the node's plan has."""

PREFIX = "mrdump"
DEFAULT_MTU = 1500


class MirrorError(DataplaneError):
    """There is nothing to mirror, or nowhere to mirror it to."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The port that is looked at. `name` is OVS's, whichever name it was asked for by."""

    name: str
    bridge: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Output:
    """Where copies go: a file that is made for it, or a port that is there."""

    port: str
    file: Path | None


def raw_file(rundir: Path, name: str) -> Path:
    """Where vswitchd writes a capture."""
    return rundir / f"{name}.pcap"


def this_process() -> str:
    """The mark of the calling process."""
    return f"{os.getpid()}:{processes.start_ticks(os.getpid())}"


def name_of_process() -> str:
    """The name of the calling process's mirror, and of its output port."""
    return f"{PREFIX}{os.getpid()}"


def alive(mark: str) -> bool:
    """Whether the process of a mark still runs; a mark that is none is nobody's."""
    pid, _, started = mark.partition(":")
    if not (pid.isdecimal() and started.isdecimal()):
        return False
    return processes.start_ticks(int(pid)) == int(started)


def find(ovs: Ovs, wanted: str) -> Mirrored:
    """A port by its name or by the logical port that it is.

    Raises:
        MirrorError: there is none, or none on a bridge.
    """

    def look(replica: Replica) -> Mirrored | str:
        for row in replica.rows("Interface"):
            ids = read(row, "external_ids")
            name = read(row, "name")
            if wanted not in (name, ids.get("iface-id")):
                continue
            port = replica.find("Port", "name", name)
            for bridge in replica.rows("Bridge"):
                if port is not None and refers(bridge, "ports", port.uuid):
                    return Mirrored(name, read(bridge, "name"), optional(row, "mtu") or DEFAULT_MTU)
        return (
            f"there is no port {wanted} in OVS, and no container of that name is on the trunk; "
            "`millrace ports` lists the workloads'"
        )

    found: Mirrored | str = ovs.look(look)
    if isinstance(found, str):
        raise MirrorError(found)
    return found


def start(ovs: Ovs, source: Mirrored, output: Output) -> None:
    """Begin to mirror; ends when OVS has taken it. On failure nothing is left.

    Raises:
        MirrorError: OVS refused it, or it cannot be.
    """
    failures = batched(ovs, [(source, output)], lambda row: row[0].name, _put)
    if failures:
        raise MirrorError(failures[source.name].reason)
    try:
        _wait_made(ovs, output.port)
    except BaseException:
        stop(ovs, name_of_process())
        raise


def _wait_made(ovs: Ovs, name: str) -> None:
    wait_configured(ovs, lambda replica: _made(replica, name), RECONFIGURE_TIMEOUT)
    port = ovs.state().ports.get(name)
    if port is None or port.rejected or port.ofport is None:
        reason = port.rejected if port is not None else ""
        msg = f"OVS makes no port for the copies: {reason or NOT_YET}"
        raise MirrorError(msg)


def stop(ovs: Ovs, name: str) -> None:
    """End a mirror; one that is gone is success. The file is whole when this returns.

    Raises:
        MirrorError: OVSDB refused it.
    """
    failures = batched(ovs, [name], str, _drop)
    if failures:
        raise MirrorError(failures[name].reason)
    wait_configured(ovs, lambda replica: replica.find("Port", "name", name) is None, 5.0)


class MirrorsTable:
    """Table `mirrors`: name -> PortMirror, those that rows of OVN ask for.

    And name -> StaleMirror, for captures whose process is gone; none of these is planned.
    """

    name = "mirrors"

    def __init__(self, ovs: Ovs) -> None:
        self._ovs = ovs

    def observe(self) -> Mapping[str, PortMirror | StaleMirror]:
        """What is planned, and what killed processes left."""
        found: dict[str, PortMirror | StaleMirror] = self._ovs.look(_observe)
        return {
            name: row
            for name, row in found.items()
            if isinstance(row, PortMirror) or not alive(row.owner)
        }

    def upsert(
        self, batch: Sequence[tuple[str, PortMirror | StaleMirror]]
    ) -> Mapping[str, Failure]:
        """Make these mirrors; ports that are not there yet are waited for."""
        planned = [(name, row) for name, row in batch if isinstance(row, PortMirror)]
        failures = dict(batched(self._ovs, planned, lambda item: item[0], _put_planned))
        for name, row in batch:
            if isinstance(row, StaleMirror):
                failures[name] = Failure("a capture is made by `millrace dump` alone")
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Remove them, with the ports that captures made and the files that they wrote."""
        files: dict[str, Path] = self._ovs.look(_files)
        failures = batched(self._ovs, keys, str, _drop)
        for name in files.keys() & set(keys) - failures.keys():
            files[name].unlink(missing_ok=True)
        return failures


def _observe(replica: Replica) -> dict[str, PortMirror | StaleMirror]:
    found: dict[str, PortMirror | StaleMirror] = {
        read(row, "name"): StaleMirror(read(row, "external_ids")[MARK])
        for table in ("Port", "Mirror")
        for row in replica.rows(table)
        if MARK in read(row, "external_ids")
    }
    for bridge in replica.rows("Bridge"):
        for mirror in read(bridge, "mirrors"):
            if read(mirror, "external_ids").get(MARK) == PLANNED:
                found[read(mirror, "name")] = _planned(read(bridge, "name"), mirror)
    return found


def _planned(bridge: str, mirror: Row) -> PortMirror:
    """One of ours as it is; what differs between its directions is equal to no plan."""
    sent, received = (
        tuple(sorted(read(port, "name") for port in read(mirror, column)))
        for column in ("select_src_port", "select_dst_port")
    )
    output = [read(port, "name") for port in read(mirror, "output_port")]
    return PortMirror(bridge, sent if sent == received else (), "".join(output))


def _put_planned(replica: Replica, txn: Transaction, item: tuple[str, PortMirror]) -> None:
    name, row = item
    bridge = replica.find("Bridge", "name", row.bridge)
    ports = {one: replica.find("Port", "name", one) for one in (*row.ports, row.output)}
    absent = [one for one, port in ports.items() if port is None]
    if bridge is None or absent:
        reason = f"port {absent[0]}" if absent else f"bridge {row.bridge}"
        raise RowRefusedError(Failure(f"{reason} is not there yet", waiting=True))
    there = [
        one
        for one in read(bridge, "mirrors")
        if read(one, "name") == name and MARK in read(one, "external_ids")
    ]
    mirror = there[0] if there else txn.insert(replica.tables["Mirror"])
    write(mirror, "name", name)
    write(mirror, "external_ids", {MARK: PLANNED})
    for column in ("select_src_port", "select_dst_port"):
        write(mirror, column, [ports[one] for one in row.ports])
    write(mirror, "output_port", [ports[row.output]])
    _judge_anew(ports[row.output])
    if not there:
        bridge.addvalue("mirrors", mirror)


def _judge_anew(output: Row) -> None:
    """Have OVS judge the flows that it knows once more, as part of this transaction.

    Of a mirror that comes, changes or goes alone it does not (seen with 3.1): what is on its way
    goes on as before. A port's `protected` has it do so, and means nothing at a mirror's output.
    """
    write(output, "protected", not read(output, "protected"))


def _files(replica: Replica) -> dict[str, Path]:
    """The captures' own files: no path but one that `raw_file` makes is believed."""
    found: dict[str, Path] = {}
    for row in replica.rows("Interface"):
        name, options = read(row, "name"), read(row, "options")
        path = Path(options.get("dpdk-devargs", "").partition(",tx_pcap=")[2])
        if name.startswith(PREFIX) and path == raw_file(path.parent, name):
            found[name] = path
    return found


def _made(replica: Replica, name: str) -> bool:
    row = replica.find("Interface", "name", name)
    return row is not None and bool(optional(row, "ofport") is not None or optional(row, "error"))


def _put(replica: Replica, txn: Transaction, item: tuple[Mirrored, Output]) -> None:
    source, output = item
    bridge = replica.find("Bridge", "name", source.bridge)
    port = replica.find("Port", "name", source.name)
    if bridge is None or port is None:
        raise RowRefusedError(Failure(f"port {source.name} is gone"))
    ids = {MARK: this_process()}
    into = replica.find("Port", "name", output.port)
    if output.file is not None:
        into = _capture_port(replica, txn, bridge, source, output, ids)
    elif into is None or not refers(bridge, "ports", into.uuid):
        reason = f"{output.port} is no port of bridge {source.bridge}, where {source.name} is"
        raise RowRefusedError(Failure(f"{reason}; a mirror stays on its bridge"))
    elif any(refers_to(mirror, into) for mirror in read(bridge, "mirrors")):
        raise RowRefusedError(Failure(f"{output.port} is another mirror's output already"))
    else:
        _judge_anew(into)
    mirror = txn.insert(replica.tables["Mirror"])
    write(mirror, "name", name_of_process())
    write(mirror, "external_ids", ids)
    write(mirror, "select_src_port", [port])
    write(mirror, "select_dst_port", [port])
    write(mirror, "output_port", [into])
    bridge.addvalue("mirrors", mirror)


def refers_to(mirror: Row, port: Row) -> bool:
    """Whether copies of a mirror go to this port."""
    return [one.uuid for one in mirror.output_port] == [port.uuid]


def _capture_port(
    replica: Replica,
    txn: Transaction,
    bridge: Row,
    source: Mirrored,
    output: Output,
    ids: Mapping[str, str],
) -> Row:
    interface = txn.insert(replica.tables["Interface"])
    write(interface, "name", output.port)
    write(interface, "type", "dpdk")
    devargs = f"net_pcap_{output.port},tx_pcap={output.file}"
    write(interface, "options", {"dpdk-devargs": devargs})
    if source.mtu > DEFAULT_MTU:
        # OVS drops what is longer than the output port's MTU.
        write(interface, "mtu_request", [source.mtu])
    port = txn.insert(replica.tables["Port"])
    write(port, "name", output.port)
    write(port, "interfaces", [interface])
    write(port, "external_ids", dict(ids))
    bridge.addvalue("ports", port)
    return port


def _drop(replica: Replica, _: Transaction, name: str) -> None:
    for bridge in replica.rows("Bridge"):
        for mirror in list(bridge.mirrors):
            if mirror.name == name and MARK in mirror.external_ids:
                for output in read(mirror, "output_port"):
                    _judge_anew(output)
                bridge.delvalue("mirrors", mirror)
                mirror.delete()
    port: Any = replica.find("Port", "name", name)
    if port is None or MARK not in port.external_ids:
        return
    remove_port(replica, port)
