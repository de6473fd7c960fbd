"""Everything in a node's plan that follows from its services, made as a whole.

`dataplane.plan.servicebook` has the same, kept up change by change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dataplane.model.addr import IPAddress, L4Addr
from dataplane.model.rows import KnownAddress
from dataplane.model.service import Service
from dataplane.model.state import HeldIds
from dataplane.plan.owners import owned
from dataplane.plan.services import (
    ServiceTables,
    Vantage,
    fast_services,
    known_addresses,
    local_backends,
    service_tables,
)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the rows of services depend on beside them.

    `own`: the node's own addresses. `announcers`: the nodes that may answer for VIPs; None: this
    one answers for none.
    """

    vantage: Vantage
    held: HeldIds
    own: tuple[IPAddress, ...] = ()
    announcers: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What follows from services: rows of their tables and of `known_addresses`, and two sets.

    `answered`: the VIPs that this node answers for on the wire. `replies`: the backends here whose
    replies have to be led to svc0 though they are not sent to its address.
    """

    tables: ServiceTables = field(default_factory=ServiceTables)
    known: Mapping[IPAddress, KnownAddress] = field(default_factory=dict)
    answered: frozenset[IPAddress] = frozenset()
    replies: frozenset[L4Addr] = frozenset()


def served(services: Sequence[Service], around: Circumstances) -> Served:
    """All of it.

    Raises:
        OutOfIds: more service ports or backends than the maps have room for.
    """
    fast = fast_services(services)
    tables = service_tables(fast, around.held, around.vantage)
    answered = frozenset[IPAddress]()
    if around.announcers is not None:
        answered = owned(fast, around.announcers, around.vantage.node)
    replies = (b.target for s in fast for b in local_backends(s, around.vantage))
    known = known_addresses(around.own, answered, tables.vips)
    return Served(tables, known, answered, frozenset(replies))
