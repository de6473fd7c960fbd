"""The kinds that are served: their names, their scope, and what sets each apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tests.apistandin import schemas
from tests.apistandin.failure import Object

CRD_GROUP = "apiextensions.k8s.io"

Paths = Mapping[str, tuple[str, ...]]

NAME_FIELDS: Paths = {
    "metadata.name": ("metadata", "name"),
    "metadata.namespace": ("metadata", "namespace"),
}


def _paths(*names: str) -> Paths:
    return {name: tuple(name.split(".")) for name in names}


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of one version, as discovery tells it and as writes need to know it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    schema: Object = field(compare=False)
    status: bool = False
    """Whether there is a status subresource."""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    list_kind: str = ""
    selectable: Paths = field(default_factory=dict, compare=False)
    custom: bool = False
    unconditional: bool = True
    """Whether PUT without a resourceVersion is taken."""
    create_on_update: bool = False
    """Whether PUT makes what is not there. The stand-in answers 501 to it."""
    generation: bool = False
    """Whether metadata.generation counts changes of what is desired."""
    answers_object: bool = False
    """Whether DELETE answers with the object in place of a Status."""
    strict_names: str = "subdomain"
    """The rule for names: subdomain, label, or path (anything that fits a path)."""
    api_versions: tuple[str, ...] = ()
    """All versions in which the same objects are served."""
    storage_version: str = ""
    deleting: Callable[[Object], bool] | None = field(default=None, compare=False)
    """Whether DELETE of this object only begins its end (a pod on a node)."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> tuple[str, str]:
        """What its objects are stored under, whatever the version."""
        return self.group, self.plural

    @property
    def fields(self) -> Paths:
        return {**NAME_FIELDS, **self.selectable}

    def discovery(self) -> list[Object]:
        """Its entries in an APIResourceList."""
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        entry: Object = {
            "name": self.plural,
            "singularName": self.singular or self.kind.lower(),
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": verbs,
        }
        if self.short_names:
            entry["shortNames"] = list(self.short_names)
        if self.categories:
            entry["categories"] = list(self.categories)
        if not self.status:
            return [entry]
        below: Object = {
            "name": f"{self.plural}/status",
            "singularName": "",
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": ["get", "patch", "update"],
        }
        return [entry, below]


def _pod_lingers(pod: Object) -> bool:
    placed = bool(pod.get("spec", {}).get("nodeName"))
    return placed and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


_POD_FIELDS = _paths(
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
    "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName",
)  # fmt: skip
_EVENT_FIELDS = _paths(
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name",
    "involvedObject.uid", "involvedObject.apiVersion", "involvedObject.resourceVersion",
    "involvedObject.fieldPath", "reason", "reportingComponent", "type",
)  # fmt: skip

BUILT_IN: tuple[Kind, ...] = (
    Kind(
        "", "v1", "namespaces", "Namespace", namespaced=False, schema=schemas.NAMESPACE,
        status=True, short_names=("ns",), selectable=_paths("status.phase"), strict_names="label",
    ),
    Kind(
        "", "v1", "pods", "Pod", namespaced=True, schema=schemas.POD, status=True,
        short_names=("po",), categories=("all",), selectable=_POD_FIELDS, answers_object=True,
        generation=True, deleting=_pod_lingers,
    ),
    Kind(
        "", "v1", "nodes", "Node", namespaced=False, schema=schemas.NODE, status=True,
        short_names=("no",), selectable=_paths("spec.unschedulable"),
    ),
    Kind(
        "", "v1", "services", "Service", namespaced=True, schema=schemas.SERVICE, status=True,
        short_names=("svc",), categories=("all",), answers_object=True, create_on_update=True,
        selectable=_paths("spec.clusterIP", "spec.type"), strict_names="label",
    ),
    Kind("", "v1", "configmaps", "ConfigMap", namespaced=True, schema=schemas.CONFIG_MAP,
         short_names=("cm",)),
    Kind("", "v1", "secrets", "Secret", namespaced=True, schema=schemas.SECRET,
         selectable=_paths("type")),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True,
         schema=schemas.SERVICE_ACCOUNT, short_names=("sa",), answers_object=True),
    Kind("", "v1", "events", "Event", namespaced=True, schema=schemas.EVENT, short_names=("ev",),
         selectable=_EVENT_FIELDS, create_on_update=True),
    Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", namespaced=True,
         schema=schemas.ENDPOINT_SLICE, generation=True),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", namespaced=True,
         schema=schemas.NETWORK_POLICY, short_names=("netpol",), singular="networkpolicy",
         generation=True),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True, schema=schemas.LEASE,
         unconditional=False, create_on_update=True),
    *(
        Kind("apps", "v1", f"{name.lower()}s", name, namespaced=True, schema=schemas.WORKLOAD,
             status=True, generation=True, categories=("all",))
        for name in ("Deployment", "DaemonSet", "StatefulSet", "ReplicaSet")
    ),
    Kind(
        CRD_GROUP, "v1", "customresourcedefinitions", "CustomResourceDefinition",
        namespaced=False, schema=schemas.CRD, status=True, short_names=("crd", "crds"),
        generation=True, unconditional=False, categories=("api-extensions",),
    ),
)  # fmt: skip

REAL_ONLY_GROUPS = frozenset(
    {
        "admissionregistration.k8s.io", "apiregistration.k8s.io", "authentication.k8s.io",
        "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io", "events.k8s.io",
        "flowcontrol.apiserver.k8s.io", "internal.apiserver.k8s.io", "node.k8s.io", "policy",
        "rbac.authorization.k8s.io", "resource.k8s.io", "scheduling.k8s.io", "storage.k8s.io",
        "storagemigration.k8s.io",
    }
)  # fmt: skip
"""Groups that a real server has and the stand-in does not: 501, not 404."""

REAL_ONLY_CORE = frozenset(
    {
        "bindings", "componentstatuses", "endpoints", "limitranges", "persistentvolumeclaims",
        "persistentvolumes", "podtemplates", "replicationcontrollers", "resourcequotas",
    }
)  # fmt: skip


def storage_kind(kind: Kind) -> Kind:
    """The same kind in its storage version."""
    if not kind.storage_version or kind.storage_version == kind.version:
        return kind
    return replace(kind, version=kind.storage_version)
