"""Interfaces that are kept out of connection tracking: nothing at them may need it.

The claim is in controller/network/openpods.py. Here its first step is tried over random clusters:
whatever packet comes to such an interface or leaves it, as the first of a connection that nobody
knows, the stateful ACLs let it through. So a verdict never hangs on the state.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kinds.securitygroup import SECURITY_GROUPS, SecurityGroup
from controller.kinds.subnet import SUBNETS, Subnet, SubnetAcl
from controller.kube.resources import Key
from controller.network.facts import NODES, PODS, NetNode
from controller.network.openpods import TRACKING
from controller.network.policynodes import UNITS
from controller.network.rows import RowKey
from controller.network.settings import SETTINGS, NetSettings
from controller.policy.compiler import name_of
from controller.policy.model import Direction
from controller.policy.parse import network_policy
from tests.labs.factview import FactView, whole
from tests.policies.acls import stage
from tests.policies.adminfacts import facts_of_admins
from tests.policies.admins import admins
from tests.policies.facts import Facts, facts_of
from tests.policies.unitrows import unit_rows
from tests.policies.whole import Namespace
from tests.property.test_policy_laws import OUTSIDE, PORTS, namespaces, pods, policies
from tests.property.test_policy_units_laws import Made, listed


def facts(objects: list[Any], others: list[Any], made: Made, spaces: Any) -> Facts:
    known = tuple(Namespace(name, labels) for name, labels in spaces.items())
    read = map(network_policy, others)
    found = {**facts_of(read, listed(made), known), **facts_of_admins(objects)}
    found[NODES] = {name: NetNode(name) for name in ("n0", "n1")}
    return found


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.just([]), admins), policies, pods, namespaces)
def test_nothing_that_an_open_interface_sends_or_gets_hangs_on_state(
    objects: list[Any], others: list[Any], made: Made, spaces: dict[str, dict[str, str]]
) -> None:
    found = facts(objects, others, made, spaces)
    view, rows = FactView(found), unit_rows(found)
    peers = [str(one) for pod in listed(made) for one in pod.addresses] + list(OUTSIDE)
    for key in found[PODS]:
        for port in (row.name for row in view.ask(TRACKING, key).untracked):
            for direction, peer, protocol, number in product(
                Direction, peers, ("TCP", "UDP", "SCTP", "ICMP"), (*PORTS, 33000)
            ):
                assert stage(rows, direction, port, peer, protocol, number), (port, peer)


def one(**policy: Any) -> Facts:
    """Two pods of one namespace: a is labelled so, b is not; and one policy about a."""
    spec = {"podSelector": {"matchLabels": {"app": "a"}}, **policy}
    objects = [{"metadata": {"namespace": "blue", "name": "p"}, "spec": spec}]
    return facts([], objects, [("blue", {"app": "a"}, {}), ("blue", {}, {})], {"blue": {}})


def open_ports(found: Facts) -> set[str]:
    rows = whole(UNITS, found).rows
    names = {RowKey("Port_Group", name_of("open", node)) for node in ("n0", "n1")}
    return {ref.name for name in names if name in rows for ref in rows[name].refs["ports"]}


def test_who_is_closed_is_tracked_and_nobody_else() -> None:
    everything: list[dict[str, Any]] = [{}]
    assert open_ports(one(ingress=everything)) == {"pod0.blue", "pod1.blue"}
    assert open_ports(one()) == {"pod1.blue"}
    assert open_ports(one(ingress=everything, egress=[{"ports": [{"port": 80}]}])) == {"pod1.blue"}
    # ICMP errors of routers have nothing but the state of what they are about.
    assert open_ports(one(ingress=[{"from": [{"namespaceSelector": {}}]}])) == {"pod1.blue"}


def test_switches_with_acls_security_groups_and_settings_close() -> None:
    private = one()
    private[SUBNETS] = {"sn": Subnet("sn", private=True)}
    assert open_ports(private) == set()
    written = one()
    acl = SubnetAcl("to-lport", 1500, "ip4", "drop")
    written[SUBNETS] = {"sn": Subnet("sn", acls=(acl,))}
    assert open_ports(written) == set()
    off = one()
    off[SETTINGS] = {"": NetSettings(stateless=False)}
    assert open_ports(off) == set()
    named = one()
    key = Key("blue", "pod1")
    named[PODS][key] = _naming(named[PODS][key])
    named[SECURITY_GROUPS] = {"sg": SecurityGroup("sg")}
    assert open_ports(named) == set()


def _naming(pod: Any) -> Any:
    return replace(pod, annotations={"ovn.kubernetes.io/security_groups": "sg"})
