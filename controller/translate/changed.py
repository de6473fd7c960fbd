"""Which load balancer rows have to be translated anew after OVN said something.

Pure. A row's services are a function of the row, of where its backends are, and of where it is
attached; so a changed row concerns itself, a port bound elsewhere the rows that name its addresses,
and everything else the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from operator import is_, is_not
from typing import TypeVar

from controller.translate.index import Index, address_words, octets
from controller.translate.ovn import LoadBalancer, LogicalSwitchPort, NbSnapshot, SbSnapshot
from dataplane.model.layered import Layered
from dataplane.model.service import Service

T = TypeVar("T")

_WHOLE = ("load_balancer_groups", "switches", "routers", "router_ports")
"""Northbound tables of which any change concerns everything; the rest concerns no service."""


def differing(before: Mapping[str, T], after: Mapping[str, T]) -> frozenset[str]:
    """Keys of rows that came, went or are other objects: snapshots share what did not change."""
    if before is after:
        return frozenset()
    if isinstance(before, Layered) and isinstance(after, Layered):
        found = after.differing(before)
        if found is not None:
            return found
    if len(before) == len(after) and all(map(is_, before, after)):
        # The very same keys in the same order, as a copy in which rows were replaced has them.
        return frozenset(compress(after, map(is_not, before.values(), after.values())))
    others = {key for key, row in after.items() if before.get(key) is not row}
    came = sum(key not in before for key in others)
    if len(before) + came != len(after):
        others.update(before.keys() - after.keys())
    return frozenset(others)


def same(before: object, after: object) -> bool:
    """Whether two tables are equal; for one and the same it costs nothing."""
    return before is after or before == after


def concerned(
    before: Index, after: Index, services: Mapping[str, tuple[Service, ...]]
) -> frozenset[str] | None:
    """The rows to translate anew, by UUID; None: all, and what else there is.

    Args:
        before: look-ups over what was translated last.
        after: over what there is now.
        services: what each row was translated to.
    """
    if not _alike(before.nb, after.nb, before.sb, after.sb):
        return None
    rows = differing(before.nb.load_balancers, after.nb.load_balancers)
    bound = {
        name
        for name in differing(before.sb.port_bindings, after.sb.port_bindings)
        if before.chassis_of(name) != after.chassis_of(name)
    }
    if not bound:
        return rows
    # Another port may hold the same address: whichever of them is bound is the backend's.
    ports = [port for name in bound if (port := after.port_by_name.get(name))]
    texts = {text for port in ports for words in address_words(port) for text in words[1:]}
    names = {port.name for text in texts for port in after.owners.get(octets(text) or b"", ())}
    return rows | {
        ref
        for ref, found in services.items()
        if any(backend.port_name in names for service in found for backend in service.backends)
    }


def _alike(nb: NbSnapshot, nb_now: NbSnapshot, sb: SbSnapshot, sb_now: SbSnapshot) -> bool:
    """Whether all is as it was, but for rows of services and where ports are bound."""
    return (
        all(same(getattr(nb, table), getattr(nb_now, table)) for table in _WHOLE)
        and sb.partial == sb_now.partial
        and same(sb.chassis, sb_now.chassis)
        and same(sb.service_monitors, sb_now.service_monitors)
        and not any(
            _facts(nb.switch_ports.get(ref)) != _facts(nb_now.switch_ports.get(ref))
            for ref in differing(nb.switch_ports, nb_now.switch_ports)
        )
    )


def _facts(port: LogicalSwitchPort | None) -> tuple[object, ...] | None:
    """What services and gateways depend on; tags of nested ports are nothing to them."""
    if port is None:
        return None
    return port.name, port.type, port.addresses, port.dynamic_addresses, port.options


class Marked:
    """The load balancer rows with some key in their external_ids, from snapshot to snapshot."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._seen: Mapping[str, LoadBalancer] = {}
        self._refs: set[str] = set()

    def take(self, balancers: Mapping[str, LoadBalancer]) -> frozenset[str]:
        """Their UUIDs; only rows that differ from the last time's are looked at."""
        for ref in differing(self._seen, balancers):
            row = balancers.get(ref)
            if row is not None and self._key in row.external_ids:
                self._refs.add(ref)
            else:
                self._refs.discard(ref)
        self._seen = balancers
        return frozenset(self._refs)
