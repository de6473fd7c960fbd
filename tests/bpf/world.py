"""A node's maps and programs for packet tests, and the packets' named constants.

Packets are scapy's; a verdict is checked as (action, reason, whole buffer), the reason by the
change of every counter. The maps are filled from plain values by bpf/abi.py alone, so that a
fault of a driver is not also the test's.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from bpf import abi
from bpf.abi import AddressFlag, Limit, NodeFlag, Reason, SetMode, VipFlag
from bpf.pick import Candidate, filter_bit, member_key, table
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import read_array, update_keys
from dataplane.drivers.servicestats import FIELDS, read_counts
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.rows import ProgramKind
from tests.bpf import ctlaws

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REASONS = frozenset(Reason)
PORTED = (TCP, UDP, SCTP)
XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)

CLIENT_MAC, ROUTER_MAC = "02:00:00:00:00:c1", "02:00:00:00:00:01"
UPLINK_MAC = "02:00:00:00:00:0a"
GATEWAY_MAC = "0a:58:ac:12:00:6f"
SERVICE_MAC = "0a:58:64:40:ff:01"
OTHER_NODE_MAC = "0a:58:ac:12:00:70"

CLIENT, CLIENT_TWO = "203.0.113.7", "203.0.113.8"
CLIENT6, CLIENT6_TWO = "2001:db8:c::7", "2001:db8:c::8"
CLIENT_PORT = 40000
NODE_ADDRESS, NODE_ADDRESS6 = "172.18.0.11", "fd00::11"
SERVICE_ADDRESS, SERVICE_ADDRESS6 = "100.64.255.1", "fd00:ff::1"
STRANGER, STRANGER6 = "192.0.2.99", "fd00::99"


def tcp(address: str, port: int) -> L4Addr:
    """A TCP address of either family."""
    return L4Addr(Protocol.TCP, _address(address), port)


def udp(address: str, port: int) -> L4Addr:
    """A UDP address of either family."""
    return L4Addr(Protocol.UDP, _address(address), port)


def _address(text: str) -> IPAddress:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


VIP_TCP, VIP_UDP = tcp("192.0.2.10", 80), udp("192.0.2.10", 53)
VIP_LOCAL, VIP_EMPTY = tcp("192.0.2.20", 443), tcp("192.0.2.30", 80)
NODE_PORT = tcp(NODE_ADDRESS, 30080)
WEB, WEB_TWO, DNS = tcp("10.16.0.2", 8080), tcp("10.16.0.3", 8080), udp("10.16.0.4", 5353)
VIP6_TCP, VIP6_UDP = tcp("2001:db8:1::10", 80), udp("2001:db8:1::10", 53)
VIP6_LOCAL = tcp("2001:db8:1::20", 443)
WEB6, WEB6_TWO, DNS6 = tcp("fd10::2", 8080), tcp("fd10::3", 8080), udp("fd10::4", 5353)

PAYLOAD = b"what the client says, of some odd length"
HZ = 100
"""Ticks of a second, as these tests have it: the clock is theirs."""

_BEGINNINGS = count(1_000_000, 10_000)
"""Each world's first tick: what a CPU may answer is measured in ticks, and there is one CPU."""

TIMEOUTS_S = {
    "CT_SYN": 30, "CT_SYN_ACK": 60, "CT_MIDDLE": 120, "CT_ESTABLISHED": 7440, "CT_FIN": 240,
    "CT_TIME_WAIT": 30, "CT_RESET": 10, "CT_UDP_ONE_WAY": 30, "CT_UDP": 180, "CT_SCTP_NEW": 30,
    "CT_SCTP": 7440, "CT_SCTP_SHUTDOWN": 30, "CT_UDP_ANSWERED": 30,
}  # fmt: skip


def mapped(address: IPAddress) -> bytes:
    """An address as the maps have it: 16 octets, IPv4 mapped."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def unmapped(octets: bytes) -> str:
    """The text of such an address."""
    address = IPv6Address(octets)
    return str(address.ipv4_mapped or address)


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def mac(text: str) -> bytes:
    """The octets of an Ethernet address."""
    return bytes.fromhex(text.replace(":", ""))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a program made of a packet."""

    action: int
    reasons: Mapping[Reason, int]
    packet: bytes

    @property
    def reason(self) -> Reason:
        """The one reason that was counted, once."""
        assert sorted(self.reasons.values()) == [1], f"counted {self.reasons}"
        return next(iter(self.reasons))


@dataclass(frozen=True, slots=True)
class To:
    """A backend as a test wants it."""

    target: L4Addr
    place: abi.Place = abi.Place.PLACE_LOCAL
    weight: int = 1
    mtu: int = 0
    mac: str = ""


@dataclass(slots=True)
class Flow:
    """A living flow, by its record's number."""

    number: int
    fields: abi.Fields = field(repr=False)

    @property
    def ends(self) -> tuple[str, int, str, int]:
        """Client and VIP."""
        f = self.fields
        return _text(f["client"]), f["client_port"], _text(f["vip"]), f["vip_port"]

    @property
    def reply_tuple(self) -> tuple[str, int, str, int]:
        """Backend and our side."""
        f = self.fields
        return _text(f["backend"]), f["backend_port"], _text(f["source"]), f["source_port"]


def _text(octets: bytes) -> str:
    return str(IPv4Address(octets)) if len(octets) == 4 else str(IPv6Address(octets))


class World:
    """One node: its maps, and packets through its programs.

    `uplink` and `service_link` are ifindexes of this namespace, with which the programs run.
    `maps` are the opened maps by name; every table is filled from plain values.
    """

    def __init__(self, state: BpfState, uplink: int, service_link: int) -> None:
        self.state = state
        self.maps: Mapping[str, Map] = state.maps
        self.uplink, self.service_link = uplink, service_link
        self.tick = next(_BEGINNINGS)
        self.seed = int(Limit.PICK_SEED)
        self._ids: dict[L4Addr, int] = {}
        self._services: dict[str, int] = {}
        self._vips: dict[L4Addr, int] = {}
        self._next_member = 1
        self._flags = NodeFlag(0)
        self._timeouts = {name: seconds * HZ for name, seconds in TIMEOUTS_S.items()}

    # -- filling ------------------------------------------------------------------------------

    def clear(self) -> World:
        """Forget everything but what was counted."""
        for name in ("vips", "known_addresses", "source_ranges", "affinities", "fragments",
                     "tx_ports"):  # fmt: skip
            for key in list(self.maps[name].keys()):
                self.maps[name].delete(key)
        for name in ("ct4_tags", "ct4_replies", "ct6_tags", "ct6_replies", "vip_bits",
                     "address_bits", "sets"):  # fmt: skip
            self._zero(name)
        for name in ("ct4", "ct6"):
            self._end_all(name)
        self.maps["node"].update(_u32(0), bytes(abi.NODE.size))
        return self

    def _zero(self, name: str) -> None:
        used, values = self._used(name)
        if len(used):
            update_keys(self.maps[name], used, np.zeros_like(values))

    def _end_all(self, name: str) -> None:
        """No record is a flow or tells of one; lives go on, as programs remember some."""
        used, values = self._used(name)
        if len(used):
            ended = np.zeros_like(values)
            ended[:, :4].view(np.uint32)[:] = (values[:, :4].copy().view(np.uint32) | 3) + 1
            update_keys(self.maps[name], used, ended)

    def _used(self, name: str) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """The entries of an array that are not all zeros: their numbers and octets."""
        held = self.maps[name]
        values = read_array(held, np.dtype((np.uint8, (held.value_size,))))
        used = np.flatnonzero(values.any(axis=1))
        return used.astype(np.uint32), np.ascontiguousarray(values[used])

    def fill(self) -> World:
        """The node that most tests want: one service of each kind, in both families."""
        self.set_node()
        for address in (NODE_ADDRESS, NODE_ADDRESS6):
            self.know(address, AddressFlag.ADDRESS_LOCAL)
        self.maps["tx_ports"].update(_u32(self.uplink), _u32(self.uplink))
        snat = VipFlag.VIP_SNAT
        self.serve(VIP_TCP, [To(WEB)])
        self.serve(VIP_UDP, [To(DNS)])
        self.serve(VIP_LOCAL, [To(WEB)], VipFlag.VIP_LOCAL)
        self.serve(VIP_EMPTY, [], snat)
        self.serve(NODE_PORT, [To(WEB_TWO)])
        self.serve(VIP6_TCP, [To(WEB6)])
        self.serve(VIP6_UDP, [To(DNS6)])
        self.serve(VIP6_LOCAL, [To(WEB6)], VipFlag.VIP_LOCAL)
        return self

    def set_node(self, **changed: Any) -> None:
        """This node has a gateway in both families; `changed` are fields of struct node."""
        self._flags = NodeFlag.NODE_VALID4 | NodeFlag.NODE_VALID6 | NodeFlag.NODE_FIXED_CLOCK
        timeouts = [0] * int(abi.CtState.CT_STATES)
        for state in abi.CtState:
            if state.name in self._timeouts:
                timeouts[state] = self._timeouts[state.name]
        fields: dict[str, Any] = {
            "flags": int(self._flags),
            "tick": self.tick,
            "ct_seed": 0x5EED,
            "pick_seed": self.seed,
            "ct4_mask": self._buckets("ct4_tags"),
            "ct4_reply_mask": self._buckets("ct4_replies"),
            "ct6_mask": self._buckets("ct6_tags"),
            "ct6_reply_mask": self._buckets("ct6_replies"),
            "service_addr4": IPv4Address(SERVICE_ADDRESS).packed,
            "uplink_ifindex": self.uplink,
            "svc_ifindex": self.service_link,
            "service_mac": mac(SERVICE_MAC),
            "gateway_mac": mac(GATEWAY_MAC),
            "uplink_mac": mac(UPLINK_MAC),
            "service_addr6": IPv6Address(SERVICE_ADDRESS6).packed,
            "local4": IPv4Address(NODE_ADDRESS).packed,
            "timeouts": struct.pack(f"={len(timeouts)}I", *timeouts),
        }
        fields.update(changed)
        self._node = fields
        self.maps["node"].update(_u32(0), abi.NODE.pack(**fields))

    def _buckets(self, name: str) -> int:
        return self.maps[name].info.max_entries - 1

    def pass_time(self, seconds: float) -> None:
        """Let the programs' clock go on."""
        self.tick += int(seconds * HZ)
        self.set_node(**{**self._node, "tick": self.tick})

    def know(self, address: str, flags: AddressFlag) -> None:
        """Put an address into `known_addresses`."""
        self._set_bit("address_bits", filter_bit(_address(address).packed, 0, 0))
        self.maps["known_addresses"].update(mapped(_address(address)), _u32(flags))

    def serve(
        self,
        vip: L4Addr,
        backends: Sequence[To],
        flags: VipFlag = VipFlag.VIP_SNAT,
        *,
        local: Sequence[To] | None = None,
        service: str | None = None,
        affinity_s: float = 0,
        ranges: Sequence[str] = (),
    ) -> int:
        """Serve `vip` by these backends from now on; the service's id.

        `local` are those of this node (None: those whose place is LOCAL). `service` names the
        service port that several VIPs share.
        """
        name = service or str(vip)
        service_id = self._services.setdefault(name, len(self._services) + 1)
        here = [b for b in backends if b.place is abi.Place.PLACE_LOCAL] if local is None else local
        for scope, chosen in enumerate((backends, here)):
            self.set_members(service_id, scope, chosen)
        if ranges:
            flags |= VipFlag.VIP_SOURCE_RANGES
        for text in ranges:
            network = ip_network(text)
            length = 32 + network.prefixlen + (96 if network.version == 4 else 0)
            key = abi.SOURCE_RANGE.pack(
                prefix_length=length,
                service_id=service_id,
                addr=mapped(network.network_address),
            )
            self.maps["source_ranges"].update(key, _u32(1))
        if affinity_s:
            flags |= VipFlag.VIP_AFFINITY
        self._set_filter(vip)
        self.maps["vips"].update(
            self._vip_key(vip),
            abi.VIP.pack(service_id=service_id, flags=flags, affinity_ticks=int(affinity_s * HZ)),
        )
        self._vips[vip] = service_id
        return service_id

    def withdraw(self, vip: L4Addr) -> None:
        """Serve `vip` no longer. Its bit in the filter stays: it may be another's."""
        self.maps["vips"].delete(self._vip_key(vip))
        self._vips.pop(vip, None)

    @staticmethod
    def _vip_key(vip: L4Addr) -> bytes:
        return abi.VIP_KEY.pack(addr=mapped(vip.address), port=vip.port, proto=vip.protocol)

    def _set_filter(self, vip: L4Addr) -> None:
        self._set_bit("vip_bits", filter_bit(vip.address.packed, vip.port, vip.protocol))

    def _set_bit(self, name: str, bit: int) -> None:
        held = self.maps[name].lookup(_u32(bit // 64))
        word = int.from_bytes(held or bytes(8), sys.byteorder) | 1 << (bit % 64)
        self.maps[name].update(_u32(bit // 64), word.to_bytes(8, sys.byteorder))

    def set_members(self, service_id: int, scope: int, chosen: Sequence[To]) -> None:
        """Write the members of one set of a service, and then the set."""
        members = sorted(
            Candidate(member_key(str(b.target)), self.add_backend(b), b.weight) for b in chosen
        )
        weighted = len({member.weight for member in members}) > 1
        first, mode = self._next_member, SetMode.SET_EMPTY
        words: list[bytes] = []
        if len(members) > Limit.LIST_MAX:
            mode, first = SetMode.SET_TABLE, scope
            ids = table(members).astype("=u4")
            self.maps["tables"].update_batch(
                [
                    (_u32(first * Limit.PICK_SLOTS + slot), ids[slot].tobytes())
                    for slot in range(Limit.PICK_SLOTS)
                ]
            )
        elif members:
            mode = SetMode.SET_WEIGHTED if weighted else SetMode.SET_LIST
            for member in members:
                words.append(abi.MEMBER.pack(backend_id=member.backend_id, key=member.key))
                if weighted:
                    words.append(abi.MEMBER.pack(key=member.weight))
        for at, word in enumerate(words):
            self.maps["members"].update(_u32(first + at), word)
        self._next_member += len(words)
        self.maps["sets"].update(
            _u32(2 * service_id + scope), abi.SET.pack(first=first, count=len(members), mode=mode)
        )

    def add_backend(self, backend: To) -> int:
        """Put a backend in; its id."""
        number = self._ids.setdefault(backend.target, len(self._ids) + 1)
        target = backend.target
        row = abi.BACKEND.pack(
            addr=mapped(target.address),
            port=target.port,
            proto=target.protocol,
            place=backend.place,
            mtu=backend.mtu,
            mac=mac(backend.mac) if backend.mac else bytes(6),
        )
        self.maps["backends"].update(_u32(number), row)
        return number

    def remove_backend(self, target: L4Addr) -> None:
        """Take a backend out of `backends`; sets of services are the caller's."""
        self.maps["backends"].update(_u32(self._ids[target]), bytes(abi.BACKEND.size))

    def backend_id(self, target: L4Addr) -> int:
        """The id under which a backend was put in."""
        return self._ids[target]

    # -- packets ------------------------------------------------------------------------------

    def counted(self) -> dict[Reason, int]:
        """Packets by reason, so far."""
        found = {}
        for key, value in self.maps["counters"].items():
            words = struct.unpack(f"={len(value) // 8}Q", value)
            number = int.from_bytes(key, sys.byteorder)
            if number in _REASONS and (packets := sum(words[0::2])):
                found[Reason(number)] = packets
        return found

    def _through(self, kind: ProgramKind, packet: Packet | bytes, ifindex: int) -> Seen:
        before = self.counted()
        ran = self.state.program(kind).run(bytes(packet), ifindex=ifindex)
        after = self.counted()
        reasons = {reason: count - before.get(reason, 0) for reason, count in after.items()}
        return Seen(ran.action, {r: n for r, n in reasons.items() if n}, ran.packet)

    def arrive(self, packet: Packet | bytes) -> Seen:
        """A packet comes in on the uplink."""
        return self._through(ProgramKind.UPLINK, packet, self.uplink)

    def deliver(self, packet: Packet | bytes) -> Seen:
        """OVS hands a packet to svc0."""
        return self._through(ProgramKind.SERVICE, packet, self.service_link)

    def establish(self, packet: Packet) -> bytes:
        """A client's SYN, its backend's answer, and the client's next; that one as it came out."""
        answer = from_backend(self.arrive(packet).packet)
        self.deliver(answer)
        last = packet.copy()
        last[TCP].flags = "A"
        return self.arrive(built(without_checksums(last))).packet

    def service_id(self, vip: L4Addr) -> int:
        """The service of a VIP."""
        return self._vips[vip]

    def stats(self, service_id: int) -> dict[str, int]:
        """What was counted for a service, on all CPUs."""
        return dict(zip(FIELDS, read_counts(self.maps)[service_id].tolist(), strict=True))

    # -- conntrack ----------------------------------------------------------------------------

    def end_flow(self, version: int, ends: tuple[str, int, str, int]) -> None:
        """End one flow, as a sweep does."""
        flow = self.flows(version)[ends]
        layout = abi.FLOW4 if version == 4 else abi.FLOW6
        fields = flow.fields | {"life": flow.fields["life"] + 1}
        self.maps[f"ct{version}"].update(_u32(flow.number), layout.pack(**fields))

    def records(self, version: int = 4) -> Iterator[Flow]:
        """Records that are flows, whether their time is over or not."""
        layout = abi.FLOW4 if version == 4 else abi.FLOW6
        for number, octets in zip(*self._used(f"ct{version}"), strict=True):
            fields = layout.unpack(octets.tobytes())
            if fields["life"] & 1:
                yield Flow(int(number), fields)

    def flows(self, version: int = 4) -> dict[tuple[str, int, str, int], Flow]:
        """Living flows by client and VIP."""
        timeouts = struct.unpack("=16I", self._node["timeouts"])
        return {
            flow.ends: flow
            for flow in self.records(version)
            if self.tick - flow.fields["seen"] <= timeouts[flow.fields["state"]]
        }

    def locks(self) -> int:
        """How many locks of buckets are held (odd words): none, outside of a packet."""
        return sum(
            int((self._used(name)[1][:, 0] & 1).sum())
            for name in ("ct4_tags", "ct4_replies", "ct6_tags", "ct6_replies")
        )

    def port_of(self, packet: Packet) -> int:
        """The source port that a client's packet has on its way to the backend, by its flow.

        Where the port is ours to choose it is one that names the flow's record; `ctlaws` compares.
        """
        ip, ports = ip_of(packet), packet[next(layer for layer in PORTED if layer in packet)]
        flow = self.flows(4 if IP in packet else 6)[ip.src, ports.sport, ip.dst, ports.dport]
        port = int(flow.fields["source_port"])
        if flow.fields["flags"] & abi.FlowFlag.FLOW_NO_SNAT:
            assert port == ports.sport, "a client that is kept is kept with its port"
        else:
            assert port >= ctlaws.DIRECT_PORT_MIN
        return port

    def laws(self) -> list[str]:
        """The laws of conntrack that do not hold: none, outside of a packet."""
        return ctlaws.broken(self.maps)

    def translated(self, packet: Packet, target: L4Addr, source: str = "") -> bytes:
        """What the uplink has to make of a client's packet of a flow, checksums computed anew."""
        return translated(packet, target, self.port_of(packet), source)


def ip_of(packet: Packet) -> Any:
    """The IP header of either family."""
    return packet[IPv6] if IPv6 in packet else packet[IP]


def from_client(
    vip: L4Addr = VIP_TCP,
    *,
    client: str = "",
    port: int = CLIENT_PORT,
    tcp: str = "S",
    payload: bytes = PAYLOAD,
    **ip: object,
) -> Packet:
    """A client's packet to a VIP, as it comes in on the uplink; `tcp` are the flags."""
    header = (
        TCP(sport=port, dport=vip.port, flags=tcp, seq=1)
        if vip.protocol is Protocol.TCP
        else UDP(sport=port, dport=vip.port)
    )
    six = vip.address.version == 6
    client = client or (CLIENT6 if six else CLIENT)
    outer = (IPv6 if six else IP)(src=client, dst=str(vip.address), **ip)
    return built(Ether(src=CLIENT_MAC, dst=UPLINK_MAC) / outer / header / Raw(payload))


def translated(packet: Packet, target: L4Addr, port: int, source: str = "") -> bytes:
    """What the uplink has to make of a client's packet with this source port."""
    wanted = packet.copy()
    wanted[Ether].dst = GATEWAY_MAC
    ip = ip_of(wanted)
    source = source or (SERVICE_ADDRESS6 if IPv6 in wanted else SERVICE_ADDRESS)
    ip.src, ip.dst = source, str(target.address)
    _age(ip)
    layer = TCP if TCP in wanted else UDP
    wanted[layer].sport, wanted[layer].dport = port, target.port
    return bytes(without_checksums(wanted))


def _age(ip: Packet) -> None:
    if isinstance(ip, IPv6):
        ip.hlim -= 1
    else:
        ip.ttl -= 1


def from_backend(translated_packet: bytes, *, tcp: str = "SA", payload: bytes = b"ok") -> Packet:
    """The backend's answer to a translated packet, as OVS hands it to svc0."""
    got = Ether(translated_packet)
    inner = ip_of(got)
    ip = (
        IPv6(src=inner.dst, dst=inner.src, hlim=62)
        if IPv6 in got
        else IP(src=inner.dst, dst=inner.src, ttl=62)
    )
    if TCP in got:
        header = TCP(sport=got[TCP].dport, dport=got[TCP].sport, flags=tcp, seq=9, ack=2)
    else:
        header = UDP(sport=got[UDP].dport, dport=got[UDP].sport)
    return built(Ether(src=GATEWAY_MAC, dst=SERVICE_MAC) / ip / header / Raw(payload))


def reversed_to_client(reply: Packet, asked: Packet) -> bytes:
    """What either program has to make of a backend's answer."""
    wanted = reply.copy()
    wanted[Ether].src, wanted[Ether].dst = asked[Ether].dst, asked[Ether].src
    ip, first = ip_of(wanted), ip_of(asked)
    ip.src, ip.dst = first.dst, first.src
    _age(ip)
    layer = TCP if TCP in wanted else UDP
    wanted[layer].sport, wanted[layer].dport = asked[layer].dport, asked[layer].sport
    return bytes(without_checksums(wanted))


def without_checksums(packet: Packet) -> Packet:
    """The packet with every checksum left to scapy."""
    for layer in (IP, TCP, UDP, ICMP):
        if layer in packet:
            del packet[layer].chksum
    return packet


def built(packet: Packet) -> Packet:
    """The packet with checksums and lengths in place, so that copies keep them."""
    return Ether(bytes(packet))
