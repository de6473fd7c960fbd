"""What outlives its pods: StatefulSets, and KubeVirt's machines. Their addresses stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.kube.resources import Resource
from controller.kube.structs import Meta, Read
from controller.network.view import Kind
from controller.translate.ovn import Problem

S = TypeVar("S")
T = TypeVar("T")


class Ordinals(Read, frozen=True):
    """Where the pods' numbers begin."""

    start: int | None = None


class SetSpec(Read, frozen=True):
    """apps/v1 StatefulSetSpec, of which the template is the most and is not kept."""

    replicas: int | None = None
    ordinals: Ordinals | None = None


class StatefulSet(Read, frozen=True):
    """apps/v1 StatefulSet."""

    metadata: Meta = Meta()
    spec: SetSpec = SetSpec()


class MachineStatus(Read, frozen=True):
    """Of a VirtualMachineInstance."""

    node_name: str | None = None


class VirtualMachine(Read, frozen=True):
    """kubevirt.io/v1 VirtualMachine and VirtualMachineInstance."""

    metadata: Meta = Meta()
    status: MachineStatus | None = None


SETS_RESOURCE = Resource("apps", "v1", "statefulsets", "StatefulSet", StatefulSet)
VMS_RESOURCE = Resource("kubevirt.io", "v1", "virtualmachines", "VirtualMachine", VirtualMachine)
VMIS_RESOURCE = Resource(
    "kubevirt.io", "v1", "virtualmachineinstances", "VirtualMachineInstance", VirtualMachine
)


@dataclass(frozen=True, slots=True)
class OrdinalSet:
    """A StatefulSet: its pods are numbered from `first` on."""

    first: int
    replicas: int

    def has(self, ordinal: int) -> bool:
        """Whether there is to be a pod of this number."""
        return self.first <= ordinal < self.first + self.replicas


@dataclass(frozen=True, slots=True)
class Machine:
    """A VirtualMachine or an instance of one. `node`: where the instance runs, if it does."""

    node: str = ""


@dataclass(frozen=True, slots=True)
class Known(Generic[S, T]):
    """How objects are read of which a few fields alone are decoded."""

    decode: Callable[[S], T]

    def warn(self, _: S) -> tuple[Problem, ...]:
        """Nothing: whose definition it is says what is wrong with it."""
        return ()


def _set(found: StatefulSet) -> OrdinalSet:
    spec = found.spec
    first = spec.ordinals.start if spec.ordinals is not None else None
    return OrdinalSet(first or 0, 1 if spec.replicas is None else spec.replicas)


def _machine(found: VirtualMachine) -> Machine:
    return Machine((found.status.node_name or "") if found.status is not None else "")


SET, MACHINE = Known(_set), Known(_machine)

SETS: Kind[OrdinalSet] = Kind("statefulsets")
"""Keys are `Key(namespace, name)`, as of the two below."""
MACHINES: Kind[Machine] = Kind("virtualmachines")
INSTANCES: Kind[Machine] = Kind("virtualmachineinstances")
