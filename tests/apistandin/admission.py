"""What the real server fills in and refuses for built-in kinds, beyond their schemas."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.apistandin.failure import Cause, Object, not_implemented
from tests.apistandin.kinds import Kind

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

SERVICE_RANGE = ipaddress.ip_network("10.96.0.0/12")
NODE_PORTS = range(30000, 32768)


def check_metadata(kind: Kind, obj: Object) -> Iterator[Cause]:
    """What is wrong with an object's name, labels, annotations and finalizers."""
    metadata = obj["metadata"]
    name = metadata.get("name", "")
    longest, rule = (63, _LABEL) if kind.strict_names == "label" else (253, _SUBDOMAIN)
    if not rule.fullmatch(name) or len(name) > longest:
        what = "label" if rule is _LABEL else "subdomain"
        text = f'Invalid value: "{name}": a lowercase RFC 1123 {what} must consist of lower case '
        text += "alphanumeric characters, '-' or '.'"
        yield Cause("metadata.name", text)
    for key, value in (metadata.get("labels") or {}).items():
        if not _QUALIFIED.fullmatch(key):
            yield Cause("metadata.labels", f'Invalid value: "{key}": name part must consist of ...')
        if not _LABEL_VALUE.fullmatch(value):
            yield Cause("metadata.labels", f'Invalid value: "{value}": a valid label must be ...')
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if not _QUALIFIED.fullmatch(key.lower()):
            yield Cause("metadata.annotations", f'Invalid value: "{key}"')
    if sum(len(key) + len(value) for key, value in annotations.items()) > 256 * 1024:
        yield Cause("metadata.annotations", "Too long: may not be more than 262144 bytes")
    for finalizer in metadata.get("finalizers") or ():
        if not _QUALIFIED.fullmatch(finalizer):
            yield Cause("metadata.finalizers", f'Invalid value: "{finalizer}"')


def check_update(kind: Kind, before: Object, after: Object) -> Iterator[Cause]:
    """What may not change from one version of an object to the next."""
    old, new = before["metadata"], after["metadata"]
    if old.get("deletionTimestamp"):
        added = set(new.get("finalizers") or ()) - set(old.get("finalizers") or ())
        if added:
            text = "Forbidden: no new finalizers can be added if the object is being deleted, "
            text += f"found new finalizers {sorted(added)}"
            yield Cause("metadata.finalizers", text, "FieldValueForbidden")
    is_slice = kind.key == ("discovery.k8s.io", "endpointslices")
    if is_slice and before.get("addressType") != after.get("addressType"):
        yield Cause("addressType", "Invalid value: field is immutable")
    if kind.kind in ("ConfigMap", "Secret") and kind.group == "" and before.get("immutable"):
        for key in ("data", "binaryData", "immutable"):
            if before.get(key) != after.get(key):
                text = "Forbidden: field is immutable when `immutable` is set"
                yield Cause(key, text, "FieldValueForbidden")
    if kind.kind == "Service" and kind.group == "":
        had, has = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
        if (
            had
            and had != has
            and "ExternalName" not in (before["spec"]["type"], after["spec"]["type"])
        ):
            yield Cause("spec.clusterIPs[0]", "Invalid value: may not change once set")


def fill(kind: Kind, obj: Object, before: Object | None, others: Iterable[Object]) -> None:
    """Fill in, in place, what the server decides for a built-in kind."""
    if kind.custom:
        return
    if kind.kind == "NetworkPolicy":
        spec = obj.setdefault("spec", {})
        spec.setdefault("podSelector", {})
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress"] + (["Egress"] if spec.get("egress") else [])
    elif kind.kind == "Service":
        _fill_service(obj, before, others)
    elif kind.kind == "Namespace":
        labels = obj["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        if before is None:
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
    elif kind.kind == "Pod":
        obj.setdefault("status", {}).setdefault("phase", "Pending")
    elif kind.kind == "Secret" and "stringData" in obj:
        raise not_implemented("stringData of secrets")


def _fill_service(obj: Object, before: Object | None, others: Iterable[Object]) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    obj.setdefault("status", {}).setdefault("loadBalancer", {})
    if spec["type"] == "ExternalName":
        return
    if spec.get("ipFamilyPolicy", "SingleStack") != "SingleStack":
        raise not_implemented("services of two families")
    if spec.get("ipFamilies", ["IPv4"]) != ["IPv4"]:
        raise not_implemented("IPv6 cluster addresses")
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", 10800)
    used_ips: set[str] = set()
    used_ports: set[int] = set()
    for other in others:
        if other["metadata"]["uid"] == obj["metadata"].get("uid"):
            continue
        used_ips.update(other["spec"].get("clusterIPs") or ())
        used_ports.update(port.get("nodePort", 0) for port in other["spec"].get("ports") or ())
    if before is not None and not spec.get("clusterIP"):
        spec["clusterIP"] = before["spec"].get("clusterIP", "")
    if not spec.get("clusterIP"):
        first = int(SERVICE_RANGE.network_address) + 10
        spec["clusterIP"] = next(
            text
            for number in range(first, first + SERVICE_RANGE.num_addresses)
            if (text := str(ipaddress.ip_address(number))) not in used_ips
        )
    spec["clusterIPs"] = [spec["clusterIP"]]
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
        if spec["type"] in ("NodePort", "LoadBalancer") and not port.get("nodePort"):
            port["nodePort"] = next(free for free in NODE_PORTS if free not in used_ports)
            used_ports.add(port["nodePort"])
    if spec["type"] in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
        for one in obj["status"]["loadBalancer"].get("ingress") or ():
            if one.get("ip"):
                one.setdefault("ipMode", "VIP")
    else:
        obj["status"]["loadBalancer"] = {}


def check(kind: Kind, obj: Object) -> Iterator[Cause]:
    """What is wrong with a built-in object, beyond its schema."""
    if kind.custom:
        return
    if kind.kind == "NetworkPolicy":
        yield from _check_policy(obj["spec"])
    elif kind.kind == "Service":
        yield from _check_service(obj["spec"])
    elif kind.kind == "Event":
        yield from _check_event(obj)
    elif kind.kind == "EndpointSlice":
        yield from _check_slice(obj)
    elif kind.kind in ("ConfigMap", "Secret"):
        yield from _check_data(obj)


def _check_data(obj: Object) -> Iterator[Cause]:
    for field in ("data", "binaryData"):
        for key in obj.get(field) or {}:
            if not _DATA_KEY.fullmatch(key):
                text = f'Invalid value: "{key}": a valid config key must consist of alphanumeric '
                yield Cause(f"{field}[{key}]", text + "characters, '-', '_' or '.'")


def _check_policy(spec: Object) -> Iterator[Cause]:
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{number}]"
            for at, port in enumerate(rule.get("ports") or ()):
                yield from _check_policy_port(port, f"{path}.ports[{at}]")
            for at, peer in enumerate(rule.get(side) or ()):
                yield from _check_policy_peer(peer, f"{path}.{side}[{at}]")


def _check_policy_port(port: Object, path: str) -> Iterator[Cause]:
    number = port.get("port")
    if isinstance(number, int) and not 1 <= number <= 65535:
        yield Cause(f"{path}.port", f"Invalid value: {number}: must be between 1 and 65535")
    end = port.get("endPort")
    if end is None:
        return
    if not isinstance(number, int):
        yield Cause(f"{path}.endPort", f"Invalid value: {end}: may not be specified here")
    elif end < number:
        text = f"Invalid value: {end}: must be greater than or equal to `port`"
        yield Cause(f"{path}.endPort", text)


def _check_policy_peer(peer: Object, path: str) -> Iterator[Cause]:
    if not peer:
        yield Cause(path, "Required value: must specify a peer", "FieldValueRequired")
    if "ipBlock" not in peer:
        return
    if "podSelector" in peer or "namespaceSelector" in peer:
        text = "Forbidden: may not specify both ipBlock and another peer"
        yield Cause(path, text, "FieldValueForbidden")
    block = peer["ipBlock"]
    network = ipaddress.ip_network(block["cidr"], strict=False)
    for at, text in enumerate(block.get("except") or ()):
        inner = ipaddress.ip_network(text, strict=False)
        inside: Any = inner.version == network.version and inner.subnet_of(network)  # type: ignore[arg-type]
        if not inside or inner == network:
            text = f'Invalid value: "{text}": must be a strict subset of `cidr`'
            yield Cause(f"{path}.ipBlock.except[{at}]", text)


def _check_service(spec: Object) -> Iterator[Cause]:
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and spec["type"] != "ExternalName":
        yield Cause("spec.ports", "Required value", "FieldValueRequired")
    for number, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            yield Cause(f"spec.ports[{number}].name", "Required value", "FieldValueRequired")
    if spec["type"] == "ExternalName" and not spec.get("externalName"):
        yield Cause("spec.externalName", "Required value", "FieldValueRequired")


def _check_event(obj: Object) -> Iterator[Cause]:
    about = obj["involvedObject"].get("namespace", "")
    at = obj["metadata"]["namespace"]
    if about != at and not (about == "" and at == "default"):
        yield Cause(
            "involvedObject.namespace", f'Invalid value: "{about}": does not match event.namespace'
        )


def _check_slice(obj: Object) -> Iterator[Cause]:
    family = {"IPv4": 4, "IPv6": 6}.get(obj["addressType"])
    for number, endpoint in enumerate(obj.get("endpoints") or ()):
        for at, address in enumerate(endpoint["addresses"]):
            try:
                fits = family is None or ipaddress.ip_address(address).version == family
            except ValueError:
                fits = False
            if not fits:
                path = f"endpoints[{number}].addresses[{at}]"
                yield Cause(path, f'Invalid value: "{address}": must be of the address type')
