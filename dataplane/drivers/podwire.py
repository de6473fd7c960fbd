"""What attaching a pod asks of rtnetlink, on a plain socket.

pyroute2 makes a loop of events for a socket and takes half a millisecond for a message; an ADD is
six of them in two sockets, and a full node's 110 come at once. Source: rtnetlink(7),
linux/netlink.h, linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from types import TracebackType
from typing import Self

from pyroute2 import NetlinkError

from dataplane.drivers.netlink import ACK, DUMP, WORD, answer, attribute, attributes, message
from dataplane.drivers.rtnl import IFF_UP, LinkState
from dataplane.model.addr import IPNetwork, Mac
from dataplane.ports import ObserveError

_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, which of them change."""
_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, length of the prefix, flags, scope, index."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type,
flags."""
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 4, 5, 18
_IFLA_IFALIAS, _IFLA_NET_NS_FD, _IFLA_TXQ, _IFLA_RXQ = 20, 28, 31, 32
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_MAIN, _UNICAST = 254, 1
_ANY, _STATIC = 0, 4
"""Of whose protocol a route is; a route of any is found with the scope "nowhere"."""
_UNIVERSE, _ON_LINK_SCOPE, _NOWHERE = 0, 253, 255
_DUMPS = 10
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("=16si20x")
"""struct ifreq with an index (netdevice(7)); a name has 15 octets at most."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class PodWire:
    """A netlink socket of the namespace in which the thread is that makes it.

    Every method raises NetlinkError, whose `code` is an errno, where the kernel refuses. Nobody
    but the kernel is heard: who administers a pod's network could send here, too.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            try:
                self._socket.connect((0, 0))
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            msg = f"no netlink socket: {error}"
            raise ObserveError(msg) from error
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    # -- links ---------------------------------------------------------------------------------

    def index_of(self, name: str) -> int | None:
        """The index of the link that the kernel shows under this name, if any.

        Asked without its lock for links, which whoever removes one holds.

        Raises:
            ObserveError: the kernel could not be asked.
        """
        octets = name.encode("utf-8", "surrogateescape")
        if len(octets) > 15:
            return None
        asked = _IFREQ.pack(octets, 0)
        try:
            return int(_IFREQ.unpack(fcntl.ioctl(self._socket, _SIOCGIFINDEX, asked))[1])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            msg = f"link {name} cannot be looked for: {error}"
            raise ObserveError(msg) from error

    def find_link(self, name: str) -> LinkState | None:
        """The link of this name.

        Raises:
            ObserveError: the kernel could not be asked.
        """
        if (index := self.index_of(name)) is None:
            return None
        try:
            answers = self._ask(_GETLINK, ACK, _LINK.pack(0, 0, index, 0, 0))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None  # it went between the two
            msg = f"link {name} cannot be read: {error}"
            raise ObserveError(msg) from error
        for payload in answers:
            link = _link_state(payload)
            if link.name == name:
                return link
        return None

    def add_veth(self, name: str, mtu: int, peer: str, mac: Mac, namespace: int) -> None:
        """Make a pair of this MTU.

        The peer, which has the address, is made in the namespace of that descriptor.
        """
        size = attribute(_IFLA_MTU, WORD.pack(mtu))
        inner = (
            _LINK.pack(0, 0, 0, 0, 0)
            + attribute(_IFLA_IFNAME, _text(peer))
            + attribute(_IFLA_ADDRESS, bytes.fromhex(str(mac).replace(":", "")))
            + size
            + attribute(_IFLA_NET_NS_FD, WORD.pack(namespace))
        )
        info = attribute(_INFO_KIND, b"veth") + attribute(_INFO_DATA, attribute(_VETH_PEER, inner))
        body = (
            _LINK.pack(0, 0, 0, 0, 0)
            + attribute(_IFLA_IFNAME, _text(name))
            + size
            + attribute(_IFLA_LINKINFO, info)
        )
        self._ask(_NEWLINK, ACK | _CREATE | _EXCLUSIVE, body)

    def set_link(
        self,
        index: int,
        *,
        up: bool = False,
        mtu: int | None = None,
        alias: str | None = None,
        mac: Mac | None = None,
    ) -> None:
        """Change what is given of a link."""
        flags = IFF_UP if up else 0
        body = _LINK.pack(0, 0, index, flags, flags)
        if mtu is not None:
            body += attribute(_IFLA_MTU, WORD.pack(mtu))
        if alias is not None:
            body += attribute(_IFLA_IFALIAS, alias.encode())
        if mac is not None:
            body += attribute(_IFLA_ADDRESS, bytes.fromhex(str(mac).replace(":", "")))
        self._ask(_NEWLINK, ACK, body)

    def delete_link(self, index: int) -> None:
        """Delete a link, and a veth's other end."""
        self._ask(_DELLINK, ACK, _LINK.pack(0, 0, index, 0, 0))

    # -- addresses -----------------------------------------------------------------------------

    def addresses(self, index: int) -> set[IPv4Interface | IPv6Interface]:
        """Of a link, those included that the kernel made itself."""
        found: set[IPv4Interface | IPv6Interface] = set()
        for payload in self._ask(_GETADDR, DUMP, _ADDRESS.pack(0, 0, 0, 0, index)):
            family, length, _, _, device = _ADDRESS.unpack_from(payload)
            values = attributes(payload, _ADDRESS.size)
            octets = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if device != index or octets is None:
                continue
            if family == socket.AF_INET:
                found.add(IPv4Interface((octets, length)))
            elif family == socket.AF_INET6:
                found.add(IPv6Interface((octets, length)))
        return found

    def add_address(
        self, index: int, address: IPv4Interface | IPv6Interface, flags: int = 0
    ) -> None:
        """Give a link an address; `flags` of if_addr.h."""
        body = _address(index, address) + attribute(_IFA_FLAGS, WORD.pack(flags))
        self._ask(_NEWADDR, ACK | _CREATE | _EXCLUSIVE, body)

    def delete_address(self, index: int, address: IPv4Interface | IPv6Interface) -> None:
        """Take an address away."""
        self._ask(_DELADDR, ACK, _address(index, address))

    # -- routes --------------------------------------------------------------------------------

    def default_routes(self, version: int) -> list[tuple[int, str]]:
        """Interface index and gateway ("" without one) of each in the main table."""
        found = []
        body = _ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
        for payload in self._ask(_GETROUTE, DUMP, body):
            family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(payload)
            if (family, length, table, kind) != (_FAMILIES[version], 0, _MAIN, _UNICAST):
                continue
            values = attributes(payload, _ROUTE.size)
            device, gateway = values.get(_RTA_OIF), values.get(_RTA_GATEWAY)
            found.append(
                (
                    WORD.unpack(device)[0] if device else 0,
                    str(ip_address(gateway)) if gateway else "",
                )
            )
        return found

    def replace_route(
        self,
        to: IPNetwork,
        index: int,
        via: IPv4Address | IPv6Address | None = None,
        flags: int = 0,
    ) -> None:
        """Set a route of the main table; `flags` of rtnetlink.h."""
        if via is not None and via.version != to.version:
            # The kernel would take the first octets of the gateway for the whole of it.
            raise NetlinkError(
                errno.EINVAL, f"{to} cannot go via {via}, which is of another family"
            )
        body = _route(to, index, via, flags)
        self._ask(_NEWROUTE, ACK | _CREATE | _REPLACE, body)

    def delete_route(self, to: IPNetwork, index: int, via: str = "") -> None:
        """Take a route of the main table away."""
        gateway = ip_address(via) if via else None
        self._ask(_DELROUTE, ACK, _route(to, index, gateway, 0, whose=_ANY))

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The payloads of the answer; a list that was torn by a change is asked for again."""
        try:
            for _ in range(_DUMPS):
                found, torn = self._exchange(kind, flags, body)
                if not torn:
                    return found
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, error.strerror or str(error)) from error
        raise NetlinkError(errno.EAGAIN, f"what is listed changed {_DUMPS} times meanwhile")

    def _exchange(self, kind: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
        """Payloads, and whether they are a list that is torn."""
        self._sequence += 1
        self._socket.send(message(kind, flags, self._sequence, body))
        return answer(self._socket, self._sequence)


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape") + b"\0"


def _said(octets: bytes | None) -> str:
    return (octets or b"").rstrip(b"\0").decode("utf-8", "replace")


def _number(octets: bytes | None) -> int:
    return int(WORD.unpack(octets)[0]) if octets else 0


def _link_state(payload: bytes) -> LinkState:
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    values = attributes(payload, _LINK.size)
    info = attributes(values.get(_IFLA_LINKINFO, b""), 0)
    return LinkState(
        index=index,
        name=_said(values.get(_IFLA_IFNAME)),
        kind=_said(info.get(_INFO_KIND)),
        alias=_said(values.get(_IFLA_IFALIAS)),
        mac=values.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(values.get(_IFLA_MTU)),
        up=bool(flags & IFF_UP),
        queues=min(_number(values.get(_IFLA_RXQ)) or 1, _number(values.get(_IFLA_TXQ)) or 1),
        peer_index=_number(values.get(_IFLA_LINK)),
    )


def _address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    octets, length = address.ip.packed, address.network.prefixlen
    body = _ADDRESS.pack(_FAMILIES[address.version], length, 0, _UNIVERSE, index)
    return body + attribute(_IFA_LOCAL, octets) + attribute(_IFA_ADDRESS, octets)


def _route(
    to: IPNetwork,
    index: int,
    via: IPv4Address | IPv6Address | None,
    flags: int,
    whose: int = _STATIC,
) -> bytes:
    scope = _ON_LINK_SCOPE if via is None and to.version == 4 else _UNIVERSE
    if whose == _ANY:
        scope = _NOWHERE
    family = _FAMILIES[to.version]
    body = _ROUTE.pack(family, to.prefixlen, 0, 0, _MAIN, whose, scope, _UNICAST, flags)
    if to.prefixlen:
        body += attribute(_RTA_DST, to.network_address.packed)
    body += attribute(_RTA_OIF, WORD.pack(index))
    return body if via is None else body + attribute(_RTA_GATEWAY, via.packed)
