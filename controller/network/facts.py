"""Facts that several units read: pods, namespaces, nodes, leases of addresses.

A fact holds what somebody uses and nothing that changes for other reasons (no resourceVersion, no
heartbeats), so that an update that means nothing to OVN is no change at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.kinds.subnet import is_logical
from controller.kube.resources import Key
from controller.network.view import Kind
from dataplane.model.addr import IPAddress, Mac, readable


@dataclass(frozen=True, slots=True)
class NetPod:
    """A pod, as the network sees it. Its annotations are those of `*.kubernetes.io` and `kube-ovn`.

    Attributes:
        owner: kind and name of what controls it; empty if nothing does.
        vm: the name of the KubeVirt VM that it runs, if it runs one: names its ports.
        named_ports: (protocol in upper case, name) to number.
        over: it has ended (Succeeded, Failed) and needs no network.
        created: the API's time as text, of pods that ask for an external address of their own.
    """

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    owner: tuple[str, str] = ("", "")
    vm: str = ""
    named_ports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    host_ips: tuple[str, ...] = ()
    over: bool = False
    ending: bool = False
    created: str = ""


@dataclass(frozen=True, slots=True)
class NetNamespace:
    """A namespace; `annotations` as a pod's."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetNode:
    """A node: its name is its chassis's. `addresses`: the internal ones, both families."""

    name: str
    addresses: tuple[IPAddress, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True


@dataclass(frozen=True, slots=True)
class NicLease:
    """What one interface of a workload was given; the key is its logical switch port's name.

    Attributes:
        pod: whose it is at the moment; a VM's or a StatefulSet's lease outlives its pod.
        provider: `ovn` for the primary interface, else `<nad>.<namespace>.ovn`.
        subnet: the Subnet's name, which is the logical switch's.
    """

    port: str
    pod: Key
    provider: str
    subnet: str
    addresses: tuple[IPAddress, ...]
    mac: Mac


def _namespace(key: Key, _: object) -> tuple[str, ...]:
    return (key.namespace,)


def _labels(_: object, fact: NetPod | NetNamespace | NetNode) -> tuple[tuple[str, str], ...]:
    return tuple(fact.labels.items())


def _label_keys(_: object, fact: NetPod | NetNamespace | NetNode) -> tuple[str, ...]:
    return tuple(fact.labels)


def _pods_labels(key: Key, fact: NetPod) -> tuple[tuple[str, str, str], ...]:
    return tuple((key.namespace, name, value) for name, value in fact.labels.items())


EIP_ANNOTATION, SNAT_ANNOTATION = "ovn.kubernetes.io/eip", "ovn.kubernetes.io/snat"
"""A pod's external address, both ways or for what it sends."""
VIP_ANNOTATION = "ovn.kubernetes.io/vip"
"""Names the Vip whose address a pod's first interface has."""


def _vips(_: Key, fact: NetPod) -> tuple[str, ...]:
    listed = fact.annotations.get("ovn.kubernetes.io/aaps", "")
    return tuple(name for part in listed.split(",") if (name := part.strip()))


def security_groups(pod: NetPod) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """By provider, the SecurityGroups that a pod names for that interface."""
    found = []
    for key, value in pod.annotations.items():
        provider, domain, _ = key.partition(".kubernetes.io/security_groups")
        names = tuple(name for part in value.split(",") if (name := part.strip()))
        if domain and names and is_logical(provider):
            found.append((provider, names))
    return tuple(sorted(found))


def _groups(_: Key, fact: NetPod) -> tuple[str, ...]:
    return tuple(name for _, names in security_groups(fact) for name in names)


def _translated(_: Key, fact: NetPod) -> tuple[bool, ...]:
    annotations = fact.annotations
    mine = annotations.get(EIP_ANNOTATION) or annotations.get(SNAT_ANNOTATION)
    return (True,) if mine and not (fact.host_network or fact.over) else ()


def _eips(_: Key, fact: NetPod) -> tuple[str, ...]:
    if not _translated(_, fact):
        return ()
    return tuple(map(str, readable([fact.annotations.get(EIP_ANNOTATION, "")])))


PODS: Kind[NetPod] = Kind(
    "pods",
    {
        "namespace": _namespace,
        "label": _pods_labels,
        "node": lambda _, pod: (pod.node,) if pod.node else (),
        "vm": lambda key, pod: (Key(key.namespace, pod.vm),) if pod.vm else (),
        "aaps": _vips,
        "vip": lambda _, pod: tuple(filter(None, (pod.annotations.get(VIP_ANNOTATION, ""),))),
        "security_group": _groups,
        "translated": _translated,
        "eip": _eips,
    },
)
"""Keys are `Key(namespace, name)`. `label` is found by (namespace, label, value); `aaps` and `vip`
by the name of a Vip that the pod may have beside its own address, or as its own; `security_group`
by the name of one that it names; `translated` by True: it has an external address of its own;
`eip` by that address as text."""

NAMESPACES: Kind[NetNamespace] = Kind("namespaces", {"label": _labels, "label_key": _label_keys})
"""Keys are names."""

NODES: Kind[NetNode] = Kind("nodes", {"label": _labels, "label_key": _label_keys})
"""Keys are names."""

LEASES: Kind[NicLease] = Kind(
    "leases",
    {"pod": lambda _, lease: (lease.pod,), "subnet": lambda _, lease: (lease.subnet,)},
)
"""Keys are names of logical switch ports."""
