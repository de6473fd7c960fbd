"""Compiled network policies in a real OVN: northd's logical flows, asked packet by packet.

`ovn-trace` follows a packet through the southbound database's logical flows, so what is judged
here is the spelling of matches, groups and sets, and how OVN's stages order them. What the rules
ought to be is judged by an evaluation of the objects that shares no code
(tests/policies/evaluate.py).
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from itertools import permutations
from typing import Any

import pytest

from controller.policy.parse import network_policy
from dataplane.model.addr import Protocol
from tests.labs.ovnsandbox import OvnSandbox, run
from tests.policies.evaluate import End, World, allowed
from tests.policies.whole import Cluster, Namespace, Pod, PolicyRows, compile_policies

SPACES = {"blue": {"team": "one"}, "red": {"team": "two"}}
WEB = {("TCP", "web"): 8080}
PODS = (
    End("10.1.0.21", "blue", "front", {"app": "front"}),
    End("10.1.0.22", "blue", "back", {"app": "back"}, WEB),
    End("10.1.0.23", "red", "back", {"app": "back"}, {("TCP", "web"): 8081}),
    End("10.1.0.24", "red", "other", {}),
)
PROBES = (("TCP", 80), ("TCP", 85), ("TCP", 8080), ("TCP", 8081), ("UDP", 53), ("SCTP", 80))


def policy(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


BACK = {"matchLabels": {"app": "back"}}
FRONT = {"matchLabels": {"app": "front"}}
CLUSTERS = {
    "ingress by pods and ports": [
        policy(
            "p", "blue", podSelector=BACK,
            ingress=[{"from": [{"podSelector": FRONT}], "ports": [{"port": 80}, {"port": "web"}]}],
        ),
    ],
    "nothing in and nothing out": [
        policy("p", "blue", podSelector={}, policyTypes=["Ingress", "Egress"]),
    ],
    "by namespaces, a range of ports, and blocks": [
        policy(
            "p", "red", podSelector={},
            ingress=[
                {
                    "from": [
                        {
                            "namespaceSelector": {"matchLabels": {"team": "one"}},
                            "podSelector": FRONT,
                        },
                        {"ipBlock": {"cidr": "10.1.0.0/24", "except": ["10.1.0.21/32"]}},
                    ],
                    "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP"}],
                }
            ],
        ),
    ],
    "egress to names of ports, and the union of two policies": [
        policy(
            "p", "blue", podSelector=FRONT, policyTypes=["Egress"],
            egress=[{"to": [{"namespaceSelector": {}}], "ports": [{"port": "web"}]}],
        ),
        policy(
            "q", "blue", podSelector=FRONT, policyTypes=["Egress"],
            egress=[{"to": [{"ipBlock": {"cidr": "10.1.0.24/32"}}]}],
        ),
    ],
    "SCTP and everybody": [
        policy("p", "red", podSelector={}, ingress=[{"ports": [{"protocol": "SCTP", "port": 80}]}]),
    ],
}  # fmt: skip


def port_of(end: End) -> str:
    return f"{end.name}.{end.namespace}"


def mac_of(end: End) -> str:
    return f"0a:00:00:00:01:{end.address.rpartition('.')[2]}"


def compiled(objects: list[dict[str, Any]]) -> PolicyRows:
    pods = tuple(
        Pod(
            end.namespace, end.name, port_of(end), (ip_address(end.address),), end.labels,
            {(Protocol[p], name): number for (p, name), number in end.named.items()},
        )
        for end in PODS
    )  # fmt: skip
    spaces = tuple(Namespace(name, labels) for name, labels in SPACES.items())
    return compile_policies(Cluster(tuple(map(network_policy, objects)), pods, spaces))


def write(ovn: OvnSandbox, rows: PolicyRows) -> None:
    """One transaction, so that the database refuses all of it or nothing."""
    words: list[str] = []
    for name, ports in rows.port_groups.items():
        words += ["--", "pg-add", name, *sorted(ports)]
    for name, addresses in rows.address_sets.items():
        words += ["--", "create", "Address_Set", f"name={name}"]
        if addresses:
            words.append(f"addresses={json.dumps(sorted(addresses))}")
    for at, acl in enumerate(rows.acls.values()):
        words += ["--", f"--id=@acl{at}", "create", "ACL", f"direction={acl.direction}"]
        words += [f"priority={acl.priority}", f"action={acl.action}"]
        words += [f"match={json.dumps(str(acl.match))}"]
        words += [f"options:{key}={value}" for key, value in acl.options.items()]
        words += ["--", "add", "Port_Group", acl.match.group, "acls", f"@acl{at}"]
    ovn.nbctl(*words[1:])
    ovn.sync()


@pytest.fixture
def pods(ovn: OvnSandbox) -> OvnSandbox:
    for end in PODS:
        ovn.vm("sw0", port_of(end), mac_of(end), end.address)
        ovn.sync()
        ovn.bind(port_of(end), "n1")
    return ovn


def delivered(ovn: OvnSandbox, source: End, target: End, protocol: str, port: int) -> bool:
    """Whether a new connection's first packet comes out at its pod."""
    name = protocol.lower()
    packet = (
        f'inport == "{port_of(source)}" && eth.src == {mac_of(source)} &&'
        f" eth.dst == {mac_of(target)} && ip4.src == {source.address} &&"
        f" ip4.dst == {target.address} && ip.ttl == 64 && {name} && {name}.dst == {port}"
    )
    said = run(
        "ovn-trace", f"--db={ovn.sb}", "--minimal", "--ct=new", "--ct=new", "sw0", packet,
        env=ovn.environment,
    )  # fmt: skip
    return f'output("{port_of(target)}")' in said


@pytest.mark.parametrize("name", CLUSTERS)
def test_ovn_lets_through_what_the_objects_do(pods: OvnSandbox, name: str) -> None:
    objects = CLUSTERS[name]
    write(pods, compiled(objects))
    assert "syntax error" not in (pods.directory / "northd.log").read_text()
    world = World(objects, SPACES)
    wrong, verdicts = [], set()
    for source, target in permutations(PODS, 2):
        for protocol, port in PROBES:
            wanted = allowed(world, source, target, protocol, port)
            verdicts.add(wanted)
            if delivered(pods, source, target, protocol, port) != wanted:
                wrong.append((port_of(source), port_of(target), protocol, port, wanted))
    assert verdicts == {True, False}, "the case asks for nothing"
    assert wrong == []
