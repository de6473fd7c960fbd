"""After any history of networks' objects the rows are those of computing everything at once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.kinds.addresses import IPS, POOLS, VIPS, IpObject, IpPool, Vip
from controller.kinds.attachments import ATTACHMENTS, NetworkAttachment
from controller.kinds.subnet import SUBNETS, Accepted, Subnet
from controller.kinds.underlay import PROVIDERS, VLANS, ProviderNetwork, Vlan
from controller.kinds.vpc import VPCS, Vpc, VpcPeering
from controller.kinds.workloads import INSTANCES, Machine
from controller.kube.resources import Key
from controller.network.engine import Engine
from controller.network.facts import (
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    NetNamespace,
    NetNode,
    NetPod,
)
from controller.network.heldports import HeldPort
from controller.network.nets import NETS
from controller.network.registry import UNITS
from controller.network.settings import NetSettings
from controller.network.view import Kind
from tests.labs.allocation import OUTPUTS
from tests.labs.factview import whole

O = "ovn.kubernetes.io/"  # noqa: E741
names = st.sampled_from(("a", "b", "c"))
some = st.lists(names, max_size=2, unique=True).map(tuple)


def of(kind: Kind[Any], keys: st.SearchStrategy[Any], facts: st.SearchStrategy[Any]) -> Any:
    return st.tuples(st.just(kind), keys, st.none() | facts)


cidrs = st.sampled_from(
    ("10.0.0.0/28", "10.0.0.8/29", "10.1.0.0/24", "10.2.0.0/24,fd00::/64", "", "x")
)
subnets = st.builds(
    Subnet, names, created=names, vpc=st.sampled_from(("", "a", "b")), namespaces=some, cidr=cidrs,
    provider=st.sampled_from(("ovn", "n.a.ovn", "n.a")), vlan=st.sampled_from(("", "", "a")),
    dhcp=st.booleans(), multicast=st.booleans(), mtu=st.sampled_from((0, 1400)),
    logical_gateway=st.booleans(), ending=st.booleans(),
)  # fmt: skip
wishes = st.fixed_dictionaries(
    {},
    optional={
        O + "logical_switch": names,
        O + "ip_address": st.sampled_from(("10.0.0.3", "10.1.0.3")),
        O + "ip_pool": names,
        O + "vip": names,
        O + "aaps": names,
        O + "port_security": st.just("true"),
        "k8s.v1.cni.cncf.io/networks": st.sampled_from(("n", "a/n", "[")),
    },
)
pods = st.builds(
    NetPod, st.just("a"), st.just("p"), node=names, annotations=wishes,
    vm=st.sampled_from(("", "", "m")), over=st.booleans(), host_network=st.just(False),
)  # fmt: skip
peerings = st.builds(VpcPeering, names, st.sampled_from(("169.254.0.1/30", "169.254.0.2/30", "?")))
in_a = names.map(lambda name: Key("a", name))
steps = st.one_of(
    of(SUBNETS, names, subnets),
    of(SUBNETS, names, subnets),
    of(PODS, in_a, pods),
    of(PODS, in_a, pods),
    of(
        VPCS, names, st.builds(Vpc, names, some, peerings=st.lists(peerings, max_size=1).map(tuple))
    ),
    of(VLANS, names, st.builds(Vlan, names, st.integers(0, 2), names)),
    of(PROVIDERS, names, st.builds(ProviderNetwork, names, names)),
    of(POOLS, names, st.builds(IpPool, names, names, some, st.just(("10.1.0.3..10.1.0.4",)))),
    of(VIPS, names, st.builds(Vip, names, st.just("a"), names, held=st.just(("10.1.0.9",)))),
    of(NODES, names, st.builds(NetNode, names)),
    of(NAMESPACES, names, st.builds(NetNamespace, names)),
    of(ATTACHMENTS, st.just(Key("a", "n")), st.just(NetworkAttachment("n.a.ovn", logical=True))),
    of(
        IPS,
        names.map(lambda name: f"{name}.a"),
        st.builds(
            IpObject,
            names,
            names,
            st.just("a"),
            names,
            st.just(("10.1.0.7",)),
            st.just("02:00:00:00:00:07"),
        ),
    ),
    of(INSTANCES, st.just(Key("a", "m")), st.builds(Machine, names)),
)


def named(key: Any, fact: Any) -> Any:
    """The fact under the name that its key has."""
    if fact is None or not hasattr(fact, "name"):
        return fact
    return replace(fact, name=key.name if isinstance(key, Key) else key)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(steps, max_size=4), max_size=10))
@example(
    # Who leaves a subnet in the same breath as it moves does not hold it back.
    [
        [
            (IPS, "a.a", IpObject("", "", "a", "", ("10.1.0.7",), "02:00:00:00:00:07")),
            (SUBNETS, "a", Subnet("a", cidr="10.1.0.0/24")),
        ],
        [(IPS, "a.a", None), (SUBNETS, "a", Subnet("a", cidr="10.0.0.0/28"))],
    ]
)
def test_the_engines_rows_are_those_of_everything_at_once(
    batches: list[list[tuple[Kind[Any], Hashable, Any]]],
) -> None:
    engine = Engine(NetSettings())
    engine.start()
    for batch in batches:
        engine.put((kind, key, named(key, fact)) for kind, key, fact in batch)
        engine.update()
    store = engine.book.store
    facts: dict[Kind[Any], dict[Any, Any]] = {
        kind: {key: store.get(kind, key) for key in store.all(kind)} for kind in store.kinds()
    }
    found = whole(UNITS, facts)
    rows = {key: row for key, row in found.rows.items() if key not in found.disputed}
    assert {k: r for k, r in engine.book.rows.items() if k not in found.disputed} == rows
    # A controller that starts anew, with what the cluster and the database say, wants the same.
    again = Engine(NetSettings())
    for kind, there in facts.items():
        if kind not in OUTPUTS:
            again.put((kind, key, accepted(engine, key, fact)) for key, fact in there.items())
    leases = facts.get(LEASES, {}).items()
    again.start(HeldPort(port, one.subnet, one.addresses, one.mac) for port, one in leases)
    assert again.book.rows == engine.book.rows


def accepted(engine: Engine, key: Hashable, fact: Any) -> Any:
    """A Subnet with the status that was written."""
    net = engine.book.store.get(NETS, key) if isinstance(fact, Subnet) else None
    if net is None or not net.usable or fact.made:
        return fact
    return replace(fact, accepted=Accepted(net.vpc, net.cidr, net.gateway, net.excluded))
