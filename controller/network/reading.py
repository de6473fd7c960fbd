"""From the API's structs to facts: pods, namespaces, nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from controller.kube.structs import Container, Meta, Namespace, Node, Pod
from controller.network.facts import EIP_ANNOTATION, NetNamespace, NetNode, NetPod
from dataplane.model.addr import readable

DOMAINS = ("kubernetes.io", "kube-ovn", "millrace.dev", "kubevirt.io")
"""Annotations of these domains, and of those below them, are read."""
MULTUS_NETWORKS = ("k8s.v1.cni.cncf.io/networks", "v1.multus-cni.io/default-network")
"""And these; not network-status, which tells what became of it."""
VM_OWNER = "VirtualMachineInstance"
"""The kind that owns the pods that KubeVirt runs virtual machines in."""
OVER = ("Succeeded", "Failed")
"""Phases of pods whose containers will not run again."""
INTERNAL = "InternalIP"


def pod_fact(pod: Pod) -> NetPod:
    """A pod as the network sees it."""
    meta, status = pod.metadata, pod.status
    owner = next((one for one in meta.owner_references if one.controller), None)
    vm = next((one.name for one in meta.owner_references if one.kind == VM_OWNER), "")
    annotations = _annotations(meta)
    return NetPod(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        node=pod.spec.node_name,
        labels=meta.labels,
        annotations=annotations,
        host_network=pod.spec.host_network,
        owner=(owner.kind, owner.name) if owner else ("", ""),
        vm=vm,
        named_ports=_named_ports(pod),
        host_ips=tuple(one.ip for one in status.host_ips if one.ip) or _one(status.host_ip),
        over=status.phase in OVER,
        ending=meta.deletion_timestamp is not None,
        created=(meta.creation_timestamp or "") if annotations.get(EIP_ANNOTATION) else "",
    )


def namespace_fact(namespace: Namespace) -> NetNamespace:
    """A namespace as the network sees it."""
    meta = namespace.metadata
    return NetNamespace(meta.name, meta.labels, _annotations(meta))


def node_fact(node: Node) -> NetNode:
    """A node as the network sees it."""
    meta = node.metadata
    addresses = (one.address for one in node.status.addresses if one.type == INTERNAL)
    ready = all(one.status == "True" for one in node.status.conditions if one.type == "Ready")
    return NetNode(meta.name, readable(addresses), meta.labels, _annotations(meta), ready)


def _one(address: str) -> tuple[str, ...]:
    return (address,) if address else ()


def _lasting(pod: Pod) -> Iterator[Container]:
    """What runs as long as the pod does, in the API server's order."""
    yield from pod.spec.containers
    yield from (one for one in pod.spec.init_containers if one.restart_policy == "Always")


def _named_ports(pod: Pod) -> Mapping[tuple[str, str], int]:
    return _by_name(
        tuple(
            ((port.protocol.upper(), port.name), port.container_port)
            for container in _lasting(pod)
            for port in container.ports
            if port.name
        )
    )


@lru_cache(maxsize=4096)
def _by_name(ports: tuple[tuple[tuple[str, str], int], ...]) -> Mapping[tuple[str, str], int]:
    """One mapping for all pods that name the same: there are thousands of each.

    Of two ports of one name the first counts, as for the API server's own endpoints.
    """
    return dict(reversed(ports))


def _annotations(meta: Meta) -> Mapping[str, str]:
    if not meta.annotations:
        return meta.annotations
    read = {key: value for key, value in meta.annotations.items() if _is_read(key)}
    # The object's own, if it has no others: most pods'.
    return meta.annotations if len(read) == len(meta.annotations) else read


@lru_cache(maxsize=4096)
def _is_read(key: str) -> bool:
    domain = key.partition("/")[0]
    return key in MULTUS_NETWORKS or any(
        domain == one or domain.endswith("." + one) for one in DOMAINS
    )
