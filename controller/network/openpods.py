"""Interfaces that may be kept out of connection tracking, because every packet passes anyway. Pure.

OVN sends every packet of a switch through connection tracking as soon as one ACL there is
allow-related, whoever it is about: three passes through the datapath instead of one, also for
workloads that no policy is about. An allow-stateless ACL takes an interface out of that.

What is claimed of an interface p of the class below: for every packet to or from p that is valid,
the stateful pipeline and the stateless one come to the same verdict at p. The proof:

1. Nothing at p drops a valid packet in the stateful pipeline. An ACL drops only if its group has p,
   or it is its switch's own. Ours that drop are of groups of (a) NetworkPolicies that select the
   pod, (b) administrators' policies with the pod as subject, (c) SecurityGroups that p names; and
   of switches with private or acls. (b), (c) and the switches are not in the class. Of (a), only
   policies are let in that in each direction that they isolate have a rule without peers and
   without ports: its ACL matches every IP packet of the group, above the one that drops. So a
   packet that begins a connection is allowed, and OVN allows the others by its state. What is left
   is what connection tracking calls invalid, and says the claim's "valid".
2. Nothing at p drops a packet in the stateless pipeline: the allow-stateless ACL matches every IP
   packet to and from p, at the priority of what policies allow, so above everything that (a) has.
3. Connection tracking changes no packet at p: it would only for load balancers of the switch, and
   a switch of the class has none. (Those of routers have the router's own zone.)
4. The other end of p's connections is judged in its own zone by its own ACLs, which see both
   directions of it as before. So no verdict anywhere else changes.

A rule with peers but without ports is not enough, even if the other direction is not isolated: an
ICMP error of a router on the way is let in by the state of the connection that it is about, and has
nothing but that state in its favour.

When a policy begins to isolate a pod whose connections were not tracked, those go on if the new
policy allows their beginning, with the next packet from the end that began them. Kubernetes leaves
it open what becomes of connections that are there when a policy changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from controller.kinds.subnet import SUBNETS
from controller.kube.resources import Key
from controller.network.adminpolicies import touched
from controller.network.facts import LEASES, PODS, NetPod, security_groups
from controller.network.members import ENDS, LABELS
from controller.network.nets import NETS
from controller.network.policies import NETWORK_POLICIES
from controller.network.rows import RowKey
from controller.network.settings import settings
from controller.network.view import Derived, View
from controller.network.vpc import GROUPED
from controller.policy.model import Direction, NetworkPolicy, Rule, Selector


def is_open(policy: NetworkPolicy) -> bool:
    """Whether everything passes what the policy selects, in each direction that it is about."""
    rules = (policy.rules(direction) for direction in Direction)
    return all(found is None or Rule() in found for found in rules)


def _closing(view: View, namespace: str) -> tuple[Selector, ...]:
    found = (view.get(NETWORK_POLICIES, key) for key in view.by(*_IN, namespace))
    closing = {one.pods for one in found if one is not None and not is_open(one)}
    return tuple(sorted(closing, key=repr))


_IN = (NETWORK_POLICIES, "namespace")
CLOSING: Derived[tuple[Selector, ...]] = Derived("closed-by-policies", _closing)
"""Whom the policies of a namespace close."""


def _is_open(view: View, pod: Key, fact: NetPod, labels: Mapping[str, str]) -> bool:
    """Whether all policies together let everything to and from a pod."""
    if security_groups(fact) or touched(view, pod):
        return False
    return not any(one.matches(labels) for one in view.ask(CLOSING, pod.namespace))


def _plain(view: View, name: str) -> bool:
    subnet, net = view.get(SUBNETS, name), view.get(NETS, name)
    if subnet is None or net is None or subnet.private or subnet.acls:
        return False
    return subnet.balanced is False or not view.ask(GROUPED, net.vpc)


PLAIN: Derived[bool] = Derived("plain-switch", _plain)
"""Whether a subnet's switch has neither ACLs of its own nor load balancers."""


class Tracking(NamedTuple):
    """A pod's interfaces that are closed to anything, and those that need no tracking."""

    closed: tuple[RowKey, ...] = ()
    untracked: tuple[RowKey, ...] = ()


def _tracking(view: View, pod: Key) -> Tracking:
    labels, fact = view.ask(LABELS, pod), view.get(PODS, pod)
    if labels is None or fact is None:
        return Tracking()
    ports = tuple(RowKey("Logical_Switch_Port", port) for port, _ in view.ask(ENDS, pod).ports)
    if not _is_open(view, pod, fact, labels):
        return Tracking(closed=ports)
    if not settings(view).stateless:
        return Tracking()
    leases = ((port, view.get(LEASES, port.name)) for port in ports)
    return Tracking(
        untracked=tuple(
            port for port, lease in leases if lease is not None and view.ask(PLAIN, lease.subnet)
        )
    )


TRACKING: Derived[Tracking] = Derived("pod-tracking", _tracking)
"""One fact for both, so that who is about a node's pods asks once for each."""
