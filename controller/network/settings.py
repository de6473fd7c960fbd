"""What the operator decided for the whole cluster, as units read it: one fact, of the key ""."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.network.view import Kind, View
from dataplane.model.config import EastWest

DEFAULT_VPC = "ovn-cluster"


@dataclass(frozen=True, slots=True)
class NetSettings:
    """Decisions that are not an object's.

    Attributes:
        east_west: how workloads behind OVN reach cluster IPs (docs/services.md).
        pools: addresses for services of type LoadBalancer, by name: networks, addresses and
            ranges `a-b`, in both families.
        default_pool: the pool of services that name none; "": they get no address of ours.
        external_subnet: the Subnet of EIPs and VPCs that name none.
        external_network, external_vlan: the wire of an external Subnet that is no object
            (`controller.network.externalgw`): its name on the nodes, and its tag; 0: untagged.
        lax: of pods that a policy isolates only TCP, UDP and SCTP are dropped, and no DHCP.
        stateless: pods that everything may reach and that may reach everything are kept out of
            connection tracking, where no load balancer of OVN's needs it.
        default_subnet: the subnet of namespaces that have none of their own.
        default_cidr: what it has where nobody wrote that Subnet; both families with a comma; "":
            none is made (`controller.network.standins`).
        join_subnet: the subnet of the nodes' own ports.
        join_cidr: as default_cidr; "": nodes get no port.
        mtu: of workloads whose subnet says nothing [bytes]; 0: they are not told.
        port_security: of pods that say nothing: they can send from their own addresses only.
    """

    east_west: EastWest = EastWest.AUTO
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default_pool: str = ""
    external_subnet: str = ""
    external_network: str = "external"
    external_vlan: int = 0
    lax: bool = False
    stateless: bool = True
    default_subnet: str = "ovn-default"
    default_cidr: str = "10.16.0.0/16"
    join_subnet: str = "join"
    join_cidr: str = "100.64.0.0/16"
    mtu: int = 0
    port_security: bool = False


SETTINGS: Kind[NetSettings] = Kind("settings")
_DEFAULTS = NetSettings()


def settings(view: View) -> NetSettings:
    """The decisions, or the defaults where nobody decided."""
    return view.get(SETTINGS, "") or _DEFAULTS
