"""Which addresses outlive their pods: those of StatefulSets' pods and of virtual machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from controller.kinds.workloads import INSTANCES, MACHINES, SETS
from controller.kube.resources import Key
from controller.network.facts import NetPod
from controller.network.nics import ordinal_of
from controller.network.view import Kind, View

T = TypeVar("T")

KEEPERS: tuple[Kind[Any], ...] = (SETS, MACHINES, INSTANCES)


class Keeper(NamedTuple):
    """What keeps an interface's address. `ordinal` -1: it is a virtual machine."""

    key: Key
    ordinal: int


def keeper_of(pod: NetPod) -> Keeper | None:
    """What keeps this pod's addresses when it goes, if anything may."""
    if pod.vm:
        return Keeper(Key(pod.namespace, pod.vm), -1)
    kind, name = pod.owner
    ordinal = ordinal_of(pod.name)
    if kind == "StatefulSet" and ordinal is not None:
        return Keeper(Key(pod.namespace, name), ordinal)
    return None


def keeps(view: View, keeper: Keeper) -> bool:
    """Whether it still does."""
    if keeper.ordinal < 0:
        there = (view.get(MACHINES, keeper.key), view.get(INSTANCES, keeper.key))
        return any(one is not None for one in there)
    found = view.get(SETS, keeper.key)
    return found is not None and found.has(keeper.ordinal)


def keepers(view: View) -> dict[str, Keeper]:
    """Everything that is kept now, by the name of the first interface's port."""
    found: dict[str, Keeper] = {}
    for key in view.all(SETS):
        one = view.get(SETS, key)
        if one is not None:
            for ordinal in range(one.first, one.first + one.replicas):
                found[f"{key.name}-{ordinal}.{key.namespace}"] = Keeper(key, ordinal)
    for kind in (MACHINES, INSTANCES):
        for key in view.all(kind):
            found[f"{key.name}.{key.namespace}"] = Keeper(key, -1)
    return found


def of_port(port: str, named: Mapping[str, T]) -> T | None:
    """Whose a port is: `<name>.<namespace>`, and perhaps a provider behind."""
    words = port.split(".")
    for count in range(2, len(words) + 1):
        if (found := named.get(".".join(words[:count]))) is not None:
            return found
    return None
