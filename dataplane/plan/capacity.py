"""How big the maps of the service fast path are, by what the configuration asks for."""

from __future__ import annotations

from bpf.abi import Limit, sizes_by_service
from dataplane.model.config import ServicesConfig

ADDRESSES_PER_PORT = 4
"""VIPs that a service port has room for: cluster IP, node ports, load balancer, external."""

MEMBERS_PER_BACKEND = 4
"""A backend is in two sets, and a set that changes is there twice for a second."""


def map_sizes(services: ServicesConfig) -> dict[str, int]:
    """Entries of each map that depends on the configuration; of one CPU, that of abi.TRAFFIC.

    Conntrack has twice as many records as flows: then a new flow finds a free one among the 24
    that it looks at, and its tuple a bucket with room for a word. The words of replies that keep
    the client's address find a full bucket once in ten thousand: there the weak flow that was
    silent longest ends, and if none is weak the new one is refused.
    """
    slots = 2 * services.flows
    sizes = {
        "vips": ADDRESSES_PER_PORT * services.services,
        "known_addresses": ADDRESSES_PER_PORT * services.services,
        "sets": 2 * services.services,
        "backends": services.backends,
        "members": MEMBERS_PER_BACKEND * services.backends,
    }
    sizes |= sizes_by_service(services.services)
    for family in ("ct4", "ct6"):
        sizes[family] = slots
        sizes[f"{family}_tags"] = slots // Limit.CT_WAYS
        sizes[f"{family}_replies"] = slots // 2
    return sizes
