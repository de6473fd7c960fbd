"""A cluster in the API's stand-in: definitions of all kinds that are watched, and objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.kube.resources import Resource
from controller.network.registry import WATCHED
from tests.apistandin.server import StandIn
from tests.apistandin.steps import Options

BUILT_IN = ("", "apps", "discovery.k8s.io", "networking.k8s.io", "coordination.k8s.io")


def customs() -> tuple[Resource[Any], ...]:
    """The custom resources that the controller watches."""
    found = {str(one.resource): one.resource for one in WATCHED}
    return tuple(one for one in found.values() if one.group not in BUILT_IN)


def definition(resource: Resource[Any]) -> dict[str, Any]:
    """A definition that takes everything: for tests of what is behind the API."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{resource.plural}.{resource.group}",
            # Kubernetes' own groups have to say so.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
            },
            "versions": [
                {
                    "name": resource.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": anything, "status": anything},
                        }
                    },
                }
            ],
        },
    }


def define(api: StandIn, resources: Iterable[Resource[Any]] | None = None) -> None:
    """Install definitions, of all custom kinds if none are named."""
    for resource in customs() if resources is None else resources:
        put(api, definition(resource))


def put(api: StandIn, obj: dict[str, Any]) -> None:
    """Create an object, or replace the one that is there."""
    group, _, version = obj["apiVersion"].rpartition("/")
    kind = next(
        one
        for one in api.cluster.kinds.values()
        if (one.group, one.version, one.kind) == (group, version, obj["kind"])
    )
    meta = obj["metadata"]
    space = meta.get("namespace", "default") if kind.namespaced else ""
    there = api.cluster.store.of(kind.key).get((space, meta["name"]))
    if there is None:
        api.cluster.create(kind, space, obj, Options("test"))
    else:
        same = {name: there["metadata"][name] for name in ("uid", "resourceVersion")}
        body = {**obj, "metadata": {**meta, **same}}
        api.cluster.replace(kind, space, meta["name"], body, "", Options("test"))


def drop(api: StandIn, resource: str, name: str, namespace: str = "") -> None:
    """Delete an object."""
    group, plural = (resource.partition(".")[2], resource.partition(".")[0])
    kind = next(
        one for one in api.cluster.kinds.values() if (one.group, one.plural) == (group, plural)
    )
    api.cluster.delete(kind, namespace, name, {"gracePeriodSeconds": 0}, Options("test"))


def look(api: StandIn, resource: str, name: str, namespace: str = "") -> dict[str, Any] | None:
    """An object as it is."""
    group, plural = (resource.partition(".")[2], resource.partition(".")[0])
    found: dict[str, Any] | None = api.cluster.store.of((group, plural)).get((namespace, name))
    return found


def node(name: str, address: str) -> dict[str, Any]:
    """A node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def namespace(name: str, **annotations: str) -> dict[str, Any]:
    """A namespace."""
    meta = {"name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def pod(namespace: str, name: str, on: str = "n1", **annotations: str) -> dict[str, Any]:
    """A pod on a node."""
    meta = {
        "namespace": namespace,
        "name": name,
        "labels": {"app": "web"},
        "annotations": annotations,
    }
    container = {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": on, "containers": [container]},
    }


def subnet(name: str, cidr: str, *namespaces: str, **more: Any) -> dict[str, Any]:
    """A Subnet."""
    spec = {"protocol": "IPv4", "cidrBlock": cidr, "namespaces": list(namespaces), **more}
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "Subnet",
        "metadata": {"name": name},
        "spec": spec,
    }
