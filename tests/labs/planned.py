"""Builders of states and services with named constants, for tests of the plan."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.config import (
    BridgeConfig,
    DpdkConfig,
    HugepageConfig,
    NodeConfig,
    TunnelConfig,
    TunnelType,
    UplinkConfig,
    UplinkMode,
)
from dataplane.model.service import Backend, Place, ServedBy, Service, TrafficPolicy
from dataplane.model.state import (
    Attachment,
    Gateway,
    HeldIds,
    Nic,
    NodeState,
    PortKind,
)

NIC_MAC = Mac("02:00:00:00:00:11")
UPLINK = UplinkConfig("up0", "br-ex", UplinkMode.AF_XDP, 1, "native", services=True)
TUNNEL_UPLINK = UplinkConfig("ph0", "br-phy", UplinkMode.AF_XDP, 1, "native", services=False)
CONFIG = NodeConfig(
    name="n1",
    rundir="/run/millrace/n1",
    statedir="/var/lib/millrace/n1",
    bpf_root="/sys/fs/bpf/millrace/n1",
    metrics_listen="127.0.0.1:9478",
    embedded_ovs=True,
    embedded_ovn=True,
    ovs_remote="unix:/run/millrace/n1/db.sock",
    ovs_rundir="/run/millrace/n1",
    nb_remote="unix:/run/millrace/n1/nb.sock",
    sb_remote="unix:/run/millrace/n1/sb.sock",
    hugepages=HugepageConfig(2048, 1024, "/dev/hugepages"),
    dpdk=DpdkConfig((0,), (1,), 512, ("--no-pci",)),
    bridges=(BridgeConfig("br-ex", "physnet-ex"), BridgeConfig("br-phy", None)),
    uplinks=(UPLINK, TUNNEL_UPLINK),
    tunnel=TunnelConfig(TunnelType.GENEVE, "br-phy", IPv4Interface("10.0.0.1/24")),
    service_link="svc0",
    port_mtu=1442,
)
GATEWAY = Gateway(
    router="GR_n1",
    mac=Mac("0a:58:ac:12:00:6f"),
    addresses=(IPv4Interface("172.18.0.111/24"),),
    service_address=IPv4Address("100.64.255.1"),
    physnet="physnet-ex",
    localnet_port="ext_n1-localnet",
)
NICS = {"up0": Nic("up0", 7, NIC_MAC, 1500, (IPv4Address("172.18.0.11"),))}


def l4(text: str, protocol: Protocol = Protocol.TCP) -> L4Addr:
    """`address:port` as a value."""
    address, port = text.split(":")
    return L4Addr(protocol, IPv4Address(address), int(port))


def backend(text: str, place: Place = Place.LOCAL) -> Backend:
    """A backend that a logical port owns."""
    return Backend(l4(text), place, f"pod-{text}")


def service(
    vip: str,
    *backends: Backend,
    policy: TrafficPolicy = TrafficPolicy.CLUSTER,
    served_by: ServedBy = ServedBy.XDP,
) -> Service:
    """A service of the fast path unless told otherwise."""
    return Service(f"lb-{vip}", l4(vip), backends, policy, served_by, "marked")


def attachment(pod: str, kind: PortKind = PortKind.VETH) -> Attachment:
    """A workload's attachment."""
    return Attachment(
        container_id=f"cid-{pod}",
        ifname="eth0",
        kind=kind,
        netns=f"/run/netns/{pod}",
        iface_id=f"{pod}.default",
        device=f"mrp{pod}",
        peer="tmp0",
        mac=Mac("0a:58:0a:01:00:0b"),
        addresses=(IPv4Interface("10.1.0.11/24"),),
        gateway=IPv4Address("10.1.0.1"),
        mtu=1442,
        socket=f"/run/millrace/n1/vhost/{pod}/eth0.sock" if kind is PortKind.VHOST_USER else "",
        queues=1,
        pod=pod,
        namespace="default",
        pod_uid=f"uid-{pod}",
    )


STATE = NodeState(CONFIG, GATEWAY, (), (), NICS, HeldIds())


def state(*services: Service, held: HeldIds | None = None) -> NodeState:
    """The node of this module with these services."""
    return replace(STATE, services=services, held=held or HeldIds())
