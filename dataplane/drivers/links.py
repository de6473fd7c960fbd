"""The table `links`: veth pairs between the kernel and an OVS port (svc0 and svc0-ovs).

How we recognise our own after a restart: the kernel end's ifalias is "millrace:link". A crash may
come between making the pair and naming it; then a veth without alias whose other end has the
planned name is taken for ours.

Both ends are up and leave no checksum to hardware that is not there (OVS's userspace datapath and
XDP take frames as they are), and IPv6 is off on both, so that the kernel does not talk on them by
itself. Deleting either end deletes both.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from pyroute2 import NetlinkError

from dataplane.drivers.ethtool import OffloadError, set_tx_checksum, tx_checksum
from dataplane.drivers.rtnl import LinkState, find_link, links, route_socket
from dataplane.model.addr import Mac
from dataplane.model.names import LINK_ALIAS_PREFIX
from dataplane.model.rows import Link
from dataplane.ports import DataplaneError, Failure

ALIAS = f"{LINK_ALIAS_PREFIX}link"
NOT_READY = 0
"""Queues of an observed pair that is down or leaves checksums out: equal to no plan."""


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
    if ready and peer is not None:
        try:
            ready = not tx_checksum(link.name) and not tx_checksum(peer.name)
        except OffloadError:
            ready = False  # it went away while we looked
    return Link(
        peer_name=peer.name if peer is not None else "",
        mac=Mac(link.mac),
        mtu=link.mtu,
        queues=link.queues if ready else NOT_READY,
        addresses=_addresses(ipr, link.index),
    )


def _addresses(ipr: Any, index: int) -> tuple[IPv4Interface, ...]:
    return tuple(
        sorted(
            IPv4Interface((message.get_attr("IFA_LOCAL"), message["prefixlen"]))
            for message in ipr.get_addr(family=socket.AF_INET, index=index)
        )
    )


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
        _silence_ipv6(end.name)
        if not end.up:
            ipr.link("set", index=end.index, state="up")
    present = set(_addresses(ipr, link.index))
    for address in sorted(present - set(wanted.addresses)):
        ipr.addr("del", index=link.index, address=str(address.ip), prefixlen=_length(address))
    for address in sorted(set(wanted.addresses) - present):
        ipr.addr("add", index=link.index, address=str(address.ip), prefixlen=_length(address))


def _length(address: IPv4Interface) -> int:
    return address.network.prefixlen


def _silence_ipv6(name: str) -> None:
    # A kernel without IPv6 has no such file, and nothing to silence.
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1\n", encoding="ascii")


def _delete(ipr: Any, link: LinkState) -> None:
    try:
        ipr.link("del", index=link.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
