"""Which addresses outlive their pods: those of StatefulSets' pods and of virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Hashable
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


def keeper_named(view: View, pod: str) -> Keeper | None:
    """What keeps the addresses of `<name>.<namespace>` now, whether there is such a pod or not."""
    name, _, space = pod.rpartition(".")
    for kind in (INSTANCES, MACHINES):
        if view.get(kind, Key(space, name)) is not None:
            return Keeper(Key(space, name), -1)
    base, _, number = name.rpartition("-")
    found = view.get(SETS, Key(space, base))
    if found is None or not number.isdecimal() or str(int(number)) != number:
        return None
    return Keeper(Key(space, base), int(number)) if found.has(int(number)) else None


def of_port(port: str, named: Callable[[str], T | None]) -> T | None:
    """Whose a port is: `<name>.<namespace>`, and perhaps a provider behind."""
    words = port.split(".")
    for count in range(2, len(words) + 1):
        if (found := named(".".join(words[:count]))) is not None:
            return found
    return None


def pod_of(port: str, keeper: Keeper) -> tuple[Key, str]:
    """The pod and the provider of a port that is kept without a pod."""
    name = keeper.key.name if keeper.ordinal < 0 else f"{keeper.key.name}-{keeper.ordinal}"
    provider = port[len(f"{name}.{keeper.key.namespace}") + 1 :]
    return Key(keeper.key.namespace, name), provider or "ovn"


class Kept:
    """What keeps which interfaces' addresses."""

    def __init__(self) -> None:
        self._keepers: dict[str, Keeper] = {}
        self._nics: dict[Hashable, set[str]] = {}

    def of(self, nic: str) -> Keeper | None:
        """What keeps an interface's address, if anything may."""
        return self._keepers.get(nic)

    def by(self, key: Hashable) -> list[str]:
        """The interfaces whose addresses an object keeps."""
        return sorted(self._nics.get(key, ()))

    def put(self, nic: str, keeper: Keeper) -> None:
        """Have it kept by this; a pod's owner is what its maker writes, and may be another."""
        self.drop(nic)
        self._keepers[nic] = keeper
        self._nics.setdefault(keeper.key, set()).add(nic)

    def drop(self, nic: str) -> None:
        """Have it kept by nothing."""
        keeper = self._keepers.pop(nic, None)
        if keeper is not None:
            self._nics[keeper.key].discard(nic)
            if not self._nics[keeper.key]:
                del self._nics[keeper.key]
