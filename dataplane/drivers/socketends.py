"""Ends the connected UDP sockets of a node whose backend takes no one any more.

The kernel runs no program when a connected socket sends, so such a socket cannot be given another
backend; it is ended instead, and its process connects anew. Sockets are listed by network
namespace, so every namespace that a process of a served cgroup is in is visited.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from dataplane.drivers.libbpf import Map
from dataplane.drivers.netns import NetnsError, inside, opened
from dataplane.drivers.sockdiag import destroy, translated_sockets
from dataplane.plan.sockets import ServiceRows, stray_peers
from dataplane.ports import ObserveError

log = logging.getLogger(__name__)

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


class SocketEnds:
    """Over the sockets of one node, by its pinned maps."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._peers = maps["sock_peers"]

    def follow(self, cgroups: Collection[str], after: ServiceRows) -> int:
        """End what `after` would give no socket; how many were ended.

        Call it when the maps hold `after`: then no new socket comes that would have to end. A
        namespace that goes meanwhile is left out.

        Raises:
            CapabilityMissing: the kernel ends no sockets.
            ObserveError: it does not list them.
        """
        ended = 0
        own = Path(OWN).stat().st_ino
        for number, path in namespaces(cgroups).items():
            if number == own:
                ended += self._here(after)
                continue
            try:
                with opened(path) as fd:
                    ended += inside(fd, path, lambda: self._here(after))
            except NetnsError:
                continue
        if ended:
            log.info("sockets_ended count=%d", ended)
        return ended

    def _here(self, after: ServiceRows) -> int:
        found = translated_sockets(self._peers)
        strays = stray_peers((one.peer for one in found), after)
        try:
            return sum(destroy(one) for one in found if one.peer in strays)
        except OSError as error:
            msg = f"a socket cannot be ended: {error}"
            raise ObserveError(msg) from error
