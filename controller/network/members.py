"""Who selectors choose, as derived facts: by index, shared by all who ask, and sharded.

A group's members are asked for namespace by namespace, so that a pod that changes makes one
namespace's share be computed again, and of a pod only what is asked (labels, ends, names of ports)
leads on: an annotation that changes changes no group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.kinds.subnet import is_logical, shared
from controller.kube.resources import Key
from controller.network.facts import LEASES, NAMESPACES, PODS
from controller.network.view import Derived, View
from controller.policy.model import Chosen, Operator, Selector
from dataplane.model.addr import Protocol


@dataclass(frozen=True, slots=True)
class PodEnds:
    """Where a pod is on the network: (port, provider) and (address, provider), sorted."""

    ports: tuple[tuple[str, str], ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


def _labels(view: View, key: Key) -> Mapping[str, str] | None:
    pod = view.get(PODS, key)
    return None if pod is None or pod.over or pod.host_network else pod.labels


LABELS: Derived[Mapping[str, str] | None] = Derived("pod-labels", _labels)
"""A pod's labels; None: policies are not about it (it is over, or on its node's network)."""


def _ends(view: View, key: Key) -> PodEnds:
    leases = [view.get(LEASES, name) for name in view.by(LEASES, "pod", key)]
    found = [lease for lease in leases if lease is not None]
    return PodEnds(
        tuple((lease.port, lease.provider) for lease in found if is_logical(lease.provider)),
        tuple((str(address), lease.provider) for lease in found for address in lease.addresses),
    )


ENDS: Derived[PodEnds] = Derived("pod-ends", _ends)
"""A pod's logical ports and addresses."""


def _names(view: View, key: Key) -> Mapping[tuple[str, str], int]:
    pod = view.get(PODS, key)
    return {} if pod is None else pod.named_ports


NAMES: Derived[Mapping[tuple[str, str], int]] = Derived("pod-port-names", _names)
"""What a pod calls its ports."""


def _namespace_labels(view: View, name: str) -> Mapping[str, str]:
    found = view.get(NAMESPACES, name)
    return {} if found is None else found.labels


NAMESPACE_LABELS: Derived[Mapping[str, str]] = Derived("namespace-labels", _namespace_labels)


def _spaces(view: View, selector: Selector) -> tuple[str, ...]:
    exact = [one for one in selector.expressions if one.operator is Operator.IN]
    if not exact:
        names = set(view.all(NAMESPACES))
    else:
        names = set.intersection(
            *({name for value in one.values for name in view.by(NAMESPACES, "label",
               (one.key, value))} for one in exact)
        )  # fmt: skip
    rest = Selector(tuple(one for one in selector.expressions if one not in exact))
    if rest.expressions:
        names = {name for name in names if rest.matches(view.ask(NAMESPACE_LABELS, name))}
    return tuple(sorted(names))


SPACES: Derived[tuple[str, ...]] = Derived("selected-namespaces", _spaces)
"""Names of the namespaces that a selector chooses."""


def _selected(view: View, key: tuple[str, Selector]) -> frozenset[Key]:
    namespace, selector = key
    exact = [one for one in selector.expressions if one.operator is Operator.IN]
    if not exact:
        found = set(view.by(PODS, "namespace", namespace))
    else:
        found = set.intersection(
            *({pod for value in one.values for pod in view.by(PODS, "label",
               (namespace, one.key, value))} for one in exact)
        )  # fmt: skip
    rest = Selector(tuple(one for one in selector.expressions if one not in exact))
    labels = {pod: view.ask(LABELS, pod) for pod in found}
    return frozenset(pod for pod, has in labels.items() if has is not None and rest.matches(has))


SELECTED: Derived[frozenset[Key]] = Derived("selected-pods", _selected)
"""Pods of a namespace that a selector chooses, of those that policies are about."""


def namespaces_of(view: View, chosen: Chosen) -> tuple[str, ...]:
    """The namespaces that a choice is about."""
    if isinstance(chosen.namespaces, str):
        return (chosen.namespaces,)
    return view.ask(SPACES, chosen.namespaces)


def _share(view: View, chosen: Chosen) -> tuple[frozenset[str], frozenset[str]]:
    assert isinstance(chosen.namespaces, str)
    ports, addresses = [], []
    for pod in view.ask(SELECTED, (chosen.namespaces, chosen.pods)):
        if chosen.named is not None:
            names = view.ask(NAMES, pod)
            named = chosen.named
            if names.get((named.protocol.name, named.name)) != named.number:
                continue
        ends = view.ask(ENDS, pod)
        ports += [port for port, provider in ends.ports if _is_about(chosen, provider)]
        addresses += [text for text, provider in ends.addresses if _is_about(chosen, provider)]
    return frozenset(ports), frozenset(addresses)


def _is_about(chosen: Chosen, provider: str) -> bool:
    return chosen.providers is None or shared(provider) in chosen.providers


SHARE: Derived[tuple[frozenset[str], frozenset[str]]] = Derived("members-of-namespace", _share)
"""Ports and addresses of a choice of one namespace."""


def _members(view: View, chosen: Chosen) -> tuple[frozenset[str], frozenset[str]]:
    shares = [
        view.ask(SHARE, chosen._replace(namespaces=name)) for name in namespaces_of(view, chosen)
    ]
    if len(shares) == 1:
        return shares[0]
    ports: frozenset[str] = frozenset().union(*(share[0] for share in shares))
    return ports, frozenset().union(*(share[1] for share in shares))


MEMBERS: Derived[tuple[frozenset[str], frozenset[str]]] = Derived("members", _members)
"""Ports and addresses of a choice."""


def _numbers(view: View, key: tuple[Chosen, Protocol, str]) -> tuple[int, ...]:
    chosen, protocol, name = key
    found = set()
    for namespace in namespaces_of(view, chosen):
        for pod in view.ask(SELECTED, (namespace, chosen.pods)):
            number = view.ask(NAMES, pod).get((protocol.name, name))
            if number is not None:
                found.add(number)
    return tuple(sorted(found))


NUMBERS: Derived[tuple[int, ...]] = Derived("numbers-of-a-port-name", _numbers)
"""What numbers the chosen pods mean by a port's name."""
