"""Connect-time translation: which cgroups are served, and which sockets a change leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol as Interface

from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import (
    BackendEntry,
    SetEntry,
    SetScope,
    SocketPrograms,
    VipEntry,
    VipFlag,
)
from dataplane.model.sockets import SocketPeer


class ServiceRows(Interface):
    """The rows of a plan that sockets depend on."""

    @property
    def vips(self) -> Mapping[L4Addr, VipEntry]:
        """Table `vips`."""
        ...

    @property
    def sets(self) -> Mapping[tuple[int, SetScope], SetEntry]:
        """Table `sets`."""
        ...

    @property
    def backends(self) -> Mapping[int, BackendEntry]:
        """Table `backends`."""
        ...


def socket_rows(config: ServicesConfig) -> dict[str, SocketPrograms]:
    """Rows of table `sockets`.

    A cgroup's programs run for everything below it, so one below another of the list has none of
    its own: translated twice, a socket would lose what it asked for.
    """
    return {
        path: SocketPrograms()
        for path in sorted(set(config.connect))
        if not any(path != other and path.startswith(f"{other}/") for other in config.connect)
    }


def _row_of(vip: L4Addr, after: ServiceRows) -> VipEntry | None:
    """As the programs find it: a node port asked for by loopback is that of any address."""
    row = after.vips.get(vip)
    if row is None and vip.address.is_loopback:
        anywhere = IPv4Address(0) if vip.address.version == 4 else IPv6Address(0)
        row = after.vips.get(L4Addr(vip.protocol, anywhere, vip.port))
    return row


def _serving(row: VipEntry, after: ServiceRows) -> frozenset[L4Addr]:
    scope = SetScope.LOCAL if row.flags & VipFlag.INNER_LOCAL else SetScope.CLUSTER
    members = after.sets.get((row.service_id, scope))
    if members is None:
        return frozenset()
    found = (after.backends.get(backend_id) for backend_id, _, _ in members.members)
    return frozenset(entry.target for entry in found if entry is not None)


def stray_peers(peers: Iterable[SocketPeer], after: ServiceRows) -> frozenset[SocketPeer]:
    """Peers of connected UDP sockets that no socket would be given any more.

    Their VIP went or is another service's, or their backend takes no new peers. TCP connections
    are never among them: they live until they end.
    """
    serving: dict[VipEntry, frozenset[L4Addr]] = {}
    strays = set()
    for peer in peers:
        if peer.vip.protocol is not Protocol.UDP:
            continue
        row = _row_of(peer.vip, after)
        if row is None or row.service_id != peer.service_id:
            strays.add(peer)
            continue
        if row not in serving:
            serving[row] = _serving(row, after)
        if peer.backend not in serving[row]:
            strays.add(peer)
    return frozenset(strays)
