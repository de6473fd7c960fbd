"""What a runtime asks for beside its network: read, and held against what OVN has.

OVN's logical port has the addresses, and only the cluster controller gives them out. So what a
runtime asks for is not set here but compared: what can never be is refused, what is not yet so is
to be tried again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from cni import spec
from cni.wire import CODE_BAD_REQUEST, RemoteError
from dataplane.model.addr import IPAddress, Mac, Protocol
from dataplane.model.state import Attachment, HostPort, LogicalPort, Route
from dataplane.plan.mtu import TooBig

Args = Mapping[str, object]
_MULTICAST = 1
"""The lowest bit of a MAC's first octet (IEEE 802)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """All of it; empty where nothing is asked for."""

    mac: Mac | None = None
    ips: tuple[IPAddress, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    device_info: str = ""


NOTHING = Asked()


def asked_of(args: Args) -> Asked:
    """What a call's arguments ask for. Earlier plugins ask for nothing.

    Raises:
        RemoteError: a MAC, an address or a port that cannot be one.
    """
    asked = args.get("asked", {})
    if not isinstance(asked, dict):
        raise _malformed(asked, "asked")
    found = Asked(
        host_ports=tuple(_host_port(one) for one in _list(asked, "port_mappings")),
        device_info=_text(asked, "device_info"),
    )
    if mac := _text(asked, "mac"):
        found = replace(found, mac=_mac(mac))
    return replace(found, ips=tuple(_address(one, "ips") for one in _list(asked, "ips")))


def routes_of(args: Args) -> tuple[Route, ...]:
    """The network's own routes.

    Raises:
        RemoteError: one is not a network, or its gateway is of another family.
    """
    found: list[Route] = []
    for one in _list(args, "routes"):
        if not isinstance(one, dict):
            raise _malformed(one, "routes")
        dst, gw = _text(one, "dst"), _text(one, "gw")
        try:
            to = ip_network(dst)
        except ValueError as error:
            msg = f'"routes": {error}'
            raise _wrong(msg, "write it as 10.9.0.0/16") from error
        via = _address(gw, "routes") if gw else None
        if via is not None and via.version != to.version:
            msg = f'"routes": {to} has the gateway {via}, which is of another family'
            raise _wrong(msg, "both are IPv4, or both IPv6")
        found.append(Route(to, via))
    return tuple(found)


def not_yet(asked: Asked, port: LogicalPort) -> RemoteError | None:
    """Why a port is not as asked, if it is not; OVN's word may still change."""
    if asked.mac is not None and port.mac is not None and asked.mac != port.mac:
        return _later(port, f"MAC {asked.mac}", f"MAC {port.mac}")
    held = {interface.ip for interface in port.addresses}
    if missing := [str(ip) for ip in asked.ips if ip not in held]:
        has = ", ".join(str(ip) for ip in sorted(held, key=str)) or "no address"
        return _later(port, ", ".join(missing), has)
    return None


def unfit(port: str, reason: str) -> RemoteError:
    """The refusal of an address that the port can never have."""
    return _wrong(
        f"the runtime asks for an address of {port!r} that it cannot have: {reason}",
        "choose a free address of the port's own subnet in the pod's annotation",
    )


def too_big(port: str, mtu: int, small: TooBig) -> RemoteError:
    """The refusal of an MTU in the network configuration that the tunnel does not carry."""
    return _wrong(
        f'network configuration: "mtu" is {mtu}, and the tunnel that leads from {port!r} to other '
        f"nodes carries {small.most}: {small.device} has an MTU of {small.device_mtu}",
        f'write at most "mtu": {small.most}, or none; or give {small.device} a larger MTU',
    )


def refuse_shared(wanted: Attachment, other: Attachment) -> None:
    """Refuse a socket or a port of the node that another workload has.

    An earlier sandbox of the same pod is no other.

    Raises:
        RemoteError: it has it.
    """
    key, theirs = (wanted.container_id, wanted.ifname), (other.container_id, other.ifname)
    if other.iface_id == wanted.iface_id or key == theirs:
        return
    if wanted.socket and other.socket == wanted.socket:
        msg = f"socket {wanted.socket} is {other.ifname}'s of the same pod"
        raise _wrong(msg, "give each network of a pod its own vhost_user_socket_name")
    for one in wanted.host_ports:
        if any(_meet(one, another) for another in other.host_ports):
            msg = f"{one.protocol.name} port {one.port} of this node is {other.iface_id}'s already"
            raise _wrong(msg, "choose another hostPort, or place the pod elsewhere")


def _meet(one: HostPort, other: HostPort) -> bool:
    same = (one.protocol, one.port) == (other.protocol, other.port)
    return same and (one.host is None or other.host is None or one.host == other.host)


def _later(port: LogicalPort, wanted: str, has: str) -> RemoteError:
    return RemoteError(
        spec.TRY_AGAIN_LATER,
        f"the runtime asks for {wanted}; OVN's logical port {port.name!r} has {has}",
        "the cluster controller gives addresses out: it may be behind, or see `millrace central`",
    )


def _mac(text: str) -> Mac:
    try:
        mac = Mac(text)
    except ValueError as error:
        msg = f"the MAC asked for: {error}"
        raise _wrong(msg, "write it as 0a:58:0a:00:00:05") from error
    if int(mac.text[:2], 16) & _MULTICAST:
        msg = f"the MAC asked for, {mac}, is a multicast address: no interface can have it"
        raise _wrong(msg, "the first octet of an interface's MAC is even, such as 0a")
    if mac.text == "00:00:00:00:00:00":
        msg = f"the MAC asked for, {mac}, stands for none"
        raise _wrong(msg, "such as 0a:58:0a:00:00:05")
    return mac


def _address(text: object, key: str) -> IPAddress:
    if not isinstance(text, str):
        raise _malformed(text, key)
    try:
        # With a prefix length too: what is on link is OVN's to say.
        return ip_address(text.partition("/")[0])
    except ValueError as error:
        msg = f'"{key}": {error}'
        raise _wrong(msg, "an IPv4 or IPv6 address is wanted") from error


def _host_port(one: object) -> HostPort:
    if not isinstance(one, dict):
        raise _malformed(one, "port_mappings")
    protocol, host = _text(one, "protocol").upper(), _text(one, "host_ip")
    port, to = one.get("host_port"), one.get("port")
    if (
        protocol not in Protocol.__members__
        or not (isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536)
        or not (isinstance(to, int) and not isinstance(to, bool) and 0 < to < 65536)
    ):
        raise _malformed(one, "port_mappings")
    address = _address(host, "hostIP") if host else None
    if address is not None and address.is_unspecified:
        address = None
    return HostPort(Protocol[protocol], port, to, address)


def _list(args: Args, key: str) -> list[object]:
    value = args.get(key, [])
    if not isinstance(value, list):
        raise _malformed(value, key)
    return value


def _text(args: Args, key: str) -> str:
    value = args.get(key, "")
    if not isinstance(value, str) or "\0" in value:
        raise _malformed(value, key)
    return value


def _wrong(msg: str, details: str) -> RemoteError:
    return RemoteError(spec.INVALID_CONFIG, msg, details)


def _malformed(value: object, key: str) -> RemoteError:
    return RemoteError(
        CODE_BAD_REQUEST,
        f"the CNI call has {key} = {value!r}"[:500],
        "plugin and daemon differ in version; install both anew",
    )
