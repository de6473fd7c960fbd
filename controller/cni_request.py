"""CNI calls as values: what the plugin asks, what OVN says, what the runtime gets.

Pure: the daemon's side of the calls, without any of their effects (`controller.cni_server`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cni import config, spec
from cni.wire import CODE_BAD_REQUEST, MAX_PATH_SIZE, RemoteError
from controller import cni_routes, iface_id, vm_ports
from controller.cni_asked import NOTHING, Asked, asked_of, routes_of
from dataplane.model.bandwidth import UNLIMITED, Bandwidth, Limits
from dataplane.model.devices import device_name, peer_name
from dataplane.model.state import Attachment, LogicalPort, PortKind, Route
from dataplane.plan.qos import refusal

Args = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class InterfaceRequest:
    """ADD, DEL or CHECK of one interface. `mtu` 0: not given. Absent texts are empty."""

    network: str
    container_id: str
    ifname: str
    netns: str
    pod: str
    namespace: str
    pod_uid: str
    kind: PortKind
    mtu: int
    queues: int
    prev_result: Mapping[str, object] | None
    limits: Limits = UNLIMITED
    provider: str = ""
    routes: tuple[Route, ...] = ()
    socket_name: str = ""
    asked: Asked = NOTHING
    template: str = ""
    cni_args: Mapping[str, str] = field(default_factory=dict)

    @property
    def iface_id(self) -> str:
        """The logical switch port's name, and external_ids:iface-id of the OVS interface.

        Of several interfaces of one network each has its own behind it (`port_names`).
        """
        if self.template:
            return self.port_names[0]
        return vm_ports.port_names(self.kind, self.pod, self.namespace, self.provider)[0]

    @property
    def port_names(self) -> tuple[str, ...]:
        """The names that the logical switch port may have, the best first.

        Raises:
            RemoteError: the template names what the runtime did not tell.
        """
        if self.template:
            return (iface_id.expand(self.template, self._variables(), self.cni_args),)
        return vm_ports.port_names(self.kind, self.pod, self.namespace, self.provider, self.ifname)

    def _variables(self) -> Mapping[str, str]:
        return {
            "pod": self.pod,
            "namespace": self.namespace,
            "uid": self.pod_uid,
            "vm": vm_ports.vm_name(self.pod) or self.pod,
            "ifname": self.ifname,
            "provider": self.provider,
            "container": self.container_id,
            "network": self.network,
        }

    @property
    def device(self) -> str:
        """The OVS port's name."""
        return device_name(self.kind, self.container_id, self.ifname)

    @property
    def directory(self) -> str:
        """The name of the pod's own directory below `<rundir>/vhost`."""
        return self.pod_uid or self.container_id


def interface_request(args: Args, template: str = "") -> InterfaceRequest:
    """The request in a call's arguments. `template`: the node's own for names of logical ports.

    The plugin has checked them, but a path is made of some, so nothing is taken on trust.

    Raises:
        RemoteError: an argument is missing, of the wrong type, or could lead out of a directory.
    """
    mode = _text(args, "mode")
    prev_result = args.get("prev_result")
    if prev_result is not None and not isinstance(prev_result, dict):
        raise _refused(args, "prev_result")
    request = InterfaceRequest(
        network=_text(args, "network"),
        container_id=_text(args, "container_id"),
        ifname=_text(args, "ifname"),
        netns=_text(args, "netns"),
        pod=_text(args, "pod"),
        namespace=_text(args, "namespace"),
        pod_uid=_text(args, "pod_uid"),
        kind=PortKind(mode) if mode in list(PortKind) else PortKind.VETH,
        mtu=_number(args, "mtu"),
        queues=_number(args, "queues"),
        prev_result=prev_result,
        limits=_limits(args),
        # Earlier plugins have none of these.
        provider=_text({"provider": "", **args}, "provider"),
        routes=routes_of(args),
        socket_name=_text({"socket_name": "", **args}, "socket_name"),
        asked=asked_of(args),
        template=_text({"iface_id": "", **args}, "iface_id") or template,
        cni_args=_texts(args, "cni_args"),
    )
    if request.template and (why := iface_id.fault(request.template)):
        msg = f'network configuration: "iface_id" is {request.template!r}: {why}'
        raise RemoteError(spec.INVALID_CONFIG, msg, "such as {namespace}_{pod}; see docs/cni.md")
    for key, good in (
        ("container_id", config.is_container_id(request.container_id)),
        ("ifname", config.is_ifname(request.ifname)),
        ("pod_uid", not request.pod_uid or config.is_pod_uid(request.pod_uid)),
        ("mode", mode in list(PortKind)),
        ("socket_name", not request.socket_name or config.is_pod_uid(request.socket_name)),
        ("queues", request.queues >= 1),
    ):
        if not good:
            raise _refused(args, key)
    return request


def attachment_of(
    request: InterfaceRequest, port: LogicalPort, default_mtu: int, socket: str
) -> Attachment:
    """What will be attached. `socket` is the vhost-user socket's path, "" for a veth.

    Raises:
        RemoteError: OVN has no address for the port yet, or the socket's path is too long.
    """
    if port.mac is None:
        msg = f"logical port {port.name!r} has no MAC address yet"
        details = f"set it: ovn-nbctl lsp-set-addresses {port.name} 'MAC IP'"
        raise RemoteError(spec.TRY_AGAIN_LATER, msg, details)
    size = len(socket.encode("utf-8", "surrogateescape"))
    if size > MAX_PATH_SIZE:
        msg = f"vhost-user socket path {socket} has {size} bytes, the kernel takes {MAX_PATH_SIZE}"
        raise RemoteError(spec.INVALID_CONFIG, msg, "choose a shorter node.rundir")
    found = cni_routes.ways(port, request.provider, request.ifname, request.routes)
    return Attachment(
        container_id=request.container_id,
        ifname=request.ifname,
        kind=request.kind,
        netns=request.netns,
        iface_id=port.name,
        device=request.device,
        peer=peer_name(request.kind, request.container_id, request.ifname),
        mac=port.mac,
        addresses=port.addresses,
        gateway=found.gateway,
        gateway6=found.gateway6,
        routes=found.routes,
        host_ports=request.asked.host_ports,
        device_info=request.asked.device_info if request.kind is PortKind.VHOST_USER else "",
        mtu=request.mtu or port.mtu or default_mtu,
        socket=socket,
        queues=request.queues,
        pod=request.pod,
        namespace=request.namespace,
        pod_uid=request.pod_uid,
        network=request.network,
        limits=request.limits,
    )


def result_of(attachment: Attachment) -> dict[str, object]:
    """The result of ADD in the form of CNI 1.1 (the plugin makes older ones); always the same."""
    inner: dict[str, object] = {
        "name": attachment.ifname,
        "mac": str(attachment.mac),
        "mtu": attachment.mtu,
        "sandbox": attachment.netns or attachment.container_id,
    }
    interfaces = [inner]
    if attachment.kind is PortKind.VETH:
        interfaces = [{"name": attachment.device, "mtu": attachment.mtu}, inner]
    else:
        inner["socketPath"] = attachment.socket
    gateways = (attachment.gateway, attachment.gateway6)
    ips = cni_routes.ip_objects(attachment.addresses, *gateways, len(interfaces) - 1)
    ways = cni_routes.Ways(*gateways, attachment.routes)
    routes = cni_routes.route_objects((*ways.defaults(), *ways.routes))
    return {"interfaces": interfaces, "ips": ips, "routes": routes}


def differences(
    attachment: Attachment, port: LogicalPort | None, prev_result: Mapping[str, object] | None
) -> list[str]:
    """What OVN or the runtime says of an attachment that is not so, in words."""
    found: list[str] = []
    if port is None:
        found.append(f"OVN has no logical port {attachment.iface_id!r} any more")
    else:
        if port.mac is not None and port.mac != attachment.mac:
            found.append(f"OVN now says MAC {port.mac}, attached was {attachment.mac}")
        if set(port.addresses) != set(attachment.addresses):
            now = ", ".join(map(str, port.addresses)) or "no address"
            was = ", ".join(map(str, attachment.addresses)) or "no address"
            found.append(f"OVN now says {now}, attached was {was}")
    if prev_result is not None:
        found += _differences_of_result(attachment, prev_result)
    return found


def _differences_of_result(attachment: Attachment, prev: Mapping[str, object]) -> list[str]:
    """What the runtime's copy of the result claims of our interface that is not so.

    A later plugin of the list may have added interfaces and addresses of its own.
    """
    interfaces = _objects(prev, "interfaces")
    ours = [
        index
        for index, one in enumerate(interfaces)
        if one.get("name") == attachment.ifname and one.get("sandbox")
    ]
    if not ours:
        return [f"prevResult has no interface {attachment.ifname!r}"]
    found: list[str] = []
    mac = interfaces[ours[0]].get("mac")
    if isinstance(mac, str) and mac and mac.lower() != str(attachment.mac):
        found.append(f"prevResult says MAC {mac}, attached is {attachment.mac}")
    claimed = {one.get("address") for one in _objects(prev, "ips") if one.get("interface") in ours}
    found += [
        f"prevResult lacks the address {address}"
        for address in attachment.addresses
        if str(address) not in claimed
    ]
    return found


def _objects(obj: Mapping[str, object], key: str) -> list[dict[str, object]]:
    value = obj.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def valid_attachments(args: Args) -> set[tuple[str, str]]:
    """Container and interface of each attachment that GC must keep.

    Raises:
        RemoteError: the list is missing or malformed; it must not pass for an empty one.
    """
    value = args.get("valid")
    if not isinstance(value, list):
        raise _refused(args, "valid")
    valid: set[tuple[str, str]] = set()
    for one in value:
        if not isinstance(one, dict):
            raise _refused(args, "valid")
        valid.add((_text(one, "container_id"), _text(one, "ifname")))
    return valid


def network_of(args: Args) -> str:
    """The CNI network's name.

    Raises:
        RemoteError: it is missing.
    """
    return _text(args, "network")


def _text(args: Args, key: str) -> str:
    value = args.get(key)
    if not isinstance(value, str):
        raise _refused(args, key)
    return value


def _texts(args: Args, key: str) -> Mapping[str, str]:
    value = args.get(key, {})
    if not isinstance(value, dict):
        raise _refused(args, key)
    return {name: one for name, one in value.items() if isinstance(one, str)}


def _number(args: Args, key: str) -> int:
    value = args.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise _refused(args, key)
    return value


def _limits(args: Args) -> Limits:
    """What the runtime limits: egress is what the workload sends. Earlier plugins say nothing."""
    asked = args.get("bandwidth", {})
    if not isinstance(asked, dict) or not all(
        isinstance(value, int) and not isinstance(value, bool) and value > 0
        for value in asked.values()
    ):
        raise _refused(args, "bandwidth")
    found: list[Bandwidth | None] = []
    for way in ("egress", "ingress"):
        rate = asked.get(f"{way}Rate")
        wanted = Bandwidth(rate, asked.get(f"{way}Burst")) if rate is not None else None
        if wanted is not None and (reason := refusal(wanted)):
            msg = f"runtimeConfig.bandwidth.{way}Rate: {reason}"
            raise RemoteError(spec.INVALID_CONFIG, msg, "change the pod's bandwidth annotation")
        found.append(wanted)
    return Limits(*found)


def _refused(args: Args, key: str) -> RemoteError:
    return RemoteError(
        CODE_BAD_REQUEST,
        f"the CNI call has {key} = {args.get(key)!r}",
        "plugin and daemon differ in version; install both anew",
    )
