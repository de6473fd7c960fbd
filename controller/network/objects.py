"""The custom kinds that networks are made of: what is watched of them, and what is written."""

from __future__ import annotations

from typing import Any, NamedTuple

from controller.kinds import addresses, attachments, subnet, underlay, vpc, workloads
from controller.kinds.reading import Form
from controller.kube.resources import Resource
from controller.network.view import Kind

_STATUS = frozenset({"status"})
_WHOLE = frozenset({"status", "finalizers"})


class Object(NamedTuple):
    """One of them, as `registry.Watched` wants it.

    Attributes:
        optional: the API may not know the resource at all; then there are none.
    """

    resource: Resource[Any]
    kind: Kind[Any]
    form: Form[Any]
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
