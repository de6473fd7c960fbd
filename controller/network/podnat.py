"""A pod's external address by its annotations `eip` and `snat`, in the default VPC."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping

from controller.kinds.nat import Use
from controller.kinds.vpc import VPCS
from controller.network.external import GIVEN, NETWORK, externals_of, vpc_of
from controller.network.facts import (
    EIP_ANNOTATION,
    LEASES,
    PODS,
    SNAT_ANNOTATION,
    NetPod,
    NicLease,
)
from controller.network.nat import Refused, address_or_network, nat_row, refuse
from controller.network.rows import Row, RowKey
from controller.network.settings import DEFAULT_VPC
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import View
from controller.translate.ovn import Problem
from dataplane.model.addr import IPAddress, readable


def pod_nat(view: View, key: Hashable) -> Said:
    """The annotations `eip` and `snat` of a pod of the default VPC."""
    pod = view.get(PODS, key)
    wanted = () if pod is None else _annotated(pod.annotations)
    if pod is None or pod.host_network or pod.over or not wanted:
        return Said()
    ref = ObjectRef("pods", pod.namespace, pod.name)
    lease = _first_lease(view, key)
    if lease is None:
        return Said()  # until it has an address there is nothing to translate
    rows: dict[RowKey, Row] = {}
    problems: list[Problem] = []
    vpc = view.get(VPCS, DEFAULT_VPC)
    externals = externals_of(view, vpc) if vpc is not None else ()
    for annotation, kind, text in wanted:
        try:
            if vpc_of(view, lease.subnet) != DEFAULT_VPC:
                cause = f"annotation {annotation}: the pod is not of the VPC {DEFAULT_VPC}"
                refuse(cause, "make an OvnEip, and an OvnFip or an OvnSnatRule")
            if not externals:
                cause = f"annotation {annotation}: Vpc {DEFAULT_VPC} has no external network"
                refuse(cause, f"set enableExternal of Vpc {DEFAULT_VPC}")
            outside = address_or_network(text, Use.FIP)
            _refuse_strange(view, externals, annotation, outside)
            _refuse_others(view, externals, annotation, outside)
            if annotation == EIP_ANNOTATION:
                _refuse_younger(view, pod, outside)
        except Refused as refused:
            who = f"pod {pod.namespace}/{pod.name}"
            problems.append(Problem(who, refused.cause, refused.next_step))
            continue
        for inside in lease.addresses:
            if inside.version == outside.version:
                name = f"pod/{lease.port}/{annotation.partition('/')[2]}/{inside.version}"
                row_key, row = nat_row(name, DEFAULT_VPC, kind, outside, inside)  # type: ignore[arg-type]
                rows[row_key] = row
    return Said(rows, {}, {ref: tuple(problems)} if problems else {})


def _annotated(annotations: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    kinds = ((EIP_ANNOTATION, "dnat_and_snat"), (SNAT_ANNOTATION, "snat"))
    return tuple((key, kind, annotations[key]) for key, kind in kinds if annotations.get(key))


def annotated(view: View) -> Iterator[tuple[IPAddress, IPAddress]]:
    """Outside and inside of all pods that are translated by their annotations."""
    for key in view.by(PODS, "translated", True):
        pod, lease = view.get(PODS, key), _first_lease(view, key)
        if pod is None or lease is None or vpc_of(view, lease.subnet) != DEFAULT_VPC:
            continue
        for outside in readable(text for _, _, text in _annotated(pod.annotations)):
            yield from (
                (outside, inside) for inside in lease.addresses if inside.version == outside.version
            )


def _first_lease(view: View, pod: Hashable) -> NicLease | None:
    leases = (view.get(LEASES, port) for port in view.by(LEASES, "pod", pod))
    return next((one for one in leases if one is not None and one.provider == "ovn"), None)


def _refuse_strange(view: View, externals: Iterable[str], annotation: str, outside: object) -> None:
    """Refuse an address that no external network has.

    Raises:
        Refused: it is none of theirs.
    """
    known = [found for name in externals if (found := view.ask(NETWORK, name)) is not None]
    networks = [network for one in known for network in one.networks]
    if not any(outside in network for network in networks):
        have = ", ".join(map(str, networks)) or "none"
        refuse(f"annotation {annotation}: {outside} is in no external network; they are: {have}",
               "choose one of theirs")  # fmt: skip


def _refuse_younger(view: View, pod: NetPod, outside: object) -> None:
    """Refuse an address that an older pod asks for: packets that come to it go to one alone.

    Raises:
        Refused: there is one.
    """

    def age(one: NetPod) -> tuple[str, str, str]:
        return one.created, one.namespace, one.name

    for key in view.by(PODS, "eip", str(outside)):
        other = view.get(PODS, key)
        if other is not None and age(other) < age(pod):
            whose = f"{outside} is pod {other.namespace}/{other.name}'s"
            step = "choose another, or delete that one"
            refuse(f"annotation {EIP_ANNOTATION}: {whose}", step)


def _refuse_others(view: View, externals: Iterable[str], annotation: str, outside: object) -> None:
    """Refuse an address that something else than a pod's annotation has.

    A router's own one may stand for what pods send, as for any rule.

    Raises:
        Refused: it is an OvnEip's, a service's, or a router's.
    """
    for subnet in externals:
        for who, given in view.ask(GIVEN, subnet).items():
            own = who == ("Vpc", DEFAULT_VPC) and annotation == SNAT_ANNOTATION
            if outside in given.addresses.values() and not own:
                name = " ".join(map(str, who)) if isinstance(who, tuple) else str(who)
                refuse(f"annotation {annotation}: {outside} is {name}'s", "choose another")


UNITS: tuple[Unit, ...] = (
    Unit("pods' external addresses", PODS, pod_nat, lambda pod: bool(_annotated(pod.annotations))),
)
