"""Endpoints as load balancer rows name them: which are in them, and what is told of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from controller.network.servicefacts import NetEndpoint
from dataplane.model.addr import IPAddress
from dataplane.model.service import EndpointState

Targets = Mapping[tuple[IPAddress, int], NetEndpoint]
"""Endpoints by address and port."""

_STATES = {EndpointState.READY: 0, EndpointState.TERMINATING: 1, EndpointState.UNREADY: 2}


def spelt(address: IPAddress, port: int) -> str:
    """As OVN spells it in `vips` (ovn-nb(5))."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def listed(found: Iterable[tuple[IPAddress, int]]) -> str:
    """The value of a VIP: each backend once, in order."""
    return ",".join(spelt(*at) for at in sorted(set(found), key=lambda at: (int(at[0]), at[1])))


def by_address(found: Iterable[tuple[NetEndpoint, int]]) -> Targets:
    """Endpoints by address and port.

    One in two slices, while it moves, is there once: the readier (Kubernetes, EndpointSlice).
    """
    targets: dict[tuple[IPAddress, int], NetEndpoint] = {}
    for one, port in found:
        known = targets.get((one.address, port))
        if known is None or _STATES[one.state] < _STATES[known.state]:
            targets[one.address, port] = one
    return targets


def usable(
    targets: Targets, version: int, *, not_ready_too: bool, by_ovn: bool
) -> list[tuple[IPAddress, int]]:
    """The endpoints of one family that belong into a VIP's value, sorted.

    The fast path takes terminating ones only when nothing else is left; OVN (`by_ovn`) takes all
    that are there.
    """
    states = {EndpointState.READY, EndpointState.TERMINATING}
    if not_ready_too:
        states.add(EndpointState.UNREADY)
    mine = {at: one.state for at, one in targets.items() if at[0].version == version}
    if by_ovn and EndpointState.READY in mine.values():
        states.discard(EndpointState.TERMINATING)
    return sorted(at for at, state in mine.items() if state in states)


def facts_of(one: NetEndpoint, weights: Collection[tuple[str, int]]) -> dict[str, object]:
    """What is told of one endpoint (`controller.translate.endpoints`); defaults are left out."""
    facts: dict[str, object] = {}
    if one.state is not EndpointState.READY:
        facts["state"] = str(one.state)
    weight = next((w for pattern, w in weights if fnmatchcase(one.target, pattern)), 1)
    if weight != 1:
        facts["weight"] = weight
    if one.zones:
        facts["zones"] = list(one.zones)
    if one.nodes:
        facts["nodes"] = list(one.nodes)
    return facts
