"""OvnEip, OvnFip, OvnSnatRule, OvnDnatRule: addresses of external networks, and who has them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from controller.kinds.reading import Form, Reading
from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import custom
from controller.kube.structs import Custom, Meta
from controller.network.view import Kind

EIP_RESOURCE = custom(GROUP, VERSION, "ovn-eips", "OvnEip")
FIP_RESOURCE = custom(GROUP, VERSION, "ovn-fips", "OvnFip")
SNAT_RESOURCE = custom(GROUP, VERSION, "ovn-snat-rules", "OvnSnatRule")
DNAT_RESOURCE = custom(GROUP, VERSION, "ovn-dnat-rules", "OvnDnatRule")


class EipType(StrEnum):
    """What an external address is for: rules, a router's port, or a node."""

    NAT = "nat"
    LRP = "lrp"
    LSP = "lsp"


OLDER = {
    "fip": EipType.NAT, "snat": EipType.NAT, "dnat": EipType.NAT, "node-ext-gw": EipType.LSP,
}  # fmt: skip
"""What types were called in Kube-OVN 1.11."""


class Use(StrEnum):
    """What a rule makes of its external address."""

    FIP = "fip"
    SNAT = "snat"
    DNAT = "dnat"


@dataclass(frozen=True, slots=True)
class Eip:
    """An OvnEip.

    Attributes:
        subnet: the external Subnet; "": the one that the settings name.
        wished: addresses that the specification names; `held`: those that the status tells.
    """

    name: str
    created: str = ""
    subnet: str = ""
    type: EipType = EipType.NAT
    wished: tuple[str, ...] = ()
    mac: str = ""
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of any of the three kinds.

    Attributes:
        ip_name: the name of an IP, which is a port's, or of a Vip where `to_vip` says so.
        vpc: needed only where nothing else tells it.
        inside: what is inside: addresses, of SNAT also networks.
        subnet: SNAT only: all of this Subnet.
        distributed: FIP only: its packets leave by the pod's own node.
        outer, inner: DNAT only: ports as texts.
    """

    use: Use
    name: str
    created: str
    eip: str
    vpc: str = ""
    ip_name: str = ""
    to_vip: bool = False
    inside: tuple[str, ...] = ()
    subnet: str = ""
    distributed: bool = False
    protocol: str = ""
    outer: str = ""
    inner: str = ""


def _some(*values: str) -> tuple[str, ...]:
    return tuple(filter(None, values))


def _type(text: str) -> EipType:
    return OLDER.get(text) or EipType(text)


def _eip(meta: Meta, spec: Reading, status: Reading) -> Eip:
    return Eip(
        meta.name,
        meta.creation_timestamp or "",
        spec.text("externalSubnet"),
        _type(spec.choice("type", (*EipType, *OLDER), EipType.NAT)),
        _some(spec.text("v4Ip"), spec.text("v6Ip")),
        spec.text("macAddress"),
        _some(status.text("v4Ip"), status.text("v6Ip")),
    )


def _rule(use: Use, meta: Meta, spec: Reading) -> Rule:
    """What FIPs and DNAT rules have in common."""
    return Rule(
        use,
        meta.name,
        meta.creation_timestamp or "",
        spec.text("ovnEip"),
        spec.text("vpc"),
        spec.text("ipName"),
        spec.choice("ipType", ("vip", "ip")) == "vip",
        _some(spec.text("v4Ip"), spec.text("v6Ip")),
    )


def _fip(meta: Meta, spec: Reading, _: Reading) -> Rule:
    way = spec.choice("type", ("centralized", "distributed"))
    return replace(_rule(Use.FIP, meta, spec), distributed=way == "distributed")


def _snat(meta: Meta, spec: Reading, _: Reading) -> Rule:
    return Rule(
        Use.SNAT,
        meta.name,
        meta.creation_timestamp or "",
        spec.text("ovnEip"),
        spec.text("vpc"),
        spec.text("ipName"),
        inside=_some(spec.text("v4IpCidr"), spec.text("v6IpCidr")),
        subnet=spec.text("vpcSubnet"),
    )


def _dnat(meta: Meta, spec: Reading, _: Reading) -> Rule:
    return replace(
        _rule(Use.DNAT, meta, spec),
        protocol=spec.text("protocol", "tcp").lower(),
        outer=spec.text("externalPort"),
        inner=spec.text("internalPort"),
    )


EIP, FIP, SNAT, DNAT = (
    Form("OvnEip", _eip),
    Form("OvnFip", _fip),
    Form("OvnSnatRule", _snat),
    Form("OvnDnatRule", _dnat),
)

_BY_RULE = {
    "eip": lambda _, rule: (rule.eip,),
    "ip": lambda _, rule: (rule.ip_name,) if rule.ip_name else (),
}

EIPS: Kind[Eip] = Kind("ovn-eips", {"subnet": lambda _, eip: (eip.subnet,)})
"""Keys are names, as of the kinds below."""
FIPS: Kind[Rule] = Kind("ovn-fips", _BY_RULE)
SNATS: Kind[Rule] = Kind("ovn-snat-rules", _BY_RULE)
DNATS: Kind[Rule] = Kind("ovn-dnat-rules", _BY_RULE)


HELD_DOMAIN = "external.millrace.dev"
"""Annotations `<this>/<subnet>` of a Vpc: the addresses that its port on that Subnet has."""


@dataclass(frozen=True, slots=True)
class VpcPorts:
    """The addresses of a Vpc's ports on external Subnets, as its annotations tell, by Subnet."""

    created: str = ""
    held: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())


def vpc_ports(vpc: Custom) -> VpcPorts:
    """What a Vpc's annotations tell of its external ports."""
    found = []
    for key, value in sorted(vpc.metadata.annotations.items()):
        domain, _, subnet = key.partition("/")
        if domain == HELD_DOMAIN:
            found.append((subnet, _some(*value.split(","))))
    return VpcPorts(vpc.metadata.creation_timestamp or "", tuple(found))


VPC_PORTS: Kind[VpcPorts] = Kind("vpc-external-ports")
"""Keys are Vpcs' names."""

WATCHED = (
    (EIP_RESOURCE, EIPS, EIP),
    (FIP_RESOURCE, FIPS, FIP),
    (SNAT_RESOURCE, SNATS, SNAT),
    (DNAT_RESOURCE, DNATS, DNAT),
)
"""Resources, their facts, and how these are read; all have a status."""
