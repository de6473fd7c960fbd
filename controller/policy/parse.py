"""NetworkPolicy objects of the API to values. Pure.

The API server has validated them by its schema, not by sense: a stored object may still come from
an older version. What cannot be read is named by its path in the object; `closed` is what is left
of a policy then: it isolates what it selects and lets nothing through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from controller.kinds.errors import KindError
from controller.policy import kubeovn
from controller.policy.model import (
    Block,
    Expression,
    NetworkPolicy,
    Operator,
    Peer,
    Pods,
    Ports,
    Rule,
    Selector,
)
from dataplane.model.addr import IPNetwork, Protocol

_TYPES = ("Ingress", "Egress")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""IANA service name (RFC 6335, 5.1)."""


def network_policy(item: Mapping[str, Any]) -> NetworkPolicy:
    """A networking.k8s.io/v1 NetworkPolicy, as JSON has it.

    Raises:
        KindError: something in it cannot be read.
    """
    spec = _map(item, "spec", "")
    _known(spec, {"podSelector", "policyTypes", "ingress", "egress"}, "spec")
    types = _list(spec, "policyTypes", "spec")
    for at, kind in enumerate(types or ()):
        if kind not in _TYPES:
            raise KindError(
                path=f"spec.policyTypes[{at}]",
                cause=f"{kind!r} is no type",
                next_step="say Ingress or Egress",
            )
    ingress, egress = (
        tuple(
            _rule(rule, peers, f"spec.{key}[{at}]")
            for at, rule in enumerate(_list(spec, key, "spec") or ())
        )
        for key, peers in (("ingress", "from"), ("egress", "to"))
    )
    return _policy(item, spec, (ingress, egress))


def closed(item: Mapping[str, Any]) -> NetworkPolicy:
    """The same policy without its rules, for one whose rules cannot be read.

    Raises:
        KindError: it cannot even be read what the policy selects.
    """
    return _policy(item, _map(item, "spec", ""), ((), ()))


def _policy(
    item: Mapping[str, Any],
    spec: Mapping[str, Any],
    rules: tuple[tuple[Rule, ...], tuple[Rule, ...]],
) -> NetworkPolicy:
    meta = _map(item, "metadata", "")
    ingress, egress = rules
    types = spec.get("policyTypes") or ("Ingress", *(("Egress",) if spec.get("egress") else ()))
    # Without types: always ingress, and egress if there are rules of it. What is none closes all.
    readable = isinstance(types, list | tuple) and all(one in _TYPES for one in types)
    wanted = types if readable else _TYPES
    notes = _map(meta, "annotations", "metadata")
    return NetworkPolicy(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        pods=_selected(spec, "spec"),
        ingress=ingress if "Ingress" in wanted else None,
        egress=egress if "Egress" in wanted else None,
        logging=kubeovn.logging(notes),
        providers=kubeovn.providers(notes),
        lax=kubeovn.lax(notes),
    )


def selector(value: object, path: str) -> Selector:
    """A LabelSelector.

    Raises:
        KindError: it is none.
    """
    if not isinstance(value, Mapping):
        raise KindError(path, "is no selector", "give matchLabels or matchExpressions, or {}")
    _known(value, {"matchLabels", "matchExpressions"}, path)
    found = [
        Expression(str(key), Operator.IN, (str(text),))
        for key, text in _map(value, "matchLabels", path).items()
    ]
    for at, one in enumerate(_list(value, "matchExpressions", path) or ()):
        here = f"{path}.matchExpressions[{at}]"
        if not isinstance(one, Mapping) or not one.get("key"):
            raise KindError(here, "has no key", "name the label")
        try:
            operator = Operator(str(one.get("operator")))
        except ValueError:
            said = one.get("operator")
            raise KindError(
                path=f"{here}.operator",
                cause=f"{said!r} is none",
                next_step="say In, NotIn, Exists or DoesNotExist",
            ) from None
        values = tuple(sorted({str(text) for text in _list(one, "values", here) or ()}))
        if bool(values) != (operator in {Operator.IN, Operator.NOT_IN}):
            cause = f"{operator} with {len(values)} values"
            raise KindError(here, cause, "In and NotIn have values, the others have none")
        found.append(Expression(str(one["key"]), operator, values))
    return Selector(tuple(sorted(set(found))))


def _selected(value: Mapping[str, Any], path: str) -> Selector:
    """A podSelector; without one everything is selected."""
    found = value.get("podSelector")
    return selector({} if found is None else found, f"{path}.podSelector")


def _rule(value: object, peers: str, path: str) -> Rule:
    if not isinstance(value, Mapping):
        raise KindError(path, "is no rule", f"give {peers} and ports, or {{}}")
    _known(value, {peers, "ports"}, path)
    listed, ports = _list(value, peers, path), _list(value, "ports", path)
    return Rule(
        tuple(_peer(one, f"{path}.{peers}[{at}]") for at, one in enumerate(listed))
        if listed
        else None,
        tuple(_ports(one, f"{path}.ports[{at}]") for at, one in enumerate(ports))
        if ports
        else None,
    )


def _peer(value: object, path: str) -> Peer:
    if not isinstance(value, Mapping) or not value:
        raise KindError(path, "is no peer", "give podSelector, namespaceSelector or ipBlock")
    _known(value, {"podSelector", "namespaceSelector", "ipBlock"}, path)
    if "ipBlock" in value:
        if len(value) > 1:
            raise KindError(path, "has ipBlock and selectors", "make two peers of it")
        return _block(value["ipBlock"], f"{path}.ipBlock")
    namespaces = value.get("namespaceSelector")
    return Pods(
        _selected(value, path),
        None if namespaces is None else selector(namespaces, f"{path}.namespaceSelector"),
    )


def _block(value: object, path: str) -> Block:
    if not isinstance(value, Mapping):
        raise KindError(path, "is no block", "give cidr, and except if parts are left out")
    _known(value, {"cidr", "except"}, path)
    network = _network(value.get("cidr"), f"{path}.cidr")
    excepts = tuple(
        _network(one, f"{path}.except[{at}]")
        for at, one in enumerate(_list(value, "except", path) or ())
    )
    for at, one in enumerate(excepts):
        if one.version != network.version or not one.subnet_of(network):  # type: ignore[arg-type]
            raise KindError(
                path=f"{path}.except[{at}]",
                cause=f"{one} is no part of {network}",
                next_step="take it out",
            )
    return Block(network, tuple(sorted(set(excepts), key=str)))


def _ports(value: object, path: str) -> Ports:
    if not isinstance(value, Mapping):
        raise KindError(path, "is no port", "give protocol, port, endPort, or {}")
    _known(value, {"protocol", "port", "endPort"}, path)
    try:
        protocol = Protocol[str(value.get("protocol", "TCP"))]
    except KeyError:
        said = value.get("protocol")
        raise KindError(
            path=f"{path}.protocol", cause=f"{said!r} is none", next_step="say TCP, UDP or SCTP"
        ) from None
    port, last = value.get("port"), value.get("endPort")
    if isinstance(port, str) and not (_PORT_NAME.fullmatch(port) and len(port) <= 15):
        raise KindError(
            path=f"{path}.port",
            cause=f"{port!r} is no port's name",
            next_step="name one as a container does",
        )
    if isinstance(port, int) and not _is_port(port):
        raise KindError(
            path=f"{path}.port", cause=f"{port} is no port", next_step="give 1 to 65535"
        )
    if port is not None and not isinstance(port, int | str):
        raise KindError(
            path=f"{path}.port", cause=f"{port!r} is no port", next_step="give a number or a name"
        )
    if last is not None:
        if not isinstance(port, int):
            raise KindError(
                path=f"{path}.endPort",
                cause="has no number to begin with",
                next_step="give port a number",
            )
        if not isinstance(last, int) or not _is_port(last) or last < port:
            raise KindError(
                path=f"{path}.endPort",
                cause=f"{last!r} ends before {port}",
                next_step="turn them round",
            )
    return Ports(protocol, port, last if last != port else None)


def _is_port(number: int) -> bool:
    return not isinstance(number, bool) and 1 <= number <= 65535


def _network(text: object, path: str) -> IPNetwork:
    try:
        # Host bits are allowed there (a warning of newer servers), and mean the network.
        return ip_network(str(text), strict=False)
    except ValueError as error:
        raise KindError(path, f"{text!r} is no network ({error})", "write 10.0.0.0/8") from error


def _map(value: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    found = value.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise KindError(
            path=f"{path}.{key}".lstrip("."), cause="is no object", next_step="give keys and values"
        )
    return found


def _list(value: Mapping[str, Any], key: str, path: str) -> Sequence[Any] | None:
    found = value.get(key)
    if found is None:
        return None
    if not isinstance(found, list | tuple):
        raise KindError(path=f"{path}.{key}", cause="is no list", next_step="give a list")
    return found


def _known(value: Mapping[str, Any], keys: set[str], path: str) -> None:
    for key in value:
        if key not in keys:
            raise KindError(
                path=f"{path}.{key}",
                cause="is not known",
                next_step=f"give {', '.join(sorted(keys))} only",
            )
