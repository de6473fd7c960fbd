"""Network policies by real packets: several hundred, each judged by the policies' texts.

The rows are those of the controller's units, the packets go through northd's flows in a userspace
datapath with its own connection tracking, and what ought to happen is said by an evaluation of the
objects that shares no code with the controller (tests/policies/evaluate.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from controller.network.facts import NODES, NetNode
from controller.network.policies import UNITS
from controller.network.policynodes import UNITS as NODE_UNITS
from controller.policy.parse import network_policy
from tests.labs.factview import whole
from tests.policies.evaluate import World, allowed
from tests.policies.facts import facts_of
from tests.policies.packets import (
    NAMESPACES,
    PODS,
    SPACES,
    STATIONS,
    Probe,
    Trial,
    end,
    running,
    write,
)

BACK = {"matchLabels": {"app": "back"}}
FRONT = {"matchLabels": {"app": "front"}}
TEAM_TWO = {"matchLabels": {"team": "two"}}


def policy(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


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
                             {"key": "app", "operator": "NotIn", "values": ["back"]}]}},
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
PROTOCOLS = (("TCP", 80), ("TCP", 8080), ("UDP", 53), ("SCTP", 80), ("ICMP", 0), ("TCP", 8081))


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with running() as found:
        yield found


def probes(shift: int) -> list[Probe]:
    """Every pair in both families; which protocols a pair is tried with turns with the case."""
    found = []
    for at, (source, target) in enumerate(permutations(range(len(STATIONS)), 2)):
        for version in (4, 6):
            for more in (0, 3):
                protocol, port = PROTOCOLS[(at + shift + more + version // 6) % len(PROTOCOLS)]
                found.append(Probe(source, target, version, protocol, port))
    return found


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_packet_fares_as_the_policies_say(trial: Trial, name: str) -> None:
    objects = CLUSTERS[name]
    facts = facts_of(map(network_policy, objects), PODS, NAMESPACES)
    facts[NODES] = {"n0": NetNode("n0"), "n1": NetNode("n1")}
    said = whole((*UNITS, *NODE_UNITS), facts)
    assert said.disputed == set()
    write(trial.lab.box, said.rows)
    trial.lab.sync()
    tried = probes(list(CLUSTERS).index(name))
    world = World(objects, SPACES)
    wanted = [
        allowed(world, end(one.source, one.version), end(one.target, one.version), one.protocol,
                one.port)
        for one in tried
    ]  # fmt: skip
    assert set(wanted) == {True, False}, "the case asks for nothing"
    # What is let through is answered, whatever the policies of the one that answers.
    expected = [(want, want) for want in wanted]
    found = trial.judged(tried)
    assert [case for case in zip(tried, found, expected, strict=True) if case[1] != case[2]] == []
