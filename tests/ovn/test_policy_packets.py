"""Network policies by real packets: several hundred, each judged by the policies' texts.

The rows are those of the controller's units, the packets go through northd's flows in a userspace
datapath with its own connection tracking, and what ought to happen is said by an evaluation of the
objects that shares no code with the controller (tests/policies/evaluate.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from controller.kinds.subnet import SUBNETS, Subnet
from controller.network.facts import NetNode
from controller.network.nets import NETS, Net
from controller.network.settings import NetSettings
from controller.network.subnet_acls import UNITS as SUBNET_UNITS
from tests.labs.factview import whole
from tests.policies.evaluate import World
from tests.policies.evaluate_admin import Tiers
from tests.policies.evaluate_groups import allowed as groups_allow
from tests.policies.packets import (
    GATEWAYS,
    NODES_THERE,
    PODS,
    PROTOCOLS,
    SPACES,
    STATIONS,
    Probe,
    Trial,
    differences,
    end,
    probes,
    rows_of_groups,
    rows_of_tiers,
    running,
    wanted_of,
    write,
)

BACK = {"matchLabels": {"app": "b"}}
FRONT = {"matchLabels": {"app": "a"}}
TEAM_TWO = {"matchLabels": {"team": "two"}}


def policy(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def admin(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


EVERYONE: dict[str, Any] = {"namespaces": {}}
BLUE = {"namespaces": {"matchLabels": {"team": "one"}}}
TWOS = {"namespaces": TEAM_TWO}
TIERS = {
    "an administrator denies, allows and passes; a NetworkPolicy has what is passed": (
        [
            admin(
                "AdminNetworkPolicy", "first", priority=10, subject=EVERYONE,
                ingress=[
                    {"action": "Allow", "from": [BLUE],
                     "ports": [{"portNumber": {"port": 80, "protocol": "TCP"}}]},
                    {"action": "Pass", "from": [TWOS],
                     "ports": [{"portRange": {"start": 8000, "end": 8080, "protocol": "TCP"}}]},
                    {"action": "Deny", "from": [TWOS]},
                ],
            ),
            admin(
                "AdminNetworkPolicy", "second", priority=20, subject=BLUE,
                egress=[
                    {"action": "Pass", "to": [{"networks": ["10.2.0.0/28", "fd00:1::/64"]}]},
                    {"action": "Deny", "to": [{"networks": ["10.0.0.0/8", "fd00::/16"]}],
                     "ports": [{"portNumber": {"port": 53, "protocol": "UDP"}},
                               {"portNumber": {"port": 80, "protocol": "SCTP"}}]},
                ],
            ),
        ],
        [policy("red", "p", podSelector={}, ingress=[{"from": [{"podSelector": {}}]}])],
    ),
    "a baseline that a NetworkPolicy overrides": (
        [
            admin(
                "BaselineAdminNetworkPolicy", "default", subject=EVERYONE,
                ingress=[{"action": "Allow", "from": [BLUE], "ports": [{"namedPort": "web"}]},
                         {"action": "Deny", "from": [EVERYONE]}],
            ),
        ],
        [policy("green", "p", podSelector={}, ingress=[{}])],
    ),
    "cluster policies of both tiers": (
        [
            admin(
                "ClusterNetworkPolicy", "a", tier="Admin", priority=0, subject=TWOS,
                egress=[
                    {"action": "Accept", "to": [{"pods": {"podSelector": BACK}}],
                     "protocols": [{"tcp": {"destinationPort": {"range": {"start": 80,
                      "end": 8080}}}}, {"destinationNamedPort": "dns"}]},
                    {"action": "Deny", "to": [BLUE]},
                ],
            ),
            admin(
                "ClusterNetworkPolicy", "b", tier="Baseline", priority=1000, subject=BLUE,
                ingress=[{"action": "Deny", "from": [EVERYONE], "protocols": [{"udp": {}}]}],
                egress=[{"action": "Pass", "to": [{"pods": {"podSelector": FRONT}}]},
                        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}],
            ),
        ],
        [],
    ),
}  # fmt: skip
CLUSTERS = {
    "nothing in and nothing out of one namespace": [
        policy("blue", "p", podSelector={}, policyTypes=["Ingress", "Egress"]),
    ],
    "ingress by pods, ports and names of ports": [
        policy(
            "blue", "p", podSelector=BACK,
            ingress=[{"from": [{"podSelector": FRONT}], "ports": [{"port": 80}, {"port": "web"}]}],
        ),
        policy(
            "red", "q", podSelector={},
            ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": "web"}]}],
        ),
    ],
    "namespaces, a range of ports, blocks with exceptions": [
        policy(
            "red", "p", podSelector={},
            ingress=[
                {
                    "from": [
                        {"namespaceSelector": {"matchLabels": {"team": "one"}},
                         "podSelector": {"matchExpressions": [
                             {"key": "app", "operator": "NotIn", "values": ["b"]}]}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/24"]}},
                        {"ipBlock": {"cidr": "fd00:1::/64", "except": ["fd00:1::c/128"]}},
                    ],
                    "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP"}],
                }
            ],
        ),
    ],
    "egress to names of ports, and the union of two policies": [
        policy(
            "blue", "p", podSelector=FRONT, policyTypes=["Egress"],
            egress=[{"to": [{"namespaceSelector": {}}], "ports": [{"port": "web"}]}],
        ),
        policy(
            "blue", "q", podSelector={}, policyTypes=["Egress"],
            egress=[{"to": [{"ipBlock": {"cidr": "10.2.0.0/24"}}, {"podSelector": BACK}]}],
        ),
        policy(
            "green", "r", podSelector={}, policyTypes=["Egress", "Ingress"],
            ingress=[{"from": [{"namespaceSelector": TEAM_TWO}]}],
            egress=[{"ports": [{"port": "dns", "protocol": "UDP"}]}],
        ),
    ],
    "SCTP, everybody, and rules of both directions": [
        policy(
            "red", "p", podSelector={}, policyTypes=["Ingress", "Egress"],
            ingress=[
                {"ports": [{"protocol": "SCTP", "port": 80}]}, {"from": [{"podSelector": {}}]},
            ],
            egress=[{}],
        ),
        policy(
            "green", "q", podSelector={"matchExpressions": [{"key": "tier", "operator": "Exists"}]},
            ingress=[{"from": [{"podSelector": {}, "namespaceSelector": TEAM_TWO}]}],
        ),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with running() as found:
        yield found


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_packet_fares_as_the_policies_say(trial: Trial, name: str) -> None:
    judge(trial, Tiers(World(CLUSTERS[name], SPACES), []), list(CLUSTERS).index(name))


@pytest.mark.parametrize("name", TIERS)
def test_every_packet_fares_as_the_tiers_say(trial: Trial, name: str) -> None:
    admins, policies = TIERS[name]
    judge(trial, Tiers(World(policies, SPACES), admins), list(TIERS).index(name))


def rule(priority: int, policy: str, protocol: str, version: int, **more: Any) -> dict[str, Any]:
    return {"priority": priority, "policy": policy, "protocol": protocol,
            "ipVersion": f"ipv{version}", **more}  # fmt: skip


def test_every_packet_fares_as_security_groups_say(trial: Trial) -> None:
    of = {"remoteType": "securityGroup", "remoteSecurityGroup": "clients"}
    groups = {
        "web-sg": {
            "ingressRules": [
                rule(10, "allow", "tcp", 4, portRangeMin=8080, portRangeMax=8081, **of),
                rule(10, "drop", "tcp", 4, portRangeMin=8081, portRangeMax=8081),
                rule(20, "allow", "udp", 6, remoteAddress="fd00:1::/64"),
                rule(300, "allow", "icmp", 4, remoteAddress="10.0.0.0/8"),
                rule(301, "allow", "icmp", 6),
            ],
            "egressRules": [rule(1, "allow", "all", 4), rule(2, "allow", "all", 6)],
        },
        "clients": {
            "tier": 1,
            "allowSameGroupTraffic": True,
            "egressRules": [
                rule(5, "allow", "all", 4), rule(6, "allow", "tcp", 6, portRangeMin=80,
                                                 portRangeMax=80),
            ],
            "ingressRules": [rule(7, "allow", "icmp", 4, localAddress="10.1.0.11/32")],
        },
    }  # fmt: skip
    members = {
        "blue/front": ["clients"], "blue/plain": ["clients"], "blue/back": ["web-sg"],
        "red/back": ["web-sg"],
    }  # fmt: skip
    write(trial.lab.box, rows_of_groups(groups, members))
    trial.lab.sync()
    for shift in range(3):
        tried = probes(shift)
        wanted = [
            groups_allow(groups, members,
                         (end(one.source, one.version), end(one.target, one.version)),
                         one.protocol, one.port)
            for one in tried
        ]  # fmt: skip
        assert set(wanted) == {True, False}, "the case asks for nothing"
        assert differences(trial, tried, wanted) == []


ISOLATED = policy("red", "p", podSelector={}, policyTypes=["Ingress", "Egress"])


def test_lax_drops_what_has_ports_and_nothing_else(trial: Trial) -> None:
    tiers = Tiers(World([ISOLATED], SPACES), [])
    write(trial.lab.box, rows_of_tiers(tiers, NetSettings(lax=True)))
    trial.lab.sync()
    tried = probes(0)
    standard = wanted_of(tiers, tried)
    wanted = [was or one.protocol == "ICMP" for was, one in zip(standard, tried, strict=True)]
    assert wanted != standard
    assert differences(trial, tried, wanted) == []


def test_a_node_and_its_own_pods_reach_each_other(trial: Trial) -> None:
    """One of the cast stands for the node n1, whose pod front.red is; back.red is on n0."""
    plain, own, other = 2, 3, 4
    node = NetNode("n1", PODS[plain].addresses)
    rows = rows_of_tiers(Tiers(World([ISOLATED], SPACES), []), None, (NODES_THERE[0], node))
    write(trial.lab.box, rows)
    trial.lab.sync()
    ways = ((plain, own), (own, plain), (plain, other), (other, plain))
    tried = [Probe(*way, version, protocol, port) for way in ways for version in (4, 6)
             for protocol, port in PROTOCOLS]  # fmt: skip
    assert differences(trial, tried, [own in (one.source, one.target) for one in tried]) == []


def test_an_isolated_pod_finds_its_neighbours(trial: Trial) -> None:
    """It asks for its router's address by neighbour discovery, and is answered."""
    write(trial.lab.box, rows_of_tiers(Tiers(World([ISOLATED], SPACES), [])))
    trial.lab.sync()
    for at in (3, 4):
        trial.lab.ask_router(STATIONS[at])  # raises if one is not answered


@pytest.mark.parametrize("stateless", [True, False])
def test_open_pods_stay_out_of_connection_tracking(trial: Trial, stateless: bool) -> None:
    """On the switch of a pod that is isolated: passes through the datapath are OVS's own count."""
    closed = policy("red", "p", podSelector=FRONT, ingress=[{"ports": [{"port": 80}]}])
    tiers = Tiers(World([closed], SPACES), [])
    write(trial.lab.box, rows_of_tiers(tiers, NetSettings(stateless=stateless)))
    trial.lab.sync()
    between = [Probe(2, 5, version, protocol, 80) for version in (4, 6)
               for protocol in ("TCP", "UDP", "ICMP")]  # fmt: skip
    assert trial.judged(between) == [(True, True)] * len(between)
    trial.lab.passes_from_here()
    assert trial.judged(between) == [(True, True)] * len(between)
    again = trial.lab.recirculated()
    # Both ends' zones for each packet and its answer, or nothing at all.
    assert again == (0 if stateless else 4 * len(between))


def test_every_packet_fares_as_a_private_subnet_says(trial: Trial) -> None:
    """Subnet one is private and allows one address of the other, in both directions."""
    subnet = Subnet("one", private=True, allow_subnets=("10.2.0.14/32", "fd00:2::e/128"))
    networks = tuple(ip_interface(text).network for text in GATEWAYS["one"])
    facts: dict[Any, dict[Any, Any]] = {
        SUBNETS: {"one": subnet},
        NETS: {"one": Net("one", "vpc", networks)},
    }
    write(trial.lab.box, whole(SUBNET_UNITS, facts).rows)
    trial.lab.sync()
    tried = probes(0)
    wanted = [
        STATIONS[one.source].switch == STATIONS[one.target].switch
        or "front.red" in (STATIONS[one.source].port, STATIONS[one.target].port)
        for one in tried
    ]
    assert set(wanted) == {True, False}
    assert differences(trial, tried, wanted) == []


def judge(trial: Trial, tiers: Tiers, shift: int) -> None:
    write(trial.lab.box, rows_of_tiers(tiers))
    trial.lab.sync()
    tried = probes(shift)
    wanted = wanted_of(tiers, tried)
    assert set(wanted) == {True, False}, "the case asks for nothing"
    assert differences(trial, tried, wanted) == []
