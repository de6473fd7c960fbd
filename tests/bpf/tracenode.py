"""A node with many random services, written into the maps word by word, and its two programs.

It shares nothing with the drivers that fill maps for the daemon, so that what `Tracer` reads is
what bpf/include/abi.h says. Conntrack is small here: thousands of questions each list it.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import numpy as np

from bpf import abi, pick
from bpf.abi import AddressFlag, CtState, NodeFlag, Place, Reason, SetMode, VipFlag
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Map
from dataplane.drivers.libbpf_programs import Program, RunResult, loaded
from dataplane.drivers.mapbulk import read_array, write_array
from dataplane.drivers.sweeps import packed
from dataplane.drivers.tracemaps import Question
from dataplane.model.addr import IPAddress, Protocol

SLOTS = 4096
NOW = 5_000_000
SERVICE4, SERVICE6 = IPv4Address("100.64.255.1"), IPv6Address("fd00:64::1")
OWN = (IPv4Address("172.18.0.11"), IPv4Address("172.18.0.12"), IPv6Address("2001:db8:99::11"))
CLIENT_MAC, UPLINK_MAC = bytes.fromhex("0200000000c1"), bytes.fromhex("02000000000a")
GATEWAY_MAC, SERVICE_MAC = bytes.fromhex("0a58ac12006f"), bytes.fromhex("0a586440ff01")

_CONNTRACK = ("ct4", "ct4_tags", "ct4_replies", "ct6", "ct6_tags", "ct6_replies")
_FLAGS = (
    VipFlag.VIP_SNAT,
    VipFlag.VIP_LOCAL,
    VipFlag.VIP_INNER_LOCAL,
    VipFlag.VIP_REJECT,
    VipFlag.VIP_SOURCE_RANGES,
    VipFlag.VIP_AFFINITY,
    VipFlag.VIP_DSR,
    VipFlag.VIP_INNER_SNAT,
)


def word(number: int) -> bytes:
    return struct.pack("=I", number)


@dataclass(slots=True)
class Node:
    """Maps and programs; `vips` are what questions may be about."""

    maps: Mapping[str, Map]
    uplink: Program
    svc: Program
    rng: random.Random
    vips: list[tuple[IPAddress, int, Protocol]] = field(default_factory=list)
    backends: dict[int, IPAddress] = field(default_factory=dict)
    clients: list[IPAddress] = field(default_factory=list)

    def reasons(self) -> dict[Reason, int]:
        """Packets counted so far."""
        counters = self.maps["counters"]
        dtype = np.dtype((np.uint64, (counters.value_size // 16, 2)))
        packets = read_array(counters, dtype)[:, :, 0].sum(axis=1)
        return {reason: int(packets[reason]) for reason in Reason}

    def decide(self, asked: Question) -> tuple[Reason, RunResult]:
        """Let the program that the packet meets have it; the one reason that it counted."""
        before = self.reasons()
        program, device = (self.svc, "svc0") if asked.inside else (self.uplink, "up0")
        ran = program.run(packet_of(asked), ifindex=socket.if_nametoindex(device))
        after = self.reasons()
        counted = [reason for reason in Reason if after[reason] != before[reason]]
        assert len(counted) == 1, counted
        return counted[0], ran


def checksum(octets: bytes) -> int:
    """RFC 1071."""
    padded = octets + b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet_of(asked: Question) -> bytes:
    """The packet that a question is about, as it comes to the program that it meets first."""
    client, vip = asked.client, asked.vip
    ports = struct.pack("!HH", client.port or 0, vip.port or 0)
    if asked.protocol is Protocol.TCP:
        rest = struct.pack("!IIBBHHH", 1, 0, 5 << 4, 2, 65535, 0, 0)
        at = 16
    else:
        rest = struct.pack("!HH", 8 + 4, 0) + b"data"
        at = 6
    segment = ports + rest
    pseudo = client.address.packed + vip.address.packed
    pseudo += struct.pack("!IHBB", len(segment), 0, 0, asked.protocol)
    check = checksum(pseudo + segment) or 0xFFFF
    segment = segment[:at] + struct.pack("!H", check) + segment[at + 2 :]
    if client.address.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, asked.protocol, 0)
        head += client.address.packed + vip.address.packed
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        ethertype = b"\x08\x00"
    else:
        head = struct.pack("!IHBB", 6 << 28, len(segment), asked.protocol, 64)
        head += client.address.packed + vip.address.packed
        ethertype = b"\x86\xdd"
    macs = SERVICE_MAC + GATEWAY_MAC if asked.inside else UPLINK_MAC + CLIENT_MAC
    return macs + ethertype + head + segment


@dataclass(frozen=True, slots=True)
class Ends:
    """Source and destination of a packet."""

    source: tuple[IPAddress, int]
    target: tuple[IPAddress, int]


def ends_of(packet: bytes) -> Ends:
    """Where a packet comes from and goes to."""
    if packet[12:14] == b"\x08\x00":
        source, target, ports = packet[26:30], packet[30:34], packet[34:38]
    else:
        source, target, ports = packet[22:38], packet[38:54], packet[54:58]
    sport, dport = struct.unpack("!HH", ports)
    return Ends((ip_address(source), sport), (ip_address(target), dport))


def is_sound(packet: bytes) -> bool:
    """Whether its checksums are right."""
    if packet[12:14] == b"\x08\x00":
        head, segment, protocol = packet[14:34], packet[34:], packet[23]
        if checksum(head):
            return False
        addresses = head[12:20]
        segment = segment[: struct.unpack("!H", head[2:4])[0] - 20]
    else:
        addresses, segment, protocol = packet[22:54], packet[54:], packet[20]
    pseudo = addresses + struct.pack("!IHBB", len(segment), 0, 0, protocol)
    return checksum(pseudo + segment) == 0


@contextmanager
def node(pin_root: Path, seed: int) -> Iterator[Node]:
    """A node of random services, in a namespace with devices up0 and svc0."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        sizes = {name: _size(name) for name in _CONNTRACK}
        up = stack.enter_context(
            loaded(OBJECT_DIRECTORY / "uplink.bpf.o", pin_root=pin_root, sizes=sizes)
        )
        tx_ports = stack.enter_context(up.map("tx_ports"))
        svc = stack.enter_context(
            loaded(
                OBJECT_DIRECTORY / "svc.bpf.o",
                {"tx_ports": tx_ports},
                pin_root=pin_root,
                sizes=sizes,
            )
        )
        maps = {name: stack.enter_context(up.map(name)) for name in abi.MAPS if _is_ours(name)}
        made = Node(
            maps,
            stack.enter_context(up.program("millrace_uplink")),
            stack.enter_context(svc.program("millrace_svc")),
            rng,
        )
        ifindex = word(socket.if_nametoindex("up0"))
        tx_ports.update(ifindex, ifindex)
        _fill_node(made)
        _fill_backends(made)
        _fill_services(made)
        yield made


def _is_ours(name: str) -> bool:
    return not name.startswith("sock_")


def _size(name: str) -> int:
    if name.endswith("_tags"):
        return SLOTS // abi.Limit.CT_WAYS
    return SLOTS // 2 if name.endswith("_replies") else SLOTS


def _fill_node(made: Node) -> None:
    timeouts = np.full(CtState.CT_STATES, 100_000, np.uint32).tobytes()
    made.maps["node"].update(
        word(0),
        abi.NODE.pack(
            flags=NodeFlag.NODE_VALID4 | NodeFlag.NODE_VALID6 | NodeFlag.NODE_FIXED_CLOCK,
            tick=NOW,
            ct_seed=made.rng.getrandbits(32),
            pick_seed=made.rng.getrandbits(32),
            ct4_mask=_size("ct4_tags") - 1,
            ct4_reply_mask=_size("ct4_replies") - 1,
            ct6_mask=_size("ct6_tags") - 1,
            ct6_reply_mask=_size("ct6_replies") - 1,
            service_addr4=SERVICE4.packed,
            uplink_ifindex=socket.if_nametoindex("up0"),
            svc_ifindex=socket.if_nametoindex("svc0"),
            service_mac=SERVICE_MAC,
            gateway_mac=GATEWAY_MAC,
            uplink_mac=UPLINK_MAC,
            service_addr6=SERVICE6.packed,
            local4=OWN[0].packed,
            timeouts=timeouts,
        ),
    )
    for address in OWN:
        made.maps["known_addresses"].update(packed(address), word(AddressFlag.ADDRESS_LOCAL))
        _set_bit(made.maps["address_bits"], address)


def _set_bit(held: Map, address: IPAddress) -> None:
    bit = pick.filter_bit(address.packed, 0, 0)
    before = int.from_bytes(held.lookup(word(bit // 64)) or b"", sys.byteorder)
    held.update(word(bit // 64), struct.pack("=Q", before | 1 << bit % 64))


def _fill_backends(made: Node) -> None:
    rng = made.rng
    for number in range(1, 60):
        six = number % 2 == 0
        address: IPAddress = (
            IPv6Address(f"fd00:16::{number:x}") if six else IPv4Address(f"10.16.0.{number}")
        )
        made.backends[number] = address
        if number % 13 == 0:
            continue  # a number that nothing is behind
        made.maps["backends"].update(
            word(number),
            abi.BACKEND.pack(
                addr=packed(address),
                port=8080,
                # The services of either protocol may have it: programs do not compare.
                proto=Protocol.TCP,
                place=rng.choice(
                    [Place.PLACE_LOCAL, Place.PLACE_REMOTE, Place.PLACE_HOST, Place.PLACE_UNKNOWN]
                ),
                mtu=rng.choice([0, 1400]),
                mac=rng.choice([bytes(6), bytes([2, 0, 0, 0, 1, number])]),
            ),
        )
    made.clients = [ip_address(f"203.0.113.{n}") for n in range(1, 12)]
    made.clients += [ip_address(f"2001:db8:7::{n:x}") for n in range(1, 12)]
    made.clients += list(made.backends.values())[:6]  # hairpin


def _fill_services(made: Node) -> None:
    rng, maps = made.rng, made.maps
    first, table = 0, 0
    word_of_filter: dict[int, int] = {}
    for service_id in range(1, 80):
        six = service_id % 2 == 0
        flags = VipFlag(0)
        for flag in _FLAGS:
            if rng.random() < 0.35:
                flags |= flag
        ours = [n for n, address in made.backends.items() if (address.version == 6) is six]
        for scope in (0, 1):
            mode = rng.choice([*SetMode, SetMode.SET_LIST, SetMode.SET_WEIGHTED])
            if mode is SetMode.SET_TABLE and table >= abi.Limit.MAX_TABLES:
                mode = SetMode.SET_LIST
            chosen = rng.sample(ours, rng.randint(1, 12))
            weights = [
                rng.choice([1, 2, 3, 9]) if mode is SetMode.SET_WEIGHTED else 1 for _ in chosen
            ]
            members = sorted(
                pick.Candidate(rng.getrandbits(32), number, weight)
                for number, weight in zip(chosen, weights, strict=True)
            )
            where = first
            if mode is SetMode.SET_TABLE:
                where = table
                write_array(maps["tables"], pick.table(members), table * abi.Limit.PICK_SLOTS)
                table += 1
            elif mode is not SetMode.SET_EMPTY:
                for member in members:
                    octets = abi.MEMBER.pack(backend_id=member.backend_id, key=member.key)
                    maps["members"].update(word(first), octets)
                    first += 1
                    if mode is SetMode.SET_WEIGHTED:
                        maps["members"].update(word(first), abi.MEMBER.pack(key=member.weight))
                        first += 1
            if mode is not SetMode.SET_EMPTY:
                maps["sets"].update(
                    word(2 * service_id + scope),
                    abi.SET.pack(first=where, count=len(members), mode=mode),
                )
        for number in range(2):
            address: IPAddress = (
                IPv6Address(f"2001:db8:1::{service_id:x}:{number}")
                if six
                else IPv4Address(f"192.0.{2 + number}.{service_id}")
            )
            protocol = rng.choice([Protocol.TCP, Protocol.UDP])
            port = rng.choice([80, 53, 30080])
            made.vips.append((address, port, protocol))
            bit = pick.filter_bit(address.packed, port, protocol)
            word_of_filter[bit // 64] = word_of_filter.get(bit // 64, 0) | 1 << bit % 64
            maps["vips"].update(
                abi.VIP_KEY.pack(addr=packed(address), port=port, proto=protocol),
                abi.VIP.pack(service_id=service_id, flags=flags, affinity_ticks=1000),
            )
        for client in rng.sample(made.clients, 6):
            length = rng.choice([8 * 16, 8 * 16 - 4])
            maps["source_ranges"].update(
                abi.SOURCE_RANGE.pack(
                    prefix_length=32 + length, service_id=service_id, addr=packed(client)
                ),
                word(1),
            )
        for client in rng.sample(made.clients, 6):
            maps["affinities"].update(
                abi.AFFINITY_KEY.pack(service_id=service_id, client=packed(client)),
                abi.AFFINITY.pack(
                    backend_id=rng.choice(ours), seen=NOW - rng.choice([0, 500, 1000, 1001, 9999])
                ),
            )
    for index, bits in word_of_filter.items():
        maps["vip_bits"].update(word(index), struct.pack("=Q", bits))
