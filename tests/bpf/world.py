"""A node's maps and programs for packet tests, and the packets' named constants.

Packets are scapy's; a verdict is checked as (action, reason, whole buffer), the reason by the
change of every counter.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bpf import abi
from bpf.abi import Reason
from dataplane.drivers.bpfmaps import (
    BackendTable,
    LocalAddressTable,
    MaglevMapTable,
    NodeTable,
    VipTable,
    counters,
)
from dataplane.drivers.bpfstate import BpfState
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.rows import (
    BackendEntry,
    LocalAddress,
    MaglevTable,
    NodeEntry,
    ProgramKind,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.plan.maglev import maglev_table

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)

CLIENT_MAC, ROUTER_MAC = "02:00:00:00:00:c1", "02:00:00:00:00:01"
UPLINK_MAC = "02:00:00:00:00:0a"
GATEWAY_MAC = "0a:58:ac:12:00:6f"
SERVICE_MAC = "0a:58:64:40:ff:01"

CLIENT, CLIENT_TWO = "203.0.113.7", "203.0.113.8"
CLIENT_PORT = 40000
NODE_ADDRESS, NODE_ADDRESS6 = "172.18.0.11", "fd00::11"
SERVICE_ADDRESS = "100.64.255.1"
STRANGER, STRANGER6 = "192.0.2.99", "fd00::99"

VIP_TCP = L4Addr(Protocol.TCP, IPv4Address("192.0.2.10"), 80)
VIP_UDP = L4Addr(Protocol.UDP, IPv4Address("192.0.2.10"), 53)
VIP_LOCAL = L4Addr(Protocol.TCP, IPv4Address("192.0.2.20"), 443)
VIP_EMPTY = L4Addr(Protocol.TCP, IPv4Address("192.0.2.30"), 80)
NODE_PORT = L4Addr(Protocol.TCP, IPv4Address(NODE_ADDRESS), 30080)
WEB = L4Addr(Protocol.TCP, IPv4Address("10.16.0.2"), 8080)
WEB_TWO = L4Addr(Protocol.TCP, IPv4Address("10.16.0.3"), 8080)
DNS = L4Addr(Protocol.UDP, IPv4Address("10.16.0.4"), 5353)

PAYLOAD = b"what the client says, of odd length"


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


class World:
    """One node: its maps, as drivers fill them, and packets through its programs.

    `uplink` and `service_link` are ifindexes of this namespace, with which the programs run.
    """

    def __init__(self, state: BpfState, uplink: int, service_link: int) -> None:
        self.state = state
        self.uplink, self.service_link = uplink, service_link
        self.vips, self.maglev = VipTable(self.state), MaglevMapTable(self.state)
        self.backends, self.node = BackendTable(self.state), NodeTable(self.state)
        self.local_addresses = LocalAddressTable(self.state)
        self._ids: dict[L4Addr, int] = {}
        self._services: dict[L4Addr, int] = {}

    def clear(self) -> World:
        """Forget everything but what was counted."""
        tables: tuple[Any, ...] = (self.vips, self.maglev, self.backends, self.node)
        for table in (*tables, self.local_addresses):
            assert not table.delete(list(table.observe()))
        for name in ("ct_forward", "ct_reply", "tx_ports"):
            for key in list(self.state.maps[name].keys()):
                self.state.maps[name].delete(key)
        return self

    def fill(self) -> World:
        """The node that most tests want: one service of each kind."""
        self.set_node()
        for address in (IPv4Address(NODE_ADDRESS), IPv6Address(NODE_ADDRESS6)):
            assert not self.local_addresses.upsert([(address, LocalAddress())])
        ifindex = struct.pack("=I", self.uplink)
        self.state.maps["tx_ports"].update(ifindex, ifindex)
        self.serve(VIP_TCP, [WEB])
        self.serve(VIP_UDP, [DNS])
        self.serve(VIP_LOCAL, [WEB], VipFlag(0))
        self.serve(VIP_EMPTY, [], VipFlag.SNAT | VipFlag.NO_BACKEND)
        self.serve(NODE_PORT, [WEB_TWO])
        return self

    def set_node(self) -> None:
        """This node has a gateway."""
        entry = NodeEntry(
            IPv4Address(SERVICE_ADDRESS),
            Mac(SERVICE_MAC),
            Mac(GATEWAY_MAC),
            self.uplink,
            Mac(UPLINK_MAC),
        )
        assert not self.node.upsert([(0, entry)])

    def serve(self, vip: L4Addr, targets: Sequence[L4Addr], flags: VipFlag = VipFlag.SNAT) -> int:
        """Serve `vip` by these backends from now on; the service's id. Removes no backend."""
        service_id = self._services.setdefault(vip, len(self._services) + 1)
        members = []
        for target in targets:
            number = self._ids.setdefault(target, len(self._ids) + 1)
            members.append((number, target))
            assert not self.backends.upsert([(number, BackendEntry(target, Place.LOCAL))])
        assert not self.maglev.upsert([(service_id, MaglevTable(maglev_table(members)))])
        assert not self.vips.upsert([(vip, VipEntry(service_id, flags))])
        return service_id

    def remove_backend(self, target: L4Addr) -> None:
        """Take a backend out of `backends`; tables of services are the caller's."""
        assert not self.backends.delete([self._ids[target]])

    def backend_id(self, target: L4Addr) -> int:
        """The id under which a backend was put in."""
        return self._ids[target]

    def _through(self, kind: ProgramKind, packet: Packet | bytes, ifindex: int) -> Seen:
        before = counters(self.state)
        ran = self.state.program(kind).run(bytes(packet), ifindex=ifindex)
        after = counters(self.state)
        reasons = {
            reason: count.packets - (before[reason].packets if reason in before else 0)
            for reason, count in after.items()
        }
        return Seen(ran.action, {r: n for r, n in reasons.items() if n}, ran.packet)

    def arrive(self, packet: Packet | bytes) -> Seen:
        """A packet comes in on the uplink."""
        return self._through(ProgramKind.UPLINK, packet, self.uplink)

    def deliver(self, packet: Packet | bytes) -> Seen:
        """OVS hands a packet to svc0."""
        return self._through(ProgramKind.SERVICE, packet, self.service_link)

    def flows(self) -> dict[tuple[str, int, str, int], abi.Fields]:
        """ct_forward, by client and VIP."""
        return self._conntrack("ct_forward", abi.FLOW_FORWARD)

    def replies(self) -> dict[tuple[str, int, str, int], abi.Fields]:
        """ct_reply, by backend and our side."""
        return self._conntrack("ct_reply", abi.FLOW_REPLY)

    def _conntrack(
        self, name: str, layout: abi.Layout
    ) -> dict[tuple[str, int, str, int], abi.Fields]:
        found = {}
        for octets, value in self.state.maps[name].items():
            key = abi.FLOW_KEY.unpack(octets)
            source, dest = str(IPv4Address(key["saddr"])), str(IPv4Address(key["daddr"]))
            found[source, key["sport"], dest, key["dport"]] = layout.unpack(value)
        return found

    def age(self, seconds: float) -> None:
        """Make every conntrack entry that much older; beyond the machine's start if need be."""
        for name, layout in (("ct_forward", abi.FLOW_FORWARD), ("ct_reply", abi.FLOW_REPLY)):
            for key, value in self.state.maps[name].items():
                fields = layout.unpack(value)
                fields["tick"] = (fields["tick"] - int(seconds * 100)) % (1 << 32)
                fields["seen_ns"] = (fields["seen_ns"] - int(seconds * 1e9)) % (1 << 64)
                self.state.maps[name].update(key, layout.pack(**fields))


def from_client(
    vip: L4Addr = VIP_TCP,
    *,
    client: str = CLIENT,
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
    outer = Ether(src=CLIENT_MAC, dst=UPLINK_MAC) / IP(src=client, dst=str(vip.address), **ip)
    return built(outer / header / Raw(payload))


def translated(
    packet: Packet, target: L4Addr, source: str = SERVICE_ADDRESS, port: int = CLIENT_PORT
) -> bytes:
    """What the uplink has to make of a client's packet, checksums computed anew."""
    wanted = packet.copy()
    wanted[Ether].dst = GATEWAY_MAC
    wanted[IP].src, wanted[IP].dst = source, str(target.address)
    layer = TCP if TCP in wanted else UDP
    wanted[layer].sport, wanted[layer].dport = port, target.port
    return bytes(without_checksums(wanted))


def from_backend(translated_packet: bytes, *, tcp: str = "SA", payload: bytes = b"ok") -> Packet:
    """The backend's answer to a translated packet, as OVS hands it to svc0."""
    got = Ether(translated_packet)
    outer = Ether(src=GATEWAY_MAC, dst=SERVICE_MAC) / IP(src=got[IP].dst, dst=got[IP].src, ttl=62)
    if TCP in got:
        header = TCP(sport=got[TCP].dport, dport=got[TCP].sport, flags=tcp, seq=9, ack=2)
    else:
        header = UDP(sport=got[UDP].dport, dport=got[UDP].sport)
    return built(outer / header / Raw(payload))


def reversed_to_client(reply: Packet, asked: Packet) -> bytes:
    """What either program has to make of a backend's answer."""
    wanted = reply.copy()
    wanted[Ether].src, wanted[Ether].dst = asked[Ether].dst, asked[Ether].src
    wanted[IP].src, wanted[IP].dst = asked[IP].dst, asked[IP].src
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
