"""The ConfigMap `ovn-external-gw-config`: how the default VPC reaches an external network."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from controller.kinds.reading import Reading
from controller.kube.resources import Key
from controller.kube.structs import ConfigMap
from controller.network.view import Kind
from controller.translate.ovn import Problem
from dataplane.model.addr import Mac

PLACE = Key("kube-system", "ovn-external-gw-config")
"""The one ConfigMap that is read."""


@dataclass(frozen=True, slots=True)
class ExternalGateway:
    """What it says.

    Attributes:
        enabled: the default VPC has a port on the external Subnet.
        distributed: every node is a gateway; else those of `nodes` are.
        subnet: the external Subnet; "": the one of that name by default.
        gateways: the wire's routers with its networks' lengths, at most one of a family.
        addresses: of the default VPC's port.
        nic: the nodes' device; their own files say it here.
    """

    enabled: bool = False
    distributed: bool = False
    nodes: tuple[str, ...] = ()
    subnet: str = ""
    gateways: tuple[IPv4Interface | IPv6Interface, ...] = ()
    addresses: tuple[str, ...] = ()
    mac: str = ""
    nic: str = ""


def _parts(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _interfaces(data: Reading, name: str) -> tuple[IPv4Interface | IPv6Interface, ...]:
    found: dict[int, IPv4Interface | IPv6Interface] = {}
    for part in _parts(data.text(name)):
        try:
            one = ip_interface(part)
        except ValueError:
            data.fail(name, f"{part!r} is no address with a length", "write it as 172.56.0.1/16")
        if one.version in found:
            data.fail(name, f"{part} is the second of its family", "write one of each")
        found[one.version] = one
    return tuple(found[version] for version in sorted(found))


def _read(data: Reading) -> ExternalGateway:
    ways, switch = ("centralized", "distributed"), ("true", "false")
    mac = data.text("nic-mac")
    try:
        given = str(Mac(mac)) if mac else ""
    except ValueError:
        data.fail("nic-mac", f"{mac!r} is no MAC", "write it as 16:52:f3:13:6a:25")
    return ExternalGateway(
        data.choice("enable-external-gw", switch, "false") == "true",
        data.choice("type", ways, ways[0]) == "distributed",
        _parts(data.text("external-gw-nodes")),
        data.text("external-gw-switch"),
        _interfaces(data, "external-gw-addr"),
        tuple(str(one.ip) for one in _interfaces(data, "nic-ip")),
        given,
        data.text("external-gw-nic"),
    )


def decode(obj: ConfigMap) -> ExternalGateway:
    """The fact.

    Raises:
        KindError: it cannot be understood.
    """
    return _read(Reading(obj.data, "data"))


def warn(obj: ConfigMap) -> tuple[Problem, ...]:
    """Keys that nobody reads."""
    data = Reading(obj.data, "data")
    _read(data)
    return tuple(
        Problem(f"ConfigMap {PLACE}", f"{key} is no key that is known here", "correct its name")
        for key in data.unread()
    )


EXTERNAL_GATEWAYS: Kind[ExternalGateway] = Kind("external gateways")
"""One, of the key PLACE."""
