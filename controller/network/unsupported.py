"""Kinds of Kube-OVN's that are accepted and have no effect here: each object says so itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import Key, Resource, custom
from controller.kube.structs import Custom
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Kind, View
from controller.translate.ovn import Problem

_OVN_NAT = "use OvnEip with OvnFip, OvnSnatRule and OvnDnatRule, which are OVN's own NAT"
_EGRESS = "use the VPC's external subnet with OvnSnatRule"
_TUNNEL = "run the tunnel in a workload, and lead the VPC's policyRoutes to it"
_ROUTING = "announce addresses by a routing daemon of your own (docs/services.md)"


@dataclass(frozen=True, slots=True)
class Unserved:
    """An object of such a kind: that it is there."""

    name: str


@dataclass(frozen=True, slots=True)
class UnservedKind:
    """One of these kinds, and what its users may take in its place."""

    resource: Resource[Custom]
    kind: Kind[Unserved]
    instead: str

    def decode(self, obj: Custom) -> Unserved:
        """The fact; nothing of the specification is read."""
        return Unserved(obj.metadata.name)


def _kind(plural: str, kind: str, instead: str, *, namespaced: bool = False) -> UnservedKind:
    resource = custom(GROUP, VERSION, plural, kind, namespaced=namespaced)
    return UnservedKind(resource, Kind(plural), instead)


UNSERVED: tuple[UnservedKind, ...] = (
    _kind("vpc-nat-gateways", "VpcNatGateway", _OVN_NAT),
    _kind("iptables-eips", "IptablesEIP", _OVN_NAT),
    _kind("iptables-fip-rules", "IptablesFIPRule", _OVN_NAT),
    _kind("iptables-dnat-rules", "IptablesDnatRule", _OVN_NAT),
    _kind("iptables-snat-rules", "IptablesSnatRule", _OVN_NAT),
    _kind("vpc-egress-gateways", "VpcEgressGateway", _EGRESS, namespaced=True),
    _kind("vpc-dnses", "VpcDns", "use a SwitchLBRule in front of a DNS server of your own"),
    _kind("bgp-confs", "BgpConf", _ROUTING),
    _kind("evpn-confs", "EvpnConf", _ROUTING),
    _kind("dnsnameresolvers", "DNSNameResolver", "name networks in policies, not names"),
    _kind("qos-policies", "QoSPolicy", "annotate pods with ingress_rate and egress_rate"),
    _kind("vpc-ipsec-gateways", "VpcIPsecGateway", _TUNNEL),
    _kind("vpc-wireguards", "VpcWireGuard", _TUNNEL),
    _kind("vpc-wireguard-peers", "VpcWireGuardPeer", _TUNNEL),
    _kind("vtep-bindings", "VtepBinding", "use a Vlan and a Subnet on it"),
    _kind("router-lb-rules", "RouterLBRule", "use OvnDnatRule, or a Service of type LoadBalancer"),
)


def _saying(of: UnservedKind) -> Callable[[View, Hashable], Said]:
    def compute(view: View, key: Hashable) -> Said:
        if view.get(of.kind, key) is None:
            return Said()
        namespace, name = key if isinstance(key, Key) else ("", str(key))
        ref = ObjectRef(str(of.resource), namespace, name)
        cause = f"{of.resource.kind} has no effect here"
        told = ("False", "Unsupported", f"{cause}; {of.instead}")
        wanted = Wanted(conditions={"Supported": told, "Ready": told})
        return Said({}, {ref: wanted}, {ref: (Problem(str(ref), cause, of.instead),)})

    return compute


UNITS: tuple[Unit, ...] = tuple(
    Unit(f"{one.kind.name}: not served", one.kind, _saying(one)) for one in UNSERVED
)
