"""The VIPs of a load balancer row: what its strings mean, and what is wrong with them.

Source: ovn-nb(5), Load_Balancer.vips: the key is "address" or "address:port", IPv6 in brackets;
the value a comma-separated list of the same form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from controller.translate.ovn import LoadBalancer, Problem
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.names import FAST_PATH_KEY, TRAFFIC_POLICY_KEY
from dataplane.model.service import TrafficPolicy

_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP}


@dataclass(frozen=True, slots=True)
class Vip:
    """One VIP that can be named; `ignored` counts backends that cannot."""

    address: L4Addr
    targets: tuple[L4Addr, ...]
    ignored: int


@dataclass(frozen=True, slots=True)
class _Unusable:
    """Why a text is not an address and port that XDP can serve, and what to do."""

    cause: str
    next_step: str


def is_marked(balancer: LoadBalancer) -> bool:
    """Whether the row asks for the fast path."""
    return balancer.external_ids.get(FAST_PATH_KEY) == "true"


def policy_of(balancer: LoadBalancer) -> TrafficPolicy:
    """The traffic policy that the row asks for; an unknown word means the default."""
    try:
        return TrafficPolicy(balancer.external_ids.get(TRAFFIC_POLICY_KEY, TrafficPolicy.CLUSTER))
    except ValueError:
        return TrafficPolicy.CLUSTER


def vips(balancer: LoadBalancer) -> tuple[Vip, ...]:
    """The row's VIPs that are IPv4, TCP or UDP, and have a port; sorted, each once."""
    protocol = _protocol(balancer)
    if isinstance(protocol, _Unusable):
        return ()
    found: dict[L4Addr, Vip] = {}
    for key, value in sorted(balancer.vips.items()):
        address = _l4(protocol, key)
        if isinstance(address, _Unusable):
            continue
        found.setdefault(address, Vip(address, *_targets(protocol, value)))
    return tuple(found[address] for address in sorted(found))


def problems_of(balancer: LoadBalancer) -> Iterator[Problem]:
    """What is wrong with a row that somebody wants served; unmarked rows are OVN's affair."""
    if not is_marked(balancer):
        return
    name = f"load balancer {balancer.name}"
    policy = balancer.external_ids.get(TRAFFIC_POLICY_KEY)
    if policy is not None and policy not in set(TrafficPolicy):
        yield Problem(
            name,
            f"external_ids:{TRAFFIC_POLICY_KEY}={policy!r} is no traffic policy; cluster is used",
            "set it to cluster or local",
        )
    protocol = _protocol(balancer)
    if isinstance(protocol, _Unusable):
        yield Problem(name, protocol.cause, protocol.next_step)
        return
    for key, value in sorted(balancer.vips.items()):
        address = _l4(protocol, key)
        if isinstance(address, _Unusable):
            yield Problem(f"{name}, VIP {key}", address.cause, address.next_step)
            continue
        for text in _backend_texts(value):
            target = _l4(protocol, text)
            if isinstance(target, _Unusable):
                yield Problem(f"{name}, VIP {key}, backend {text}", target.cause, target.next_step)


def _protocol(balancer: LoadBalancer) -> Protocol | _Unusable:
    """OVN's default is TCP (ovn-nb(5), Load_Balancer.protocol)."""
    if balancer.options.get("template") == "true":
        return _Unusable(
            "it is a template (options:template=true), which XDP does not serve yet",
            "write its VIPs out, or leave it to OVN: remove the mark and attach it",
        )
    word = balancer.protocol or "tcp"
    if word not in _PROTOCOLS:
        return _Unusable(
            f"XDP does not serve protocol {word}",
            "remove the mark and attach it to a switch or router, so that OVN serves it",
        )
    return _PROTOCOLS[word]


@lru_cache(maxsize=8192)
def _targets(protocol: Protocol, value: str) -> tuple[tuple[L4Addr, ...], int]:
    """The backends of a VIP's value, sorted, and the number of those that cannot be named.

    Remembered, because of a thousand services one changes and the others are asked for again.
    """
    parsed = [_l4(protocol, text) for text in _backend_texts(value)]
    targets = {target for target in parsed if isinstance(target, L4Addr)}
    return tuple(sorted(targets)), sum(isinstance(target, _Unusable) for target in parsed)


def _backend_texts(value: str) -> list[str]:
    return [text.strip() for text in value.split(",") if text.strip()]


@lru_cache(maxsize=32768)
def _l4(protocol: Protocol, text: str) -> L4Addr | _Unusable:
    if text.startswith("[") or text.count(":") > 1:
        host = text.partition("]")[0].lstrip("[") if text.startswith("[") else text
        try:
            IPv6Address(host)
        except AddressValueError:
            return _Unusable(f"{text!r} is not an address", "write it as 192.0.2.1:80")
        return _Unusable(
            "XDP does not serve IPv6 yet",
            "remove the mark and attach it to a switch or router, so that OVN serves it",
        )
    host, _, port = text.partition(":")
    try:
        address = IPv4Address(host)
    except AddressValueError:
        return _Unusable(f"{host!r} is not an IPv4 address", "write it as 192.0.2.1:80")
    if not port:
        return _Unusable(
            "it has no port, and XDP serves one port at a time",
            "add the port (192.0.2.1:80), or leave it to OVN: remove the mark and attach it",
        )
    # int() takes "+1", "1_0" and other scripts' digits; OVN takes none of them.
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535 and len(port) < 6):
        return _Unusable(f"{port!r} is not a port", "use a number from 1 to 65535")
    return L4Addr(protocol, address, int(port))
