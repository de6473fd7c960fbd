"""Facts of pods, namespaces and nodes: what is read, and what is left out."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec

from controller.kube.structs import Namespace, Node, Pod
from controller.network.reading import namespace_fact, node_fact, pod_fact

POD: dict[str, Any] = {
    "metadata": {
        "namespace": "shop",
        "name": "web-0",
        "uid": "u1",
        "resourceVersion": "7",
        "labels": {"app": "web"},
        "annotations": {
            "ovn.kubernetes.io/ip_address": "10.0.0.9",
            "net1.shop.kubernetes.io/logical_switch": "s",
            "kube-ovn/mac": "02:00:00:00:00:01",
            "k8s.v1.cni.cncf.io/networks": "net1",
            "k8s.v1.cni.cncf.io/network-status": "[]",
            "example.com/build": "17",
            "notkubernetes.io/x": "y",
        },
        "ownerReferences": [{"kind": "StatefulSet", "name": "web", "uid": "u", "controller": True}],
    },
    "spec": {
        "nodeName": "n1",
        "containers": [
            {"name": "a", "ports": [{"name": "http", "containerPort": 80}]},
            {"name": "b", "ports": [{"name": "http", "containerPort": 81}, {"containerPort": 9}]},
            {"name": "c", "ports": [{"name": "http", "containerPort": 82, "protocol": "UDP"}]},
        ],
    },
    "status": {"phase": "Running", "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}]},
}


def _pod(**changes: Any) -> Pod:
    merged = {name: {**part, **changes.get(name, {})} for name, part in POD.items()}
    return msgspec.convert(merged, Pod)


def test_a_pods_fact_has_what_the_network_uses() -> None:
    fact = pod_fact(_pod())
    assert fact.node == "n1" and fact.labels == {"app": "web"}
    assert set(fact.annotations) == {
        "ovn.kubernetes.io/ip_address",
        "net1.shop.kubernetes.io/logical_switch",
        "kube-ovn/mac",
        "k8s.v1.cni.cncf.io/networks",
    }
    assert fact.named_ports == {("TCP", "http"): 80, ("UDP", "http"): 82}
    assert fact.owner == ("StatefulSet", "web")
    assert fact.host_ips == ("192.0.2.1",)
    assert not fact.over and not fact.ending and not fact.host_network


def test_a_sidecars_ports_have_names_and_those_of_what_runs_before_have_none() -> None:
    sidecar = {"name": "s", "restartPolicy": "Always", "ports": [
        {"name": "metrics", "containerPort": 9100}, {"name": "http", "containerPort": 8080},
    ]}  # fmt: skip
    before = {"name": "i", "ports": [{"name": "setup", "containerPort": 7}]}
    fact = pod_fact(_pod(spec={"initContainers": [before, sidecar]}))
    assert fact.named_ports == {("TCP", "http"): 80, ("UDP", "http"): 82, ("TCP", "metrics"): 9100}


def test_what_means_nothing_to_the_network_makes_no_other_fact() -> None:
    before = pod_fact(_pod())
    meta = {**POD["metadata"]}
    meta["resourceVersion"] = "8"
    meta["annotations"] = {**meta["annotations"], "example.com/build": "18"}
    assert pod_fact(msgspec.convert({**POD, "metadata": meta}, Pod)) == before


def test_a_virtual_machines_pod_is_known_by_its_owner() -> None:
    owner = {"kind": "VirtualMachineInstance", "name": "db", "uid": "v", "controller": True}
    fact = pod_fact(_pod(metadata={"ownerReferences": [owner]}))
    assert fact.vm == "db"


def test_ended_and_ending_pods_are_told_apart() -> None:
    assert pod_fact(_pod(status={"phase": "Succeeded"})).over
    ending = pod_fact(_pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert ending.ending and not ending.over


def test_a_node_has_its_internal_addresses_of_both_families() -> None:
    addresses = [
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "InternalIP", "address": "2001:db8::1"},
        {"type": "InternalIP", "address": "nonsense"},
        {"type": "ExternalIP", "address": "203.0.113.1"},
        {"type": "Hostname", "address": "n1"},
    ]
    conditions = [
        {"type": "Ready", "status": "Unknown"},
        {"type": "DiskPressure", "status": "False"},
    ]
    node = {
        "metadata": {"name": "n1"},
        "status": {"addresses": addresses, "conditions": conditions},
    }
    fact = node_fact(msgspec.convert(node, Node))
    assert fact.addresses == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert not fact.ready


def test_a_namespace_has_labels_and_annotations() -> None:
    text = {"metadata": {"name": "shop", "labels": {"a": "b"}, "annotations": {"x.io/y": "z"}}}
    fact = namespace_fact(msgspec.convert(text, Namespace))
    assert (fact.name, fact.labels, fact.annotations) == ("shop", {"a": "b"}, {})
