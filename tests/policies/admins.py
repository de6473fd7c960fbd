"""Random policies of administrators, as JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.property.test_policy_laws import selectors

PORTS = (53, 80, 81, 443)
pods = st.one_of(
    st.builds(lambda s: {"namespaces": s}, selectors),
    st.builds(lambda n, p: {"pods": {"namespaceSelector": n, "podSelector": p}}, selectors,
              selectors),
)  # fmt: skip
NETWORKS = ("192.0.2.0/24", "10.0.0.0/30", "0.0.0.0/0", "fd00::/126", "::/0", "2001:db8::/32")
peers = {
    "from": pods,
    "to": st.one_of(
        pods,
        st.builds(
            lambda n: {"networks": n},
            st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2, unique=True),
        ),
        st.builds(lambda s: {"nodes": s}, st.just({})),
    ),
}
_protocol = st.sampled_from(["TCP", "UDP", "SCTP"])
alpha1 = st.one_of(
    st.builds(lambda p, n: {"portNumber": {"protocol": p, "port": n}}, _protocol,
              st.sampled_from(PORTS)),
    st.builds(lambda p: {"portRange": {"protocol": p, "start": 80, "end": 442}}, _protocol),
    st.just({"namedPort": "web"}),
)  # fmt: skip
alpha2 = st.one_of(
    st.builds(lambda p: {p.lower(): {}}, _protocol),
    st.builds(lambda p, n: {p.lower(): {"destinationPort": {"number": n}}}, _protocol,
              st.sampled_from(PORTS)),
    st.builds(
        lambda p: {p.lower(): {"destinationPort": {"range": {"start": 80, "end": 442}}}}, _protocol
    ),
    st.just({"destinationNamedPort": "web"}),
)  # fmt: skip


def rules(direction: str, actions: tuple[str, ...], ports: str) -> st.SearchStrategy[Any]:
    return st.lists(
        st.fixed_dictionaries(
            {
                "action": st.sampled_from(actions),
                direction: st.lists(peers[direction], min_size=1, max_size=2),
            },
            optional={
                ports: st.lists(alpha1 if ports == "ports" else alpha2, min_size=1, max_size=2)
            },
        ),
        max_size=3,
    )


def _spec(actions: tuple[str, ...], ports: str, **more: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "subject": pods,
            "ingress": rules("from", actions, ports),
            "egress": rules("to", actions, ports),
            **more,
        }
    )


_priority = st.integers(0, 1000)
specs = st.one_of(
    st.tuples(
        st.just("AdminNetworkPolicy"),
        _spec(("Allow", "Deny", "Pass"), "ports", priority=_priority),
    ),
    st.tuples(st.just("BaselineAdminNetworkPolicy"), _spec(("Allow", "Deny"), "ports")),
    st.tuples(
        st.just("ClusterNetworkPolicy"),
        _spec(("Accept", "Deny", "Pass"), "protocols", priority=_priority,
              tier=st.sampled_from(["Admin", "Baseline"])),
    ),
)  # fmt: skip


def _objects(found: list[tuple[str, Any]]) -> list[Any]:
    """Priorities differ, for the order of equal ones is nobody's; there is one baseline at most."""
    objects, seen = [], set()
    for at, (kind, spec) in enumerate(found):
        told = spec.get("priority", kind)
        if told not in seen:
            seen.add(told)
            objects.append({"kind": kind, "metadata": {"name": f"a{at}"}, "spec": spec})
    return objects


admins = st.lists(specs, max_size=4).map(_objects)
