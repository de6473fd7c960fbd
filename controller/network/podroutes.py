"""Routes that a pod's annotations give one of its interfaces, for the node that attaches it. Pure.

Source: Kube-OVN's annotation `<provider>.kubernetes.io/routes`, a JSON list of `dst` and `gw`; no
`dst` is the default route. `default_route` says whether an interface has one, which otherwise the
pod's first has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from controller.network.nets import Net
from controller.network.nics import annotation
from controller.translate.ovn import Problem
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.names import DEFAULT_ROUTE_KEY, ROUTES_KEY

MOST = 256
"""Routes of one interface, as in a network configuration."""
_ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_QUOTES = "'\"` \t\r\n"
"""What is left around the list: Kube-OVN's own example ends with a quotation mark."""
_EXAMPLE = 'write [{"dst": "192.168.0.0/16", "gw": "10.16.0.254"}]'


@dataclass(frozen=True, slots=True)
class PodRoutes:
    """What a port's external_ids say, and what is wrong."""

    external_ids: Mapping[str, str]
    problems: tuple[Problem, ...] = ()


_NONE = PodRoutes({})


def pod_routes(who: str, provider: str, said: Mapping[str, str], net: Net | None) -> PodRoutes:
    """What the annotations of a pod say of the routes of its interface of this provider."""
    key, default_key = annotation(provider, "routes"), annotation(provider, "default_route")
    text, default = said.get(key, ""), said.get(default_key, "")
    if not text.strip() and not default:
        return _NONE
    problems: list[Problem] = []
    found: list[tuple[IPNetwork, IPAddress | None]] = []
    try:
        found = list(_read(text)) if text.strip() else []
    except ValueError as error:
        problems.append(Problem(who, f"{key}: {error}: no routes", _EXAMPLE))
    told: dict[str, str] = {}
    default = default.strip().lower()
    if default == "false":
        told[DEFAULT_ROUTE_KEY] = "false"
    elif default == "true":
        has = {to.version for to, _ in found if not to.prefixlen}
        gateways = net.gateways if net is not None else ()
        found += [(_ANYWHERE[one.version], one) for one in gateways if one.version not in has]
    elif default:
        problems.append(Problem(who, f"{default_key} is {default!r}: void", "write true or false"))
    if found:
        told[ROUTES_KEY] = ",".join(f"{to} {via}" if via else str(to) for to, via in found)
    return PodRoutes(told, tuple(problems))


def _read(text: str) -> Iterator[tuple[IPNetwork, IPAddress | None]]:
    try:
        listed = json.loads(text.strip(_QUOTES))
    except (ValueError, RecursionError) as error:
        msg = f"it is no JSON: {error}"
        raise ValueError(msg) from error
    if not isinstance(listed, list) or len(listed) > MOST:
        msg = f"it is no list of at most {MOST}"
        raise ValueError(msg)
    for one in listed:
        yield _route(one)


def _route(one: Any) -> tuple[IPNetwork, IPAddress | None]:
    if not isinstance(one, dict) or not one.keys() <= {"dst", "gw"}:
        msg = f"{one!r} is no object of dst and gw"
        raise ValueError(msg)
    dst, gw = str(one.get("dst") or "").strip(), str(one.get("gw") or "").strip()
    via = ip_address(gw) if gw else None
    if not dst and via is None:
        msg = "a route has neither dst nor gw"
        raise ValueError(msg)
    # With bits behind its length, as Kube-OVN's example has it.
    to = ip_network(dst, strict=False) if dst else _ANYWHERE[via.version if via else 4]
    if via is not None and via.version != to.version:
        msg = f"{to} has the gateway {via}, which is of another family"
        raise ValueError(msg)
    return to, via
