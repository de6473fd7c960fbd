"""Addresses as values: a `Mac` or an `L4Addr` is valid by construction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def readable(texts: Iterable[str]) -> tuple[IPAddress, ...]:
    """Those texts that are addresses, in their order: others may say other things, too."""
    found: list[IPAddress] = []
    for text in texts:
        try:
            found.append(ip_address(text))
        except ValueError:
            continue
    return tuple(found)


class Protocol(IntEnum):
    """IP protocol number of a service (IANA protocol-numbers)."""

    TCP = 6
    UDP = 17
    SCTP = 132


@dataclass(frozen=True, slots=True, order=True)
class Mac:
    """An Ethernet address, in lower-case colon form.

    Raises:
        ValueError: the text is not six colon-separated octets.
    """

    text: str

    def __post_init__(self) -> None:
        lowered = self.text.lower()
        if not _MAC.fullmatch(lowered):
            msg = f"{self.text!r} is not an Ethernet address such as 0a:58:0a:00:00:01"
            raise ValueError(msg)
        object.__setattr__(self, "text", lowered)

    def packed(self) -> bytes:
        """The six octets, in the order of the wire."""
        return bytes.fromhex(self.text.replace(":", ""))

    def __str__(self) -> str:
        return self.text


def mac_of_address(address: IPv4Address) -> Mac:
    """The MAC that stands for an IPv4 address of ours: 0a:58 and the four octets.

    Locally administered and unicast, and the same on every start, so that nobody has to
    learn it again after a restart.
    """
    return Mac(":".join(f"{octet:02x}" for octet in b"\x0a\x58" + address.packed))


class _Hashed:
    """A place for a hash that is made once: an address's own is made of its digits each time."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True)
class L4Addr(_Hashed):
    """Where a service or a backend listens: protocol, address, port (host order).

    Raises:
        ValueError: the port is outside 1..65535.
    """

    protocol: Protocol
    address: IPAddress
    port: int

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            msg = f"port {self.port} of {self.address} is outside 1..65535"
            raise ValueError(msg)

    def __hash__(self) -> int:
        """Equal for equal ones; most are keys of tables that are walked time and again."""
        try:
            return self._hash
        except AttributeError:
            found = hash((self.protocol.value, int(self.address), self.port))
            object.__setattr__(self, "_hash", found)
            return found

    def __str__(self) -> str:
        host = self.address if self.address.version == 4 else f"[{self.address}]"
        return f"{host}:{self.port}/{self.protocol.name.lower()}"

    def __lt__(self, other: L4Addr) -> bool:
        """By protocol, family, address and port: the families do not compare by themselves."""
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, bytes, int]:
        return self.protocol, self.address.version, self.address.packed, self.port
