"""Addresses of services of type LoadBalancer: from pools of the configuration, or from a Subnet.

The service's status is where an address is kept. A service of another load balancer class, or of
none where no pool is for all, is left to whoever sees to it; the addresses in its status are
served all the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from controller.kube.resources import Key
from controller.network.external import GIVEN as EXTERNAL
from controller.network.giving import Claim, Given, give, ranges_of
from controller.network.servicefacts import (
    FROM_SUBNET_ANNOTATION,
    POOL_ANNOTATION,
    SERVICES,
    NetService,
)
from controller.network.settings import settings
from controller.network.view import Derived, View
from controller.translate.ovn import Problem
from controller.translate.vips import Fault
from dataplane.model.addr import IPAddress, readable

CLASS = "millrace.dev/pool"
"""spec.loadBalancerClass of services that want an address of ours and nobody else's."""


@dataclass(frozen=True, slots=True)
class Served:
    """A service's balanced addresses.

    Attributes:
        addresses: those to be served.
        ingress: those that its status should have; None: its status is somebody else's.
    """

    addresses: tuple[str, ...] = ()
    ingress: tuple[str, ...] | None = None
    problems: tuple[Problem, ...] = ()


def _pool_name(view: View, service: NetService) -> str:
    """The pool that it takes addresses from; "": none."""
    if service.type != "LoadBalancer" or service.load_balancer_class not in ("", CLASS):
        return ""
    return service.annotations.get(POOL_ANNOTATION) or settings(view).default_pool


def claim_of(key: Key, service: NetService, doubts: list[Fault]) -> Claim:
    """What a service asks a pool for."""
    families = dict.fromkeys(one.version for one in readable(service.cluster_ips)) or {4: None}
    wished: tuple[IPAddress, ...] = ()
    if service.load_balancer_ip:
        wished = readable((service.load_balancer_ip,))
        if not wished:
            text = service.load_balancer_ip
            doubts.append(Fault(f"spec.loadBalancerIP: {text!r} is no address", "correct it"))
    return Claim(
        ("service", str(key)),
        (service.created, *key),
        tuple(families),
        wished,
        readable(service.ingress),
    )


def _members(view: View, pool: Hashable) -> Mapping[Hashable, Given]:
    """What everybody gets who asks one pool."""
    decided = settings(view)
    ranges, _ = ranges_of(decided.pools.get(str(pool), ()))
    asking = [*view.by(SERVICES, "pool", pool)]
    if pool == decided.default_pool:
        asking += view.by(SERVICES, "pool", "")
    claims = []
    for key in asking:
        claim = view.ask(CLAIMS, key)
        if claim is not None and claim[0] == pool:
            claims.append(claim[1])
    return give(ranges, claims)


def _claim(view: View, key: Hashable) -> tuple[str, Claim] | None:
    service = view.get(SERVICES, key)
    if service is None or not isinstance(key, Key):
        return None
    return _pool_name(view, service), claim_of(key, service, [])


CLAIMS: Derived[tuple[str, Claim] | None] = Derived("what a service asks which pool for", _claim)
"""By itself, so that most changes of a service are none to its pool."""


POOLED: Derived[Mapping[Hashable, Given]] = Derived("addresses of a pool", _members)
"""Keys are pools' names."""


def _given(view: View, key: Hashable) -> Served:
    service = view.get(SERVICES, key)
    if service is None or service.type != "LoadBalancer" or not isinstance(key, Key):
        return Served()
    title = f"service {key}"
    name = service.annotations.get(FROM_SUBNET_ANNOTATION, "")
    if name:
        doubts: list[Fault] = []
        given = view.ask(EXTERNAL, name)
        return _served(title, f"Subnet {name}", claim_of(key, service, doubts), given, doubts)
    name = _pool_name(view, service)
    if not name:
        return Served(service.ingress)
    if name not in settings(view).pools:
        known = ", ".join(sorted(settings(view).pools)) or "none"
        cause = f"there is no address pool {name!r} (there are: {known})"
        step = f"correct its annotation {POOL_ANNOTATION}, or add the pool to the configuration"
        return Served(service.ingress, None, (Problem(title, cause, step),))
    doubts = []
    claim = claim_of(key, service, doubts)
    return _served(title, f"pool {name}", claim, view.ask(POOLED, name), doubts)


def _served(
    title: str, source: str, claim: Claim, given: Mapping[Hashable, Given], doubts: list[Fault]
) -> Served:
    mine = given.get(claim.who, Given())
    faults = (*doubts, *mine.faults)
    # One family of two is better than nothing, and no fault where the other cannot be had.
    if mine.addresses and not claim.wished:
        faults = tuple(doubts)
    addresses = tuple(str(mine.addresses[v]) for v in claim.families if v in mine.addresses)
    problems = tuple(Problem(title, f"{source}: {f.cause}", f.next_step) for f in faults)
    return Served(addresses, addresses, problems)


GIVEN: Derived[Served] = Derived("a service's balanced addresses", _given)
"""Keys are services'."""
