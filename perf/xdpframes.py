"""The frames that `millrace perf xdp` sends: 80 octets each, from networks kept for this.

Clients are of TEST-NET-2 (RFC 5737) and of its like of IPv6 (RFC 3849), services of the networks
for benchmarks (RFC 2544, RFC 5180): nothing real has such addresses, so traces can be told apart.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from bpf import abi
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol

CLIENTS: dict[int, IPv4Network | IPv6Network] = {
    4: IPv4Network("198.51.100.0/24"),
    6: IPv6Network("2001:db8:c:1::/120"),
}
"""256 of each family, by IP version: the wrapper takes them in turn, and `fresh_client` goes on."""

STRANGER: dict[int, IPAddress] = {4: IPv4Address("203.0.113.254"), 6: IPv6Address("2001:db8::fe")}
"""Of no service, and not this node's."""

CLIENT_PORT = 1024
CLIENT_PORTS = 32_768
"""The wrapper takes so many ports of a client, from CLIENT_PORT on, and then the next client."""

CLIENT_MAC = Mac("02:00:00:00:00:c1")
FRAME_SIZE = int(abi.Limit.PERF_HEAD)

SYN, ACK = 0x02, 0x10
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_HOPS = 64


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ip(source: IPAddress, target: IPAddress, protocol: int) -> bytes:
    ends = source.packed + target.packed
    if target.version == 6:
        size = FRAME_SIZE - 14 - 40
        return struct.pack("!IHBB", 6 << 28, size, protocol, _HOPS) + ends
    head = struct.pack("!BBHHHBBH", 0x45, 0, FRAME_SIZE - 14, 1, 0, _HOPS, protocol, 0) + ends
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:]


def from_client(packet: bytes, client: IPAddress) -> bytes:
    """The same packet of another client. Checksums are not mended: the programs verify none."""
    at = 26 if client.version == 4 else 22
    return packet[:at] + client.packed + packet[at + len(client.packed) :]


def frame(target: L4Addr, source: L4Addr | None = None, *, tcp_flags: int = ACK) -> bytes:
    """A TCP or UDP packet, of the first client if nobody else. Its L4 checksum is not computed."""
    version = target.address.version
    if source is None:
        source = L4Addr(target.protocol, CLIENTS[version][0], CLIENT_PORT)
    ip = _ip(source.address, target.address, target.protocol)
    ports = struct.pack("!HH", source.port, target.port)
    if target.protocol is Protocol.TCP:
        l4 = ports + struct.pack("!IIBBHHH", 1, 1, 0x50, tcp_flags, 512, 1, 0)
    else:
        l4 = ports + struct.pack("!HH", FRAME_SIZE - 14 - len(ip), 1)
    head = 2 * CLIENT_MAC.packed() + struct.pack("!H", _ETHERTYPES[version])
    return (head + ip + l4).ljust(FRAME_SIZE, b"\0")
