"""What a pod's interfaces are, and what each asks for. Pure.

The first interface is the provider `ovn`'s. Further ones are named by Multus's annotation, each by
a NetworkAttachmentDefinition whose provider says which annotations, and which subnet, are its own.
Sources: Kube-OVN's annotations; the Network Plumbing Working Group's specification of
`k8s.v1.cni.cncf.io/networks`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from controller.ipam.errors import AddressError
from controller.ipam.want import PRIMARY, Addresses, Want, want_of
from controller.kinds.addresses import POOLS, VIPS
from controller.kinds.attachments import ATTACHMENTS
from controller.kinds.subnet import OVN, SUBNETS, Subnet, is_logical, shared
from controller.kinds.vpc import VPCS
from controller.kube.resources import Key
from controller.network.facts import NAMESPACES, VIP_ANNOTATION, NetPod
from controller.network.settings import settings
from controller.network.standins import ends
from controller.network.view import Derived, View
from controller.translate.ovn import Problem
from dataplane.model.addr import Mac

NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT_NETWORK = "v1.multus-cni.io/default-network"
"""Of a pod whose first interface is that network's, and not the provider `ovn`'s."""
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
"""What a part of an annotation's key may be (RFC 1123, as the API has it)."""
_ORDINAL = re.compile(r"-(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Nic:
    """One interface.

    Attributes:
        port: the logical switch port's name; the lease's key, too, where there is no such port.
        logical: OVN has a port for it; otherwise another plugin only takes its address.
    """

    port: str
    provider: str
    want: Want
    logical: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """What the cluster says was given already."""

    subnet: str
    addresses: Addresses
    mac: Mac | None


@dataclass(frozen=True, slots=True)
class Nics:
    """All of a pod's, and what is wrong with others that it asks for."""

    found: tuple[Nic, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a namespace's pods get their addresses, in this order; and its pool, if it has one."""

    subnets: tuple[str, ...] = ()
    pool: str = ""


@lru_cache(maxsize=4096)
def annotation(provider: str, name: str) -> str:
    """The key of an annotation of an interface; one text for all pods that have it."""
    return f"{provider}.kubernetes.io/{name}"


def as_its_own(annotations: Mapping[str, str], provider: str) -> Mapping[str, str]:
    """A pod's annotations, those of an interface's definition as if they were its own.

    Where it has its own, these count (`controller.kinds.subnet.shared`).
    """
    definition = shared(provider)
    if definition == provider:
        return annotations
    before = annotation(definition, "")
    theirs = {
        annotation(provider, key.removeprefix(before)): value
        for key, value in annotations.items()
        if key.startswith(before)
    }
    return {**theirs, **annotations}


def held_of(annotations: Mapping[str, str], provider: str) -> Held | None:
    """What annotations of ours say; only the whole of it, and only if it says that it was given."""
    if annotations.get(annotation(provider, "allocated")) != "true":
        return None
    return held(
        annotations.get(annotation(provider, "logical_switch"), ""),
        annotations.get(annotation(provider, "ip_address"), "").split(","),
        annotations.get(annotation(provider, "mac_address"), ""),
    )


def held(subnet: str, addresses: Iterable[str], mac: str) -> Held | None:
    """What texts say was given; None: they are no addresses, as if they said nothing."""
    try:
        parsed = [ip_address(part.strip()) for part in addresses if part.strip()]
        given = Mac(mac) if mac else None
    except ValueError:
        return None
    return Held(subnet, tuple(sorted(parsed, key=lambda one: one.version)), given)


def port_name(pod: NetPod, provider: str) -> str:
    """The logical switch port of an interface; a machine's own has the machine's name."""
    further = "" if provider == PRIMARY else f".{provider}"
    return f"{pod.vm or pod.name}.{pod.namespace}{further}"


def needs_network(pod: NetPod) -> bool:
    """Whether a pod has interfaces of ours."""
    return not pod.host_network and not pod.over


def ordinal_of(pod: str) -> int | None:
    """The number at the end of a StatefulSet's pod's name."""
    found = _ORDINAL.search(pod)
    return int(found[1]) if found else None


def _choice(view: View, namespace: str) -> Choice:
    there = view.get(NAMESPACES, namespace)
    said = there.annotations if there else {}
    pool = said.get(annotation(PRIMARY, "ip_pool"), "")
    if not pool:
        pool = next(iter(view.by(POOLS, "namespace", namespace)), "")
    named = tuple(
        part.strip()
        for part in said.get(annotation(PRIMARY, "logical_switch"), "").split(",")
        if part.strip()
    )
    if pool and (found := view.get(POOLS, pool)) is not None:
        return Choice((found.subnet,), pool)
    if named:
        return Choice(named)
    listed = list(view.by(SUBNETS, "namespace", namespace))
    labels = there.labels if there else {}
    for name in view.by(SUBNETS, "selects", True):
        subnet = view.get(SUBNETS, name)
        if subnet and name not in listed and any(s.matches(labels) for s in subnet.selectors):
            listed.append(name)
    usable = tuple(name for name in listed if _first_interfaces(view.get(SUBNETS, name)))
    if usable:
        return Choice(usable)
    for name in view.by(VPCS, "namespace", namespace):
        vpc = view.get(VPCS, name)
        if vpc and vpc.default_subnet and not ends(view, vpc.default_subnet):
            return Choice((vpc.default_subnet,))
    for name in view.by(SUBNETS, "default", True):
        if not _made(view, name) and not ends(view, name):
            return Choice((name,))
    return Choice((settings(view).default_subnet,))


def _first_interfaces(subnet: Subnet | None) -> bool:
    return subnet is not None and subnet.provider == OVN and not subnet.ending


def _made(view: View, name: str) -> bool:
    subnet = view.get(SUBNETS, name)
    return subnet is None or subnet.made


CHOICES: Derived[Choice] = Derived("choices", _choice)
"""Asked for by a namespace's name."""


def nics_of(view: View, pod: NetPod) -> Nics:
    """A pod's interfaces; none if it needs no network."""
    if not needs_network(pod):
        return Nics()
    ordinal = ordinal_of(pod.name) if pod.owner[0] == "StatefulSet" else None
    # What it was told is for life: definitions, Vips and annotations may go or break meanwhile.
    found = list(_told(pod))
    problems: list[Problem] = []
    who = f"pod {pod.namespace}/{pod.name}"
    default = pod.annotations.get(DEFAULT_NETWORK, "")
    if not default and all(nic.provider != PRIMARY for nic in found):
        try:
            found.append(_first(view, pod, ordinal))
        except AddressError as error:
            problems.append(Problem(who, error.cause, error.next_step))
    asked: list[dict[str, Any]] = []
    for key in (DEFAULT_NETWORK, NETWORKS):
        try:
            asked += _selections(pod.annotations.get(key, ""), pod.namespace, key == NETWORKS)
        except ValueError as error:
            problems.append(Problem(who, f"{key}: {error}", "write names, or a JSON list"))
    several = Counter(map(_definition, asked))
    told = {nic.provider for nic in found}
    for element in asked:
        try:
            nic = _further(view, pod, element, ordinal, told, several[_definition(element)] > 1)
        except AddressError as error:
            problems.append(Problem(who, error.cause, error.next_step))
            continue
        if nic is None:
            continue
        if nic.provider in told:
            told.discard(nic.provider)
        elif any(nic.port == other.port for other in found):
            cause = f"two of its interfaces of {_definition(element)} have one name"
            problems.append(Problem(who, cause, "write another interface for the second one"))
        else:
            found.append(nic)
    return Nics(tuple(found), tuple(problems))


def _told(pod: NetPod) -> Iterator[Nic]:
    """The interfaces that its annotations say were given."""
    for key, value in pod.annotations.items():
        provider, domain, _ = key.partition(".kubernetes.io/allocated")
        if not domain or value != "true" or key != annotation(provider, "allocated"):
            continue
        was = held_of(pod.annotations, provider)
        if was is not None:
            choices = (was.addresses,) if was.addresses else ()
            want = Want((was.subnet,), choices=choices, mac=was.mac)
            yield Nic(port_name(pod, provider), provider, want, is_logical(provider))


def _first(view: View, pod: NetPod, ordinal: int | None) -> Nic:
    choice = view.ask(CHOICES, pod.namespace)
    said = pod.annotations
    pool_key, switch_key = annotation(PRIMARY, "ip_pool"), annotation(PRIMARY, "logical_switch")
    own_pool = view.get(POOLS, said.get(pool_key, "").strip())
    subnets = (own_pool.subnet,) if own_pool else choice.subnets
    if name := said.get(VIP_ANNOTATION):
        return Nic(port_name(pod, PRIMARY), PRIMARY, _of_vip(view, name))
    want = want_of(said, subnets, PRIMARY, ordinal)
    # A namespace's pool is for those who name no addresses, pool or subnet of their own.
    if choice.pool and not said.get(pool_key) and not said.get(switch_key) and not want.choices:
        want = replace(want, pool=choice.pool)
    return Nic(port_name(pod, PRIMARY), PRIMARY, want)


def _of_vip(view: View, name: str) -> Want:
    """The address of a Vip, which the pod has as its own."""
    vip = view.get(VIPS, name)
    if vip is None:
        msg = f"{VIP_ANNOTATION} names the Vip {name}, and there is none"
        raise AddressError(msg, "make it, or take the annotation away")
    texts = vip.held or vip.addresses
    try:
        addresses = tuple(sorted(map(ip_address, texts), key=lambda one: one.version))
    except ValueError:  # which the Vip itself says
        addresses = ()
    if not addresses:
        msg = f"Vip {name} has no address yet"
        raise AddressError(msg, "see its status")
    return Want((vip.subnet,), choices=(addresses,))


def _definition(element: Mapping[str, Any]) -> Key:
    return Key(element["namespace"], element["name"])


def _provider(common: str, interface: str, told: Collection[str], several: bool) -> str:
    """What an interface's annotations and its port are called by; what was told is for life."""
    own = f"{common}.{interface}" if interface else common
    if was := next((one for one in (own, common) if one in told), ""):
        return was
    if not several or not interface:
        return common
    if not _LABEL.match(interface):
        cause = f"it has several interfaces of one definition, and one is called {interface!r}"
        raise AddressError(cause, "call it by lower-case letters and digits: it names annotations")
    return own


def _further(
    view: View,
    pod: NetPod,
    element: Mapping[str, Any],
    ordinal: int | None,
    told: Collection[str],
    several: bool,
) -> Nic | None:
    """One of the interfaces that Multus is asked for; one that was `told` is not read again."""
    key = _definition(element)
    definition = view.get(ATTACHMENTS, key)
    if definition is None:
        cause = f"it asks for the network {key}, and there is no such definition"
        raise AddressError(cause, "make the NetworkAttachmentDefinition, or correct the name")
    if not definition.provider or definition.provider == PRIMARY:
        return None
    common, interface = definition.provider, element["interface"]
    provider = _provider(common, interface, told, several)
    if provider in told:
        return Nic(port_name(pod, provider), provider, Want(()), definition.logical)
    subnets = tuple(view.by(SUBNETS, "provider", common))
    want = want_of(pod.annotations, subnets, provider, ordinal, common, interface)
    if (own_pool := view.get(POOLS, want.pool)) is not None and want.subnets == subnets:
        want = replace(want, subnets=(own_pool.subnet,))
    if not want.subnets:
        # Kube-OVN takes one of the first interface's. What is given is for life, and the Subnet may
        # be known in a moment (another watch), so here it is waited for.
        cause = f"no Subnet has the provider {common} of the network {key}"
        raise AddressError(cause, f"write spec.provider: {common} in one")
    ips, mac = element.get("ips"), element.get("mac")
    try:
        if ips and not want.choices:
            addresses = [ip_address(str(ip).partition("/")[0]) for ip in ips]
            want = replace(want, choices=(tuple(sorted(addresses, key=lambda a: a.version)),))
        if mac and want.mac is None:
            want = replace(want, mac=Mac(str(mac)))
    except ValueError as error:
        msg = f"{NETWORKS}: {key}: {error}"
        raise AddressError(msg, "correct it") from error
    return Nic(port_name(pod, provider), provider, want, definition.logical)


def _selections(text: str, namespace: str, numbered: bool) -> list[dict[str, Any]]:
    """The elements of the annotation, in either of its two forms; none of an empty one.

    Each has its namespace and its interface: where the pod does not call it, Multus calls it by its
    place among the further networks (`numbered`).

    Raises:
        ValueError: it is none of them.
    """
    found: list[dict[str, Any]] = []
    if text.lstrip().startswith("["):
        try:
            elements = json.loads(text)
        except RecursionError as error:
            msg = "it is nested too deeply"
            raise ValueError(msg) from error
        for element in elements:
            named = isinstance(element, dict) and isinstance(element.get("name"), str)
            placed = named and isinstance(element.get("namespace") or "", str)
            if not placed or not isinstance(element.get("ips") or [], list):
                msg = "an element has no name, its namespace is no text, or its ips are no list"
                raise ValueError(msg)
            found.append({**element, "namespace": element.get("namespace") or namespace})
    else:
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, _, interface = word.partition("@")
            space, slash, rest = name.partition("/")
            found.append(
                {
                    "namespace": space if slash else namespace,
                    "name": rest or space,
                    "interface": interface,
                }
            )
    for place, element in enumerate(found, 1):
        element["interface"] = str(element.get("interface") or (f"net{place}" if numbered else ""))
    return found
