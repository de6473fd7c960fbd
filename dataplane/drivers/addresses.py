"""The table `addresses`: IPv4 addresses on bridges' LOCAL ports (the tunnel endpoint).

How we recognise our own after a restart: by the address's protocol attribute (IFA_PROTO, kernel
5.18), as routes have one. It is on the address itself, so nothing has to be remembered elsewhere,
and it survives a restart of ours. An address that somebody else put there first is taken over.

The device is vswitchd's: it is gone when vswitchd is, and comes back without address and down.
So a missing device means waiting, and the same row is simply made again.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface

from pyroute2 import NetlinkError

from dataplane.drivers.rtnl import find_link, links, route_socket
from dataplane.model.rows import DeviceAddress
from dataplane.ports import Failure, ObserveError

IFA_PROTO_MILLRACE = 0x6D
"""Values up to 3 are the kernel's (linux/if_addr.h); this one is "m"."""

AddressKey = tuple[str, IPv4Interface]


class AddressesTable:
    """Table `addresses`: (device, address) -> DeviceAddress."""

    name = "addresses"

    def observe(self) -> Mapping[AddressKey, DeviceAddress]:
        """Addresses of ours; `up` is their device's state."""
        with route_socket() as ipr:
            by_index = {link.index: link for link in links(ipr)}
            try:
                messages = [
                    message
                    for message in ipr.get_addr(family=socket.AF_INET)
                    if message.get_attr("IFA_PROTO") == IFA_PROTO_MILLRACE
                ]
            except NetlinkError as error:
                msg = f"the addresses cannot be read: {error}"
                raise ObserveError(msg) from error
            return {
                (
                    by_index[message["index"]].name,
                    IPv4Interface((message.get_attr("IFA_LOCAL"), message["prefixlen"])),
                ): DeviceAddress(up=by_index[message["index"]].up)
                for message in messages
                if message["index"] in by_index
            }

    def upsert(
        self, batch: Sequence[tuple[AddressKey, DeviceAddress]]
    ) -> Mapping[AddressKey, Failure]:
        """Put the addresses on their devices and set these up."""
        failures: dict[AddressKey, Failure] = {}
        with route_socket() as ipr:
            for (device, address), wanted in batch:
                key = (device, address)
                link = find_link(ipr, device)
                if link is None:
                    reason = f"device {device} is not there yet: vswitchd makes it"
                    failures[key] = Failure(reason, waiting=True)
                    continue
                try:
                    ipr.addr(
                        "replace",
                        index=link.index,
                        address=str(address.ip),
                        prefixlen=address.network.prefixlen,
                        proto=IFA_PROTO_MILLRACE,
                    )
                    if wanted.up != link.up:
                        ipr.link("set", index=link.index, state="up" if wanted.up else "down")
                except NetlinkError as error:
                    gone = error.code == errno.ENODEV
                    failures[key] = Failure(f"{address} on {device}: {error}", waiting=gone)
        return failures

    def delete(self, keys: Sequence[AddressKey]) -> Mapping[AddressKey, Failure]:
        """Take the addresses off; a missing one is success. The device stays as it is."""
        failures: dict[AddressKey, Failure] = {}
        with route_socket() as ipr:
            for device, address in keys:
                link = find_link(ipr, device)
                if link is None:
                    continue
                try:
                    ipr.addr(
                        "del",
                        index=link.index,
                        address=str(address.ip),
                        prefixlen=address.network.prefixlen,
                    )
                except NetlinkError as error:
                    if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                        failures[device, address] = Failure(str(error))
        return failures
