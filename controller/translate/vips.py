"""The texts of a load balancer row that name addresses: VIPs, backends, networks of clients.

Source: ovn-nb(5), Load_Balancer.vips: the key is "address" or "address:port", IPv6 in brackets;
the value a comma-separated list of the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_network

from dataplane.model.addr import IPAddress, IPNetwork, L4Addr, Protocol
from dataplane.model.service import ServiceKind

PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}

EVERY_NODE_KINDS = frozenset({ServiceKind.NODE_PORT, ServiceKind.HOST_PORT})
"""Kinds whose VIP may be the unspecified address, which stands for addresses of the node."""

_BROADCAST = IPv4Address("255.255.255.255")
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
_EXAMPLE = "write it as 192.0.2.1:80 or [2001:db8::1]:80"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a text or a row, and what to do about it."""

    cause: str
    next_step: str


def parts(value: str) -> list[str]:
    """The parts of a list with commas, without blanks and empty ones."""
    return [text.strip() for text in value.split(",") if text.strip()]


@lru_cache(maxsize=65536)
def l4(protocol: Protocol, text: str) -> L4Addr | Fault:
    """The address and port that a text names, or why it names none."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed:
            return Fault(f"{text!r} has no closing bracket", _EXAMPLE)
        port = rest.removeprefix(":") if rest.startswith(":") else None
        if rest and port is None:
            return Fault(f"{rest!r} after the bracket is no port", _EXAMPLE)
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    address = _address(host)
    if isinstance(address, Fault):
        return address
    if not port:
        return Fault(
            "it has no port, and XDP serves one port at a time",
            f"add the port ({_EXAMPLE}), or leave it to OVN: remove the mark and attach it",
        )
    number = port_number(port)
    if number is None:
        word, slash, other = port.partition("/")
        if slash and port_number(word) and other in PROTOCOLS:
            return Fault(
                f"it names a protocol of its own, and its row is of {protocol.name.lower()}",
                f"write {host}:{word}, and each protocol in a row of its own",
            )
        return Fault(f"{port!r} is not a port", "use a number from 1 to 65535")
    return L4Addr(protocol, address, number)


def port_number(text: str) -> int | None:
    """The port that a text names; None if it is none."""
    # int() takes "+1", "1_0" and other scripts' digits; OVN takes none of them.
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        return None
    number = int(text)
    return number if 1 <= number <= 65535 else None


def _address(text: str) -> IPAddress | Fault:
    try:
        if ":" not in text:
            return IPv4Address(text)
        if "%" in text:
            return Fault(f"{text!r} has a zone, which means something on one node only", _EXAMPLE)
        address = IPv6Address(text)
    except AddressValueError:
        return Fault(f"{text!r} is not an address", _EXAMPLE)
    if address.ipv4_mapped is not None:
        return Fault(f"{text!r} is an IPv4 address", f"write it as {address.ipv4_mapped}")
    return address


def vip_fault(vip: L4Addr, kind: ServiceKind) -> Fault | None:
    """Why an address can be no VIP of that kind, if so."""
    address = vip.address
    if address.is_unspecified and kind not in EVERY_NODE_KINDS:
        return Fault(
            f"{address} stands for every address of a node, and its kind is {kind}",
            "set external_ids:millrace:kind to nodeport or hostport, or write an address",
        )
    if kind is ServiceKind.NODE_PORT and not address.is_unspecified:
        every = "0.0.0.0" if address.version == 4 else "[::]"
        return Fault(
            f"a node port's VIP is no single address such as {address}",
            f"write {every}:{vip.port}; nodeport_addresses in the node's file says which "
            "addresses serve it",
        )
    if not address.is_unspecified and _is_nobodys(address):
        return Fault(
            f"{address} is a multicast, loopback, link-local or broadcast address",
            "write an address that can be routed to a node",
        )
    return None


def backend_fault(target: L4Addr, vip: L4Addr) -> Fault | None:
    """Why an address can be no backend of the VIP, if so."""
    if target.address.version != vip.address.version:
        return Fault(
            f"it is IPv{target.address.version}, and the VIP IPv{vip.address.version}",
            "give each VIP backends of its own family",
        )
    if target.address.is_unspecified or _is_nobodys(target.address):
        return Fault(f"{target.address} is no address of a workload", "write the workload's own")
    return None


def _is_nobodys(address: IPAddress) -> bool:
    return (
        address.is_multicast
        or address.is_loopback
        or (address.version == 6 and address.is_link_local)
        or address == _BROADCAST
    )


@dataclass(frozen=True, slots=True)
class Targets:
    """The backends of a VIP's value: those that can be named, sorted, and the texts of others."""

    named: tuple[L4Addr, ...]
    faults: tuple[tuple[str, Fault], ...]


@lru_cache(maxsize=8192)
def targets(vip: L4Addr, value: str) -> Targets:
    """What a VIP's value says; remembered, as of many services few change at a time."""
    found: set[L4Addr] = set()
    faults: list[tuple[str, Fault]] = []
    for text in parts(value):
        target = l4(vip.protocol, text)
        fault = target if isinstance(target, Fault) else backend_fault(target, vip)
        if fault is not None:
            faults.append((text, fault))
        elif isinstance(target, L4Addr):
            found.add(target)
    return Targets(tuple(in_order(found)), tuple(faults))


def in_order(addresses: Iterable[L4Addr]) -> list[L4Addr]:
    """Sorted; each one's rank is computed once, and not at every comparison."""
    return sorted(addresses, key=rank)


def rank(at: L4Addr) -> tuple[int, int, bytes, int]:
    """What `L4Addr` is ordered by."""
    return at.protocol, at.address.version, at.address.packed, at.port


@lru_cache(maxsize=4096)
def network(text: str) -> IPNetwork | Fault:
    """The network that a text names, or why it names none."""
    if not _NETWORK.fullmatch(text):
        return Fault(f"{text!r} is not a network", "write it as 192.0.2.0/24 or 2001:db8::/32")
    try:
        around = ip_network(text, strict=False)
    except ValueError:
        return Fault(f"{text!r} is not a network", "write it as 192.0.2.0/24 or 2001:db8::/32")
    if around.version == 6 and around.network_address.ipv4_mapped is not None:
        return Fault(f"{text!r} is a network of IPv4 addresses", "write it as 192.0.2.0/24")
    try:
        return ip_network(text)
    except ValueError:
        return Fault(f"{text!r} names an address inside a network", f"write {around}")
