"""Annotations of Kube-OVN's that are known and have no effect here, or cannot be read: told. Pure.

Those of which other units say something themselves are not here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

from controller.ipam.want import PRIMARY
from controller.kinds.subnet import is_logical
from controller.kinds.vpc import VPCS
from controller.kube.resources import NODES as NODE_OBJECTS
from controller.kube.resources import PODS as POD_OBJECTS
from controller.kube.resources import Key
from controller.network.facts import NODES, PODS
from controller.network.servicefacts import SERVICES, VOID, VPC_ANNOTATION
from controller.network.settings import DEFAULT_VPC
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import View
from controller.translate.ovn import Problem
from dataplane.model.addr import readable

_DOMAIN = ".kubernetes.io/"
_OF_PODS = {
    "bgp": "announce addresses by a routing daemon of your own (docs/services.md)",
    "priority": "annotate ingress_rate and egress_rate instead",
}
_OF_NODES = {
    "tunnel_interface": "the node's own file says which address its tunnels have",
    "node_networks": "the node's own file says which address its tunnels have",
}
_FLAGS = frozenset({"port_security", "mirror", "layer2_forward"})


def of_pod(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a pod's annotations, and what to do."""
    for key, value in sorted(annotations.items()):
        provider, domain, name = key.partition(_DOMAIN)
        if not domain or not (provider == PRIMARY or is_logical(provider)):
            continue
        if name in _OF_PODS and value not in ("", "false"):
            yield f"{key} has no effect here", _OF_PODS[name]
        if name in _FLAGS and value.strip().lower() not in ("", "true", "false"):
            yield f"{key} is {value!r}, which counts as false", "write true or false"
        if name == "port_vips":
            words = [word.strip() for word in value.split(",") if word.strip()]
            for word in (one for one in words if not readable((one,))):
                yield f"{key}: {word!r} is no address: void", "write addresses, with commas"


def _problems(who: str, found: Iterator[tuple[str, str]]) -> tuple[Problem, ...]:
    return tuple(Problem(who, cause, step) for cause, step in found)


def _pod(view: View, key: Hashable) -> Said:
    assert isinstance(key, Key)
    pod = view.get(PODS, key)
    if pod is None:
        return Said()
    ref = ObjectRef(str(POD_OBJECTS), pod.namespace, pod.name)
    found = _problems(f"pod {pod.namespace}/{pod.name}", of_pod(pod.annotations))
    return Said(problems={ref: found} if found else {})


def _of_node(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, step in _OF_NODES.items():
        key = f"{PRIMARY}{_DOMAIN}{name}"
        if annotations.get(key):
            yield f"{key} has no effect here", step


def _node(view: View, key: Hashable) -> Said:
    node = view.get(NODES, key)
    if node is None:
        return Said()
    found = _problems(f"node {node.name}", _of_node(node.annotations))
    return Said(problems={ObjectRef(str(NODE_OBJECTS), "", node.name): found} if found else {})


def _service(view: View, key: Hashable) -> Said:
    service = view.get(SERVICES, key)
    if service is None:
        return Said()

    def wrong() -> Iterator[tuple[str, str]]:
        for name, step in VOID.items():
            if service.annotations.get(name) not in (None, "", "false"):
                yield f"{name} has no effect here", step
        if service.vpc != DEFAULT_VPC and view.get(VPCS, service.vpc) is None:
            yield (
                f"{VPC_ANNOTATION}: there is no Vpc {service.vpc!r} that can be read",
                "make it, or correct the name",
            )

    found = _problems(f"service {service.namespace}/{service.name}", wrong())
    ref = ObjectRef("services", service.namespace, service.name)
    return Said(problems={ref: found} if found else {})


UNITS: tuple[Unit, ...] = (
    Unit("pods' annotations", PODS, _pod, lambda pod: any(of_pod(pod.annotations))),
    Unit("nodes' annotations", NODES, _node, lambda node: any(_of_node(node.annotations))),
    Unit("services' annotations", SERVICES, _service, lambda one: bool(one.annotations)),
)
