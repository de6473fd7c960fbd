"""Kube-OVN's documented ways outside, applied to an API, tried by real hosts and containers.

The manifests have the fields and shapes of the documentation's, in words of our own. Three nodes,
each with an OVS and an ovn-controller of its own; the hosts outside are on VLANs of one wire.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from controller.config_kubernetes import KubernetesConfig
from controller.network.gateways import ADDRESS_ANNOTATION, GatewayTemplate
from controller.network.settings import NetSettings
from dataplane.model.config import ClusterConfig
from tests.labs import kubecluster, traffic
from tests.labs.appliedcluster import Cluster, applying
from tests.labs.netns import Namespace
from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.wirednodes import WiredNodes, addresses, wired
from tests.labs.workloads import Server

WIRES = """
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: outside}
spec: {defaultInterface: vlan}
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan204}
spec: {id: 204, provider: outside}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: external204}
spec:
  protocol: IPv4
  cidrBlock: 10.5.204.0/24
  gateway: 10.5.204.254
  vlan: vlan204
  excludeIps: [10.5.204.1..10.5.204.100]
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan100}
spec: {id: 100, provider: outside}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: below}
spec:
  protocol: IPv4
  cidrBlock: 172.17.0.0/16
  gateway: 172.17.0.1
  vlan: vlan100
  disableGatewayCheck: false
  namespaces: [below]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: between}
spec:
  protocol: IPv4
  cidrBlock: 172.18.0.0/16
  gateway: 172.18.0.1
  vlan: vlan100
  logicalGateway: true
  namespaces: [between]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: meeting}
spec:
  protocol: IPv4
  cidrBlock: 172.19.0.0/16
  gateway: 172.19.0.1
  vlan: vlan100
  u2oInterconnection: true
  u2oInterconnectionIP: 172.19.0.9
  namespaces: [meeting]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ovn-external-gw-config, namespace: kube-system}
data:
  enable-external-gw: "true"
  external-gw-nodes: "n1,n2"
  external-gw-nic: eth1
  external-gw-addr: 172.56.0.1/16
  nic-ip: 172.56.0.254/16
  nic-mac: "16:52:f3:13:6a:25"
"""
VPCS = """
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: vpc1}
spec:
  namespaces: [vpc1]
  enableExternal: true
  extraExternalSubnets: [external204]
  staticRoutes:
  - {cidr: 0.0.0.0/0, nextHopIP: 10.5.204.254, policy: policyDst}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: vpc1-subnet1}
spec:
  cidrBlock: 192.168.0.0/24
  default: false
  disableGatewayCheck: false
  disableInterConnection: true
  enableEcmp: true
  gatewayNode: ""
  gatewayType: distributed
  natOutgoing: false
  private: false
  protocol: IPv4
  provider: ovn
  vpc: vpc1
  namespaces: [vpc1]
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: vpc2}
spec: {namespaces: [vpc2], enableExternal: true, enableBfd: true}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: vpc2-subnet1}
spec:
  cidrBlock: 192.168.0.0/24
  enableEcmp: true
  gatewayType: distributed
  natOutgoing: false
  protocol: IPv4
  vpc: vpc2
  namespaces: [vpc2]
---
apiVersion: kubeovn.io/v1
kind: OvnEip
metadata: {name: n1}
spec: {externalSubnet: external, type: lsp}
"""
EIP = """
---
kind: OvnEip
apiVersion: kubeovn.io/v1
metadata: {{name: {name}}}
spec: {{externalSubnet: {subnet}, type: nat}}
"""
RULES = """
kind: OvnFip
apiVersion: kubeovn.io/v1
metadata: {name: eip-static}
spec: {ovnEip: eip-static, ipName: one.vpc1, type: centralized}
---
kind: OvnFip
apiVersion: kubeovn.io/v1
metadata: {name: eip-near}
spec: {ovnEip: eip-near, vpc: vpc1, ipName: two.vpc1, type: distributed}
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {name: test-fip-vip}
spec: {subnet: vpc1-subnet1}
---
kind: OvnFip
apiVersion: kubeovn.io/v1
metadata: {name: eip-for-vip}
spec: {ovnEip: eip-for-vip, ipType: vip, ipName: test-fip-vip}
---
kind: OvnSnatRule
apiVersion: kubeovn.io/v1
metadata: {name: snat-for-subnet}
spec: {ovnEip: snat-for-subnet, vpcSubnet: vpc1-subnet1}
---
kind: OvnSnatRule
apiVersion: kubeovn.io/v1
metadata: {name: snat-other}
spec: {ovnEip: snat-other, vpc: vpc2, v4IpCidr: 192.168.0.0/24}
---
kind: OvnDnatRule
apiVersion: kubeovn.io/v1
metadata: {name: eip-dnat}
spec: {ovnEip: eip-dnat, ipName: three.vpc1, protocol: tcp, internalPort: "80", externalPort: "22"}
"""
BALANCED = """
apiVersion: kubeovn.io/v1
kind: SwitchLBRule
metadata: {name: by-label}
spec:
  vip: 1.1.1.1
  sessionAffinity: ClientIP
  namespace: vpc1
  selector: ["app:web"]
  ports: [{name: dns, port: 8888, targetPort: 80, protocol: TCP}]
---
apiVersion: kubeovn.io/v1
kind: SwitchLBRule
metadata: {name: by-list, annotations: {ovn.kubernetes.io/logical_router: vpc1}}
spec:
  vip: 1.1.1.2
  namespace: vpc1
  endpoints: [ONE, TWO]
  ports: [{name: half, port: 8888, targetPort: 8081, protocol: TCP}]
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {name: of-the-subnet}
spec: {subnet: vpc1-subnet1, type: switch_lb_vip, v4ip: 192.168.0.200}
---
apiVersion: kubeovn.io/v1
kind: SwitchLBRule
metadata: {name: near}
spec:
  vip: 192.168.0.200
  namespace: vpc1
  selector: ["app:web"]
  ports: [{name: dns, port: 8888, targetPort: 80, protocol: TCP}]
"""
EIPS = {
    "eip-static": "external204", "eip-near": "external204", "eip-for-vip": "external204",
    "snat-for-subnet": "external204", "eip-dnat": "external204", "snat-other": "external",
}  # fmt: skip
ANNOTATED = {"pod-eip": {"eip": "172.56.0.233"}, "pod-snat": {"snat": "172.56.0.200"}}
PODS = {
    "one.vpc1": "n3", "two.vpc1": "n1", "three.vpc1": "n2", "four.vpc1": "n3",
    "five.vpc2": "n3", "plain.default": "n2", "pod-eip.default": "n1", "pod-snat.default": "n3",
    "low.below": "n1", "lower.below": "n3", "through.between": "n2",
    "both.meeting": "n1",
}  # fmt: skip
WORLD = "203.0.113.9"
OWN_WIRE = "10.99.0.1"
"""The next hop of nodes' own gateway routers."""


@dataclass
class World:
    """The cluster, its nodes, and the hosts outside."""

    box: OvnSandbox
    cluster: Cluster
    nodes: WiredNodes
    out: Namespace
    address: dict[str, str] = field(default_factory=dict)

    def eip(self, name: str) -> str:
        return str(self.cluster.status("ovn-eips", name)["v4Ip"])

    def answers(self, eip: str) -> bool:
        """Whether somebody answers an echo request to an address."""
        return bool(traffic.ping(self.out, self.eip(eip), 1)[0])

    def seen_as(self, port: str, target: str = WORLD) -> str:
        """Who the host outside says that a container is."""
        found = traffic.http(self.nodes.places[port], target, 80, 2)
        assert found.all_ok, found
        (peer,) = found.peers
        return peer

    def reached(self, address: str, port: int = 80) -> str:
        """Who answers the host outside at an address."""
        found = traffic.http(self.out, address, port, 2)
        assert found.all_ok, found
        (name,) = found.names
        return name

    def gateway(self, port: str) -> str:
        """The node that has a router's port."""
        row = ("find", "Port_Binding", f"logical_port=cr-{port}")
        uuid = self.box.sbctl("--bare", "--columns=chassis", *row).strip()
        return self.box.sbctl("get", "Chassis", uuid, "name").strip().strip('"') if uuid else ""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="mrv-doc-") as directory:
        box = OvnSandbox(Path(directory))
        try:
            box.start()
            decided = NetSettings(join_cidr="100.64.0.0/24", external_network="outside")
            cluster = ClusterConfig(box.nb, box.sb, "100.65.0.0/24", "100.65.255.0/24", ())
            gateways = GatewayTemplate(
                cluster, "outside", ("10.99.0.101-10.99.0.150",), next_hops=(ip_address(OWN_WIRE),)
            )
            config = KubernetesConfig(
                box.nb, namespace="kube-system", network=decided, gateways=gateways
            )
            with wired("mrdg", box, "outside") as nodes, applying(config) as applied:
                yield built(box, applied, nodes, Path(directory))
        finally:
            box.stop()


def built(box: OvnSandbox, cluster: Cluster, nodes: WiredNodes, directory: Path) -> World:
    """Everything applied, and containers attached as their annotations say."""
    for at, name in enumerate(nodes.names, 1):
        cluster.put(kubecluster.node(name, f"192.0.2.{at}"))
    for name in ("vpc1", "vpc2", "below", "between", "meeting"):
        cluster.put(kubecluster.namespace(name))
    cluster.apply(WIRES)
    cluster.apply(VPCS)
    for port, node_name in PODS.items():
        name, _, space_name = port.partition(".")
        pod = kubecluster.pod(space_name, name, node_name)
        pod["metadata"]["annotations"] = {
            f"ovn.kubernetes.io/{key}": value for key, value in ANNOTATED.get(name, {}).items()
        }
        cluster.put(pod)
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        cluster.tell(f"/api/v1/namespaces/{space_name}/pods/{name}", ready)
    cluster.apply("".join(EIP.format(name=n, subnet=subnet) for n, subnet in EIPS.items()))
    cluster.apply(RULES)
    out = nodes.outside("e204", "10.5.204.254/24", 204)
    nodes.outside("e100", "172.17.0.1/16", 100)
    out.run("ip", "address", "add", "172.19.0.1/16", "dev", "e100")
    nodes.outside("e0", "172.56.0.1/16")
    out.run("ip", "address", "add", f"{OWN_WIRE}/24", "dev", "e0")
    out.run("ip", "address", "add", f"{WORLD}/32", "dev", "lo")
    Server("world", out, 80, directory).start()
    world = World(box, cluster, nodes, out)
    for port, node_name in PODS.items():
        name, _, space_name = port.partition(".")
        wait_until(
            f"{port} has an address",
            partial(cluster.annotation, name, space_name, "ip_address"),
        )
        annotations = cluster.look("pods", name, space_name)["metadata"]["annotations"]
        world.address[port] = annotations["ovn.kubernetes.io/ip_address"]
        nodes.attach(node_name, port, *addresses(annotations))
        nodes.serve(port)
    for kind, names in (
        ("ovn-fips", ("eip-static", "eip-near", "eip-for-vip")),
        ("ovn-snat-rules", ("snat-for-subnet", "snat-other")),
        ("ovn-dnat-rules", ("eip-dnat",)),
    ):
        for name in names:
            cluster.ready(kind, name)
    for port in ("vpc1-external204", "vpc1-external", "vpc2-external", "ovn-cluster-external"):
        # Not before the gateways hear of each other: until then neither knows who is alone.
        wait_until(f"a gateway has {port}", partial(world.gateway, port))
    listed = {name: world.address[f"{name.lower()}.vpc1"] for name in ("ONE", "TWO")}
    cluster.apply(BALANCED.replace("ONE", listed["ONE"]).replace("TWO", listed["TWO"]))
    nodes.serve("one.vpc1", 8081)
    cluster.until("the balancers are there", lambda: "192.168.0.200" in box.nbctl("lb-list"))
    nodes.sync()
    for name in ("eip-static", "eip-near"):
        # Gateways hear of each other, the wire's switch learns where who is.
        wait_until(f"{name} is found", partial(world.answers, name))
    return world


def test_what_has_no_effect_is_told(world: World) -> None:
    words = ("external-gw-nic", "enableBfd", "type lsp")
    world.cluster.until(
        "they are told",
        lambda: all(any(word in one for one in world.cluster.told()) for word in words),
    )


@pytest.mark.parametrize(("eip", "port"), [("eip-static", "one"), ("eip-near", "two")])
def test_a_container_is_reached_and_seen_at_its_floating_address(
    world: World, eip: str, port: str
) -> None:
    assert traffic.ping(world.out, world.eip(eip))[0] == 3
    assert world.reached(world.eip(eip)) == port
    assert world.seen_as(f"{port}.vpc1") == world.eip(eip)


def test_a_floating_address_of_a_vip_is_whose_the_vip_is(world: World) -> None:
    vip = world.cluster.status("vips", "test-fip-vip")["v4ip"]
    world.nodes.places["four.vpc1"].run("ip", "address", "add", f"{vip}/24", "dev", "eth0")
    assert world.reached(world.eip("eip-for-vip")) == "four"


def test_a_subnet_leaves_with_one_address_and_a_port_leads_inside(world: World) -> None:
    for port in ("three.vpc1", "four.vpc1"):
        assert world.seen_as(port) == world.eip("snat-for-subnet")
    # OVN balances at one port's gateway: those of a VPC are at one node.
    assert world.gateway("vpc1-external204") == world.gateway("vpc1-external")
    assert world.reached(world.eip("eip-dnat"), 22) == "three"


def test_a_vpc_without_a_route_of_its_own_leaves_by_the_default_network(world: World) -> None:
    assert world.address["five.vpc2"].startswith("192.168.0.")
    assert world.seen_as("five.vpc2") == world.eip("snat-other")


def test_pods_of_the_default_vpc_have_the_addresses_of_their_annotations(world: World) -> None:
    assert world.reached("172.56.0.233") == "pod-eip"
    assert world.seen_as("pod-eip.default") == "172.56.0.233"
    assert world.seen_as("pod-snat.default") == "172.56.0.200"
    # Who has none leaves by its own node's gateway router, and with that one's address.
    node = world.cluster.look("nodes", PODS["plain.default"])["metadata"]["annotations"]
    assert world.seen_as("plain.default") == node[ADDRESS_ANNOTATION].partition("/")[0]
    # Among themselves they are as they are.
    one, other = world.address["pod-snat.default"], world.address["pod-eip.default"]
    found = traffic.http(world.nodes.places["pod-snat.default"], other, 80, 2)
    assert found.all_ok and set(found.peers) == {one}


def test_containers_on_a_vlan_are_neighbours_of_its_hosts(world: World) -> None:
    for port in ("low.below", "lower.below"):
        address = world.address[port]
        assert address.startswith("172.17.")
        assert world.reached(address) == port.partition(".")[0]
        assert world.seen_as(port) == address
    found = traffic.http(world.nodes.places["low.below"], world.address["lower.below"], 80, 2)
    assert found.all_ok and set(found.names) == {"lower"}


def test_a_logical_gateway_routes_between_a_vlan_and_the_overlay(world: World) -> None:
    one, other = world.address["through.between"], world.address["pod-eip.default"]
    assert one.startswith("172.18.")
    for source, target, seen in (
        ("through.between", other, one),
        ("pod-eip.default", one, other),
    ):
        found = traffic.http(world.nodes.places[source], target, 80, 2)
        assert found.all_ok and set(found.peers) == {seen}, found


def test_a_vlan_and_the_overlay_meet_beside_the_vlans_own_router(world: World) -> None:
    one, other = world.address["both.meeting"], world.address["pod-snat.default"]
    assert one.startswith("172.19.")
    assert world.cluster.annotation("both", "meeting", "gateway") == "172.19.0.9"
    assert world.cluster.status("subnets", "meeting")["u2oInterconnectionIP"] == "172.19.0.9"
    for source, target, seen in (
        ("both.meeting", other, one),
        ("pod-snat.default", one, other),
    ):
        found = traffic.http(world.nodes.places[source], target, 80, 2)
        assert found.all_ok and set(found.peers) == {seen}, found
    # To and from anybody else it goes by the wire's router, untranslated.
    assert world.seen_as("both.meeting") == one
    assert world.reached(one) == "both"


def test_external_addresses_count_as_used(world: World) -> None:
    def used(subnet: str, count: int) -> bool:
        return bool(world.cluster.status("subnets", subnet).get("v4usingIPs") == count)

    # Five OvnEips and the port of vpc1.
    world.cluster.until("external204", lambda: used("external204", 6))


@pytest.mark.parametrize("address", ["1.1.1.1", "192.168.0.200"])
def test_an_address_within_the_vpc_leads_to_its_pods(world: World, address: str) -> None:
    found = traffic.http(world.nodes.places["four.vpc1"], address, 8888, 4)
    assert found.all_ok, found
    assert set(found.names) <= {"one", "two", "three", "four"}
    # The other VPC has the same addresses, and nothing at that one.
    other = world.nodes.places["five.vpc2"]
    assert traffic.http(other, address, 8888, 1, timeout=1).ok == 0


def test_a_backend_that_does_not_answer_gets_nobody(world: World) -> None:
    """Of the two that are listed one has a server on that port."""

    def state(address: str) -> str:
        row = ("find", "Service_Monitor", f"ip={address}", "port=8081")
        return world.box.sbctl("--bare", "--columns=status", *row).strip()

    wait_until("the one is alive", lambda: state(world.address["one.vpc1"]) == "online")
    wait_until("the other is not", lambda: state(world.address["two.vpc1"]) == "offline")
    world.nodes.sync()
    found = traffic.http(world.nodes.places["four.vpc1"], "1.1.1.2", 8888, 12)
    assert found.all_ok and set(found.names) == {"one"}, found


def test_another_gateway_takes_over_from_one_that_dies(world: World) -> None:
    """Last of all: the node is gone afterwards, and with it whatever ran there."""
    port = "vpc1-external204"
    first = world.gateway(port)
    assert first in ("n1", "n2")
    inside, outside = world.nodes.places["four.vpc1"], world.eip("eip-static")
    with (
        traffic.beside(inside, "echo", "10.5.204.254", 80, 0) as leaving,
        traffic.beside(world.out, "echo", outside, 80, 0) as coming,
    ):
        assert leaving.server() == "world"
        assert coming.server() == "one"
        world.nodes.crash(first)
        wait_until("the other has the port", lambda: world.gateway(port) not in ("", first))
        # Streams that were open go on by the other one, and new ones are made.
        wait_until("new ones leave", lambda: traffic.ping(inside, "10.5.204.254", 1)[0])
        wait_until("new ones come", lambda: traffic.ping(world.out, outside, 1)[0])
    for one in (leaving, coming):
        assert one.result["error"] == "" and one.result["lines"] > 0, one.result
