"""Laws of giving addresses out, over random histories of objects and of controllers' deaths."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kinds.addresses import POOLS, VIPS, IpPool, Vip
from controller.kinds.subnet import SUBNETS, Subnet
from controller.kinds.workloads import SETS, OrdinalSet
from controller.kube.resources import Key
from controller.network.facts import LEASES, PODS
from controller.network.nets import NETS, REFUSALS
from tests.labs.allocation import World, world

CIDRS = ("10.0.0.0/29", "10.0.0.0/28", "10.0.0.8/29", "10.0.0.8/29,fd00::/125", "bad", "")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pod"), st.integers(0, 7), st.sampled_from(("", "10.0.0.5", "10.0.0.9"))),
        st.tuples(st.just("gone"), st.integers(0, 7)),
        st.tuples(st.just("told"), st.integers(0, 7)),
        st.tuples(st.just("member"), st.integers(0, 3)),
        st.tuples(st.just("scale"), st.integers(0, 4)),
        st.tuples(st.just("subnet"), st.sampled_from(("one", "two")), st.sampled_from(CIDRS)),
        st.tuples(st.just("pool"), st.sampled_from(("10.0.0.5..10.0.0.6", "10.0.0.9"))),
        st.tuples(st.just("vip"), st.booleans()),
        st.tuples(st.just("restart"), st.booleans()),
    ),
    max_size=25,
)


def step(w: World, move: tuple[object, ...]) -> World:
    match move:
        case ("pod", int(number), str(fixed)):
            said = {"ovn.kubernetes.io/ip_address": fixed} if fixed else {}
            if number > 5:
                said["ovn.kubernetes.io/vip"] = "v"
            if number % 3 == 1:
                said["ovn.kubernetes.io/logical_switch"] = "two"
            if number % 3 == 2 and not fixed:
                said["ovn.kubernetes.io/ip_pool"] = "pool"
            if Key("ns", f"p{number}") not in w.facts.get(PODS, {}):
                w.pod(f"p{number}", annotations=said)
        case ("gone", int(number)):
            w.have(PODS, Key("ns", f"p{number}"), None)
        case ("told", int(number)):
            if w.lease(f"p{number}.ns") and Key("ns", f"p{number}") in w.facts[PODS]:
                w.annotate(f"p{number}")
        case ("member", int(number)):
            key = Key("ns", f"s-{number}")
            if key in w.facts.get(PODS, {}):
                w.have(PODS, key, None)
            else:
                w.pod(f"s-{number}", owner=("StatefulSet", "s"))
        case ("scale", int(replicas)):
            w.have(SETS, Key("ns", "s"), OrdinalSet(0, replicas) if replicas else None)
        case ("subnet", str(name), str(cidr)):
            old = w.facts[SUBNETS].get(name, Subnet(name, created=name))
            w.have(SUBNETS, name, replace(old, cidr=cidr))
        case ("pool", str(ips)):
            w.have(POOLS, "pool", IpPool("pool", "one", addresses=(ips,)))
        case ("vip", bool(there)):
            w.have(
                VIPS, "v", w.facts.get(VIPS, {}).get("v", Vip("v", "ns", "one")) if there else None
            )
            w.tell_vips()
        case ("restart", bool(told)):
            w.tell_vips()
            if told:
                # The loop writes what it gave before anything else happens to these pods.
                for key in list(w.facts.get(PODS, {})):
                    if w.lease(f"{key.name}.ns"):
                        w.annotate(key.name)
            before = dict(w.facts.get(LEASES, {}))
            w = w.again(w.held())
            after = w.facts.get(LEASES, {})
            for port, lease in before.items():
                assert port in after, f"{port} lost {lease.addresses}"
                now = after[port]
                assert (now.subnet, now.addresses, now.mac) == (
                    lease.subnet, lease.addresses, lease.mac,
                )  # fmt: skip
        case _:
            raise AssertionError(move)
    return w


def check(w: World) -> None:
    leases = w.facts.get(LEASES, {})
    seen: dict[tuple[str, object], str] = {}
    for port, lease in leases.items():
        net = w.facts[NETS][lease.subnet]
        assert net.usable
        for address in lease.addresses:
            # One VPC: no address twice, whichever subnet it is of.
            other = seen.setdefault((net.vpc, address), port)
            assert other == port, f"{address} is {other}'s and {port}'s"
            assert any(address in network for network in net.networks)
            assert address not in net.gateways
        assert {a.version for a in lease.addresses} <= {n.version for n in net.networks}
    for key in w.facts.get(PODS, {}):
        has = f"{key.name}.ns" in leases
        why = w.facts.get(REFUSALS, {}).get(("pods", *key))
        assert has or why, f"{key} has no address, and nobody says why"


@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_no_address_twice_and_a_restart_changes_nothing(
    steps: list[tuple[object, ...]],
) -> None:
    first = Subnet("one", "one", default=True, cidr="10.0.0.0/29")
    w = world(first, Subnet("two", "two", cidr="10.0.0.8/29")).start()
    for move in steps:
        w = step(w, move)
        check(w)
