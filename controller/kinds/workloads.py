"""What outlives its pods: StatefulSets, and KubeVirt's machines. Their addresses stay."""

from __future__ import annotations

from dataclasses import dataclass

from controller.kinds.reading import Form, Reading
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind

SETS_RESOURCE = custom("apps", "v1", "statefulsets", "StatefulSet", namespaced=True)
VMS_RESOURCE = custom("kubevirt.io", "v1", "virtualmachines", "VirtualMachine", namespaced=True)
VMIS_RESOURCE = custom(
    "kubevirt.io", "v1", "virtualmachineinstances", "VirtualMachineInstance", namespaced=True
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


def _set(_: Meta, spec: Reading, __: Reading) -> OrdinalSet:
    return OrdinalSet(spec.below("ordinals").number("start"), spec.number("replicas", 1))


def _machine(_: Meta, __: Reading, status: Reading) -> Machine:
    return Machine(status.text("nodeName"))


SET = Form("StatefulSet", _set, whole=False)
MACHINE = Form("VirtualMachine", _machine, whole=False)

SETS: Kind[OrdinalSet] = Kind("statefulsets")
"""Keys are `Key(namespace, name)`, as of the two below."""
MACHINES: Kind[Machine] = Kind("virtualmachines")
INSTANCES: Kind[Machine] = Kind("virtualmachineinstances")
