"""What a hook reads of a VirtualMachineInstance and of its pod, as values.

Sources: KubeVirt's API type VirtualMachineInstance; the annotation kubevirt.io/network-info as
KubeVirt's downward API gives it to a binding plugin (pkg/network/downwardapi); the device
information specification 1.1.0 of k8snetworkplumbingwg; Kubernetes' device metadata
(metadata.resource.k8s.io, KEP-5304). Pure: texts in, values out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

MTU_RANGE = (68, 9702)
"""Bytes: from RFC 791 to what OVS-DPDK takes."""

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_SUN_PATH = 107
"""Bytes of a unix socket's path, without the zero at its end (unix(7))."""

PATH_ATTRIBUTE = "vhost-user-path"
MTU_ATTRIBUTE = "mtu"

Json = dict[str, object]


class InputError(ValueError):
    """Something that KubeVirt or a person gave is wrong; the text names it."""


@dataclass(frozen=True, slots=True)
class Device:
    """A vhost-user socket as its pod sees it; the guest is the server. Absent: "" and 0."""

    path: str
    mtu: int = 0
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a network comes from a DRA claim: the pod's name of the claim, and the request."""

    name: str
    request: str


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a VMI that is bound to our plugin. Absent texts are "", numbers 0."""

    name: str
    mac: str = ""
    pci_address: str = ""
    acpi_index: int = 0
    boot_order: int = 0
    down: bool = False
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Vmi:
    """What matters of a VMI. `vcpus` 0: it does not say."""

    name: str
    interfaces: tuple[Interface, ...]
    vcpus: int = 0
    multiqueue: bool = False
    transitional: bool = False


def parse_vmi(data: bytes, binding: str) -> Vmi:
    """The VMI in its JSON form, with the interfaces that are bound to the plugin `binding`.

    Raises:
        InputError: not a VMI, or an interface of ours that cannot be.
    """
    vmi = _object(_json(data, "the VMI"), "the VMI")
    metadata = _child(vmi, "metadata", "the VMI")
    name = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
    what = f"VMI {name}"
    spec = _child(vmi, "spec", what)
    domain = _child(spec, "domain", what)
    devices = _child(domain, "devices", what)
    claims = {one.get("name"): _claim(one, what) for one in _objects(spec, "networks", what)}
    interfaces = []
    for one in _objects(devices, "interfaces", what):
        plugin = one.get("binding")
        ours = isinstance(plugin, dict) and plugin.get("name") == binding
        # "absent" is on its way out of the VMI, and has no device any more.
        if ours and one.get("state") != "absent":
            interfaces.append(_interface(one, claims, what))
    cpu = domain.get("cpu")
    return Vmi(
        name=name,
        interfaces=tuple(interfaces),
        vcpus=_vcpus(_object(cpu, f"{what}: cpu"), what) if cpu is not None else 0,
        multiqueue=devices.get("networkInterfaceMultiqueue") is True,
        transitional=devices.get("useVirtioTransitional") is True,
    )


def _interface(one: Json, claims: dict[object, Claim | None], what: str) -> Interface:
    name = one.get("name")
    if not isinstance(name, str) or not name:
        msg = f"{what}: an interface has the name {name!r}"
        raise InputError(msg)
    where = f"{what}: interface {name!r}"
    if name not in claims:
        msg = f"{where} has no network of its name under spec.networks"
        raise InputError(msg)
    model = one.get("model", "")
    if model not in ("", "virtio"):
        msg = f"{where} has model {model!r}; a vhost-user port takes virtio, or leave it out"
        raise InputError(msg)
    return Interface(
        name=name,
        mac=_mac(one.get("macAddress", ""), where),
        pci_address=_text(one, "pciAddress", where),
        acpi_index=_number(one, "acpiIndex", where),
        boot_order=_number(one, "bootOrder", where),
        down=one.get("state") == "down",
        claim=claims[name],
    )


def _claim(network: Json, what: str) -> Claim | None:
    claim = network.get("resourceClaim")
    if claim is None:
        return None
    where = f"{what}: network {network.get('name')!r}: resourceClaim"
    claim = _object(claim, where)
    found = Claim(_text(claim, "claimName", where), _text(claim, "requestName", where))
    for part in (found.name, found.request):
        if not part or "/" in part or part.startswith("."):
            msg = f"{where} has {part!r} as a name"
            raise InputError(msg)
    return found


def _vcpus(cpu: Json, what: str) -> int:
    """Sockets by cores by threads, of which an absent one is 1; none of them: 0."""
    found = [_number(cpu, key, f"{what}: cpu") for key in ("sockets", "cores", "threads")]
    if not any(found):
        return 0
    total = 1
    for number in found:
        total *= number or 1
    return total


def parse_network_info(text: bytes, wanted: frozenset[str]) -> dict[str, Device]:
    """The devices of the networks `wanted`, from the file that the downward API writes.

    A network that is not in it yet is not in the result: the annotation comes after the pod. An
    empty file says nothing yet.

    Raises:
        InputError: not in the form of kubevirt.io/network-info, or a device that we cannot use.
    """
    what = "kubevirt.io/network-info"
    if not text.strip():
        return {}
    found = {}
    for one in _objects(_object(_json(text, what), what), "interfaces", what):
        network = one.get("network")
        if isinstance(network, str) and network in wanted and one.get("deviceInfo") is not None:
            where = f"{what}: network {network!r}"
            path = _vhost_path(_object(one["deviceInfo"], where), where)
            mtu = _mtu(one.get("mtu", 0), where)
            found[network] = Device(path, mtu, _mac(one.get("mac", ""), where))
    return found


def _vhost_path(info: Json, where: str) -> str:
    if info.get("type") != "vhost-user":
        msg = (
            f"{where} has a device of type {info.get('type')!r}, not 'vhost-user': set"
            ' "mode": "vhost-user" in the network attachment definition'
        )
        raise InputError(msg)
    vhost = _child(info, "vhost-user", where)
    if vhost.get("mode") != "server":
        msg = (
            f"{where} says mode {vhost.get('mode')!r}: this plugin makes guests that serve the"
            " socket ('server'), to which Open vSwitch connects"
        )
        raise InputError(msg)
    return _socket_path(vhost.get("path"), where)


def parse_device_metadata(text: bytes, claim: Claim) -> Device:
    """The device that a DRA driver's metadata file describes for a claim's request.

    The file is a stream of objects, one per API version; the first that we read counts.

    Raises:
        InputError: no object of a known version, or none with a vhost-user socket.
    """
    where = f"device metadata of claim {claim.name!r}, request {claim.request!r}"
    for document in _stream(text, where):
        if document.get("apiVersion") != "metadata.resource.k8s.io/v1alpha1":
            continue
        for request in _objects(document, "requests", where):
            for device in _objects(request, "devices", where):
                attributes = _child(device, "attributes", where)
                if PATH_ATTRIBUTE in attributes:
                    path = _child(attributes, PATH_ATTRIBUTE, where).get("string")
                    mtu = attributes.get(MTU_ATTRIBUTE)
                    size = _object(mtu, where).get("int", 0) if mtu is not None else 0
                    return Device(_socket_path(path, where), _mtu(size, where))
    msg = f"{where} has no device with the attribute {PATH_ATTRIBUTE!r}"
    raise InputError(msg)


def _stream(text: bytes, where: str) -> Iterator[Json]:
    decoder = json.JSONDecoder()
    try:
        rest = text.decode().strip()
        while rest:
            value, end = decoder.raw_decode(rest)
            yield _object(value, where)
            rest = rest[end:].lstrip()
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        _not_json(where, error)


def _json(data: bytes, what: str) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        _not_json(what, error)
    return value


def _not_json(what: str, error: Exception) -> NoReturn:
    msg = f"{what} is not JSON: {error}"
    raise InputError(msg) from error


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        msg = f"{what} is a JSON {type(value).__name__}, not an object"
        raise InputError(msg)
    return value


def _child(obj: Json, key: str, what: str) -> Json:
    return _object(obj.get(key, {}), f"{what}: {key}")


def _objects(obj: Json, key: str, what: str) -> list[Json]:
    value = obj.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        msg = f"{what}: {key} is a JSON {type(value).__name__}, not a list"
        raise InputError(msg)
    return [_object(one, f"{what}: an entry of {key}") for one in value]


def _text(obj: Json, key: str, what: str) -> str:
    value = obj.get(key, "")
    if not isinstance(value, str):
        msg = f"{what}: {key} is {value!r}, not a text"
        raise InputError(msg)
    return value


def _number(obj: Json, key: str, what: str) -> int:
    value = obj.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 16:
        msg = f"{what}: {key} is {value!r}, not a number from 0 to 65535"
        raise InputError(msg)
    return value


def _mtu(value: object, what: str) -> int:
    low, high = MTU_RANGE
    if value == 0 and not isinstance(value, bool):
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        msg = f"{what}: the MTU is {value!r}, not a number from {low} to {high}"
        raise InputError(msg)
    return value


def _mac(value: object, what: str) -> str:
    """A unicast MAC address in lower case, or "" for none."""
    if value == "":
        return ""
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1:
        msg = f"{what}: {value!r} is not the MAC address of one interface"
        raise InputError(msg)
    return text


def _socket_path(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        msg = f"{what}: the socket's path is {value!r}, not an absolute path"
        raise InputError(msg)
    if not value.isprintable():
        msg = f"{what}: the socket's path {value!r} has characters that no path of ours has"
        raise InputError(msg)
    if len(value.encode()) > _SUN_PATH:
        msg = f"{what}: the socket's path {value} is longer than {_SUN_PATH} bytes"
        raise InputError(msg)
    return value
