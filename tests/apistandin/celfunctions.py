"""The functions of CEL that rules may use: the language's, and those that Kubernetes adds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from tests.apistandin.structural import parses


def _cidr_contains(network: Any, other: Any) -> bool:
    inner = ipaddress.ip_network(other) if isinstance(other, str) else other
    if isinstance(inner, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return inner in network
    return inner.version == network.version and inner.subnet_of(network)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "size": len,
    "int": int,
    "double": float,
    "string": lambda value: str(value).lower() if isinstance(value, bool) else str(value),
    "isIP": parses(ipaddress.ip_address),
    "ip": ipaddress.ip_address,
    "isCIDR": parses(lambda text: ipaddress.ip_interface(text) if "/" in text else int("x")),
    "cidr": lambda text: ipaddress.ip_network(text, strict=False),
}
METHODS: dict[str, Callable[..., Any]] = {
    "size": len,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "lowerAscii": str.lower,
    "upperAscii": str.upper,
    "trim": str.strip,
    "split": str.split,
    "replace": str.replace,
    "indexOf": str.find,
    "join": lambda items, between="": between.join(items),
    "substring": lambda text, start, end=None: text[start:end],
    "family": lambda address: address.version,
    "ip": lambda network: network.network_address,
    "prefixLength": lambda network: network.prefixlen,
    "masked": lambda network: network,
    "containsIP": lambda network, text: _cidr_contains(network, ipaddress.ip_address(text)),
    "containsCIDR": _cidr_contains,
    "isSorted": lambda items: items == sorted(items),
    "sum": sum,
    "min": min,
    "max": max,
}
