"""A node whose maps are version 2's, with flows as its programs left them.

What differs from version 3 is where records are, and which source ports flows have: any record,
and the client's own port where that was free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.abi import CtState, FlowFlag
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import dtype_of, read_array, update_keys
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from tests.bpf import world as w

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUTS = {4: abi.FLOW4, 6: abi.FLOW6}
VIPS = {4: (w.VIP_TCP, w.VIP_UDP), 6: (w.VIP6_TCP, w.VIP6_UDP)}
BACKENDS = {4: (w.WEB, w.WEB_TWO, w.DNS), 6: (w.WEB6, w.WEB6_TWO, w.DNS6)}
SOURCE = {4: w.SERVICE_ADDRESS, 6: w.SERVICE_ADDRESS6}


@dataclass(frozen=True, slots=True)
class Old:
    """One flow, for packets: its record's number and fields, addresses as text."""

    number: int
    vip: L4Addr
    target: L4Addr
    client: str
    client_port: int
    source: str
    source_port: int
    state: CtState
    flags: FlowFlag

    @property
    def reply_tuple(self) -> tuple[str, int, str, int, int]:
        """What a reply of it has."""
        target = self.target
        return str(target.address), target.port, self.source, self.source_port, target.protocol


def address(value: Any, version: int) -> IPAddress:
    """Of a record."""
    return IPv4Address(int(value)) if version == 4 else IPv6Address(value.tobytes())


def octets(found: IPAddress | str) -> Any:
    """For a record."""
    found = IPv6Address(found) if isinstance(found, str) and ":" in found else found
    found = IPv4Address(found) if isinstance(found, str) else found
    return int(found) if found.version == 4 else np.frombuffer(found.packed, np.uint8)


def made(
    world: w.World, version: int, count: int, seed: int, first_client: int = 0
) -> NDArray[Any]:
    """That many flows of all kinds, of as many clients; reply tuples differ, as they did."""
    rng = np.random.default_rng(seed)
    flows = np.zeros(count, dtype_of(LAYOUTS[version]))
    vip_tcp, vip_udp = VIPS[version]
    taken: set[tuple[int, str, int]] = set()
    for number in range(count):
        row = flows[number : number + 1]
        is_udp, kind = number % 4 == 3, number % 16
        client = first_client + number
        row["client"] = (
            (10 << 24) + 0x420000 + client
            if version == 4
            else np.frombuffer(
                IPv6Address((0x20010DB8 << 96) + (0xC0DE << 32) + client).packed, "u1"
            )
        )
        target = BACKENDS[version][2] if is_udp else BACKENDS[version][number % 2]
        vip = vip_udp if is_udp else vip_tcp
        source, flags = SOURCE[version], FlowFlag(0)
        if kind == 5:
            source, flags = str(address(row["client"][0], version)), FlowFlag.FLOW_NO_SNAT
        elif kind == 9:
            source, flags = str(address(row["client"][0], version)), FlowFlag.FLOW_DSR
            target = vip
        while True:
            port = int(rng.integers(1024, 65536))
            if (number % 2, source, port) not in taken:
                break
        taken.add((number % 2, source, port))
        row["client_port"] = port if number % 8 else int(rng.integers(1024, 65536))
        if flags:
            port = int(row["client_port"][0])
        row["vip"], row["vip_port"] = octets(vip.address), vip.port
        row["backend"], row["backend_port"] = octets(target.address), target.port
        row["source"], row["source_port"] = octets(source), port
        row["proto"] = vip.protocol
        row["state"] = (
            CtState.CT_UDP
            if is_udp
            else CtState.CT_SYN_ACK
            if kind == 2
            else CtState.CT_ESTABLISHED
        )
        row["flags"], row["service_id"] = flags, world.service_id(vip)
        row["client_mac"] = np.frombuffer(w.mac(w.CLIENT_MAC), np.uint8)
        row["vip_mac"] = np.frombuffer(
            w.mac(w.OTHER_NODE_MAC if flags & FlowFlag.FLOW_DSR else w.UPLINK_MAC), np.uint8
        )
    flows["life"], flows["seen"] = 2 * rng.integers(0, 1000, count) + 1, world.tick - 5
    flows["ifindex"] = world.uplink
    return flows


def put(maps: Mapping[str, Map], version: int, numbers: NDArray[Any], flows: NDArray[Any]) -> None:
    """Write records."""
    update_keys(maps[f"ct{version}"], numbers.astype(np.uint32), np.ascontiguousarray(flows))


def living(maps: Mapping[str, Map], version: int) -> list[Old]:
    """Records whose life is odd, whatever their time."""
    records = read_array(maps[f"ct{version}"], dtype_of(LAYOUTS[version]))
    found = []
    for number in np.flatnonzero(records["life"] & 1).tolist():
        flow = records[number]

        def text(name: str, flow: Any = flow) -> str:
            return str(address(flow[name], version))

        def end(name: str, flow: Any = flow) -> L4Addr:
            protocol = Protocol(int(flow["proto"]))
            return L4Addr(protocol, address(flow[name], version), int(flow[f"{name}_port"]))

        state, flags = CtState(int(flow["state"])), FlowFlag(int(flow["flags"]))
        client, source = text("client"), text("source")
        ports = int(flow["client_port"]), int(flow["source_port"])
        found.append(
            Old(
                number, end("vip"), end("backend"), client, ports[0], source, ports[1], state, flags
            )
        )
    return found
