"""Ends the connected UDP sockets of a node whose backend takes no one any more.

The kernel runs no program when a connected socket sends, so such a socket cannot be given another
backend; it is ended instead, and its process connects anew. Sockets are listed by network
namespace, so every namespace that a process of a served cgroup is in is visited.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing, Map
from dataplane.drivers.libbpf_programs import Program, loaded
from dataplane.drivers.netns import NetnsError, inside, opened
from dataplane.drivers.sockdiag import connected_sockets, destroy
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.sockets import SocketPeer
from dataplane.plan.sockets import ServiceRows, stray_peers
from dataplane.ports import ObserveError

log = logging.getLogger(__name__)

OBJECT = "sockpeers.bpf.o"
OWN = "/proc/thread-self/ns/net"


def namespaces(cgroups: Collection[str]) -> dict[int, str]:
    """The network namespaces of the processes in and below these cgroups: inode to a path."""
    found: dict[int, str] = {}
    for cgroup in cgroups:
        for folder, _, names in os.walk(cgroup):
            if "cgroup.procs" not in names:
                continue
            try:
                pids = (Path(folder) / "cgroup.procs").read_text(encoding="ascii").split()
            except OSError:
                continue  # the cgroup went, or is a threaded one, whose domain has the processes
            for pid in pids:
                path = f"/proc/{pid}/ns/net"
                try:
                    found.setdefault(Path(path).stat().st_ino, path)
                except OSError:
                    continue  # it ended while we looked
    return found


class SocketEnds(Closing):
    """Over the sockets of one node, by its pinned maps. Loads what it needs when it needs it.

    Args:
        maps: the pinned maps by name.
        objects: where the compiled objects are.
    """

    def __init__(self, maps: Mapping[str, Map], objects: Path = OBJECT_DIRECTORY) -> None:
        self._peers = maps["sock_peers"]
        self._path = objects / OBJECT
        self._open = ExitStack()
        self._walker: Program | None = None
        self._found: Map | None = None

    def close(self) -> None:
        """Let go of the program."""
        self._open.close()
        self._walker = self._found = None

    def follow(self, cgroups: Collection[str], after: ServiceRows) -> int:
        """End what `after` would give no socket; how many were ended.

        Call it when the maps hold `after`: then no new socket comes that would have to end. A
        namespace that goes meanwhile is left out. Without such sockets, only a map is walked.

        Raises:
            CapabilityMissing: the kernel ends no sockets.
            LibbpfError: it does not say what sockets were made of.
            ObserveError: it does not list them.
        """
        peers = self._connected()
        strays = stray_peers(set(peers.values()), after)
        wanted = {
            cookie: (peer.backend.address, peer.backend.port)
            for cookie, peer in peers.items()
            if peer in strays
        }
        if not wanted:
            return 0
        ended = 0
        own = Path(OWN).stat().st_ino
        for number, path in namespaces(cgroups).items():
            if number == own:
                ended += _end_here(wanted)
                continue
            try:
                with opened(path) as fd:
                    ended += inside(fd, path, lambda: _end_here(wanted))
            except NetnsError:
                continue
        if ended:
            log.info("sockets_ended count=%d", ended)
        return ended

    def _connected(self) -> dict[int, SocketPeer]:
        """What UDP sockets are connected to, by their cookies; of every network namespace."""
        if self._walker is None or self._found is None:
            made = self._open.enter_context(loaded(self._path))
            self._walker = self._open.enter_context(made.program("millrace_peers"))
            self._found = self._open.enter_context(made.map("connected"))
        self._walker.show_all_of(self._peers)
        decoded = cache(_peer)  # few peers, many sockets
        found = self._found.items()
        for cookie, _ in found:
            self._found.delete(cookie)
        return {int.from_bytes(cookie, sys.byteorder): decoded(value) for cookie, value in found}


def _peer(value: bytes) -> SocketPeer:
    fields = abi.SOCK_PEER.unpack(value)

    def end(name: str) -> L4Addr:
        address = IPv6Address(fields[name])
        return L4Addr(
            Protocol(fields["proto"]), address.ipv4_mapped or address, fields[f"{name}_port"]
        )

    return SocketPeer(end("vip"), end("backend"), fields["service_id"])


def _end_here(wanted: Mapping[int, tuple[IPAddress, int]]) -> int:
    """End the sockets of this thread's namespace that are still connected as `wanted` says."""
    try:
        return sum(
            destroy(one) for one in connected_sockets() if wanted.get(one.cookie) == one.peer
        )
    except OSError as error:
        msg = f"a socket cannot be ended: {error}"
        raise ObserveError(msg) from error
