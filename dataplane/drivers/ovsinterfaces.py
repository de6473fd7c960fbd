"""Interfaces with their counters, asked of the OVS database when somebody wants them.

vswitchd rewrites every Interface's statistics each five seconds, some ninety numbers for a guest's
port. A replica would take in all of them for nobody, so these columns are in no replica: whoever
wants them selects them, one transaction on a connection of its own, read by the interpreter's own
JSON parser.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataplane.drivers.ovsjson import Framer, JsonError
from dataplane.ports import ObserveError

DATABASE = "Open_vSwitch"
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Bridge": ("name", "ports"),
    "Port": ("_uuid", "name", "interfaces"),
    "Interface": (
        "_uuid", "name", "type", "ofport", "error", "link_state", "admin_state", "mtu",
        "link_speed", "link_resets", "statistics", "status", "external_ids",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """Everything that OVS reports of an interface, counters included (5 s old at most).

    `port` is another name than the interface's for a bond's members alone. `link_speed` is in bits
    per second.
    """

    name: str
    bridge: str
    type: str
    ofport: int | None
    error: str
    link_state: str
    admin_state: str
    mtu: int | None
    statistics: Mapping[str, int]
    status: Mapping[str, str]
    external_ids: Mapping[str, str]
    port: str = ""
    link_speed: int | None = None
    link_resets: int = 0


def interface_states(remote: str, timeout: float = 10.0) -> dict[str, InterfaceState]:
    """Every interface of a bridge by name, with its counters.

    Args:
        remote: "unix:PATH" or "tcp:ADDRESS:PORT", the first of a list.
        timeout: for all of it [s].

    Raises:
        ObserveError: no such remote, no answer in time, or no answer that can be read.
    """
    operations = [
        {"op": "select", "table": table, "where": [], "columns": list(columns)}
        for table, columns in _COLUMNS.items()
    ]
    try:
        bridges, ports, interfaces = _select(remote, operations, timeout)
        return {state.name: state for state in _states(bridges, ports, interfaces)}
    except (OSError, JsonError, KeyError, TypeError, ValueError) as error:
        msg = f"no interfaces from {remote}: {error}; is ovsdb-server running?"
        raise ObserveError(msg) from error


def _select(
    remote: str, operations: Sequence[Mapping[str, object]], timeout: float
) -> list[list[dict[str, Any]]]:
    deadline = time.monotonic() + timeout
    request = {"id": 0, "method": "transact", "params": [DATABASE, *operations]}
    with _connect(remote.split(",")[0], timeout) as sock:
        sock.sendall(json.dumps(request).encode())
        framer = Framer()
        reply: Any = None
        # The server may ask for a sign of life in between, which has a method.
        while reply is None or "method" in reply:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = sock.recv(1 << 20)
            if not chunk:
                msg = "the connection was closed before an answer"
                raise OSError(msg)
            framer.feed(chunk)
            reply = framer.next()
    if reply.get("error"):
        raise ValueError(str(reply["error"]))
    refused = next((row for row in reply["result"] if row and row.get("error")), None)
    if refused:
        msg = f"{refused['error']}: {refused.get('details', '')}"
        raise ValueError(msg)
    return [row["rows"] for row in reply["result"]]


def _connect(remote: str, timeout: float) -> socket.socket:
    method, _, where = remote.partition(":")
    if method == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return sock
    if method == "tcp":
        host, _, port = where.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout)
    msg = f"interfaces are read from unix: and tcp: remotes, not from {method}:"
    raise ValueError(msg)


def _states(
    bridges: Sequence[Mapping[str, Any]],
    ports: Sequence[Mapping[str, Any]],
    interfaces: Sequence[Mapping[str, Any]],
) -> Iterator[InterfaceState]:
    bridge_of = {uuid: row["name"] for row in bridges for uuid in _uuids(row["ports"])}
    place = {
        uuid: (bridge_of[row["_uuid"][1]], row["name"])
        for row in ports
        if row["_uuid"][1] in bridge_of
        for uuid in _uuids(row["interfaces"])
    }
    for row in interfaces:
        bridge, port = place.get(row["_uuid"][1], ("", row["name"]))
        yield InterfaceState(
            name=row["name"],
            bridge=bridge,
            type=row["type"],
            ofport=_one(row["ofport"]),
            error=_one(row["error"]) or "",
            link_state=_one(row["link_state"]) or "",
            admin_state=_one(row["admin_state"]) or "",
            mtu=_one(row["mtu"]),
            statistics=dict(row["statistics"][1]),
            status=dict(row["status"][1]),
            external_ids=dict(row["external_ids"][1]),
            port=port,
            link_speed=_one(row["link_speed"]),
            link_resets=_one(row["link_resets"]) or 0,
        )


def _uuids(value: Sequence[Any]) -> list[str]:
    """The UUIDs of a set, which is written as its one member if it has one."""
    pairs = value[1] if value[0] == "set" else [value]
    return [uuid for _, uuid in pairs]


def _one(value: Any) -> Any:
    """An optional column's value: an empty set is none."""
    if isinstance(value, list):
        return value[1][0] if value[1] else None
    return value
