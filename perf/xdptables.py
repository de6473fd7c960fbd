"""Maps of our own, filled for `millrace perf xdp`: a node with so many services, all alike.

Written with numpy arrays straight into the maps, without the node's drivers: 100,000 services with
two backends each take a second.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.abi import AddressFlag, Layout, Limit, NodeFlag, Place, SetMode, VipFlag
from bpf.pick import filter_bit, member_key
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import dtype_of, update_keys, write_array
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOOPBACK = 1
"""ifindex of the loopback device, in every network namespace: test runs come in by it."""

UPLINK = 4242
"""Key of tx_ports in maps of our own: another number than the loopback's, so that replies are
redirected through the map as on a node, and not sent back where they came from."""

PORT, BACKEND_PORT = 80, 8080
MEASURED_BACKENDS, BACKENDS = 16, 2
"""Of the service that is measured, unless it is to have more, and of every other."""

LONG_TICKS = 1 << 30
_FIRST_VIP: dict[int, int] = {
    4: int(IPv4Address("198.18.0.0")),
    6: int(IPv6Address("2001:2::")),
}
_FIRST_BACKEND: dict[int, int] = {
    4: int(IPv4Address("10.128.0.1")),
    6: int(IPv6Address("fd00:10::1")),
}
OWN: dict[int, IPAddress] = {4: IPv4Address("172.18.0.11"), 6: IPv6Address("fd00:18::11")}
"""Addresses of the node itself."""

_SERVICE_ADDRESS: dict[int, IPAddress] = {
    4: IPv4Address("100.64.255.1"),
    6: IPv6Address("fd00:64::1"),
}
_MACS = {
    "service_mac": Mac("0a:58:64:40:ff:01"),
    "gateway_mac": Mac("0a:58:ac:12:00:6f"),
    "uplink_mac": Mac("02:00:00:00:00:0a"),
}


def address(first: Mapping[int, int], version: int, number: int) -> IPAddress:
    """The address `number` behind a first one."""
    return (IPv4Address if version == 4 else IPv6Address)(first[version] + number)


def vip_of(version: int, number: int, protocol: Protocol = Protocol.TCP) -> L4Addr:
    """Service `number` of a family."""
    return L4Addr(protocol, address(_FIRST_VIP, version, number), PORT)


def power_of_two(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(0, number - 1).bit_length()


def sizes(services: int, flows: int) -> dict[str, int]:
    """Entries of the maps that the default is too small for, for so many services and flows.

    Of abi.TRAFFIC that of one CPU: as `Object.resize` takes it.
    """
    both = power_of_two(2 * (services + 2))
    wanted = {
        "vips": 2 * both,
        "sets": 2 * both,
        "members": 4 * both,
        "backends": 4 * both,
    } | abi.sizes_by_service(both)
    slots = power_of_two(2 * flows)
    for family in ("ct4", "ct6"):
        wanted |= {family: slots, f"{family}_tags": slots // 8, f"{family}_replies": slots // 2}
    return {name: size for name, size in wanted.items() if size > abi.MAPS[name].max_entries}


def _mapped(packed: bytes) -> bytes:
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _rows(layout: Layout, count: int) -> NDArray[Any]:
    return np.zeros(count, dtype_of(layout))


def _octets(addresses: list[bytes]) -> NDArray[Any]:
    joined = b"".join(map(_mapped, addresses))
    return np.frombuffer(joined, np.uint8).reshape(len(addresses), 16)


def fill(maps: Mapping[str, Map], services: int, measured: int) -> None:
    """A node that serves that many TCP services in each family, and one UDP service.

    The first of each has `measured` backends; so many that a list would be too long are in a table.
    """
    served = [vip_of(version, number) for version in (4, 6) for number in range(services)]
    served += [vip_of(version, 0, Protocol.UDP) for version in (4, 6)]
    vips = [(vip, 1 + at) for at, vip in enumerate(served)]
    sets = _rows(abi.SET, 2 * len(vips) + 2)
    backends: list[tuple[bytes, Protocol]] = []
    members: list[tuple[int, int]] = []
    tables = 0
    for vip, service_id in vips:
        version, number = vip.address.version, int(vip.address) - _FIRST_VIP[vip.address.version]
        count = BACKENDS if number else measured
        first, some = len(members), []
        for _ in range(count):
            target = address(_FIRST_BACKEND, version, len(backends))
            backends.append((target.packed, vip.protocol))
            key = member_key(str(L4Addr(vip.protocol, target, BACKEND_PORT)))
            some.append((key, len(backends)))
        if count > Limit.LIST_MAX:
            row = (tables, count, SetMode.SET_TABLE, 0)
            _write_table(maps["tables"], tables, [backend_id for _, backend_id in some])
            tables += 1
        else:
            row = (first, count, SetMode.SET_LIST, 0)
            members += sorted(some)
        sets[2 * service_id] = sets[2 * service_id + 1] = row
    write_array(maps["sets"], sets)
    _write_backends(maps, backends)
    rows = _rows(abi.MEMBER, len(members))
    rows["key"], rows["backend_id"] = np.array(members, np.uint32).reshape(-1, 2).T
    write_array(maps["members"], rows)
    _write_vips(maps, vips)
    _write_node(maps)


def _write_table(held: Map, number: int, backend_ids: list[int]) -> None:
    """One table of a set: its slots go to the backends in turn."""
    slots = np.resize(np.array(backend_ids, np.uint32), Limit.PICK_SLOTS)
    write_array(held, slots, first=number * Limit.PICK_SLOTS)


def _write_backends(maps: Mapping[str, Map], backends: list[tuple[bytes, Protocol]]) -> None:
    rows = _rows(abi.BACKEND, len(backends))
    rows["addr"] = _octets([packed for packed, _ in backends])
    rows["proto"] = [protocol for _, protocol in backends]
    rows["port"], rows["place"], rows["mtu"] = BACKEND_PORT, Place.PLACE_LOCAL, 1500
    write_array(maps["backends"], rows, first=1)


def _write_vips(maps: Mapping[str, Map], vips: list[tuple[L4Addr, int]]) -> None:
    _write_filter(maps["vip_bits"], [(vip.address, vip.port, vip.protocol) for vip, _ in vips])
    keys, values = _rows(abi.VIP_KEY, len(vips)), _rows(abi.VIP, len(vips))
    keys["addr"] = _octets([vip.address.packed for vip, _ in vips])
    keys["port"], keys["proto"] = PORT, [vip.protocol for vip, _ in vips]
    values["service_id"] = [service_id for _, service_id in vips]
    values["flags"] = VipFlag.VIP_SNAT | VipFlag.VIP_REJECT
    update_keys(maps["vips"], keys, values)


def _write_filter(held: Map, keys: Sequence[tuple[IPAddress, int, int]]) -> None:
    words = np.zeros(Limit.FILTER_BITS // 64, np.uint64)
    for own, port, protocol in keys:
        bit = filter_bit(own.packed, port, protocol)
        words[bit // 64] |= np.uint64(1 << bit % 64)
    write_array(held, words)


def _write_node(maps: Mapping[str, Map]) -> None:
    masks = {
        f"{family}_{mask}": maps[f"{family}_{name}"].info.max_entries - 1
        for family in ("ct4", "ct6")
        for mask, name in (("mask", "tags"), ("reply_mask", "replies"))
    }
    node = abi.NODE.pack(
        flags=NodeFlag.NODE_VALID4 | NodeFlag.NODE_VALID6,
        ct_seed=0x5EED,
        pick_seed=Limit.PICK_SEED,
        service_addr4=_SERVICE_ADDRESS[4].packed,
        service_addr6=_SERVICE_ADDRESS[6].packed,
        uplink_ifindex=UPLINK,
        svc_ifindex=LOOPBACK + 1,
        local4=OWN[4].packed,
        timeouts=struct.pack("=I", LONG_TICKS) * abi.CtState.CT_STATES,
        **{name: mac.packed() for name, mac in _MACS.items()},
        **masks,
    )
    maps["node"].update(bytes(4), node)
    _write_filter(maps["address_bits"], [(own, 0, 0) for own in OWN.values()])
    for own in OWN.values():
        maps["known_addresses"].update(
            _mapped(own.packed), struct.pack("=I", AddressFlag.ADDRESS_LOCAL)
        )
    maps["tx_ports"].update(struct.pack("=I", UPLINK), struct.pack("=I", LOOPBACK))


def let_syns_die(maps: Mapping[str, Map], dead: bool) -> None:
    """Whether a flow of which only SYNs were seen is over at once: each SYN then makes one anew."""
    fields = abi.NODE.unpack(maps["node"].lookup(bytes(4)) or b"")
    timeouts = list(struct.unpack(f"={abi.CtState.CT_STATES:d}I", fields["timeouts"]))
    timeouts[abi.CtState.CT_SYN] = 0xFFFFFFFF if dead else LONG_TICKS
    fields["timeouts"] = struct.pack(f"={abi.CtState.CT_STATES:d}I", *timeouts)
    maps["node"].update(bytes(4), abi.NODE.pack(**fields))
