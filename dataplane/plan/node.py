"""The whole plan of one node: every row of every table we own, from the state alone."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, IPv4Interface

from bpf.abi import Limit
from dataplane.model.addr import IPAddress, IPNetwork, L4Addr, Mac, mac_of_address
from dataplane.model.bandwidth import UNLIMITED, Limits
from dataplane.model.config import NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.hostrows import KernelRoute, SourceRule
from dataplane.model.names import INTEGRATION_BRIDGE, MIRROR_PORT
from dataplane.model.rows import (
    Affinity,
    Announcement,
    BackendEntry,
    Bond,
    Bridge,
    Bucket,
    Capability,
    DeviceAddress,
    Flow,
    FlowKey,
    HostReplies,
    Hugepages,
    KnownAddress,
    Link,
    NapiThread,
    Nested,
    NicSettings,
    NodeEntry,
    OvsSetting,
    Policer,
    Port,
    PortMirror,
    Program,
    ProgramKind,
    ReceiveOffloads,
    SetEntry,
    SetScope,
    SocketPrograms,
    SourceRange,
    StaleMirror,
    TrunkEnd,
    VipEntry,
)
from dataplane.model.service import Place, Service
from dataplane.model.state import Attachment, Gateway, NodeState, PortKind
from dataplane.plan.flows import service_flows
from dataplane.plan.host import host_rows, ovs_end
from dataplane.plan.hostnet import host_replies, routes_to_nodes, svc_addresses, svc_neighbours
from dataplane.plan.mirror import mirror_plan
from dataplane.plan.ovs import OvsKey, capabilities, ovs_settings, port_keys, release_of
from dataplane.plan.owners import announcements
from dataplane.plan.polls import polling_threads
from dataplane.plan.ports import (
    NO_KEYS,
    attachment_port,
    bond,
    nic_affinity,
    nic_settings,
    service_port,
    uplink_port,
    uplink_port_name,
)
from dataplane.plan.qos import bucket, policer
from dataplane.plan.rebalance import pinned
from dataplane.plan.served import Circumstances, Served, served
from dataplane.plan.services import Vantage, socket_services
from dataplane.plan.sockets import socket_rows
from dataplane.plan.trunk import trunk_plan

SERVICE_MTU = 1500


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Desired rows, one mapping a table, in the order in which tables are applied."""

    hugepages: Mapping[int, Hugepages]
    ovs: Mapping[OvsKey, OvsSetting]
    links: Mapping[str, Link]
    nics: Mapping[str, NicSettings]
    bridges: Mapping[str, Bridge]
    datapath: Mapping[str, Capability]
    ports: Mapping[str, Port]
    bonds: Mapping[str, Bond]
    qos: Mapping[str, Policer]
    buckets: Mapping[str, Bucket]
    trunk: Mapping[str, TrunkEnd]
    nested: Mapping[str, Nested]
    mirrors: Mapping[str, PortMirror | StaleMirror]
    affinity: Mapping[str, Affinity]
    addresses: Mapping[tuple[str, IPv4Interface], DeviceAddress]
    routes: Mapping[IPNetwork, KernelRoute]
    rules: Mapping[IPAddress, SourceRule]
    flows: Mapping[FlowKey, Flow]
    node: Mapping[int, NodeEntry]
    known_addresses: Mapping[IPAddress, KnownAddress]
    backends: Mapping[int, BackendEntry]
    sets: Mapping[tuple[int, SetScope], SetEntry]
    source_ranges: Mapping[tuple[int, IPNetwork], SourceRange]
    vips: Mapping[L4Addr, VipEntry]
    replies: Mapping[str, HostReplies]
    offloads: Mapping[str, ReceiveOffloads]
    programs: Mapping[str, Program]
    polls: Mapping[str, NapiThread]
    sockets: Mapping[str, SocketPrograms]
    announcements: Mapping[IPAddress, Announcement]

    def differences(self, before: NodePlan | None) -> frozenset[str]:
        """Names of the tables whose rows differ from those of another plan (None: all)."""
        return frozenset(
            f.name
            for f in fields(self)
            if before is None
            or (
                # Equal mappings are compared row by row, even if they are one.
                getattr(self, f.name) is not getattr(before, f.name)
                and getattr(self, f.name) != getattr(before, f.name)
            )
        )

    def serving(self, known: Served) -> NodePlan:
        """The same plan with other rows of services."""
        rows = known.tables
        return replace(
            self,
            known_addresses=known.known,
            backends=rows.backends,
            sets=rows.sets,
            source_ranges=rows.source_ranges,
            vips=rows.vips,
        )

    def tables(self) -> dict[str, Mapping[Hashable, object]]:
        """The plan as the reconciler takes it: table name to rows."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


TABLE_ORDER = tuple(f.name for f in fields(NodePlan))
"""Backends before VIPs before programs; removal goes the other way."""


def _policers(state: NodeState) -> dict[str, Policer]:
    return {
        a.device: row
        for a in state.attachments
        if a.kind is PortKind.VHOST_USER and (row := policer(_limits(state, a), a.mtu))
    }


def _buckets(state: NodeState) -> dict[str, Bucket]:
    return {
        a.device: row
        for a in state.attachments
        if a.kind is PortKind.VETH
        and a.device not in state.linkless
        and (row := bucket(_limits(state, a), a.mtu))
    }


def _limits(state: NodeState, attachment: Attachment) -> Limits:
    return state.limits.get(attachment.iface_id, UNLIMITED).over(attachment.limits)


def service_uplink(config: NodeConfig) -> UplinkConfig | None:
    """The uplink that carries services: the first that wants them and has an XDP hook."""
    for uplink in config.uplinks:
        if uplink.services and uplink.mode is not UplinkMode.VFIO:
            return uplink
    return None


def bridge_mac(node: str, bridge: str) -> Mac:
    """A MAC for a bridge's LOCAL port that does not change with the ports on it."""
    digest = hashlib.sha256(f"{node}/{bridge}".encode()).digest()
    return Mac(":".join(f"{octet:02x}" for octet in b"\x0a\x59" + digest[:4]))


def _bridges(config: NodeConfig) -> dict[str, Bridge]:
    rows = {INTEGRATION_BRIDGE: Bridge("netdev", "secure", None)}
    for bridge in config.bridges:
        rows[bridge.name] = Bridge("netdev", "standalone", bridge_mac(config.name, bridge.name))
    return rows


def _programs(config: NodeConfig, *, with_service_link: bool) -> dict[str, Program]:
    rows: dict[str, Program] = {}
    if with_service_link:
        rows[config.service_link] = Program(ProgramKind.SERVICE, swap=False)
    for uplink in config.uplinks:
        if uplink.services and uplink.mode is not UplinkMode.VFIO:
            swap = uplink.mode is UplinkMode.AF_XDP
            rows[uplink.device] = Program(ProgramKind.UPLINK, swap=swap)
    return rows


def service_gateway(gateway: Gateway | None, config: NodeConfig) -> Gateway | None:
    """The gateway, if its provider network is the one that the service uplink is on."""
    uplink = service_uplink(config)
    if uplink is None or gateway is None:
        return None
    physnets = {bridge.name: bridge.physnet for bridge in config.bridges}
    return gateway if physnets.get(uplink.bridge) == gateway.physnet else None


def own_addresses(state: NodeState) -> tuple[IPAddress, ...]:
    """The node's own addresses on its service uplinks."""
    found = {
        address: None
        for uplink in state.config.uplinks
        if uplink.services and uplink.device in state.nics
        for address in state.nics[uplink.device].addresses
    }
    return tuple(found)


def vantage_of(state: NodeState) -> Vantage:
    """What the rows of services depend on beside the services."""
    config, networks = state.config, state.config.services.nodeport_addresses
    ports = [
        address
        for address in own_addresses(state)
        if not address.is_link_local
        and (not networks or any(address in network for network in networks))
    ]
    mtu = config.port_mtu
    return Vantage(
        config.name,
        config.services.zone,
        tuple(sorted(ports, key=lambda address: (address.version, address.packed))),
        {Place.LOCAL: mtu, Place.REMOTE: mtu},
        state.routers,
    )


def serving(services: Iterable[Service], config: NodeConfig) -> tuple[Service, ...]:
    """The services that the maps of this node are to hold.

    Without an uplink for services no packet's program runs, but sockets can be served.
    """
    if service_uplink(config) is None and config.services.connect:
        return socket_services(services)
    return tuple(services)


def circumstances(state: NodeState) -> Circumstances | None:
    """What the rows of services depend on beside the services; None: none are to be."""
    config, uplink = state.config, service_uplink(state.config)
    own = own_addresses(state)
    if uplink is None:
        if not config.services.connect:
            return None
        return Circumstances(vantage_of(state), state.held, own)
    if service_gateway(state.gateway, config) is None:
        return None
    announcers = state.announcers if config.services.announce else None
    return Circumstances(vantage_of(state), state.held, own, announcers)


def plan(state: NodeState, known: Served | None = None) -> NodePlan:
    """Everything this node must be, as a function of the state and of nothing else.

    `known` is what follows from the state's services, if somebody has made it already
    (`dataplane.plan.servicebook`); they are not looked at then.

    Raises:
        OutOfIds: more services or backends than the BPF maps hold.
    """
    around = circumstances(state)
    if around is None:
        known = served((), Circumstances(vantage_of(state), state.held, own_addresses(state)))
    elif known is None:
        known = served(serving(state.services, state.config), around)
    config = state.config
    uplink = service_uplink(config)
    gateway = service_gateway(state.gateway, config)
    tuned = port_keys(config, state.theirs)
    ports = {
        uplink_port_name(u): uplink_port(u, tuned.get(u.device, NO_KEYS)) for u in config.uplinks
    }
    ports.update({a.device: attachment_port(a) for a in state.attachments if not a.tag})
    buckets = _buckets(state)
    mirror = mirror_plan(state)
    limited = {name for name, row in buckets.items() if row.receive_rate}
    trunk = trunk_plan(state, limited, MIRROR_PORT)
    host = host_rows(config, state.host)
    ports.update({**trunk.ports, **host.ports, **mirror.ports})
    links: dict[str, Link] = {**trunk.links, **host.links, **mirror.links}
    flows: dict[FlowKey, Flow] = {}
    node: dict[int, NodeEntry] = {}
    to_nodes: dict[IPNetwork, KernelRoute] = {}
    nic = state.nics.get(uplink.device) if uplink else None
    own = own_addresses(state)
    four = tuple(address for address in own if isinstance(address, IPv4Address))
    if uplink is not None and gateway is not None:
        svc_port = ovs_end(config.service_link)
        svc_mac = mac_of_address(gateway.service_address)
        queues = max(1, len(config.dpdk.pmd))
        links[config.service_link] = Link(
            svc_port,
            svc_mac,
            SERVICE_MTU,
            queues,
            svc_addresses(gateway),
            neighbours=svc_neighbours(gateway),
        )
        ports[svc_port] = service_port(uplink, queues)
        flows = service_flows(
            uplink.bridge, uplink_port_name(uplink), svc_port, gateway, known.replies
        )
        to_nodes = routes_to_nodes(uplink, own, gateway, state.peers)
        if nic is not None:
            node[0] = NodeEntry(
                gateway.service_address,
                gateway.service_address6,
                svc_mac,
                gateway.mac,
                nic.ifindex,
                nic.mac,
                config.service_link,
                four[: Limit.LOCAL4_INLINE],
            )
    return NodePlan(
        hugepages={
            config.hugepages.size_kib: Hugepages(config.hugepages.count, config.hugepages.mount)
        }
        if config.hugepages
        else {},
        ovs=ovs_settings(config, state.theirs),
        links=links,
        nics={u.device: row for u in config.nics if (row := nic_settings(u)) is not None},
        bridges=_bridges(config),
        datapath=capabilities(release_of(config)),
        ports=ports,
        bonds={one.name: bond(one, tuned) for one in config.bonds},
        qos=_policers(state),
        buckets=buckets,
        trunk=trunk.ends,
        nested=trunk.nested,
        mirrors=mirror.mirrors,
        affinity={
            **pinned(state.pins, ports, config.dpdk.pmd),
            **nic_affinity(config.uplinks, tuned, state.pinned_by_hand),
        },
        addresses={(config.tunnel.bridge, config.tunnel.address): DeviceAddress()}
        if config.tunnel
        else {},
        routes={**host.routes, **to_nodes},
        rules=host.rules,
        flows=flows,
        node=node,
        known_addresses=known.known,
        backends=known.tables.backends,
        sets=known.tables.sets,
        source_ranges=known.tables.source_ranges,
        vips=known.tables.vips,
        replies=host_replies(config, with_service_link=gateway is not None),
        offloads={
            u.device: ReceiveOffloads()
            for u in config.uplinks
            if u.services and u.device in state.nics
        },
        programs=_programs(config, with_service_link=gateway is not None),
        polls=polling_threads(
            config,
            uplink,
            state.theirs,
            to_the_end=state.to_the_end,
            with_service_link=gateway is not None,
        ),
        sockets=socket_rows(config.services),
        announcements=announcements(known.answered, nic),
    )
