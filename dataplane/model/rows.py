"""The rows of every table that we own: what a plan is made of.

Each class is the value of one table; the key is given in its docstring. A driver turns them into
OVSDB rows, flows, BPF map entries, links, and back: what it observes it returns as the same
classes, so that desired and actual are compared by value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from dataplane.model.addr import IPAddress, L4Addr, Mac
from dataplane.model.service import Place

Pairs = tuple[tuple[str, str], ...]
"""A string map as sorted pairs: hashable, and equal whatever order it was built in."""


@dataclass(frozen=True, slots=True)
class OvsSetting:
    """Table `ovs`: key (column, key) of Open_vSwitch, column other_config or external_ids.

    `computed`: no file names it, so a value that somebody set by hand is not overwritten.
    """

    value: str
    computed: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """Table `datapath`: key of the userspace datapath's capabilities; what OVN is told of it."""

    value: str


@dataclass(frozen=True, slots=True)
class Bridge:
    """Table `bridges`: key name. `hwaddr` (None: OVS chooses) is other_config:hwaddr."""

    datapath_type: str
    fail_mode: str
    hwaddr: Mac | None


@dataclass(frozen=True, slots=True)
class Port:
    """Table `ports`: key port name; one Port row with one Interface row of the same name.

    `options` and `external_ids` are the Interface's (ours only: `ovn-installed` and the like are
    ovn-controller's). `tag` None is a trunk port. `ofport` None: OVS chooses the number.
    """

    bridge: str
    type: str
    options: Pairs
    external_ids: Pairs
    mtu_request: int | None
    tag: int | None
    ofport: int | None = None


@dataclass(frozen=True, slots=True)
class Policer:
    """Table `qos`: key name of a vhost-user port of ours. 0 is no limit.

    `ingress_kbps` [kbit/s] and `ingress_burst_kb` [kbit] hold what the guest sends
    (Interface.ingress_policing_*), `cir` [octets/s] and `cbs` [octets] what it receives (QoS of
    type egress-policer).
    """

    ingress_kbps: int
    ingress_burst_kb: int
    cir: int
    cbs: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Table `buckets`: key name of a pod's veth at the host. Octets a second and octets; 0: none.

    `send` and `receive` are the pod's.
    """

    send_rate: int
    send_burst: int
    receive_rate: int
    receive_burst: int


@dataclass(frozen=True, slots=True)
class TrunkEnd:
    """Table `trunk`: key name of a device of the host, where a frame gets or loses its VLAN tag.

    `tag` is the pod's whose veth the device is; 0: the device is the kernel's end of the trunk
    itself. `trunk` names that end. `limited`: what the pod receives has to pass the egress hook of
    its veth (`buckets`). `mirror`: the device that copies of its frames leave by.
    """

    tag: int
    trunk: str
    limited: bool = False
    mirror: str = ""


@dataclass(frozen=True, slots=True)
class Nested:
    """Table `nested`: key name of a container's logical switch port in OVN's northbound database.

    Its `parent_name` and `tag`.
    """

    parent: str
    tag: int


@dataclass(frozen=True, slots=True)
class BondMember:
    """One Interface of a bond; `type`, `options` and `mtu_request` as in `Port`."""

    name: str
    type: str
    options: Pairs
    mtu_request: int | None


@dataclass(frozen=True, slots=True)
class Bond:
    """Table `bonds`: key port name; one Port row with several Interface rows, by name.

    `mode` is Port.bond_mode, `lacp` Port.lacp, `other_config` the Port's (ours only).
    """

    bridge: str
    mode: str
    lacp: str
    other_config: Pairs
    members: tuple[BondMember, ...]


@dataclass(frozen=True, slots=True)
class NicSettings:
    """Table `nics`: key device name. What a NIC is told while OVS has it; None: left alone.

    `queues`: receive queues in use. `busy_poll`: its interrupts are put off while it is polled.
    """

    mtu: int | None
    queues: int | None
    busy_poll: bool


@dataclass(frozen=True, slots=True)
class NapiThread:
    """Table `polls`: key device name. A thread of the kernel's polls it, on this CPU."""

    core: int


@dataclass(frozen=True, slots=True)
class Affinity:
    """Table `affinity`: key port name. Which PMD thread's CPU polls which queue, as OVS writes it.

    Interface.other_config:pmd-rxq-affinity; a queue that is not in it is dealt out by OVS.
    """

    pins: str


@dataclass(frozen=True, slots=True)
class PortMirror:
    """Table `mirrors`: key name. What passes these ports, copied to another of their bridge."""

    bridge: str
    ports: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class StaleMirror:
    """Table `mirrors`: key name. What a killed capture left in OVS; none is ever planned.

    `owner` is the process that it was of.
    """

    owner: str


@dataclass(frozen=True, slots=True, order=True)
class FlowKey:
    """Table `flows`: key. `match` is in ovs-ofctl's syntax and field order, names not numbers."""

    bridge: str
    priority: int
    match: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Table `flows`: value, ovs-ofctl's actions. The cookie is the driver's."""

    actions: str


@dataclass(frozen=True, slots=True)
class Link:
    """Table `links`: key name of the kernel's end. A veth pair whose other end is an OVS port.

    Pods' links are not here: they live and die with one CNI call (`dataplane.drivers.podlink`).
    `addresses` are those of the kernel's end, IPv4 first, link-local ones left out.
    `tags_in_frames`: VLAN tags cross in the frame, not beside it, where XDP would not see them.
    `neighbours`: what the kernel finds behind it without asking, at the link's own MAC.
    """

    peer_name: str
    mac: Mac
    mtu: int
    queues: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    tags_in_frames: bool = False
    neighbours: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """Table `addresses`: key (device, address); an address on a bridge's LOCAL port."""

    up: bool = True


@dataclass(frozen=True, slots=True)
class Hugepages:
    """Table `hugepages`: key size in KiB. At least `count` pages, mounted at `mount`."""

    count: int
    mount: str


class VipFlag(IntFlag):
    """Bits of a VIP entry; the numbers are those of bpf/include/abi.h (the abi tests compare)."""

    SNAT = 1
    LOCAL = 2
    INNER_LOCAL = 4
    REJECT = 8
    SOURCE_RANGES = 16
    AFFINITY = 32
    DSR = 64
    INNER_SNAT = 128
    HOSTS = 256


@dataclass(frozen=True, slots=True)
class VipEntry:
    """Table `vips`: key L4Addr. `affinity_s` is 0 without affinity."""

    service_id: int
    flags: VipFlag
    affinity_s: int = 0


class SetScope(IntEnum):
    """Which set of a service port's backends: all, or those of this node."""

    CLUSTER = 0
    LOCAL = 1


@dataclass(frozen=True, slots=True)
class SetEntry:
    """Table `sets`: key (service id, SetScope). Never empty: an empty set has no row.

    `members` are (backend id, member key, weight), ordered by key (bpf/pick.py). Where in the maps
    `members` and `tables` they are kept is the driver's own affair.
    """

    members: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """Table `backends`: key backend id (1..).

    `mtu`: of the path to it [bytes, IP header included], 0 if not known. `mac`: of its node's
    gateway router, where packets are handed over to it as they are (DSR).
    """

    target: L4Addr
    place: Place
    mtu: int = 0
    mac: Mac | None = None


@dataclass(frozen=True, slots=True)
class SourceRange:
    """Table `source_ranges`: key (service id, network): clients that a service admits."""


class AddressFlag(IntFlag):
    """Bits of a known address; the numbers are those of bpf/include/abi.h."""

    LOCAL = 1
    OWNED = 2
    VIP = 4


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """Table `known_addresses`: key IPAddress.

    LOCAL: this node's kernel has it. OWNED: a VIP's, this node answers ARP, ND and echo for it.
    VIP: a VIP's: what comes to a port of it without service is refused.
    """

    flags: AddressFlag


@dataclass(frozen=True, slots=True)
class Announcement:
    """Table `announcements`: key IPAddress. A VIP that the wire is told is at this device's MAC.

    Only said, never kept: what was said is known to the process that said it.
    """

    device: str
    mac: Mac


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """Table `node`: key 0. What the programs need to know of this node.

    `service_link` is svc0's name; observed "": the entry names no device, or one that is gone.
    `local` are IPv4 addresses of the node's own that stand in the entry itself, to be found faster
    than in `known_addresses`, which has them all.
    """

    service_address: IPv4Address | None
    service_address6: IPv6Address | None
    service_mac: Mac
    gateway_mac: Mac
    uplink_ifindex: int
    uplink_mac: Mac
    service_link: str
    local: tuple[IPv4Address, ...] = ()


class ProgramKind(StrEnum):
    """Which object of bpf/ runs on a device. HOST is never at an XDP hook (`HostReplies`).

    OUTDATED is only ever observed: one of ours, but not as it would be attached now.
    """

    UPLINK = "uplink"
    SERVICE = "svc"
    HOST = "host"
    OUTDATED = "outdated"


@dataclass(frozen=True, slots=True)
class Program:
    """Table `programs`: key device name. `swap`: OVS attaches there first (AF_XDP)."""

    kind: ProgramKind
    swap: bool


@dataclass(frozen=True, slots=True)
class HostReplies:
    """Table `replies`: key device name. The kernel's replies are reversed there.

    `outdated` is only ever observed: not as it would be attached now.
    """

    outdated: bool = False


@dataclass(frozen=True, slots=True)
class ReceiveOffloads:
    """Table `offloads`: key device name. What changes frames before XDP sees them is off there."""


@dataclass(frozen=True, slots=True)
class SocketPrograms:
    """Table `sockets`: key absolute path of a cgroup whose sockets are translated.

    `outdated` is only ever observed: something of ours is there, but not all, or not as it would be
    attached now.
    """

    outdated: bool = False
