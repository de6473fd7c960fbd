"""Readers of the kinds of values that both configuration files have: paths, remotes, addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_network

from controller.config_reader import TableReader, shown
from dataplane.model.addr import IPNetwork

SOME_INTERFACE = IPv4Interface("192.0.2.1/24")
"""What stands in for an address that could not be read (RFC 5737, documentation)."""

SOME_INTERFACE6 = IPv6Interface("2001:db8::1/64")
"""The same for IPv6 (RFC 3849)."""

_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PHYSNET = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_ABSOLUTE = re.compile(r"(/(?!\.{1,2}(/|$))[^/\0\s]+)+")
_REMOTE_ONE = r"(unix:/[^\s,]+|(tcp|ssl):(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})"
_REMOTE = re.compile(rf"{_REMOTE_ONE}(,{_REMOTE_ONE})*")


def node_name(table: TableReader, key: str) -> str:
    """A node's name, which is also its chassis name in OVN and part of paths."""
    return table.text(
        key,
        example="node1",
        pattern=_NODE_NAME,
        rule="a node's name has up to 63 letters, digits, dots, dashes, underscores",
    )


def physnet(table: TableReader, key: str) -> str:
    """The name of a physical network, as OVN's bridge mappings have it."""
    return table.text(
        key,
        example="physnet1",
        pattern=_PHYSNET,
        rule="a physical network's name has up to 63 letters, digits, dots, dashes, underscores",
    )


def path(table: TableReader, key: str, default: str) -> str:
    """An absolute path."""
    return table.text(
        key,
        default=default,
        example=default,
        pattern=_ABSOLUTE,
        rule="it has to be an absolute path without blanks, . or .., or a slash at its end",
    )


def node_directory(table: TableReader, key: str, above: str, name: str) -> str:
    """A directory that is one node's alone: `down` removes it with everything in it.

    So it cannot be the directory of anybody else, whatever is written: its end is given.
    """
    found = path(table, key, f"{above}/millrace/{name}")
    # What a name was read to be may be a stand-in; the fault is noted already.
    if table.sound(key) and table.sound("name") and not found.endswith(f"/millrace/{name}"):
        table.fault(
            key,
            f"{table.name(key)} = {shown(found)}",
            f"`millrace down` removes it, so it has to end in /millrace/{name}",
            f'write {key} = "{above}/millrace/{name}"',
        )
    return found


def remote(table: TableReader, key: str, default: str | None) -> str:
    """An OVSDB connection method, or several (ovsdb(7), "Connection Methods")."""
    return table.text(
        key,
        default=default,
        example=default or "tcp:192.0.2.10:6641",
        pattern=_REMOTE,
        rule="it has to be unix:/PATH, tcp:HOST:PORT or ssl:HOST:PORT, several with commas",
    )


def tls(table: TableReader) -> tuple[str, str, str] | None:
    """Private key, certificate and authorities for `ssl:` remotes; None: none of them is given."""
    names = ("private_key", "certificate", "ca_certificate")
    given = [name for name in names if table.has(name)]
    if not given:
        return None
    found = [path(table, name, f"/etc/millrace/{name}.pem") for name in names]
    for name in names:
        if name not in given:
            table.fault(
                given[0],
                f"{table.name(given[0])} is given, and {table.name(name)} is not",
                "TLS needs a key, its certificate and the authorities",
                f"add {name}, or remove the others",
            )
    return found[0], found[1], found[2]


def needs_tls(table: TableReader, given: tuple[str, str, str] | None, *keys: str) -> None:
    """Note the remotes (by key) that are `ssl:` where no files for it are given."""
    for key in keys:
        if (
            given is None
            and table.sound(key)
            and "ssl:" in table.text(key, default="", example="", pattern=_REMOTE, rule="")
        ):
            table.fault(
                key,
                f"{table.name(key)} has an ssl: remote, and there are no files for it",
                "the database asks for a certificate, and ours has to be held against an authority",
                'add private_key, certificate and ca_certificate = "/etc/millrace/..."',
            )


def unique(table: TableReader, key: str, value: str, seen: dict[str, int]) -> None:
    """Note a value that an earlier table of the same array has; `seen` maps value to line."""
    if not table.sound(key):
        return
    if value in seen:
        table.fault(
            key,
            f"{table.name(key)} = {shown(value)}",
            f"line {seen[value]} has it already",
            "give each its own, or remove one of the two",
        )
    seen.setdefault(value, table.notes.line_of((*table.path, key)))


def interface(text: str) -> IPv4Interface:
    """An address that a host can have, with its network's length.

    Raises:
        ValueError: it is none, in words for a message.
    """
    if "/" not in text:
        msg = "the length of the network is missing, such as /24"
        raise ValueError(msg)
    found = IPv4Interface(text)
    network, address = found.network, found.ip
    if network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
        msg = f"it is the network's own or the broadcast address of {network}"
        raise ValueError(msg)
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_reserved:
        msg = "no host on a wire can have this address"
        raise ValueError(msg)
    return found


def interface6(text: str) -> IPv6Interface:
    """An IPv6 address that a host can have and others can be routed to, with its network's length.

    Raises:
        ValueError: it is none, in words for a message.
    """
    if "/" not in text:
        msg = "the length of the network is missing, such as /64"
        raise ValueError(msg)
    if "%" in text:
        msg = "an address with a zone means something on one host only"
        raise ValueError(msg)
    found = IPv6Interface(text)
    address = found.ip
    if (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.ipv4_mapped is not None
    ):
        msg = "nobody can route to this address"
        raise ValueError(msg)
    if found.network.prefixlen < 127 and address == found.network.network_address:
        msg = f"it is the address of every router of {found.network} (RFC 4291, 2.6.1)"
        raise ValueError(msg)
    return found


def neighbour6(text: str) -> IPv6Address:
    """An IPv6 address on the same wire.

    Raises:
        ValueError: it is none, in words for a message.
    """
    if "%" in text:
        msg = "an address with a zone means something on one host only"
        raise ValueError(msg)
    return IPv6Address(text)


def networks(table: TableReader, key: str, default: Sequence[str] = ()) -> tuple[IPNetwork, ...]:
    """A list of networks of either family, each once."""
    found: list[IPNetwork] = []
    given = table.items(key, str, default=list(default), example='["192.0.2.0/24"]')
    for index, text in given.items():
        try:
            network = ip_network(text)
        except ValueError as error:
            table.fault_at(key, index, str(error), 'write it as "192.0.2.0/24"')
            continue
        if network in found:
            table.fault_at(key, index, "it is there already", "name it once")
        found.append(network)
    return tuple(found)
