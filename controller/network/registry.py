"""All that is watched, and all units. Whoever brings a kind adds a line.

The watch list is what the controller lists and watches, and what deploy/kubernetes/controller.yaml
grants; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from controller.kinds import externalgw, securitygroup, switchlbrule
from controller.kinds import nat as nat_kinds
from controller.kinds import vpc as vpc_kind
from controller.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, Key, Resource
from controller.kube.resources import NAMESPACES as NAMESPACE_OBJECTS
from controller.kube.resources import NODES as NODE_OBJECTS
from controller.kube.resources import PODS as POD_OBJECTS
from controller.kube.resources import SERVICES as SERVICE_OBJECTS
from controller.network.adminpolicies import FORMS as ADMIN_FORMS
from controller.network.adminpolicies import UNITS as ADMIN_UNITS
from controller.network.external import UNITS as EXTERNAL_UNITS
from controller.network.externalgw import UNITS as EXTERNAL_GATEWAY_UNITS
from controller.network.facts import NAMESPACES, NODES, PODS
from controller.network.gateways import UNITS as GATEWAY_UNITS
from controller.network.meeting import UNITS as MEETING_UNITS
from controller.network.nat import UNITS as NAT_UNITS
from controller.network.nodes import UNITS as NODE_UNITS
from controller.network.northgateway import UNITS as NORTH_UNITS
from controller.network.objects import OBJECTS
from controller.network.outward import UNITS as OUTWARD_UNITS
from controller.network.podnat import UNITS as POD_NAT_UNITS
from controller.network.policies import (
    NETWORK_POLICIES,
    NETWORK_POLICY_OBJECTS,
    policy_fact,
    policy_problems,
)
from controller.network.policies import UNITS as POLICY_UNITS
from controller.network.policynodes import UNITS as POLICY_NODE_UNITS
from controller.network.ports import UNITS as PORT_UNITS
from controller.network.reading import namespace_fact, node_fact, pod_fact
from controller.network.reserved import UNITS as RESERVED_UNITS
from controller.network.security_groups import UNITS as SECURITY_GROUP_UNITS
from controller.network.servicefacts import SERVICES, SLICES, service_fact, slice_fact
from controller.network.services import UNITS as SERVICE_UNITS
from controller.network.subnet import UNITS as SUBNET_UNITS
from controller.network.subnet_acls import UNITS as SUBNET_ACL_UNITS
from controller.network.switch_lb import UNITS as SWITCH_LB_UNITS
from controller.network.underlay import UNITS as UNDERLAY_UNITS
from controller.network.unheeded import UNITS as UNHEEDED_UNITS
from controller.network.units import Unit
from controller.network.unsupported import UNITS as UNSERVED_UNITS
from controller.network.unsupported import UNSERVED
from controller.network.view import Kind
from controller.network.vpc import UNITS as VPC_UNITS
from controller.translate.ovn import Problem


def _nothing(_: Any) -> tuple[Problem, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Watched:
    """A resource of the API and the facts that are made of its objects.

    One resource may be listed with several kinds: it is watched once.

    Attributes:
        decode: from what the cache holds (a msgspec struct, `Custom` for custom kinds) to the
            fact; None: the object is of no interest. Pure; raises KindError for an object that
            cannot be understood: what was read of it last stays in force.
        warn: what is wrong with an object that is understood all the same, unknown fields for
            instance.
        writes: what of these objects is written: of "annotations", "status", "finalizers".
        optional: the API may not know the resource at all (another project's); then there are
            none of its objects, and nobody waits for a list of them.
        only: this one object alone is watched.
        inert: nothing in OVN follows from its objects, so nobody waits for leave to read them.
    """

    resource: Resource[Any]
    kind: Kind[Any]
    decode: Callable[[Any], Any]
    warn: Callable[[Any], tuple[Problem, ...]] = _nothing
    writes: frozenset[str] = frozenset()
    optional: bool = False
    only: Key | None = None
    inert: bool = False

    def fact_key(self, key: Key) -> Hashable:
        """The fact's key: (namespace, name), or the name alone of what has no namespace."""
        return key if self.resource.namespaced else key.name


WATCHED: tuple[Watched, ...] = (
    Watched(POD_OBJECTS, PODS, pod_fact, writes=frozenset({"annotations"})),
    Watched(NAMESPACE_OBJECTS, NAMESPACES, namespace_fact, writes=frozenset({"annotations"})),
    Watched(NODE_OBJECTS, NODES, node_fact, writes=frozenset({"annotations"})),
    *(
        Watched(one.resource, one.kind, one.form.decode, one.form.warn, one.writes, one.optional)
        for one in OBJECTS
    ),
    *(
        Watched(one.resource, one.kind, one.decode, writes=frozenset({"status"}), inert=True)
        for one in UNSERVED
    ),
    Watched(SERVICE_OBJECTS, SERVICES, service_fact, writes=frozenset({"status"})),
    Watched(ENDPOINT_SLICES, SLICES, slice_fact),
    Watched(NETWORK_POLICY_OBJECTS, NETWORK_POLICIES, policy_fact, policy_problems),
    *(
        Watched(resource, kind, form.decode, form.warn, frozenset({"status"}), optional=True)
        for resource, kind, form in ADMIN_FORMS
    ),
    Watched(
        securitygroup.RESOURCE,
        securitygroup.SECURITY_GROUPS,
        securitygroup.SECURITY_GROUP.decode,
        securitygroup.SECURITY_GROUP.warn,
        frozenset({"status"}),
    ),
    Watched(
        vpc_kind.RESOURCE,
        nat_kinds.VPC_PORTS,
        nat_kinds.vpc_ports,
        writes=frozenset({"annotations", "status"}),
    ),
    Watched(POD_OBJECTS, switchlbrule.READY, switchlbrule.readiness),
    Watched(
        CONFIG_MAPS,
        externalgw.EXTERNAL_GATEWAYS,
        externalgw.decode,
        externalgw.warn,
        only=externalgw.PLACE,
    ),
    *(
        Watched(resource, kind, form.decode, form.warn, frozenset({"status"}))
        for resource, kind, form in (
            *nat_kinds.WATCHED,
            (switchlbrule.RESOURCE, switchlbrule.RULES, switchlbrule.RULE),
        )
    ),
)

UNITS: tuple[Unit, ...] = (
    *VPC_UNITS,
    *SUBNET_UNITS,
    *UNDERLAY_UNITS,
    *PORT_UNITS,
    *NORTH_UNITS,
    *NODE_UNITS,
    *UNSERVED_UNITS,
    *SERVICE_UNITS,
    *POLICY_UNITS,
    *POLICY_NODE_UNITS,
    *ADMIN_UNITS,
    *SECURITY_GROUP_UNITS,
    *SUBNET_ACL_UNITS,
    *EXTERNAL_GATEWAY_UNITS,
    *EXTERNAL_UNITS,
    *RESERVED_UNITS,
    *NAT_UNITS,
    *POD_NAT_UNITS,
    *GATEWAY_UNITS,
    *OUTWARD_UNITS,
    *MEETING_UNITS,
    *SWITCH_LB_UNITS,
    *UNHEEDED_UNITS,
)
