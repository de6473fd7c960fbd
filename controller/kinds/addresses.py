"""Kinds about single addresses: IPPool, IP and Vip."""

from __future__ import annotations

from dataclasses import dataclass

from controller.kinds.reading import Form, Reading
from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind

POOL_RESOURCE = custom(GROUP, VERSION, "ippools", "IPPool")
IP_RESOURCE = custom(GROUP, VERSION, "ips", "IP")
VIP_RESOURCE = custom(GROUP, VERSION, "vips", "Vip")


@dataclass(frozen=True, slots=True)
class IpPool:
    """A part of a subnet for those who name it, and for the pods of its namespaces."""

    name: str
    subnet: str
    namespaces: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ending: bool = False
    listed: bool = False
    """Whether matches of policies may name it: an address set."""


@dataclass(frozen=True, slots=True)
class IpObject:
    """An IP: an address that is a workload's for as long as this object is there."""

    name: str
    pod: str
    namespace: str
    subnet: str
    addresses: tuple[str, ...]
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Vip:
    """An address that belongs to no single pod.

    Attributes:
        use: empty (pods share it: allowed address pairs), or `switch_lb_vip`.
        selector: "key:value" of the pods that may have it, beside those whose annotation names it.
        held: what the status says was given, IPv4 first; and the MAC.
        attached: further Subnets, which it is not attached to.
    """

    name: str
    namespace: str
    subnet: str
    use: str = ""
    addresses: tuple[str, ...] = ()
    mac: str = ""
    selector: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    held_mac: str = ""
    ending: bool = False
    attached: tuple[str, ...] = ()


def _pool(meta: Meta, spec: Reading, _: Reading) -> IpPool:
    return IpPool(
        meta.name,
        spec.text("subnet"),
        spec.texts("namespaces"),
        tuple(filter(None, spec.texts("ips"))),
        meta.deletion_timestamp is not None,
        spec.flag("enableAddressSet"),
    )


def _ip(meta: Meta, spec: Reading, _: Reading) -> IpObject:
    spec.ignore("attachSubnets", "attachIps", "attachMacs", "nodeName", "containerID", "podType")
    addresses = tuple(filter(None, (spec.text("v4IpAddress"), spec.text("v6IpAddress"))))
    joined = tuple(filter(None, (part.strip() for part in spec.text("ipAddress").split(","))))
    return IpObject(
        meta.name,
        spec.text("podName"),
        spec.text("namespace"),
        spec.text("subnet"),
        addresses or joined,
        spec.text("macAddress"),
    )


def _vip(meta: Meta, spec: Reading, status: Reading) -> Vip:
    # Kube-OVN's pages write V4ip, its definition v4ip.
    v4 = spec.text("v4ip") or spec.text("V4ip")
    return Vip(
        meta.name,
        spec.text("namespace"),
        spec.text("subnet"),
        spec.text("type"),
        tuple(filter(None, (v4, spec.text("v6ip")))),
        spec.text("macAddress"),
        tuple(filter(None, spec.texts("selector"))),
        tuple(filter(None, (status.text("v4ip"), status.text("v6ip")))),
        status.text("mac"),
        meta.deletion_timestamp is not None,
        tuple(filter(None, spec.texts("attachSubnets"))),
    )


POOL, IP, VIP = Form("IPPool", _pool), Form("IP", _ip), Form("Vip", _vip)

POOLS: Kind[IpPool] = Kind(
    "ippools",
    {
        "subnet": lambda _, pool: (pool.subnet,),
        "namespace": lambda _, pool: pool.namespaces,
    },
)
IPS: Kind[IpObject] = Kind("ips", {"subnet": lambda _, ip: (ip.subnet,)})
VIPS: Kind[Vip] = Kind("vips", {"subnet": lambda _, vip: (vip.subnet,)})
