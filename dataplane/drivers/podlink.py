"""The veth pair of a container: one end an OVS port on the node, the other the pod's interface.

How we recognise ours after a restart: the host end's ifalias is "millrace:pod:<container id>";
where a crash came between making the link and naming it, its name alone is ours
(`dataplane.model.devices`). Pod links are no table of the plan: they live and die with CNI calls,
and `orphans` finds those whose attachment is gone.

The pair is made by one netlink message, with the pod's end under its final name in the pod's
namespace already: nothing has to be moved or renamed, so there is no half-way to undo. Deleting
either end deletes both.

Calls block for milliseconds: call from a thread that may wait.

OVS's userspace datapath takes frames as they are, so no end may leave a checksum to hardware
that is not there: transmit checksum offload is off on both (and with it TSO).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection
from ipaddress import IPv4Interface, IPv6Interface

from pyroute2 import NetlinkError

from dataplane.drivers import netns, podroutes
from dataplane.drivers.ethtool import set_tx_checksum, tx_checksum
from dataplane.drivers.podwire import PodWire
from dataplane.drivers.rtnl import LinkState, links, route_socket
from dataplane.model.devices import is_pod_link
from dataplane.model.names import LINK_ALIAS_PREFIX
from dataplane.model.state import Attachment
from dataplane.ports import DataplaneError

ALIAS_PREFIX = f"{LINK_ALIAS_PREFIX}pod:"
MAX_ALIAS_SIZE = 255
"""Bytes; IFALIASZ less its NUL (linux/if.h)."""

_IFA_F_NODAD = 2


class LinkError(DataplaneError):
    """A pod's link could not be made, configured or removed."""


def ensure(attachment: Attachment) -> None:
    """Make the link and the pod's addresses and route as the attachment says.

    What is right already is left alone. On failure a link made by this call is gone again.

    Raises:
        LinkError: the kernel refused, or a name is taken by somebody else.
        ObserveError: the kernel could not be asked.
        NetnsError: the namespace is not there.
        OffloadError: checksum offload could not be turned off.
    """
    made = create(attachment)
    try:
        configure(attachment, fresh=made)
    except BaseException:
        if made:
            with contextlib.suppress(DataplaneError):
                remove(attachment.device)
        raise


def create(attachment: Attachment) -> bool:
    """Make the pair, if it is not there; whether it was made now.

    Afterwards the host end is up and ready to be an OVS port; `configure` may run at the same
    time as OVS takes it.

    Raises:
        LinkError, ObserveError, NetnsError, OffloadError: as `ensure`.
    """
    with netns.opened(attachment.netns) as fd, PodWire() as wire:
        link = wire.find_link(attachment.device)
        if link is not None:
            _refuse_foreign(link)
            if _is_pair(attachment, fd, link):
                _name_and_raise(wire, link.index, attachment)
                return False
            # The pod's end is elsewhere: in a namespace that the runtime has replaced since.
            _delete(wire, link)
        _add(wire, fd, attachment)
        try:
            _name_and_raise(wire, _index(wire, attachment.device), attachment)
        except BaseException:
            with contextlib.suppress(DataplaneError):
                remove(attachment.device)
            raise
        return True


def configure(attachment: Attachment, *, fresh: bool) -> None:
    """Set the pod's end: MAC, MTU, addresses, default route, offload.

    `fresh`: it was made a moment ago, so that little need be looked at.

    Raises:
        LinkError, ObserveError, NetnsError, OffloadError: as `ensure`.
    """
    with netns.opened(attachment.netns) as fd:
        netns.inside(fd, attachment.netns, lambda: _configure_inside(attachment, fresh=fresh))


def check(attachment: Attachment) -> list[str]:
    """What is not as the attachment says, in words; empty if all is right.

    Raises:
        LinkError, ObserveError, OffloadError: the kernel could not be asked.
    """
    with PodWire() as wire:
        link = wire.find_link(attachment.device)
    if link is None:
        return [f"the node's link {attachment.device} is missing"]
    problems: list[str] = []
    if link.alias != _alias(attachment):
        problems.append(f"link {link.name} has the alias {link.alias!r}, not ours")
    if not link.up:
        problems.append(f"link {link.name} is down")
    if link.mtu != attachment.mtu:
        problems.append(f"link {link.name} has MTU {link.mtu}, not {attachment.mtu}")
    if tx_checksum(link.name):
        problems.append(f"link {link.name} has transmit checksum offload on")
    try:
        with netns.opened(attachment.netns) as fd:
            problems += netns.inside(
                fd, attachment.netns, lambda: _problems_inside(attachment, link)
            )
    except netns.NetnsError as error:
        problems.append(str(error))
    return problems


def remove(device: str, index: int | None = None) -> None:
    """Delete a pod link by its host end; a missing one is success.

    With `index` only that incarnation: another link of the name may have been made meanwhile.

    Raises:
        LinkError: the kernel refused, or the link is not ours.
        ObserveError: the kernel could not be asked.
    """
    with PodWire() as wire:
        link = wire.find_link(device)
        if link is not None and index in (None, link.index):
            _refuse_foreign(link)
            _delete(wire, link)


def orphans(known: Collection[str]) -> list[str]:
    """Host ends of pod links of ours that are not in `known`, by name.

    Raises:
        ObserveError: the kernel could not be asked.
    """
    with route_socket() as ipr:
        present = links(ipr)
    return sorted(link.name for link in present if _is_ours(link) and link.name not in known)


def _alias(attachment: Attachment) -> str:
    return (ALIAS_PREFIX + attachment.container_id)[:MAX_ALIAS_SIZE]


def _is_ours(link: LinkState) -> bool:
    if link.kind != "veth":
        return False
    return link.alias.startswith(ALIAS_PREFIX) or (not link.alias and is_pod_link(link.name))


def _refuse_foreign(link: LinkState) -> None:
    if not _is_ours(link):
        msg = (
            f"link {link.name} is there but not ours (kind {link.kind or 'unknown'!r}, alias "
            f"{link.alias!r}); rename or delete it"
        )
        raise LinkError(msg)


def _add(wire: PodWire, fd: int, attachment: Attachment) -> None:
    try:
        wire.add_veth(attachment.device, attachment.mtu, attachment.ifname, attachment.mac, fd)
    except NetlinkError as error:
        where = f"{attachment.ifname} in {attachment.netns}"
        if error.code == errno.EEXIST:
            msg = f"{where} exists already and is not ours; use another interface name"
        else:
            msg = f"link {attachment.device} with {where} cannot be made: {error}"
        raise LinkError(msg) from error


def _name_and_raise(wire: PodWire, index: int, attachment: Attachment) -> None:
    """Mark the host end as ours, set its MTU, turn its offload off, set it up."""
    try:
        set_tx_checksum(attachment.device, on=False)
        wire.set_link(index, alias=_alias(attachment), mtu=attachment.mtu, up=True)
    except NetlinkError as error:
        msg = f"link {attachment.device} cannot be set up: {error}"
        raise LinkError(msg) from error


def _delete(wire: PodWire, link: LinkState) -> None:
    try:
        wire.delete_link(link.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            msg = f"link {link.name} cannot be deleted: {error}"
            raise LinkError(msg) from error


def _index(wire: PodWire, name: str) -> int:
    """Of a link that was made, or found, a moment ago."""
    if (index := wire.index_of(name)) is None:
        msg = f"link {name} was there a moment ago and is gone; somebody deletes links: ask again"
        raise LinkError(msg)
    return index


def _is_pair(attachment: Attachment, fd: int, host: LinkState) -> bool:
    """Whether the host end's other end is the pod's interface in this namespace."""

    def look() -> LinkState | None:
        with PodWire() as wire:
            return wire.find_link(attachment.ifname)

    pod = netns.inside(fd, attachment.netns, look)
    return pod is not None and _are_ends(pod, host)


def _are_ends(pod: LinkState, host: LinkState) -> bool:
    # Indices are per namespace and repeat, so both directions have to agree.
    return (
        pod.kind == host.kind == "veth"
        and pod.peer_index == host.index
        and host.peer_index == pod.index
    )


def _configure_inside(attachment: Attachment, *, fresh: bool) -> None:
    with PodWire() as wire:
        index = _index(wire, attachment.ifname)
        try:
            if not fresh:
                _mend(wire, index, attachment)
            set_tx_checksum(attachment.ifname, on=False)
            _set_addresses(wire, index, attachment, set() if fresh else _addresses(wire, index))
            wire.set_link(index, up=True)
            podroutes.set_routes(wire, index, attachment)
        except NetlinkError as error:
            msg = f"{attachment.ifname} in {attachment.netns} cannot be configured: {error}"
            raise LinkError(msg) from error


def _mend(wire: PodWire, index: int, attachment: Attachment) -> None:
    """Give a link the MAC and MTU that a new one is made with."""
    link = wire.find_link(attachment.ifname)
    if link is not None and link.mac != str(attachment.mac):
        wire.set_link(index, mac=attachment.mac)
    if link is not None and link.mtu != attachment.mtu:
        wire.set_link(index, mtu=attachment.mtu)


def _addresses(wire: PodWire, index: int) -> set[IPv4Interface | IPv6Interface]:
    """Without those of the link itself, which the kernel gives every IPv6 interface."""
    return {one for one in wire.addresses(index) if one.version == 4 or not one.ip.is_link_local}


def _set_addresses(
    wire: PodWire, index: int, attachment: Attachment, present: set[IPv4Interface | IPv6Interface]
) -> None:
    wanted = set(attachment.addresses)
    for address in sorted(present - wanted, key=str):
        wire.delete_address(index, address)
    for address in attachment.addresses:
        if address not in present:
            # OVN has seen to it that nobody else has it: an IPv6 address is usable at once.
            wire.add_address(index, address, _IFA_F_NODAD if address.version == 6 else 0)


def _problems_inside(attachment: Attachment, host: LinkState) -> list[str]:
    name, where = attachment.ifname, attachment.netns
    with PodWire() as wire:
        link = wire.find_link(name)
        if link is None:
            return [f"{name} is missing in {where}"]
        try:
            missing = set(attachment.addresses) - _addresses(wire, link.index)
            unrouted = [
                via
                for via in (attachment.gateway, attachment.gateway6)
                if via is not None and not wire.default_routes(via.version)
            ]
        except NetlinkError as error:
            msg = f"{name} in {where} cannot be read: {error}"
            raise LinkError(msg) from error
    problems: list[str] = []
    if not _are_ends(link, host):
        problems.append(f"{name} in {where} is not the other end of {host.name}")
    if not link.up:
        problems.append(f"{name} in {where} is down")
    if link.mac != str(attachment.mac):
        problems.append(f"{name} in {where} has MAC {link.mac}, not {attachment.mac}")
    if link.mtu != attachment.mtu:
        problems.append(f"{name} in {where} has MTU {link.mtu}, not {attachment.mtu}")
    problems += [f"{name} in {where} lacks the address {one}" for one in sorted(missing, key=str)]
    problems += [f"{where} has no default route; {via} was set" for via in unrouted]
    if tx_checksum(name):
        problems.append(f"{name} in {where} has transmit checksum offload on")
    return problems
