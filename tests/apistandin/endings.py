"""What two controllers of a cluster do about ends: of namespaces, and of definitions.

Both empty what ends, and take it away once nothing is left in it: objects that others hold by
finalizers hold it, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.apistandin.failure import Object
from tests.apistandin.kinds import CRD_GROUP, Kind
from tests.apistandin.steps import Options

if TYPE_CHECKING:
    from tests.apistandin.cluster import Cluster

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""The finalizer that a definition gets when it is deleted."""
DEFINITIONS = (CRD_GROUP, "customresourcedefinitions")
SPACES = ("", "namespaces")


def finish(cluster: Cluster) -> None:
    """Take away what has ended, and what ends with it."""
    for key, space in list(cluster.store.of(SPACES).items()):
        if not space["metadata"].get("deletionTimestamp") or key not in cluster.store.of(SPACES):
            continue
        kinds = {kind.key: kind for kind in cluster.kinds.values() if kind.namespaced}
        left = [_emptied(cluster, kind, key[1]) for kind in kinds.values()]
        if not any(left) and not space["metadata"].get("finalizers"):
            cluster.store.write(SPACES, key, None)
    for key, crd in list(cluster.store.of(DEFINITIONS).items()):
        if not crd["metadata"].get("deletionTimestamp"):
            continue
        kind = _kind_of(cluster, crd)
        others = set(crd["metadata"].get("finalizers") or ()) - {CLEANUP}
        if key in cluster.store.of(DEFINITIONS) and not (kind and _emptied(cluster, kind)):
            if others:
                continue
            cluster.store.write(DEFINITIONS, key, None)
            cluster.read_kinds()


def ends(cluster: Cluster, kind: Kind) -> bool:
    """Whether a kind's definition is being taken away, so that none of it can be created."""
    name = f"{kind.plural}.{kind.group}"
    crd = cluster.store.of(DEFINITIONS).get(("", name)) if kind.custom else None
    return crd is not None and bool(crd["metadata"].get("deletionTimestamp"))


def _kind_of(cluster: Cluster, crd: Object) -> Kind | None:
    below = crd["spec"]["group"], crd["spec"]["names"]["plural"]
    return next((kind for kind in cluster.kinds.values() if kind.key == below), None)


def _emptied(cluster: Cluster, kind: Kind, namespace: str | None = None) -> bool:
    """Delete all objects of a kind, of one namespace or of all; whether any is left."""
    has = cluster.store.of(kind.key)
    for at, name in list(has):
        if namespace not in (None, at):
            continue
        obj = has.get((at, name))
        if obj and not obj["metadata"].get("deletionTimestamp"):
            cluster.delete(kind, at, name, {"gracePeriodSeconds": 0}, Options())
    return any(namespace in (None, at) for at, _ in has)
