"""The collections that can be asked for: their paths, and what their objects are read as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from controller.kube import structs
from controller.kube.structs import HasMeta, Meta

T = TypeVar("T", bound=HasMeta)


class Key(NamedTuple):
    """What names an object within its kind; `namespace` is empty for cluster-scoped ones."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(metadata: Meta) -> Key:
    """The key of an object."""
    return Key(metadata.namespace, metadata.name)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One resource of the API.

    Attributes:
        group: the API group; empty for the core.
        struct: what objects are decoded as; a partial struct with `metadata`.
        namespaced: whether objects live in namespaces.
        others: versions of the same shape, asked for in turn where `version` is not served.
    """

    group: str
    version: str
    plural: str
    kind: str
    struct: type[T]
    namespaced: bool = True
    others: tuple[str, ...] = ()

    def in_turn(self) -> Iterator[Resource[T]]:
        """This one, then the same in its other versions."""
        versions = (self.version, *self.others)
        for at, version in enumerate(versions):
            yield replace(self, version=version, others=versions[:at] + versions[at + 1 :])

    @property
    def api_version(self) -> str:
        """As objects have it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def collection(self, namespace: str = "") -> str:
        """The path of the collection, of one namespace or of all."""
        base = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        if namespace and self.namespaced:
            base += f"/namespaces/{namespace}"
        return f"{base}/{self.plural}"

    def path(self, key: Key, sub: str = "") -> str:
        """The path of one object or of a subresource of it."""
        base = f"{self.collection(key.namespace)}/{key.name}"
        return f"{base}/{sub}" if sub else base

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", structs.Namespace, namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", structs.Node, namespaced=False)
PODS = Resource("", "v1", "pods", "Pod", structs.Pod)
SERVICES = Resource("", "v1", "services", "Service", structs.Service)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", structs.ConfigMap)
EVENTS = Resource("", "v1", "events", "Event", structs.Bare)
ENDPOINT_SLICES = Resource(
    "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", structs.EndpointSlice
)
NETWORK_POLICIES = Resource(
    "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", structs.Custom
)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", structs.Lease)


def custom(
    group: str, version: str, plural: str, kind: str, *, namespaced: bool = False,
    others: tuple[str, ...] = (),
) -> Resource[structs.Custom]:  # fmt: skip
    """A custom kind whose specification is decoded later (structs.Custom)."""
    return Resource(group, version, plural, kind, structs.Custom, namespaced, others)
