"""Several interfaces of a pod, as users of Kube-OVN write them, and packets through what they make.

Each manifest has the fields of one of the examples of Kube-OVN's pages on several interfaces, fixed
addresses by interface and custom routes, in words of our own. What the node makes of the rows, in a
real pod, is in tests/netns/test_cni_ipam.py and tests/system/test_cni_verbs.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.network.settings import NetSettings
from dataplane.model.names import ROUTES_KEY
from tests.labs.kubernetesnet import Network, running
from tests.labs.packets import Packet

SETTINGS = NetSettings(default_cidr="10.16.0.0/16", join_cidr="")
OBJECTS = """
apiVersion: "k8s.cni.cncf.io/v1"
kind: NetworkAttachmentDefinition
metadata:
  name: side
  namespace: default
spec:
  config: '{
      "cniVersion": "0.3.0",
      "type": "macvlan",
      "master": "eth0",
      "mode": "bridge",
      "ipam": {
        "type": "kube-ovn",
        "server_socket": "/run/openvswitch/kube-ovn-daemon.sock",
        "provider": "side.default"
      }
    }'
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: side}
spec:
  protocol: IPv4
  provider: side.default
  cidrBlock: 172.18.0.0/16
  gateway: 172.18.0.1
  excludeIps: [172.18.0.0..172.18.0.10]
---
apiVersion: "k8s.cni.cncf.io/v1"
kind: NetworkAttachmentDefinition
metadata:
  name: fast
  namespace: default
spec:
  config: '{
      "cniVersion": "0.3.0",
      "type": "kube-ovn",
      "server_socket": "/run/openvswitch/kube-ovn-daemon.sock",
      "provider": "fast.default.ovn"
    }'
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: fast}
spec:
  protocol: IPv4
  provider: fast.default.ovn
  cidrBlock: 172.17.0.0/16
  gateway: 172.17.0.1
  excludeIps: [172.17.0.0..172.17.0.10]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: ordinary}
spec: {protocol: IPv4, provider: ovn, cidrBlock: 172.19.0.0/16, gateway: 172.19.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: taps
  namespace: default
  annotations: {k8s.v1.cni.cncf.io/networks: default/side}
---
apiVersion: v1
kind: Pod
metadata:
  name: taps-fixed
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: default/side
    ovn.kubernetes.io/ip_address: 10.16.0.15
    ovn.kubernetes.io/mac_address: 00:00:00:53:6B:B6
    side.default.kubernetes.io/ip_address: 172.18.0.100
    side.default.kubernetes.io/mac_address: 00:00:00:53:6B:BB
---
apiVersion: v1
kind: Pod
metadata:
  name: taps-pool
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: default/side
    ovn.kubernetes.io/ip_pool: 10.16.0.15,10.16.0.16,10.16.0.17
    side.default.kubernetes.io/ip_pool: 172.18.0.100,172.18.0.201,172.18.0.202
---
apiVersion: v1
kind: Pod
metadata:
  name: taps-leads
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: '[{
      "name": "side",
      "namespace": "default",
      "default-route": ["172.18.0.1"]
    }]'
---
apiVersion: v1
kind: Pod
metadata:
  name: taps-alone
  namespace: default
  annotations: {v1.multus-cni.io/default-network: default/side}
---
apiVersion: v1
kind: Pod
metadata:
  name: taps-ordinary
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: default/side
    side.default.kubernetes.io/logical_switch: ordinary
---
apiVersion: v1
kind: Pod
metadata:
  name: two
  namespace: default
  annotations: {k8s.v1.cni.cncf.io/networks: default/fast}
---
apiVersion: v1
kind: Pod
metadata:
  name: twins
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: '[{"name": "fast", "namespace": "default", "interface": "net1"},
      {"name": "fast", "namespace": "default", "interface": "net2"}]'
    fast.default.kubernetes.io/ip_address.net1: 172.17.0.100
    fast.default.kubernetes.io/mac_address.net1: 00:00:00:53:6B:B1
    fast.default.kubernetes.io/ip_address.net2: 172.17.0.101
    fast.default.kubernetes.io/mac_address.net2: 00:00:00:53:6B:B2
---
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Pod
metadata:
  name: guarded
  namespace: default
  labels: {app: guarded}
  annotations:
    k8s.v1.cni.cncf.io/networks: default/fast@net1,default/fast@net2
    fast.default.ovn.kubernetes.io/port_security: "true"
    fast.default.ovn.net2.kubernetes.io/port_security: "false"
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: guard
  namespace: default
  annotations: {ovn.kubernetes.io/network_policy_for: default/fast}
spec: {podSelector: {matchLabels: {app: guarded}}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: Pod
metadata:
  name: alone
  namespace: default
  annotations: {v1.multus-cni.io/default-network: default/fast}
---
apiVersion: v1
kind: Pod
metadata:
  name: moved
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: default/fast
    fast.default.ovn.kubernetes.io/logical_switch: ordinary
---
apiVersion: v1
kind: Pod
metadata: {name: on-ordinary, annotations: {ovn.kubernetes.io/logical_switch: ordinary},
  namespace: default}
---
apiVersion: v1
kind: Pod
metadata:
  name: way
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: default/fast
    fast.default.ovn.kubernetes.io/ip_address: 172.17.0.254
    ovn.kubernetes.io/ip_address: 10.16.0.254
---
apiVersion: v1
kind: Pod
metadata:
  name: led
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: default/fast
    fast.default.ovn.kubernetes.io/routes: |
      [{
        "dst": "192.168.0.101/24",
        "gw": "172.17.0.254"
      }, {
        "gw": "172.17.0.254"
      }]
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: ovn-cluster}
spec: {staticRoutes: [{cidr: 0.0.0.0/0, nextHopIP: 10.16.0.253, policy: policyDst}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: north
  namespace: default
  annotations: {ovn.kubernetes.io/north_gateway: 10.16.0.254}
---
apiVersion: v1
kind: Pod
metadata:
  name: led-first
  namespace: default
  annotations:
    ovn.kubernetes.io/routes: |
      [{
        "dst": "192.168.0.101/24",
        "gw": "10.16.0.254"
      }, {
        "gw": "10.16.0.254"
      }]'
"""
FAST = "default.fast.default.ovn"
SIDE = "default.side.default"


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with running(OBJECTS, SETTINGS) as found:
        yield found


def told(net: Network, port: str, column: str) -> str:
    """A column of a port's row."""
    return net.box.nbctl("--bare", f"--columns={column}", "find", "Logical_Switch_Port",
                         f"name={port}").strip()  # fmt: skip


def test_interfaces_of_one_definition_have_addresses_by_interface(net: Network) -> None:
    one, other = f"twins.{FAST}.net1", f"twins.{FAST}.net2"
    assert (net.there[one].address(4), net.there[one].mac) == ("172.17.0.100", "00:00:00:53:6b:b1")
    assert net.there[other].address(4) == "172.17.0.101"
    assert net.there[other].mac == "00:00:00:53:6b:b2"
    assert f"twins.{FAST}" not in net.there
    # What nobody names is given from behind the excluded ones.
    assert net.there[f"two.{FAST}"].address(4) in {f"172.17.0.{last}" for last in range(11, 16)}
    for name in (one, other):
        assert net.passes(name, f"two.{FAST}")
        assert net.passes(f"two.{FAST}", name, protocol="TCP")
    assert net.passes("twins.default", "two.default")


def test_a_policy_for_a_definition_is_for_all_interfaces_of_it(net: Network) -> None:
    for ifname in ("net1", "net2"):
        assert not net.passes(f"two.{FAST}", f"guarded.{FAST}.{ifname}")
        assert net.passes(f"guarded.{FAST}.{ifname}", f"two.{FAST}")
        # A definition's annotations are for all of them, but for one that has its own.
        secure = told(net, f"guarded.{FAST}.{ifname}", "port_security")
        assert bool(secure) is (ifname == "net1")
    assert net.passes("two.default", "guarded.default")


def test_a_definitions_interface_is_in_the_subnet_that_a_pod_names(net: Network) -> None:
    moved = net.there[f"moved.{FAST}"]
    assert (moved.switch, moved.address(4)) == ("ordinary", "172.19.0.2")
    assert net.passes(f"moved.{FAST}", "on-ordinary.default")
    # By the router of its VPC, too.
    assert net.passes(f"moved.{FAST}", "two.default")


def test_a_network_of_ovns_is_a_pods_only_one(net: Network) -> None:
    assert "alone.default" not in net.there
    assert net.passes(f"alone.{FAST}", f"two.{FAST}", protocol="ICMP")


@pytest.mark.parametrize(
    ("port", "way"),
    [(f"led.{FAST}", f"way.{FAST}"), ("led-first.default", "way.default")],
)
def test_a_pods_own_routes_lead_to_the_pod_that_is_their_gateway(
    net: Network, port: str, way: str
) -> None:
    gateway = net.there[way].address(4)
    routes = f"192.168.0.0/24 {gateway},0.0.0.0/0 {gateway}"
    assert f"{ROUTES_KEY}={routes}" in told(net, port, "external_ids")
    for to in ("192.168.0.9", "203.0.113.9"):
        net.number += 1
        packet = Packet(net.number, net.there[port].address(4), to, "UDP", 3000, 53)
        assert net.lab.send([(net.there[port], net.there[way], packet)]) == {(net.number, way)}


def test_a_pods_north_gateway_has_what_leaves_its_vpc(net: Network) -> None:
    pod, way = net.there["north.default"], "way.default"
    net.number += 1
    packet = Packet(net.number, pod.address(4), "203.0.113.9", "UDP", 3000, 53)
    assert net.lab.send([(pod, None, packet)]) == {(net.number, way)}
    assert net.passes("north.default", "on-ordinary.default", protocol="TCP")
    assert net.passes("north.default", "two.default")


def test_addresses_that_another_plugin_takes_are_ports_that_carry_nothing(net: Network) -> None:
    given = {
        name: told(net, f"{name}.{SIDE}", "addresses").split()
        for name in (
            "taps",
            "taps-fixed",
            "taps-pool",
            "taps-leads",
            "taps-alone",
            "taps-ordinary",
        )
    }
    assert given["taps-fixed"] == ["00:00:00:53:6b:bb", "172.18.0.100"]
    # Of a list the first that nobody has.
    assert given["taps-pool"][1] == "172.18.0.201"
    assert given["taps-ordinary"][1].startswith("172.19.0.")
    others = {given[name][1] for name in ("taps", "taps-leads", "taps-alone")}
    assert others == {"172.18.0.11", "172.18.0.12", "172.18.0.13"}
    for name in given:
        assert told(net, f"{name}.{SIDE}", "enabled") == "false"
        assert (name == "taps-alone") != (f"{name}.default" in net.there)
    assert net.box.nbctl("ls-list").count("(side)") == 1
    assert "millrace:networks=172.18.0.0/16 172.18.0.1" in net.box.nbctl(
        "--bare", "--columns=external_ids", "list", "Logical_Switch", "side"
    )
    # Its first interface is OVN's as any pod's.
    assert net.passes("taps-fixed.default", "taps-pool.default")
    assert net.box.warnings() == []
