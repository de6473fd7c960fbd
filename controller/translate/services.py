"""From load balancer rows to services, seen from one node.

`services_of_row` is a function of one row and of where the backends are: one changed row is
computed anew alone. What needs the other rows, who has a VIP that two of them claim, is
`controller.translate.claims`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from controller.translate.claims import Claims
from controller.translate.declared import Declared, Vip, declared
from controller.translate.endpoints import Endpoint
from controller.translate.index import Index
from controller.translate.ovn import LoadBalancer, NbSnapshot, Problem, SbSnapshot
from controller.translate.rowservices import RowServices
from controller.translate.terms import Terms
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.names import FAST_PATH_KEY
from dataplane.model.service import (
    Backend,
    EndpointState,
    Place,
    ServedBy,
    Service,
    ServiceKind,
)

_PLAIN = Endpoint()


@dataclass(frozen=True, slots=True)
class Vantage:
    """Where services are seen from: a chassis, OVN's two databases, the node's own addresses.

    Backends at an address of `hosts` that no logical port has are in a host's network.
    """

    chassis: str
    index: Index
    own: frozenset[IPAddress]
    hosts: frozenset[IPAddress]

    @classmethod
    def of(cls, chassis: str, index: Index, own: Collection[IPAddress]) -> Vantage:
        """The vantage of a node with these addresses."""
        mine = frozenset(own)
        return cls(chassis, index, mine, index.hosts | mine)


def services_of_row(ref: str, balancer: LoadBalancer, vantage: Vantage) -> RowServices:
    """The VIPs of the row `ref` that can be named, with the path that serves each and why.

    Other rows have no part in it: a VIP of another row may be the same.
    """
    row = declared(balancer, ref)
    attached = vantage.index.attached_to.get(ref, ())
    services = tuple(_service(row, vip, attached, vantage) for vip in row.vips)
    return RowServices(row.label, services, row.problems, attached)


def services(
    nb: NbSnapshot,
    sb: SbSnapshot,
    chassis: str,
    node_addresses: Collection[IPAddress] = (),
    index: Index | None = None,
) -> tuple[Service, ...]:
    """Every VIP of OVN that can be named, sorted, with the path that serves it and why.

    `node_addresses`: addresses of this node's own links. A VIP that two load balancers claim is
    listed for each; at most one of them has XDP.
    """
    return claims(nb, Vantage.of(chassis, index or Index(nb, sb), node_addresses)).services()


def claims(nb: NbSnapshot, vantage: Vantage) -> Claims:
    """All rows' services, with who has what several claim."""
    found = Claims(vantage.hosts)
    found.update(
        {
            ref: services_of_row(ref, balancer, vantage)
            for ref, balancer in nb.load_balancers.items()
        }
    )
    return found


def service_problems(nb: NbSnapshot, vantage: Vantage) -> tuple[Problem, ...]:
    """What an operator has to mend in the load balancers, sorted."""
    return claims(nb, vantage).problems()


# -- one VIP --------------------------------------------------------------------------------------


def _service(row: Declared, vip: Vip, attached: tuple[str, ...], vantage: Vantage) -> Service:
    terms = row.terms
    backends = tuple(_backend(vantage, target, row) for target in vip.targets)
    if terms.kind is ServiceKind.HOST_PORT:
        backends = tuple(b for b in backends if b.place is Place.LOCAL)
    served_by, reason = _verdict(row, vip, attached, backends, vantage)
    return Service(
        name=row.label,
        vip=vip.address,
        backends=backends,
        policy=terms.policy,
        served_by=served_by,
        reason=reason,
        port_key=terms.port_key,
        kind=terms.kind,
        inner_policy=terms.inner_policy,
        affinity_s=terms.affinity_s,
        source_ranges=tuple(
            network
            for network in terms.source_ranges
            if network.version == vip.address.address.version
        ),
        reject=terms.reject,
        forwarding=terms.forwarding,
        health_port=terms.health_port if served_by is ServedBy.XDP else None,
    )


def _backend(vantage: Vantage, target: L4Addr, row: Declared) -> Backend:
    place, port_name, chassis = _place(vantage, target)
    facts = row.terms.endpoints.get(target, _PLAIN)
    state = facts.state
    if row.checked and target in vantage.index.offline:
        state = EndpointState.UNREADY
    if row.terms.not_ready_too:
        state = EndpointState.READY
    return Backend(target, place, port_name, state, facts.weight, chassis, facts.zones, facts.nodes)


def _place(vantage: Vantage, target: L4Addr) -> tuple[Place, str | None, str | None]:
    """Where a backend is: an address of a logical port before an address of a host."""
    index = vantage.index
    ports = index.owners.get(target.address.packed, ())
    # Two switches may hold the same address; the port that is bound somewhere is the live one.
    for port in ports:
        if chassis := index.chassis_of(port.name):
            place = Place.LOCAL if chassis == vantage.chassis else Place.REMOTE
            return place, port.name, chassis
    if ports and index.sb.partial:
        # It is not here, and that is all that anybody asks who has not asked for everything.
        return Place.REMOTE, ports[0].name, None
    if ports:
        return Place.UNKNOWN, ports[0].name, None
    if target.address in vantage.own:
        return Place.HOST, None, vantage.chassis
    if target.address in vantage.hosts:
        chassis = index.nodes[target.address]
        return (Place.HOST if chassis == vantage.chassis else Place.OTHER_HOST), None, chassis
    return Place.UNKNOWN, None, None


def _verdict(
    row: Declared,
    vip: Vip,
    attached: tuple[str, ...],
    backends: tuple[Backend, ...],
    vantage: Vantage,
) -> tuple[ServedBy, str]:
    where = ", ".join(attached)
    cost = f"attached to {where}, which costs conntrack on every IP packet there"
    if not row.marked:
        if attached:
            return ServedBy.OVN, f"served by OVN, because {cost}"
        return (
            ServedBy.NOBODY,
            f"not marked for the fast path and attached to nothing: set "
            f'external_ids:"{FAST_PATH_KEY}"=true, or attach it to a switch or router',
        )
    refusal = row.refusal or vip.refusal
    if refusal is not None:
        if attached:
            return ServedBy.OVN, f"refused by XDP: {refusal.cause}; served by OVN, because {cost}"
        return ServedBy.NOBODY, f"refused: {refusal.cause}"
    if elsewhere := _elsewhere(row.terms, vip, backends, vantage):
        return ServedBy.NOBODY, elsewhere
    hosts = sum(not backend.is_workload for backend in backends)
    dark = [b for b in backends if b.place is Place.HOST and b.target.protocol is Protocol.SCTP]
    words = ["served by XDP, because marked for the fast path"]
    if attached:
        words.append(f"warning: also {cost}; detach it, unless east_west asks for it")
    if hosts:
        words.append(
            f"{hosts} of {len(backends)} backends in hosts' networks or further out: sockets of "
            "containers leave it to svc0"
        )
    if dark:
        words.append(
            f"{len(dark)} of {len(backends)} backends left out: in this host's network, whose SCTP "
            "nothing reverses"
        )
    if vip.left_out:
        words.append(f"{vip.left_out} of its backends left out: `millrace status` says why")
    if not any(b not in dark and b.state is not EndpointState.UNREADY for b in backends):
        fate = "refused" if row.terms.reject else "dropped"
        words.append(f"no backend to be had: packets to it are {fate}")
    return ServedBy.XDP, "; ".join(words)


def _elsewhere(
    terms: Terms, vip: Vip, backends: tuple[Backend, ...], vantage: Vantage
) -> str | None:
    """Why a host port is not this node's, if so: its packets are the kernel's here."""
    if terms.kind is not ServiceKind.HOST_PORT:
        return None
    address = vip.address.address
    if not address.is_unspecified and address not in vantage.own:
        return f"a host port, and {address} is no address of this node"
    if not backends:
        return "a host port, and none of its backends is on this node"
    return None
