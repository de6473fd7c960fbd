"""The custom kinds that networks are made of: what is watched of them, and what is written."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from controller.kinds import addresses, attachments, subnet, underlay, vpc, workloads
from controller.kube.resources import Resource
from controller.network.view import Kind
from controller.translate.ovn import Problem

_STATUS = frozenset({"status"})
_WHOLE = frozenset({"status", "finalizers"})


class Reading(Protocol):
    """How a kind's objects are read (`controller.kinds.reading.Form`)."""

    def decode(self, obj: Any, /) -> Any:
        """The fact; raises KindError."""

    def warn(self, obj: Any, /) -> tuple[Problem, ...]:
        """What is wrong with an object that is read all the same."""


class Object(NamedTuple):
    """One of them, as `registry.Watched` wants it.

    Attributes:
        optional: the API may not know the resource at all; then there are none.
    """

    resource: Resource[Any]
    kind: Kind[Any]
    form: Reading
    writes: frozenset[str] = frozenset()
    optional: bool = False


OBJECTS: tuple[Object, ...] = (
    Object(vpc.RESOURCE, vpc.VPCS, vpc.VPC, _WHOLE),
    Object(subnet.RESOURCE, subnet.SUBNETS, subnet.SUBNET, _WHOLE),
    Object(addresses.POOL_RESOURCE, addresses.POOLS, addresses.POOL, _STATUS),
    Object(addresses.IP_RESOURCE, addresses.IPS, addresses.IP),
    Object(addresses.VIP_RESOURCE, addresses.VIPS, addresses.VIP, _WHOLE),
    Object(underlay.VLAN_RESOURCE, underlay.VLANS, underlay.VLAN, _WHOLE),
    Object(underlay.PROVIDER_RESOURCE, underlay.PROVIDERS, underlay.PROVIDER, _WHOLE),
    Object(attachments.RESOURCE, attachments.ATTACHMENTS, attachments.ATTACHMENT, optional=True),
    Object(workloads.SETS_RESOURCE, workloads.SETS, workloads.SET),
    Object(workloads.VMS_RESOURCE, workloads.MACHINES, workloads.MACHINE, optional=True),
    Object(workloads.VMIS_RESOURCE, workloads.INSTANCES, workloads.MACHINE, optional=True),
)
