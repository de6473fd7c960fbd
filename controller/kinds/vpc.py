"""Vpc: a router of its own, its routes, and its peers."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.kinds.reading import Form, Reading
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind
from controller.policy.model import Selector

GROUP, VERSION = "kubeovn.io", "v1"
RESOURCE = custom(GROUP, VERSION, "vpcs", "Vpc")


@dataclass(frozen=True, slots=True)
class VpcRoute:
    """An entry of `staticRoutes`, as it is written."""

    cidr: str
    next_hop: str
    by_source: bool = False
    ecmp: bool = False
    bfd: str = ""
    table: str = ""


@dataclass(frozen=True, slots=True)
class VpcPolicy:
    """An entry of `policyRoutes`, as it is written; `next_hops` may be several with commas."""

    priority: int
    match: str
    action: str
    next_hops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VpcPeering:
    """An entry of `vpcPeerings`: this side's address on the link, with its length."""

    remote: str
    address: str


@dataclass(frozen=True, slots=True)
class Vpc:
    """A Vpc. `namespaces`: the only ones whose pods may use it; none: all may.

    Attributes:
        made: there is no such object; the settings want this VPC.
    """

    name: str
    namespaces: tuple[str, ...] = ()
    default_subnet: str = ""
    routes: tuple[VpcRoute, ...] = ()
    policies: tuple[VpcPolicy, ...] = ()
    peerings: tuple[VpcPeering, ...] = ()
    enable_external: bool = False
    external_subnets: tuple[str, ...] = ()
    enable_bfd: bool = False
    bfd_port: str = ""
    bfd_nodes: Selector | None = field(default=None)
    dynamic_routing: bool = False
    ending: bool = False
    made: bool = False


def _read(meta: Meta, spec: Reading, _: Reading) -> Vpc:
    bfd = spec.below("bfdPort")
    port, nodes = bfd.text("ip"), bfd.matcher("nodeSelector")
    dynamic = spec.below("dynamicRouting")
    dynamic.ignore("redistribute", "localOnly", "maintainVrf", "vrfName", "vrfId")
    return Vpc(
        name=meta.name,
        namespaces=spec.texts("namespaces"),
        default_subnet=spec.text("defaultSubnet"),
        routes=tuple(_route(one) for one in spec.each("staticRoutes")),
        policies=tuple(_policy(one) for one in spec.each("policyRoutes")),
        peerings=tuple(
            VpcPeering(one.text("remoteVpc"), one.text("localConnectIP"))
            for one in spec.each("vpcPeerings")
        ),
        enable_external=spec.flag("enableExternal"),
        external_subnets=spec.texts("extraExternalSubnets"),
        enable_bfd=spec.flag("enableBfd"),
        bfd_port=port if bfd.flag("enabled") else "",
        bfd_nodes=nodes,
        dynamic_routing=dynamic.flag("enabled"),
        ending=meta.deletion_timestamp is not None,
    )


def _route(one: Reading) -> VpcRoute:
    return VpcRoute(
        one.text("cidr"),
        one.text("nextHopIP"),
        one.choice("policy", ("policySrc", "policyDst")) == "policySrc",
        bool(one.text("ecmpMode")),
        one.text("bfdId"),
        one.text("routeTable"),
    )


def _policy(one: Reading) -> VpcPolicy:
    hops = (part.strip() for part in one.text("nextHopIP").split(","))
    return VpcPolicy(
        one.number("priority"), one.text("match"), one.text("action"), tuple(filter(None, hops))
    )


VPC = Form("Vpc", _read)

VPCS: Kind[Vpc] = Kind(
    "vpcs",
    {
        "remote": lambda _, vpc: tuple(peering.remote for peering in vpc.peerings),
        "namespace": lambda _, vpc: vpc.namespaces,
    },
)
"""Keys are names."""
