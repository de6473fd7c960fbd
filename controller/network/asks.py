"""Who asks for addresses, and what objects say was given: pods, IPs, nodes and Vips. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

from controller.ipam.errors import AddressError, RangeTextError
from controller.ipam.want import PRIMARY, Addresses, Want
from controller.kinds.addresses import IP_RESOURCE, IPS, POOLS, VIP_RESOURCE, VIPS
from controller.kinds.attachments import ATTACHMENTS
from controller.kinds.externalgw import EXTERNAL_GATEWAYS
from controller.kinds.nat import EIPS, VPC_PORTS
from controller.kinds.subnet import SUBNETS
from controller.kinds.vpc import VPCS
from controller.kube.resources import NODES as NODE_OBJECTS
from controller.kube.resources import PODS as POD_OBJECTS
from controller.kube.resources import Key
from controller.network.facts import NAMESPACES, NODES, PODS
from controller.network.keeping import KEEPERS
from controller.network.nics import Held, held, held_of, needs_network, nics_of, port_name
from controller.network.settings import SETTINGS, settings
from controller.network.view import Kind, View
from controller.translate.nbrows import host_port
from controller.translate.ovn import Problem
from dataplane.model.addr import Mac

VIP_LEASE = "vip/"
"""Leases of Vips are under this and the Vip's name: a name that no port has."""


class Holder(NamedTuple):
    """An object that something is given to."""

    resource: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.resource} {where}{self.name}"


@dataclass(frozen=True, slots=True)
class Ask:
    """One interface's address that an object asks for."""

    nic: str
    provider: str
    want: Want
    held: Held | None = None
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Asks:
    """All that one object asks for, and why it does not ask for more."""

    found: tuple[Ask, ...] = ()
    problems: tuple[Problem, ...] = ()


def _of_pod(view: View, key: Key) -> Asks:
    pod = view.get(PODS, key)
    if pod is None:
        return Asks()
    nics = nics_of(view, pod)
    found = tuple(
        Ask(nic.port, nic.provider, nic.want, held_of(pod.annotations, nic.provider), pod.uid)
        for nic in nics.found
    )
    return Asks(found, nics.problems)


def _fixed(what: str, addresses: tuple[str, ...], mac: str) -> tuple[Addresses, Mac | None]:
    try:
        parsed = sorted((ip_address(one) for one in addresses), key=lambda a: a.version)
        given = Mac(mac) if mac else None
    except ValueError as error:
        msg = f"{what}: {error}"
        raise RangeTextError(msg, "correct it") from error
    return tuple(parsed), given


def _of_ip(view: View, name: str) -> Asks:
    ip = view.get(IPS, name)
    if ip is None:
        return Asks()
    try:
        addresses, mac = _fixed(f"IP {name}", ip.addresses, ip.mac)
    except AddressError as error:
        return Asks(problems=(Problem(f"IP {name}", error.cause, error.next_step),))
    want = Want((ip.subnet,), choices=(addresses,) if addresses else (), mac=mac)
    was = Held(ip.subnet, addresses, mac) if addresses else None
    return Asks((Ask(name, "", want, was),))


def _of_node(view: View, name: str) -> Asks:
    node, decided = view.get(NODES, name), settings(view)
    if node is None or not decided.join_subnet:
        return Asks()
    was = held_of(node.annotations, PRIMARY)
    return Asks((Ask(host_port(name), "", Want((decided.join_subnet,)), was),))


def _of_vip(view: View, name: str) -> Asks:
    vip = view.get(VIPS, name)
    if vip is None:
        return Asks()
    try:
        addresses, mac = _fixed(f"Vip {name}", vip.addresses, vip.mac)
    except AddressError as error:
        return Asks(problems=(Problem(f"Vip {name}", error.cause, error.next_step),))
    if not vip.subnet:
        problem = Problem(f"Vip {name}", "it names no subnet", "write spec.subnet")
        return Asks(problems=(problem,))
    was = held(vip.subnet, vip.held, vip.held_mac) if vip.held else None
    if was is not None:
        # What it has stays its own when a pod takes it, and when the pod gives it back.
        addresses, mac = was.addresses, was.mac
    want = Want((vip.subnet,), choices=(addresses,) if addresses else (), mac=mac)
    return Asks((Ask(vip_nic(view, name), "", want, was),))


def vip_nic(view: View, name: str) -> str:
    """Under which name a Vip's address is given: its own, or the port of the pod that has it."""
    for key in view.by(PODS, "vip", name):
        pod = view.get(PODS, key)
        if pod is not None and needs_network(pod):
            return port_name(pod, PRIMARY)
    return VIP_LEASE + name


@dataclass(frozen=True, slots=True)
class Source:
    """A kind whose objects ask: in this order what they were given is restored."""

    kind: Kind[Any]
    resource: str
    asks: Callable[[View, Any], Asks]
    namespaced: bool = False

    def holder(self, key: Any) -> Holder:
        """What names the object of a key."""
        found = key if self.namespaced else Key("", key)
        return Holder(self.resource, found.namespace, found.name)


SOURCES: tuple[Source, ...] = (
    Source(PODS, str(POD_OBJECTS), _of_pod, namespaced=True),
    Source(IPS, str(IP_RESOURCE), _of_ip),
    Source(NODES, str(NODE_OBJECTS), _of_node),
    Source(VIPS, str(VIP_RESOURCE), _of_vip),
)

STRUCTURE: tuple[Kind[Any], ...] = (
    SUBNETS, POOLS, NAMESPACES, ATTACHMENTS, VPCS, VIPS, SETTINGS,
)  # fmt: skip
"""Changes of these may help those who were refused something."""
RESERVES: tuple[Kind[Any], ...] = (EIPS, VPC_PORTS, SETTINGS, EXTERNAL_GATEWAYS)
"""These have addresses of subnets, too."""
READS: tuple[Kind[Any], ...] = (
    *STRUCTURE,
    *RESERVES,
    *(source.kind for source in SOURCES),
    *KEEPERS,
)
"""Changes of which kinds may change who is given what."""
