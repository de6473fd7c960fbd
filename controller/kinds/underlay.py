"""Vlan and ProviderNetwork: which wire a subnet is on."""

from __future__ import annotations

from dataclasses import dataclass

from controller.kinds.reading import Form, Reading
from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind
from controller.policy.model import Selector

VLAN_RESOURCE = custom(GROUP, VERSION, "vlans", "Vlan")
PROVIDER_RESOURCE = custom(GROUP, VERSION, "provider-networks", "ProviderNetwork")


@dataclass(frozen=True, slots=True)
class Vlan:
    """A Vlan. `tag` 0: untagged frames; `made`: there is no such object."""

    name: str
    tag: int
    provider: str
    ending: bool = False
    made: bool = False


@dataclass(frozen=True, slots=True)
class ProviderNetwork:
    """A ProviderNetwork: its name is the physical network's that the nodes' bridges map.

    `made`: there is no such object.
    """

    name: str
    interface: str
    interfaces: tuple[tuple[str, tuple[str, ...]], ...] = ()
    nodes: Selector | None = None
    excluded: tuple[str, ...] = ()
    ending: bool = False
    made: bool = False


def _vlan(meta: Meta, spec: Reading, _: Reading) -> Vlan:
    older, tag = spec.number("vlanId"), spec.number("id")
    spec.ignore("providerInterfaceName")
    return Vlan(meta.name, tag or older, spec.text("provider"), meta.deletion_timestamp is not None)


def _provider(meta: Meta, spec: Reading, _: Reading) -> ProviderNetwork:
    # How a NIC is taken into a bridge is the node's own file's matter ([[uplinks]]).
    spec.ignore("exchangeLinkName", "preserveVlanInterfaces", "vlanInterfaces")
    spec.ignore("autoCreateVlanSubinterfaces")
    return ProviderNetwork(
        meta.name,
        spec.text("defaultInterface"),
        tuple((one.text("interface"), one.texts("nodes")) for one in spec.each("customInterfaces")),
        spec.matcher("nodeSelector"),
        spec.texts("excludeNodes"),
        meta.deletion_timestamp is not None,
    )


VLAN, PROVIDER = Form("Vlan", _vlan), Form("ProviderNetwork", _provider)

VLANS: Kind[Vlan] = Kind("vlans", {"provider": lambda _, vlan: (vlan.provider,)})
PROVIDERS: Kind[ProviderNetwork] = Kind("provider-networks")
