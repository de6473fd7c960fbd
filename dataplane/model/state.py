"""Everything that a node's plan is computed from, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from dataplane.model.addr import IPAddress, IPNetwork, L4Addr, Mac, Protocol
from dataplane.model.bandwidth import UNLIMITED, Limits
from dataplane.model.config import NodeConfig
from dataplane.model.service import Service


class PortKind(StrEnum):
    """How a workload is attached."""

    VETH = "veth"
    VHOST_USER = "vhost-user"


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A network that a workload reaches by this interface; no gateway: on the link."""

    to: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """A port of the node's own addresses, or of `host` alone, that leads to a workload's port."""

    protocol: Protocol
    port: int
    to: int
    host: IPAddress | None = None


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """One interface of one workload, as the CNI plugin asked for it.

    Durable: `controller.attachments` keeps one file each, and it is the truth about what is
    attached here. `netns` is the path that the runtime gave; a vhost-user port needs none.
    `routes` are the network's own, beside the default ones. `host_ports`: ports of the node that
    lead to it. `device_info`: the file that tells a VM's launcher of the socket; "": none is asked.
    `device` is the OVS port's (and host-side veth's) name, `peer` the veth's other end until it
    is moved; both at most 15 bytes (IFNAMSIZ). `network` is the CNI network's name: GC judges
    only the attachments of its own network. `limits` are the runtime's; OVN's go before them.
    `tag`: the container's VLAN on the node's trunk; 0: it has an OVS port of its own.
    """

    container_id: str
    ifname: str
    kind: PortKind
    netns: str
    iface_id: str
    device: str
    peer: str
    mac: Mac
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    gateway: IPv4Address | None
    mtu: int
    socket: str
    queues: int
    pod: str
    namespace: str
    pod_uid: str
    network: str = ""
    gateway6: IPv6Address | None = None
    routes: tuple[Route, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    device_info: str = ""
    limits: Limits = UNLIMITED
    tag: int = 0


@dataclass(frozen=True, slots=True)
class LogicalPort:
    """What OVN says of a logical switch port that a workload of ours may claim.

    `owner`: external_ids:owner of its row; empty: another CMS's. `routes` are its own, and
    `default_route` says whether it may have one by the network's router.
    """

    name: str
    mac: Mac | None
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    gateway: IPv4Address | None
    mtu: int | None
    chassis: str | None
    gateway6: IPv6Address | None = None
    owner: str = ""
    routes: tuple[Route, ...] = ()
    default_route: bool = True


@dataclass(frozen=True, slots=True)
class Gateway:
    """This node's gateway router, found in OVN's northbound database.

    `mac` is its external port's, the destination of every translated packet. `service_address`
    is svc0's, `service_address6` its second, where the cluster has IPv6. `localnet_port` names
    the localnet port of the external switch, and so ovn-controller's patch port on the provider
    bridge.
    """

    router: str
    mac: Mac
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    service_address: IPv4Address
    physnet: str
    localnet_port: str
    service_address6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class HostAccess:
    """The port in OVN by which this node's kernel reaches workloads.

    `addresses` are the kernel's own there, IPv4 first. `routes`: each network of a VPC and the VPC
    router's address on the hosts' network.
    """

    port: str
    mac: Mac
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    routes: tuple[tuple[IPNetwork, IPAddress], ...]


@dataclass(frozen=True, slots=True)
class Nic:
    """What the kernel says of a network device of this node."""

    name: str
    ifindex: int
    mac: Mac
    mtu: int
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class HeldIds:
    """Identifiers that the pinned maps hold already; they are kept before new ones are made.

    `max_services`, `max_backends`: the highest that the maps have room for; 0 is never given out.
    """

    services: Mapping[L4Addr, int] = field(default_factory=dict)
    backends: Mapping[L4Addr, int] = field(default_factory=dict)
    max_services: int = 16_383
    max_backends: int = 131_071


@dataclass(frozen=True, slots=True)
class NodeState:
    """All inputs of `dataplane.plan.node.plan`, each in sync, at one moment.

    `announcers`: the chassis that may own VIPs of the gateway's provider network, this one too.
    `routers`: the MAC of each chassis's gateway router on that network, `peers` those routers of
    the others. `limits`: what OVN's rows
    hold a port to, by iface-id. `pins`: the PMD thread's CPU for a queue, by port and queue.
    `theirs`: what others set in Open_vSwitch.other_config; `pinned_by_hand`: the ports whose queues
    they pinned. `mirrored`: logical ports of which copies are wanted. `has_trunk`: OVN has a
    logical port for this chassis's containers. `host`: None: this node's kernel has no port in OVN.
    `linkless`: devices on the trunk that are still being made: OVN is told of them, and nothing
    else is. `to_the_end`: a system call keeps its CPU until it ends, by the kernel's preemption
    model.
    """

    config: NodeConfig
    gateway: Gateway | None
    services: tuple[Service, ...]
    attachments: tuple[Attachment, ...]
    nics: Mapping[str, Nic]
    held: HeldIds
    announcers: frozenset[str] = frozenset()
    routers: Mapping[str, Mac] = field(default_factory=dict)
    pins: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    mirrored: frozenset[str] = frozenset()
    theirs: Mapping[str, str] = field(default_factory=dict)
    pinned_by_hand: frozenset[str] = frozenset()
    has_trunk: bool = False
    host: HostAccess | None = None
    peers: Mapping[str, Gateway] = field(default_factory=dict)
    linkless: frozenset[str] = frozenset()
    to_the_end: bool = False
