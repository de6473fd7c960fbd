"""Services as OVN describes them, seen from one node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dataplane.model.addr import L4Addr


class Place(StrEnum):
    """Where a backend is, seen from this node."""

    LOCAL = "local"
    REMOTE = "remote"
    HOST = "host"
    UNKNOWN = "unknown"


class TrafficPolicy(StrEnum):
    """Kubernetes' externalTrafficPolicy: CLUSTER uses SNAT, LOCAL keeps the client's address."""

    CLUSTER = "cluster"
    LOCAL = "local"


class ServedBy(StrEnum):
    """Which path answers packets to the VIP."""

    XDP = "xdp"
    OVN = "ovn"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """One endpoint. `port_name` is the logical port that owns the address, if OVN knows one."""

    target: L4Addr
    place: Place
    port_name: str | None


@dataclass(frozen=True, slots=True)
class Service:
    """One VIP. `reason` says why `served_by` is what it is, in words for `millrace services`."""

    name: str
    vip: L4Addr
    backends: tuple[Backend, ...]
    policy: TrafficPolicy
    served_by: ServedBy
    reason: str
