"""The table `links`: veth pairs between the kernel and an OVS port (svc0 and svc0-ovs).

How we recognise our own after a restart: the kernel end's ifalias is "millrace:link". A crash may
come between making the pair and naming it; then a veth without alias whose other end has the
planned name is taken for ours.

Both ends are up and leave no checksum to hardware that is not there (OVS's userspace datapath and
XDP take frames as they are). IPv6 is off on both, so that the kernel does not talk on them by
itself; on the kernel's end it is on if that has an IPv6 address, without a link-local address,
router solicitations or duplicate address detection. Deleting either end deletes both.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import Any

from pyroute2 import NetlinkError

from dataplane.drivers.ethtool import (
    OffloadError,
    set_tags_in_frames,
    set_tx_checksum,
    tags_in_frames,
    tx_checksum,
)
from dataplane.drivers.rtnl import LinkState, find_link, links, route_socket
from dataplane.model.addr import IPAddress, Mac
from dataplane.model.names import LINK_ALIAS_PREFIX
from dataplane.model.rows import Link
from dataplane.ports import DataplaneError, Failure

ALIAS = f"{LINK_ALIAS_PREFIX}link"
NOT_READY = 0
"""Queues of an observed pair that is down or leaves checksums out: equal to no plan."""


Interface = IPv4Interface | IPv6Interface

_PERMANENT = 0x80
"""NUD_PERMANENT (linux/neighbour.h)."""

_QUIET = {
    # No link-local address (IN6_ADDR_GEN_MODE_NONE), and no question that needs one.
    "addr_gen_mode": 1,
    "accept_ra": 0,
    "autoconf": 0,
    "router_solicitations": 0,
    "accept_dad": 0,
}


class LinksTable:
    """Table `links`: name of the kernel's end -> Link."""

    name = "links"

    def observe(self) -> Mapping[str, Link]:
        """Pairs of ours."""
        with route_socket() as ipr:
            by_index = {link.index: link for link in links(ipr)}
            return {
                link.name: _value(ipr, link, by_index.get(link.peer_index))
                for link in by_index.values()
                if link.alias == ALIAS and link.kind == "veth"
            }

    def upsert(self, batch: Sequence[tuple[str, Link]]) -> Mapping[str, Failure]:
        """Make or mend the pairs; one with other queues or another peer is made anew."""
        failures: dict[str, Failure] = {}
        with route_socket() as ipr:
            for name, wanted in batch:
                try:
                    _ensure(ipr, name, wanted)
                except (NetlinkError, OSError, DataplaneError) as error:
                    failures[name] = Failure(f"link {name} cannot be made: {error}")
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Remove the pairs; one that is missing, or not ours, is success."""
        failures: dict[str, Failure] = {}
        with route_socket() as ipr:
            for name in keys:
                link = find_link(ipr, name)
                if link is None or link.alias != ALIAS:
                    continue
                try:
                    _delete(ipr, link)
                except NetlinkError as error:
                    failures[name] = Failure(str(error))
        return failures


def _value(ipr: Any, link: LinkState, peer: LinkState | None) -> Link:
    ready = link.up and peer is not None and peer.up and peer.mtu == link.mtu
    in_frames = False
    if ready and peer is not None:
        try:
            ready = not tx_checksum(link.name) and not tx_checksum(peer.name)
            in_frames = tags_in_frames(link.name) and tags_in_frames(peer.name)
        except OffloadError:
            ready = False  # it went away while we looked
    return Link(
        peer_name=peer.name if peer is not None else "",
        mac=Mac(link.mac),
        mtu=link.mtu,
        queues=link.queues if ready else NOT_READY,
        addresses=_addresses(ipr, link.index),
        neighbours=_neighbours(ipr, link),
        tags_in_frames=in_frames,
    )


def _addresses(ipr: Any, index: int) -> tuple[Interface, ...]:
    four = {
        IPv4Interface((message.get_attr("IFA_LOCAL"), message["prefixlen"]))
        for message in ipr.get_addr(family=socket.AF_INET, index=index)
    }
    six = {
        IPv6Interface((message.get_attr("IFA_ADDRESS"), message["prefixlen"]))
        for message in ipr.get_addr(family=socket.AF_INET6, index=index)
    }
    return (*sorted(four), *sorted(address for address in six if not address.is_link_local))


def _neighbours(ipr: Any, link: LinkState) -> tuple[IPAddress, ...]:
    """What was said to be behind the link for good, at its own MAC; IPv4 first."""
    found = (
        ip_address(message.get_attr("NDA_DST"))
        for family in (socket.AF_INET, socket.AF_INET6)
        for message in ipr.get_neighbours(family=family, ifindex=link.index)
        if message["state"] & _PERMANENT and message.get_attr("NDA_LLADDR") == link.mac
    )
    return tuple(sorted(found, key=lambda address: (address.version, address.packed)))


def _make_neighbour(ipr: Any, link: LinkState, address: IPAddress, mac: Mac) -> None:
    ipr.neigh(
        "replace", dst=str(address), lladdr=str(mac), ifindex=link.index, state="permanent",
        family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
    )  # fmt: skip


def _ensure(ipr: Any, name: str, wanted: Link) -> None:
    link = find_link(ipr, name)
    peer = find_link(ipr, wanted.peer_name)
    paired = (
        link is not None
        and peer is not None
        and link.kind == "veth"
        and (link.peer_index, peer.peer_index) == (peer.index, link.index)
    )
    if link is not None and link.alias != ALIAS and not (paired and not link.alias):
        msg = f"it exists and is not ours (alias {link.alias!r}): rename or delete it"
        raise DataplaneError(msg)
    if link is not None and not (paired and link.queues == wanted.queues):
        _delete(ipr, link)
        link = None
        peer = find_link(ipr, wanted.peer_name)
    if link is None:
        if peer is not None:
            msg = f"{wanted.peer_name} exists and is not its other end: rename or delete it"
            raise DataplaneError(msg)
        _create(ipr, name, wanted)
        link, peer = find_link(ipr, name), find_link(ipr, wanted.peer_name)
    if link is None or peer is None:
        msg = "it vanished while it was being made"
        raise DataplaneError(msg)
    _configure(ipr, link, peer, wanted)


def _create(ipr: Any, name: str, wanted: Link) -> None:
    queues = {"num_tx_queues": wanted.queues, "num_rx_queues": wanted.queues}
    ipr.link(
        "add",
        ifname=name,
        kind="veth",
        address=str(wanted.mac),
        mtu=wanted.mtu,
        **queues,
        peer={"ifname": wanted.peer_name, "mtu": wanted.mtu, **queues},
    )


def _configure(ipr: Any, link: LinkState, peer: LinkState, wanted: Link) -> None:
    """Set what differs; nothing is touched that is right."""
    if link.alias != ALIAS:
        ipr.link("set", index=link.index, ifalias=ALIAS)
    if link.mac != str(wanted.mac):
        ipr.link("set", index=link.index, address=str(wanted.mac))
    for end in (link, peer):
        if end.mtu != wanted.mtu:
            ipr.link("set", index=end.index, mtu=wanted.mtu)
        set_tx_checksum(end.name, on=False)
        set_tags_in_frames(end.name, on=wanted.tags_in_frames)
        with_ipv6 = end is link and any(address.version == 6 for address in wanted.addresses)
        _set_ipv6(end.name, on=with_ipv6)
        if not end.up:
            ipr.link("set", index=end.index, state="up")
    present = _addresses(ipr, link.index)
    for change, addresses in (
        ("del", [address for address in present if address not in wanted.addresses]),
        ("add", [address for address in wanted.addresses if address not in present]),
    ):
        for address in addresses:
            length = address.network.prefixlen
            ipr.addr(change, index=link.index, address=str(address.ip), prefixlen=length)
    known = _neighbours(ipr, link)
    for neighbour in wanted.neighbours:
        if neighbour not in known:
            _make_neighbour(ipr, link, neighbour, wanted.mac)


def _set_ipv6(name: str, *, on: bool) -> None:
    # A kernel without IPv6 has no such files, and nothing to silence.
    with contextlib.suppress(FileNotFoundError):
        settings = Path(f"/proc/sys/net/ipv6/conf/{name}")
        for setting, value in (*_QUIET.items(), ("disable_ipv6", 0 if on else 1)):
            (settings / setting).write_text(f"{value}\n", encoding="ascii")


def _delete(ipr: Any, link: LinkState) -> None:
    try:
        ipr.link("del", index=link.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
