"""Policies as users write them, applied to a network of the same controller, and its packets.

The manifests have the fields of Kube-OVN's example of a SecurityGroup and of its private subnets,
and of the usual examples of NetworkPolicy and AdminNetworkPolicy, in words of our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from controller.network.settings import NetSettings
from dataplane.model.config import EastWest
from tests.labs.kubernetesnet import Network, running
from tests.labs.manifests import pod
from tests.labs.packets import Packet

SETTINGS = NetSettings(default_cidr="10.16.0.0/24,fd00:16::/64", join_cidr="100.64.0.0/24")


OBJECTS = f"""
apiVersion: v1
kind: Node
metadata: {{name: n1}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{tenant: shop}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: lab, labels: {{tenant: lab}}}}
---{pod("web", "shop")}{pod("client", "shop")}{pod("other", "lab")}{pod("free", "lab")}
{pod("guarded", "lab", security_groups="sg-example", ip_address="10.16.0.40")}
{pod("allowed", "lab", ip_address="10.16.0.13")}{pod("denied", "lab", ip_address="10.16.0.14")}
{pod("vault", "lab", logical_switch="vault")}{pod("mate", "lab", logical_switch="vault")}
{pod("banned", "lab")}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]
      ports: [{{protocol: UDP, port: 53}}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {{name: banned}}
spec:
  priority: 5
  subject: {{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: nobody}}}}}}
  ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {{name: ban}}
spec:
  priority: 10
  subject:
    pods:
      namespaceSelector: {{matchLabels: {{tenant: lab}}}}
      podSelector: {{matchLabels: {{app: banned}}}}
  egress: [{{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}]
---
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg-example}}
spec:
  allowSameGroupTraffic: true
  egressRules:
    - {{ipVersion: ipv4, policy: allow, priority: 1, protocol: all, remoteAddress: 10.16.0.13,
       remoteType: address}}
  ingressRules:
    - {{ipVersion: ipv4, policy: deny, priority: 1, protocol: icmp, remoteAddress: 10.16.0.14,
       remoteType: address}}
    - {{ipVersion: ipv4, policy: allow, priority: 2, protocol: icmp, remoteAddress: 10.16.0.0/24,
       remoteType: address}}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: vault}}
spec:
  cidrBlock: 10.50.0.0/24
  private: true
  allowSubnets: [10.16.0.13/32]
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with running(OBJECTS, SETTINGS) as found:
        yield found


@pytest.mark.parametrize("version", [4, 6])
def test_a_network_policy_lets_in_what_it_says(net: Network, version: int) -> None:
    assert net.passes("client.shop", "web.shop", version)
    assert not net.passes("client.shop", "web.shop", version, "TCP")
    assert not net.passes("other.lab", "web.shop", version)
    assert not net.passes("web.shop", "client.shop", version)
    assert net.passes("other.lab", "client.shop", version)


def test_a_node_reaches_its_isolated_pod(net: Network) -> None:
    assert net.passes("node-n1", "web.shop", protocol="TCP")
    assert net.passes("web.shop", "node-n1", protocol="TCP")


def test_an_administrators_policy_is_before_all(net: Network) -> None:
    assert not net.passes("banned.lab", "free.lab")
    assert net.passes("banned.lab", "free.lab", 6)
    assert net.passes("free.lab", "banned.lab")


def test_a_security_group_as_kube_ovn_documents_it(net: Network) -> None:
    assert net.passes("guarded.lab", "allowed.lab")
    assert not net.passes("guarded.lab", "free.lab")
    assert net.passes("free.lab", "guarded.lab", protocol="ICMP")
    assert not net.passes("denied.lab", "guarded.lab", protocol="ICMP")
    assert not net.passes("free.lab", "guarded.lab")


def test_a_private_subnet_as_kube_ovn_documents_it(net: Network) -> None:
    assert net.passes("mate.lab", "vault.lab")
    assert net.passes("allowed.lab", "vault.lab")
    assert net.passes("vault.lab", "allowed.lab", protocol="TCP")
    assert not net.passes("free.lab", "vault.lab")
    assert not net.passes("vault.lab", "free.lab")
    assert net.passes("node-n1", "vault.lab")


SERVED = f"""
apiVersion: v1
kind: Node
metadata: {{name: n1}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---{pod("web", "shop", ip_address="10.16.0.20")}{pod("sealed", "shop", ip_address="10.16.0.21")}
{pod("client", "shop", ip_address="10.16.0.30")}{pod("free", "shop", ip_address="10.16.0.31")}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: client, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: client}}}}
  policyTypes: [Egress]
  egress: [{{to: [{{podSelector: {{matchLabels: {{app: web}}}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: sealed, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: sealed}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{{protocol: UDP, port: 53}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{{addresses: [10.16.0.20], conditions: {{ready: true}}, nodeName: n1}}]
ports: [{{port: 53, protocol: UDP, name: ""}}]
---
apiVersion: v1
kind: Service
metadata: {{name: sealed, namespace: shop}}
spec: {{clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], ports: [{{protocol: UDP, port: 53}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: sealed-1, namespace: shop, labels: {{kubernetes.io/service-name: sealed}}}}
addressType: IPv4
endpoints: [{{addresses: [10.16.0.21], conditions: {{ready: true}}, nodeName: n1}}]
ports: [{{port: 53, protocol: UDP, name: ""}}]
"""


@pytest.mark.parametrize("east_west", [EastWest.SWITCH, EastWest.AUTO])
def test_policies_judge_whom_a_load_balancer_of_ovns_picked(east_west: EastWest) -> None:
    decided = replace(SETTINGS, east_west=east_west)
    with running(SERVED, decided) as net:

        def served(source: str, service: str, backend: str) -> bool:
            """Whether it comes to the backend, and the backend's answer comes back."""
            net.number += 2
            one, other = net.there[source], net.there[backend]
            asks = Packet(net.number, one.address(4), service, "UDP", 3000 + net.number, 53)
            if net.lab.send([(one, None, asks)]) != {(asks.number, backend)}:
                return False
            says = Packet(
                net.number + 1, other.address(4), one.address(4), "UDP", 53, asks.sport, answer=True
            )
            return net.lab.send([(other, one, says)]) == {(says.number, source)}

        assert served("client.shop", "10.96.0.10", "web.shop")
        assert served("free.shop", "10.96.0.10", "web.shop")
        assert not served("free.shop", "10.96.0.11", "sealed.shop")
        assert not served("client.shop", "10.96.0.11", "sealed.shop")
