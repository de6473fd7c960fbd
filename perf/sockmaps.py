"""The services of `millrace perf sockets`, in maps of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf import abi
from bpf.pick import filter_bit, member_key
from dataplane.drivers.libbpf import Map
from dataplane.model.addr import IPAddress, L4Addr, Protocol

PORT = 5300
ECHO, ECHO6 = IPv4Address("10.16.0.2"), IPv6Address("fd00:16::2")
"""Where the measured process's own server is."""

MEMBERS = 10
"""Backends of each service that is only connected to."""

_FIRST, _FIRST6 = IPv4Address("10.96.0.0"), IPv6Address("fd00:96::")
_BACKEND, _BACKEND6 = IPv4Address("10.17.0.0"), IPv6Address("fd00:17::")
AFFINITY_TICKS = 1 << 30


@dataclass(frozen=True, slots=True)
class Services:
    """The VIPs by what is measured with them: `plain` are many, of MEMBERS backends each."""

    plain: Sequence[IPAddress]
    affinity: IPAddress
    echo: IPAddress


def _packed(address: IPAddress) -> bytes:
    octets = address.packed
    return octets if len(octets) == 16 else bytes(10) + b"\xff\xff" + octets


def _word(number: int) -> bytes:
    return number.to_bytes(abi.U32, sys.byteorder)


class Filler:
    """Puts services into maps; ids go up from 1."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._maps = maps
        self._entries: dict[str, list[tuple[bytes, bytes]]] = {
            name: [] for name in ("vips", "sets", "members", "backends")
        }
        self._bits: dict[int, int] = {}
        self._service = self._member = self._backend = 0

    def family(self, version: int, count: int) -> Services:
        """`count` services with many backends, one with affinity, and one of the echo server."""
        first, backend = (_FIRST, _BACKEND) if version == 4 else (_FIRST6, _BACKEND6)
        echo = ECHO if version == 4 else ECHO6
        backends = [backend + number + 1 for number in range(MEMBERS)]
        plain = [first + number + 1 for number in range(count)]
        affinity, echoed = first + count + 1, first + count + 2
        for vip in plain:
            self._serve(vip, backends)
        self._serve(affinity, backends, abi.VipFlag.VIP_AFFINITY)
        self._serve(echoed, [echo])
        return Services(plain, affinity, echoed)

    def _serve(self, vip: IPAddress, targets: Sequence[IPAddress], flags: int = 0) -> None:
        for protocol in (Protocol.TCP, Protocol.UDP):
            self._service += 1
            row = abi.VIP.pack(service_id=self._service, flags=flags, affinity_ticks=AFFINITY_TICKS)
            key = abi.VIP_KEY.pack(addr=_packed(vip), port=PORT, proto=protocol)
            self._entries["vips"].append((key, row))
            bit = filter_bit(vip.packed, PORT, protocol, sys.byteorder)
            self._bits[bit // 64] = self._bits.get(bit // 64, 0) | 1 << bit % 64
            members = sorted(
                (member_key(str(target)), target)
                for target in (L4Addr(protocol, address, PORT) for address in targets)
            )
            chosen = abi.SET.pack(first=self._member, count=len(members), mode=abi.SetMode.SET_LIST)
            self._entries["sets"].append((_word(2 * self._service), chosen))
            for key_, target in members:
                self._backend += 1
                backend = abi.BACKEND.pack(
                    addr=_packed(target.address), port=target.port, proto=protocol
                )
                member = abi.MEMBER.pack(backend_id=self._backend, key=key_)
                self._entries["backends"].append((_word(self._backend), backend))
                self._entries["members"].append((_word(self._member), member))
                self._member += 1

    def write(self) -> None:
        """Put everything into the maps."""
        for name, entries in self._entries.items():
            self._maps[name].update_batch(entries)
        self._maps["vip_bits"].update_batch(
            [(_word(at), word.to_bytes(abi.U64, sys.byteorder)) for at, word in self._bits.items()]
        )
