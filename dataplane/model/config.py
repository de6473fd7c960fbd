"""What one node's operator decided: the values of the node's TOML file.

`controller.config` parses and checks the file; everything here is already valid. Sizes in the
names' units; core numbers are the kernel's CPU numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.tuning import Computed


class UplinkMode(StrEnum):
    """How a NIC joins its bridge."""

    AF_XDP = "af_xdp"
    VFIO = "vfio"
    KERNEL = "kernel"


class BondMode(StrEnum):
    """How the NICs of a bond share what is sent (ovs-vswitchd.conf.db(5), Port.bond_mode)."""

    ACTIVE_BACKUP = "active-backup"
    BALANCE_TCP = "balance-tcp"


class EastWest(StrEnum):
    """How workloads behind OVN reach cluster IPs.

    AUTO is the Kubernetes controller's: svc0 until there is a policy that has to see clients.
    """

    SVC0 = "svc0"
    SWITCH = "switch"
    AUTO = "auto"


class TunnelType(StrEnum):
    """The encapsulation that OVN uses between chassis."""

    GENEVE = "geneve"
    VXLAN = "vxlan"


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """A provider bridge of this node (br-int is OVN's and always there)."""

    name: str
    physnet: str | None


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """A NIC on a provider bridge.

    `device` is the netdev's name, or the PCI address under `vfio`. `services`: the uplink XDP
    program runs here (AF_XDP and kernel modes). `xdp_mode` is OVS's option of that name. `mtu`:
    None leaves what the NIC has. `busy_poll`: its interrupts are put off while a PMD thread polls.
    `unsafe_noiommu`: it may be bound to vfio-pci without an IOMMU. `affinity` is "0:3,1:7", which
    PMD thread's CPU polls which queue; "", and None as descriptors of a queue: the tuning plan's.
    """

    device: str
    bridge: str
    mode: UplinkMode
    queues: int
    xdp_mode: str
    services: bool
    mtu: int | None = None
    busy_poll: bool = False
    unsafe_noiommu: bool = False
    affinity: str = ""
    rx_descriptors: int | None = None
    tx_descriptors: int | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether the file fixes anything of its queues but their number."""
        return bool(self.affinity or self.rx_descriptors or self.tx_descriptors)


@dataclass(frozen=True, slots=True)
class BondConfig:
    """Several NICs that are one port of a provider bridge.

    `members` agree in all but their device. `lacp_fast`: LACP's short timeout, 3 s and not 90.
    """

    name: str
    bridge: str
    mode: BondMode
    members: tuple[UplinkConfig, ...]
    lacp_fast: bool = False


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """The tunnel endpoint: it sits on the bridge's LOCAL port, in the kernel's and OVS's eyes."""

    type: TunnelType
    bridge: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class HugepageConfig:
    """Hugepages of one size that the daemon sees to."""

    size_kib: int
    count: int
    mount: str


@dataclass(frozen=True, slots=True)
class DpdkConfig:
    """What vswitchd is told about DPDK (ovs-vswitchd.conf.db(5), Open_vSwitch.other_config).

    Empty `lcore` or `pmd`, and 0 as `socket_mem_mib`: computed from the machine's topology
    (`dataplane.plan.tuning`). `socket_mem_mib` is of the first NUMA node, `socket_mem_more` of
    those behind it, in order.
    """

    lcore: tuple[int, ...]
    pmd: tuple[int, ...]
    socket_mem_mib: int
    extra: tuple[str, ...]
    socket_mem_more: tuple[int, ...] = ()

    @property
    def memory(self) -> tuple[int, ...]:
        """MiB of each NUMA node, in order; empty: computed."""
        amounts = (self.socket_mem_mib, *self.socket_mem_more)
        return amounts if any(amounts) else ()


@dataclass(frozen=True, slots=True)
class ServicesConfig:
    """What the service fast path is told.

    `zone` is this node's topology zone, "" for none. `flows` (of each family), `services` (service
    ports) and `backends` are capacities, powers of two. `nodeport_addresses`: the networks whose
    addresses of this node serve node ports; empty: all addresses of the service uplinks.
    `connect`: absolute paths of the cgroups whose sockets are translated at connect time.
    `announce`: this node answers ARP and ND for the VIPs it owns, and tells the wire of them.
    `metrics`: how many service ports have series of their own. `poll_thread`: replies may be polled
    by a thread of the kernel's (`dataplane.plan.polls`), not by softirqs only.
    """

    zone: str = ""
    flows: int = 131072
    services: int = 16384
    backends: int = 131072
    nodeport_addresses: tuple[IPNetwork, ...] = ()
    connect: tuple[str, ...] = ()
    announce: bool = False
    metrics: int = 100
    poll_thread: bool = True


@dataclass(frozen=True, slots=True)
class VhostConfig:
    """Whose QEMU makes the vhost-user sockets: names or numbers of a user and a group.

    "": root, and the group hugetlbfs where there is one. `kubelet` is kubelet's directory, in whose
    volumes KubeVirt's pods get their sockets.
    """

    user: str = ""
    group: str = ""
    kubelet: str = "/var/lib/kubelet"


class Attach(StrEnum):
    """How containers reach OVS."""

    TRUNK = "trunk"
    PORT = "port"


@dataclass(frozen=True, slots=True)
class ContainersConfig:
    """How a node's containers are attached.

    `attach`: by the node's one trunk where OVN has a logical port for it, or each by an OVS port of
    its own. `queues` of the trunk; 0: one for each PMD thread, four at most.
    """

    attach: Attach = Attach.TRUNK
    queues: int = 0


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The node's own veth into OVN, where the cluster has a network for it.

    `link` is the kernel's end, "" for none at all; `queues` are polled by PMD threads.
    """

    link: str = "ovn0"
    queues: int = 1


@dataclass(frozen=True, slots=True)
class PlanWishes:
    """What a person tells the tuning plan to compute with; None and false: nothing.

    `pmd_cores`: physical cores for PMD threads on each NUMA node with NICs. `flows`: expected for
    each PMD thread. `saves_power`: idle PMD threads sleep.
    """

    pmd_cores: int | None = None
    flows: int | None = None
    saves_power: bool = False


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node, whole.

    Paths are absolute. `embedded_ovs` and `embedded_ovn` say which databases and daemons
    `millrace up` starts itself; remotes are OVSDB connection methods (ovsdb(7)).
    `tuning` has the fields of `dataplane.model.tuning.Tuning` that a person fixed, and
    `ovs_release` the release of vswitchd that they are spelt for; "": the oldest known.
    `rebalance`: whether queues are moved between PMD threads: off, advise or apply.
    `computed`: the whole tuning plan; None: the file names cores and memory itself, and nothing but
    what it says is set.
    `iface_id`: the template of logical ports' names that other CMS gave; "": <pod>.<namespace>.
    `ovn_tls`: private key, certificate and authorities for `ssl:` remotes of OVN.
    """

    name: str
    rundir: str
    statedir: str
    bpf_root: str
    metrics_listen: str
    embedded_ovs: bool
    embedded_ovn: bool
    ovs_remote: str
    ovs_rundir: str
    nb_remote: str
    sb_remote: str
    hugepages: HugepageConfig | None
    dpdk: DpdkConfig
    bridges: tuple[BridgeConfig, ...]
    uplinks: tuple[UplinkConfig, ...]
    tunnel: TunnelConfig | None
    service_link: str
    port_mtu: int
    extra_external_ids: tuple[tuple[str, str], ...] = ()
    services: ServicesConfig = ServicesConfig()
    tuning: Mapping[str, object] = field(default_factory=dict)
    ovs_release: str = ""
    rebalance: str = "advise"
    vhost: VhostConfig = VhostConfig()
    bonds: tuple[BondConfig, ...] = ()
    computed: Computed | None = None
    wishes: PlanWishes = PlanWishes()
    containers: ContainersConfig = ContainersConfig()
    host: HostConfig = HostConfig()
    iface_id: str = ""
    ovn_tls: tuple[str, str, str] | None = None

    @property
    def nics(self) -> tuple[UplinkConfig, ...]:
        """Every NIC that OVS is given: uplinks, then the members of bonds."""
        return (*self.uplinks, *(member for bond in self.bonds for member in bond.members))


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The external side of one chassis's gateway router.

    `address` is the router's own address on the provider network, `next_hop` the network's
    router (None: no default route); `address6` and `next_hop6` are the same for IPv6.
    """

    chassis: str
    physnet: str
    address: IPv4Interface
    next_hop: str | None
    routers: tuple[str, ...]
    address6: IPv6Interface | None = None
    next_hop6: str | None = None


@dataclass(frozen=True, slots=True)
class HostsConfig:
    """The network on which nodes' kernels meet the VPCs; `network6` is None without IPv6.

    `chassis`: those that get a port on it; `routers`: the VPC routers that get one.
    """

    network: IPv4Network
    network6: IPv6Network | None
    chassis: tuple[str, ...]
    routers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutgoingRule:
    """Whether packets from some addresses to some others are translated; none: from or to all."""

    sources: tuple[IPNetwork, ...]
    destinations: tuple[IPNetwork, ...]
    translated: bool


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Networks behind one VPC router that leave in a way of their own.

    `translated`: with the gateway's external address, unless the first of `rules` that a packet
    fits says otherwise. `chassis`: by the first of these that is alive, wherever the workload is,
    or `shared` by all that are alive; none: by the workload's own chassis. `addresses`: what they
    are translated to at a chassis, where that is not its gateway's own address.
    """

    router: str
    networks: tuple[IPNetwork, ...]
    translated: bool = False
    chassis: tuple[str, ...] = ()
    shared: bool = False
    rules: tuple[OutgoingRule, ...] = ()
    addresses: tuple[tuple[str, IPAddress], ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What the cluster controller is told: address ranges and gateways.

    `join6` and `service_pool6` are both networks, or both empty: no IPv6. `heartbeat_s`: how often
    the chassis are asked for a sign of life; 0: never. `service_ranges`: networks of cluster IPs;
    `east_west`: whether gateway routers lead them to svc0, whose program serves workloads behind
    OVN, too, or OVN's load balancers on their switches do. `trunks`: every chassis gets a logical
    port for its containers. `hosts` None: nodes' kernels have no way of their own to workloads.
    `one_way_in`: what comes in by a gateway has a route to its first VPC, not one to each network.
    `tls`: private key, certificate and authorities for `ssl:` remotes.
    """

    nb_remote: str
    sb_remote: str
    join: str
    service_pool: str
    gateways: tuple[GatewayConfig, ...]
    join6: str = ""
    service_pool6: str = ""
    heartbeat_s: float = 0.0
    service_ranges: tuple[IPNetwork, ...] = ()
    east_west: EastWest = EastWest.SVC0
    trunks: bool = False
    hosts: HostsConfig | None = None
    one_way_in: bool = False
    outgoing: tuple[Outgoing, ...] = ()
    tls: tuple[str, str, str] | None = None
