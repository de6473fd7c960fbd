"""Who serves workloads behind OVN: the fast path (`svc0`), or OVN on its switches.

Policies judge the addresses of a packet. What goes by svc0 leaves its client for the service's
address and comes to the backend from svc0's, so a policy that names pods would drop it. Where OVN
serves, the client's switch translates before a policy looks, and the client's address stays.

OVN leads to workloads only: a node's own address (the API server's) is no place in its network, and
svc0 hands such packets to the kernel (docs/decisions/0026). With AUTO those services stay there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from controller.kinds.subnet import SUBNETS
from controller.network.judges import ANY
from controller.network.nets import NETS
from controller.network.servicefacts import SERVICES, SLICES
from controller.network.settings import settings
from controller.network.view import Derived, View
from dataplane.model.config import EastWest


def _served(view: View, _: Hashable) -> bool:
    chosen = settings(view).east_west
    if chosen is EastWest.AUTO:
        shut = (view.by(SUBNETS, index, True) for index in ("private", "acls"))
        return view.ask(ANY, "") or any(shut)
    return chosen is EastWest.SWITCH


BY_OVN: Derived[bool] = Derived("whether OVN serves workloads", _served)
"""With AUTO: there is a policy, or a Subnet that is shut or has ACLs of its own."""


def _networks(view: View, vpc: Hashable) -> Mapping[tuple[int, int], frozenset[int]]:
    nets = (view.get(NETS, name) for name in view.all(NETS))
    found: dict[tuple[int, int], set[int]] = {}
    for net in nets:
        for one in net.networks if net is not None and net.usable and net.vpc == vpc else ():
            host_bits = one.max_prefixlen - one.prefixlen
            found.setdefault((one.version, host_bits), set()).add(
                int(one.network_address) >> host_bits
            )
    return {kind: frozenset(prefixes) for kind, prefixes in found.items()}


NETWORKS: Derived[Mapping[tuple[int, int], frozenset[int]]] = Derived(
    "networks of a VPC", _networks
)
"""By version and bits of the host, so that a look-up costs by lengths and not by networks."""


def _leaves(view: View, key: Hashable) -> bool:
    service = view.get(SERVICES, key)
    if service is None:
        return False
    inside = view.ask(NETWORKS, service.vpc)
    slices = (view.get(SLICES, name) for name in view.by(SLICES, "service", key))
    addresses = (one.address for part in slices if part is not None for one in part.endpoints)
    return not all(
        any(
            version == address.version and int(address) >> host_bits in prefixes
            for (version, host_bits), prefixes in inside.items()
        )
        for address in addresses
    )


LEAVES: Derived[bool] = Derived("whether a service has endpoints outside its VPC", _leaves)


def _by_ovn(view: View, key: Hashable) -> bool:
    if not view.ask(BY_OVN, ""):
        return False
    return settings(view).east_west is EastWest.SWITCH or not view.ask(LEAVES, key)


SERVED: Derived[bool] = Derived("whether OVN serves a service", _by_ovn)


def by_ovn(view: View, service: Hashable) -> bool:
    """Whether OVN's load balancers serve a Service's cluster IPs to workloads at this moment."""
    return view.ask(SERVED, service)


def leads_to_svc0(view: View) -> bool:
    """Whether the service ranges are routed to svc0.

    With AUTO also while OVN serves: what its load balancers have translated does not come there,
    and until they are in every chassis's flows somebody has to answer.
    """
    return settings(view).east_west is not EastWest.SWITCH
