"""A pod's own way out of its VPC: Kube-OVN's annotation `north_gateway`, a policy of the router.

What the pod sends to networks of its VPC goes there as everybody's does; anything else is handed to
the gateway, untranslated.
"""

from __future__ import annotations

from collections.abc import Hashable

from controller.ipam.want import PRIMARY
from controller.kinds.vpc import VPCS
from controller.kube.resources import PODS as POD_OBJECTS
from controller.network.external import externals_of
from controller.network.facts import LEASES, PODS
from controller.network.nets import NETS, Net
from controller.network.nics import annotation, port_name
from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import View
from controller.network.vpc import router
from controller.translate.ovn import Problem
from dataplane.model.addr import IPNetwork, readable

ANNOTATION = annotation(PRIMARY, "north_gateway")
PRIORITY = 20010
"""Behind those of the gateways for whole subnets; a Vpc's policyRoutes may be before it."""


def compute(view: View, key: Hashable) -> Said:
    """The policies of one pod."""
    pod = view.get(PODS, key)
    text = pod.annotations.get(ANNOTATION, "").strip() if pod is not None else ""
    if pod is None or not text:
        return Said()
    lease = view.get(LEASES, port_name(pod, PRIMARY))
    net = view.get(NETS, lease.subnet) if lease is not None else None
    if lease is None or net is None:
        return Said()
    hops = readable(part.strip() for part in text.split(",") if part.strip())
    inside, near = _networks(view, net)
    rows: dict[RowKey, Row] = {}
    for hop in hops if net.routed else ():
        source = next((one for one in lease.addresses if one.version == hop.version), None)
        if source is None or not any(hop in network for network in (*inside, *near)):
            continue
        ip = f"ip{hop.version}"
        own = ", ".join(str(one) for one in inside if one.version == hop.version)
        rows[RowKey("Logical_Router_Policy", f"north/{lease.port}/{ip}")] = Row(
            {
                "priority": PRIORITY,
                "match": f"{ip}.src == {source} && {ip}.dst != {{{own}}}",
                "action": "reroute",
                "nexthops": frozenset({str(hop)}),
            },
            parent=(router(net.vpc), "policies"),
        )
    if rows and len(rows) == len(text.split(",")):
        return Said(rows)
    cause = f"{ANNOTATION}: {text!r} is no address of a network of Vpc {net.vpc}'s router: void"
    problem = Problem(f"pod {key}", cause, "write an address of a Subnet of the Vpc")
    return Said(rows, {}, {ObjectRef(str(POD_OBJECTS), pod.namespace, pod.name): (problem,)})


def _networks(view: View, net: Net) -> tuple[list[IPNetwork], list[IPNetwork]]:
    """The VPC's own, and those outside that its router is on."""
    inside: list[IPNetwork] = []
    for name in view.by(NETS, "vpc", net.vpc):
        one = view.get(NETS, name)
        inside += one.networks if one is not None and one.routed else ()
    vpc = view.get(VPCS, net.vpc)
    near: list[IPNetwork] = []
    for name in externals_of(view, vpc) if vpc is not None else ():
        one = view.get(NETS, name)
        near += one.networks if one is not None else ()
    return inside, near


UNITS: tuple[Unit, ...] = (
    Unit("north gateways of pods", PODS, compute, lambda pod: ANNOTATION in pod.annotations),
)
