"""The terms of a load balancer row: what it asks for beside its VIPs, the same for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from controller.translate import vips as texts
from controller.translate.endpoints import Endpoints, endpoints
from controller.translate.ovn import LoadBalancer
from controller.translate.vips import Fault
from dataplane.model import names
from dataplane.model.addr import IPNetwork, Protocol
from dataplane.model.service import Forwarding, ServiceKind, TrafficPolicy

E = TypeVar("E", bound=StrEnum)

MAX_AFFINITY_S = 86400
"""Kubernetes' own limit of sessionAffinityConfig.clientIP.timeoutSeconds."""

MAX_IDENTITY = 400
"""Characters; Kubernetes' namespaces and names have up to 63 and 253."""

DSR_KINDS = frozenset({ServiceKind.LOAD_BALANCER, ServiceKind.EXTERNAL_IP})
"""Kinds whose VIP means the same service on every node, so that another node takes the packet."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a row asks for; see `Service` for the fields."""

    port_key: str
    kind: ServiceKind = ServiceKind.LOAD_BALANCER
    policy: TrafficPolicy = TrafficPolicy.CLUSTER
    inner_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_s: int = 0
    source_ranges: tuple[IPNetwork, ...] = ()
    reject: bool = True
    forwarding: Forwarding = Forwarding.SNAT
    health_port: int | None = None
    not_ready_too: bool = False
    endpoints: Endpoints = field(default_factory=dict)


class _Answer(StrEnum):
    YES = "true"
    NO = "false"


class _Refused(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.cause)
        self.fault = fault


def terms(balancer: LoadBalancer, label: str, protocol: Protocol) -> Terms | Fault:
    """The row's terms, or why one of them cannot be read or kept; `label` is the row's name."""
    try:
        return _terms(balancer, label, protocol)
    except _Refused as error:
        return error.fault


def _terms(balancer: LoadBalancer, label: str, protocol: Protocol) -> Terms:
    ids = balancer.external_ids
    kind = _word(ids, names.KIND_KEY, ServiceKind.LOAD_BALANCER)
    policy = _word(ids, names.TRAFFIC_POLICY_KEY, TrafficPolicy.CLUSTER)
    inner = _word(ids, names.INTERNAL_POLICY_KEY, TrafficPolicy.CLUSTER)
    forwarding = _word(ids, names.FORWARDING_KEY, Forwarding.SNAT)
    if forwarding is Forwarding.DSR and kind not in DSR_KINDS:
        cause = f"a VIP of kind {kind} cannot be handed to another node as it is (dsr)"
        step = f"set it to snat, or {names.KIND_KEY} to {' or '.join(sorted(DSR_KINDS))}"
        raise _Refused(_at(names.FORWARDING_KEY, cause, step))
    if kind is ServiceKind.CLUSTER_IP:
        policy = TrafficPolicy.CLUSTER  # Kubernetes: externalTrafficPolicy is of external VIPs
    elif kind is ServiceKind.HOST_PORT:
        policy = inner = TrafficPolicy.LOCAL
    else:
        inner = TrafficPolicy.CLUSTER  # Kubernetes: internalTrafficPolicy is of cluster IPs
    return Terms(
        port_key=_identity(ids, label),
        kind=kind,
        policy=policy,
        inner_policy=inner,
        affinity_s=_affinity(balancer.options),
        source_ranges=_ranges(ids),
        reject=balancer.options.get(names.REJECT_OPTION) != "false",
        forwarding=forwarding,
        health_port=_health_port(ids),
        not_ready_too=_word(ids, names.NOT_READY_KEY, _Answer.NO) is _Answer.YES,
        endpoints=_endpoints(ids, protocol),
    )


def _at(key: str, cause: str, next_step: str) -> Fault:
    return Fault(f"external_ids:{key}: {cause}", next_step)


def _word(ids: Mapping[str, str], key: str, default: E) -> E:
    text = ids.get(key)
    if text is None:
        return default
    words: Callable[[str], E] = type(default)
    try:
        return words(text)
    except ValueError:
        allowed = [str(word) for word in type(default)]
        cause = f"{text!r} is not one of {', '.join(allowed)}"
        step = f"set it to {' or '.join(allowed)}, or remove it"
        raise _Refused(_at(key, cause, step)) from None


def _identity(ids: Mapping[str, str], label: str) -> str:
    text = ids.get(names.SERVICE_KEY)
    if text is None:
        return label
    # It is printed, and a label of metrics.
    if not text.isprintable() or not text.strip() or len(text) > MAX_IDENTITY:
        cause = "it is empty, too long, or cannot be printed"
        raise _Refused(_at(names.SERVICE_KEY, cause, "write namespace/name:port, or remove it"))
    return text


def _affinity(options: Mapping[str, str]) -> int:
    text = options.get(names.AFFINITY_OPTION, "0")
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= MAX_AFFINITY_S:
        return int(text)  # 0 is none, for OVN as for us
    raise _Refused(
        Fault(
            f"options:{names.AFFINITY_OPTION}: {text!r} is no number of seconds from 1 to "
            f"{MAX_AFFINITY_S}",
            "write such a number, or remove it: no affinity",
        )
    )


def _ranges(ids: Mapping[str, str]) -> tuple[IPNetwork, ...]:
    key = names.SOURCE_RANGES_KEY
    text = ids.get(key)
    if text is None:
        return ()
    found: set[IPNetwork] = set()
    for part in texts.parts(text):
        network = texts.network(part)
        if isinstance(network, Fault):
            raise _Refused(_at(key, network.cause, network.next_step))
        found.add(network)
    if not found:
        step = "name one, or remove it: everybody is admitted"
        raise _Refused(_at(key, "it names no network", step))
    return tuple(sorted(found, key=lambda n: (n.version, n.network_address.packed, n.prefixlen)))


def _health_port(ids: Mapping[str, str]) -> int | None:
    text = ids.get(names.HEALTH_PORT_KEY)
    if text is None:
        return None
    number = texts.port_number(text)
    if number is None:
        step = "use a number from 1 to 65535, or remove it"
        raise _Refused(_at(names.HEALTH_PORT_KEY, f"{text!r} is not a port", step))
    return number


def _endpoints(ids: Mapping[str, str], protocol: Protocol) -> Endpoints:
    text = ids.get(names.ENDPOINTS_KEY)
    if text is None:
        return {}
    found = endpoints(protocol, text)
    if isinstance(found, Fault):
        raise _Refused(_at(names.ENDPOINTS_KEY, found.cause, found.next_step))
    return found
