"""The node's network devices: what the kernel says of them, and a thread that says when it changes.

A program that OVS puts on a NIC (after its restart) is a link message too, so whoever keeps a
program of ours there hears of the replacement at once.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from pyroute2 import NetlinkError

from dataplane.drivers.rtnl import links, route_socket
from dataplane.model.addr import Mac
from dataplane.model.state import Nic
from dataplane.ports import ObserveError

RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100

RECEIVE_BYTES = 1 << 16

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: size, type, flags, sequence, port (netlink(7))."""

_INDEX = struct.Struct("=i")


def read_nics(names: Iterable[str]) -> Mapping[str, Nic]:
    """The named devices of this network namespace, with all their addresses; missing ones absent.

    Raises:
        ObserveError: the kernel could not be asked.
    """
    wanted = frozenset(names)
    with route_socket() as ipr:
        found = {link.index: link for link in links(ipr) if link.name in wanted}
        addresses: dict[int, list[str]] = {index: [] for index in found}
        try:
            for message in ipr.get_addr():
                if message["index"] in found:
                    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                    addresses[message["index"]].append(text)
        except NetlinkError as error:
            msg = f"the addresses cannot be read: {error}"
            raise ObserveError(msg) from error
    return {
        link.name: Nic(
            name=link.name,
            ifindex=index,
            mac=Mac(link.mac),
            mtu=link.mtu,
            addresses=tuple(
                sorted(
                    (ip_address(text) for text in addresses[index]),
                    key=lambda address: (address.version, int(address)),
                )
            ),
        )
        for index, link in found.items()
        if link.mac
    }


def changed_indices(messages: bytes) -> set[int]:
    """The interface indices that a datagram of RTM_*LINK and RTM_*ADDR messages speaks of.

    Both payloads carry the index as their 32-bit word at octet 4 (struct ifinfomsg and struct
    ifaddrmsg, rtnetlink(7)). What does not parse ends the walk.
    """
    found: set[int] = set()
    at = 0
    while at + _HEADER.size + 8 <= len(messages):
        size = _HEADER.unpack_from(messages, at)[0]
        if size < _HEADER.size + 8:
            break
        found.add(_INDEX.unpack_from(messages, at + _HEADER.size + 4)[0])
        at += (size + 3) & ~3
    return found


class LinkMonitor:
    """Calls `on_change()` after links, addresses or XDP programs of this namespace changed.

    Several messages in a row give one call, at most every `floor_s` seconds, and the last of them
    always gives one. If the kernel drops messages (ENOBUFS), that counts as a change. Devices
    whose name `ignored` is true of give none: a node's pods come and go all the time; that one is
    gone `on_ignored_gone` is told. Both run in the monitor's thread and must return
    at once.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        floor_s: float = 0.05,
        ignored: Callable[[str], bool] = lambda _: False,
        on_ignored_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_change = on_change
        self._on_ignored_gone = on_ignored_gone
        self._floor_s = floor_s
        self._ignored = ignored
        # A device that is gone has no name any more; the index is not given out again soon.
        self._ignored_indices: set[int] = set()
        self._stop_fd = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Changes from now on are noticed.

        Raises:
            ObserveError: the kernel gives no socket.
        """
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            sock.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        except OSError as error:
            msg = f"no netlink socket to watch links: {error}"
            raise ObserveError(msg) from error
        sock.setblocking(False)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(
            target=self._watch, args=(sock,), name="link-monitor", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        if self._thread is None:
            return
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            os.close(self._stop_fd)
            self._thread = None

    def _watch(self, sock: socket.socket) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        with sock:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if self._stop_fd in ready:
                    return
                if self._drain(sock):
                    self._on_change()
                    # What arrives in the meantime is noticed by the next poll.
                    time.sleep(self._floor_s)

    def _drain(self, sock: socket.socket) -> bool:
        """Read what is there; whether any of it matters."""
        matters = False
        while True:
            try:
                indices = changed_indices(sock.recv(RECEIVE_BYTES))
            except BlockingIOError:
                return matters
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                matters = True
            else:
                for index in indices:
                    matters |= self._matters(index)

    def _matters(self, index: int) -> bool:
        try:
            name = socket.if_indextoname(index)
        except OSError:
            if index not in self._ignored_indices:
                return True
            self._on_ignored_gone()
            return False
        if not self._ignored(name):
            return True
        self._ignored_indices.add(index)
        return False
