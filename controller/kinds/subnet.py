"""Subnet: a switch, its networks, and what its workloads may do."""

from __future__ import annotations

from dataclasses import dataclass

from controller.kinds.reading import Form, Reading
from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind
from controller.policy.model import Selector

RESOURCE = custom(GROUP, VERSION, "subnets", "Subnet")
OVN = "ovn"
"""The provider of workloads' first interfaces."""


def is_logical(provider: str) -> bool:
    """Whether a provider's interfaces are ports of OVN; of others only addresses are given here."""
    return provider == OVN or shared(provider).endswith(f".{OVN}")


def shared(provider: str) -> str:
    """A definition's provider, where one of several interfaces of it has one of its own.

    Of a definition that a pod has more than once each interface is called
    `<definition>.<namespace>.ovn.<interface>`, as Kube-OVN calls it.
    """
    before, _, interface = provider.rpartition(".")
    own = interface != OVN and before.endswith(f".{OVN}") and before.count(".") >= 2
    return before if own else provider


DISTRIBUTED, CENTRALIZED = "distributed", "centralized"


@dataclass(frozen=True, slots=True)
class SubnetAcl:
    """An entry of `acls`, as it is written."""

    direction: str
    priority: int
    match: str
    action: str


@dataclass(frozen=True, slots=True)
class NatRule:
    """An entry of `natOutgoingPolicyRules`: texts with commas; empty: any."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    action: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was in force last (status.accepted): a change that is refused leaves this in force."""

    vpc: str
    cidr: str
    gateway: str
    excluded: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Subnet:
    """A Subnet as it is written; `controller.network.nets` has which network is in force.

    Attributes:
        created: the API's time as text: it orders by age.
        provider: `ovn`, or that of a NetworkAttachmentDefinition.
        gateway_addresses: what a gateway node is said to be called outside, as it is written.
        balanced: enableLb; None: it does not say.
        accepted: None before the first time.
        made: there is no such object; the settings want this subnet.
    """

    name: str
    created: str = ""
    default: bool = False
    vpc: str = ""
    namespaces: tuple[str, ...] = ()
    selectors: tuple[Selector, ...] = ()
    cidr: str = ""
    gateway: str = ""
    excluded: tuple[str, ...] = ()
    provider: str = OVN
    gateway_type: str = DISTRIBUTED
    gateway_nodes: tuple[str, ...] = ()
    gateway_addresses: tuple[tuple[str, str], ...] = ()
    gateway_selectors: tuple[Selector, ...] = ()
    nat_outgoing: bool = False
    nat_rules: tuple[NatRule, ...] = ()
    external_gateway: str = ""
    policy_table: int = 0
    policy_priority: int = 0
    mtu: int = 0
    private: bool = False
    allow_subnets: tuple[str, ...] = ()
    allow_east_west: bool = False
    acls: tuple[SubnetAcl, ...] = ()
    vlan: str = ""
    logical_gateway: bool = False
    dhcp: bool = False
    dhcp4: str = ""
    dhcp6: str = ""
    advertised: bool = False
    advertisement: str = ""
    u2o: bool = False
    u2o_address: str = ""
    u2o_held: str = ""
    balanced: bool | None = None
    ecmp: bool = False
    multicast: bool = False
    external_lb: bool = False
    route_table: str = ""
    node_network: str = ""
    vips: tuple[str, ...] = ()
    overlay_only: bool = False
    accepted: Accepted | None = None
    ending: bool = False
    made: bool = False


def _read(meta: Meta, spec: Reading, status: Reading) -> Subnet:
    # protocol follows from cidrBlock.
    spec.ignore("protocol", "disableGatewayCheck", "disableInterConnection")
    spec.ignore("enableLb")
    accepted = status.below("accepted")
    nodes = [part.strip().partition(":") for part in spec.text("gatewayNode").split(",")]
    return Subnet(
        name=meta.name,
        created=meta.creation_timestamp or "",
        default=spec.flag("default"),
        vpc=spec.text("vpc"),
        namespaces=spec.texts("namespaces"),
        selectors=spec.matchers("namespaceSelectors"),
        cidr=spec.text("cidrBlock"),
        gateway=spec.text("gateway"),
        excluded=tuple(filter(None, spec.texts("excludeIps"))),
        provider=spec.text("provider") or OVN,
        gateway_type=spec.choice("gatewayType", (DISTRIBUTED, CENTRALIZED), DISTRIBUTED),
        gateway_nodes=tuple(name for name, _, _ in nodes if name),
        gateway_addresses=tuple((name, text.strip()) for name, _, text in nodes if name and text),
        gateway_selectors=spec.matchers("gatewayNodeSelectors"),
        nat_outgoing=spec.flag("natOutgoing"),
        nat_rules=tuple(_nat_rule(one) for one in spec.each("natOutgoingPolicyRules")),
        external_gateway=spec.text("externalEgressGateway"),
        policy_table=spec.number("policyRoutingTableID"),
        policy_priority=spec.number("policyRoutingPriority"),
        mtu=spec.number("mtu"),
        private=spec.flag("private"),
        allow_subnets=tuple(filter(None, spec.texts("allowSubnets"))),
        allow_east_west=spec.flag("allowEWTraffic"),
        acls=tuple(_acl(one) for one in spec.each("acls")),
        vlan=spec.text("vlan"),
        logical_gateway=spec.flag("logicalGateway"),
        dhcp=spec.flag("enableDHCP"),
        dhcp4=spec.text("dhcpV4Options"),
        dhcp6=spec.text("dhcpV6Options"),
        advertised=spec.flag("enableIPv6RA"),
        advertisement=spec.text("ipv6RAConfigs"),
        u2o=spec.flag("u2oInterconnection"),
        u2o_address=spec.text("u2oInterconnectionIP"),
        u2o_held=status.text("u2oInterconnectionIP"),
        balanced=spec.flag("enableLb") if spec.has("enableLb") else None,
        ecmp=spec.flag("enableEcmp"),
        multicast=spec.flag("enableMulticastSnoop"),
        external_lb=spec.flag("enableExternalLBAddress"),
        route_table=spec.text("routeTable"),
        node_network=spec.text("nodeNetwork"),
        vips=tuple(filter(None, spec.texts("vips"))),
        overlay_only=spec.below("u2oFeatures").flag("overlayOnlyRouting"),
        accepted=Accepted(
            accepted.text("vpc"),
            accepted.text("cidrBlock"),
            accepted.text("gateway"),
            tuple(filter(None, accepted.texts("excludeIps")))
            if accepted.has("excludeIps")
            else None,
        )
        if accepted.fields
        else None,
        ending=meta.deletion_timestamp is not None,
    )


def _nat_rule(one: Reading) -> NatRule:
    match = one.below("match")
    return NatRule(
        _parts(match.text("srcIPs")),
        _parts(match.text("dstIPs")),
        one.choice("action", ("nat", "forward"), "nat"),
    )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _acl(one: Reading) -> SubnetAcl:
    return SubnetAcl(
        one.text("direction"), one.number("priority"), one.text("match"), one.text("action")
    )


SUBNET = Form("Subnet", _read)

SUBNETS: Kind[Subnet] = Kind(
    "subnets",
    {
        "namespace": lambda _, subnet: subnet.namespaces,
        "selects": lambda _, subnet: (True,) if subnet.selectors else (),
        "provider": lambda _, subnet: (subnet.provider,),
        "vlan": lambda _, subnet: (subnet.vlan,) if subnet.vlan else (),
        "default": lambda _, subnet: (True,) if subnet.default else (),
        "private": lambda _, subnet: (True,) if subnet.private else (),
        "acls": lambda _, subnet: (True,) if subnet.acls else (),
        "u2o": lambda _, subnet: (True,) if subnet.u2o else (),
        "leaves as": lambda _, subnet: (True,) if subnet.gateway_addresses else (),
    },
)
"""Keys are names."""
