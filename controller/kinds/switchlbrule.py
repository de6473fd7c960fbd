"""SwitchLBRule: an address within a VPC that stands for some of its workloads."""

from __future__ import annotations

from dataclasses import dataclass

from controller.kinds.reading import Form, Reading
from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import custom
from controller.kube.structs import Meta, Pod
from controller.network.view import Kind

RESOURCE = custom(GROUP, VERSION, "switch-lb-rules", "SwitchLBRule")
VPC_ANNOTATION = "ovn.kubernetes.io/logical_router"
CHECK_ANNOTATION = "ovn.kubernetes.io/service_health_check"


@dataclass(frozen=True, slots=True)
class RulePort:
    """One port: from where to where."""

    name: str
    port: int
    target: int
    protocol: str


@dataclass(frozen=True, slots=True)
class SwitchLbRule:
    """A SwitchLBRule. Addresses are texts; `endpoints` go before `selector`.

    Attributes:
        selector: labels that pods of the namespace have, all of them.
        vpc: as its annotation says; "": that of what is behind it.
        checked: who does not answer OVN's health checks gets no new connections.
    """

    name: str
    vip: str
    namespace: str = ""
    selector: tuple[tuple[str, str], ...] = ()
    endpoints: tuple[str, ...] = ()
    sticky: bool = False
    ports: tuple[RulePort, ...] = ()
    vpc: str = ""
    checked: bool = True


def _read(meta: Meta, spec: Reading, _: Reading) -> SwitchLbRule:
    labels = []
    for at, text in enumerate(spec.texts("selector")):
        key, colon, value = text.partition(":")
        if not colon:
            spec.fail(f"selector[{at}]", f"{text!r} is no label", "write it as app:nginx")
        labels.append((key.strip(), value.strip()))
    return SwitchLbRule(
        meta.name,
        spec.text("vip"),
        spec.text("namespace") or "default",
        tuple(labels),
        tuple(filter(None, spec.texts("endpoints"))),
        spec.choice("sessionAffinity", ("ClientIP", "None"), "None") == "ClientIP",
        tuple(_port(one) for one in spec.each("ports")),
        meta.annotations.get(VPC_ANNOTATION, ""),
        meta.annotations.get(CHECK_ANNOTATION, "") != "false",
    )


def _port(one: Reading) -> RulePort:
    port = one.number("port")
    return RulePort(
        one.text("name"),
        port,
        one.number("targetPort") or port,
        one.text("protocol", "TCP").lower(),
    )


RULE = Form("SwitchLBRule", _read)

RULES: Kind[SwitchLbRule] = Kind("switch-lb-rules")
"""Keys are names."""


def readiness(pod: Pod) -> bool | None:
    """Whether a pod takes requests; None: nobody has said so yet."""
    found = [one.status for one in pod.status.conditions if one.type == "Ready"]
    return found[0] == "True" if found else None


READY: Kind[bool] = Kind("readiness of pods")
"""Keys are `Key(namespace, name)`."""
