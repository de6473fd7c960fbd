"""Claims of Kubernetes' dynamic resource allocation (DRA) as values, and what is written for them.

Names, attributes and paths are those of dra-driver-ovsdpdk (k8snetworkplumbingwg), so that
KubeVirt's own vhost-user binding plugin finds a port of ours; the metadata is KEP-5304's device
metadata protocol, the rest CDI (container device interface) and the API group resource.k8s.io/v1.
Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DRIVER = "ovsdpdk.k8snetworkplumbingwg.io"
"""What the binding plugin asks for. So on one node there is this driver or that one."""

POD_CLAIM = "resource.kubernetes.io/pod-claim-name"
"""The annotation of a claim that was made from a template: its name in the pod."""

METADATA_INSIDE = "/var/run/kubernetes.io/dra-device-attributes"
SOCKETS_INSIDE = "/var/run/ovsdpdk"
PARAMETERS = ("millrace.io/v1", "PortConfig")
BRIDGE = "br-int"
PORTS = 1024
"""How many ports of a node the scheduler gives out."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")

Json = dict[str, object]


class ClaimError(ValueError):
    """A claim cannot be prepared; the text names it, the cause and what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one request of a claim was given. `provider` "": the pod's first network."""

    name: str
    pool: str
    device: str
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """An allocated claim. `pod_claim` is "" of a claim that no template made."""

    namespace: str
    name: str
    uid: str
    pod: str
    pod_claim: str
    requests: tuple[Request, ...]

    @property
    def name_in_pod(self) -> str:
        """The part of paths that is the same before and after a migration."""
        return self.pod_claim or self.name


@dataclass(frozen=True, slots=True)
class Port:
    """An attached request: its interface's name, its socket on the node, and its MTU."""

    request: Request
    ifname: str
    socket: str
    mtu: int


def parse_claim(obj: object) -> Claim:
    """A ResourceClaim as the API has it.

    Raises:
        ClaimError: it is not allocated to one pod, or asks for what there is not.
    """
    claim = _object(obj, "a claim")
    meta = _object(claim.get("metadata"), "a claim's metadata")
    namespace, name, uid = (_checked(meta, key) for key in ("namespace", "name", "uid"))
    what = f"claim {namespace}/{name}"
    status = _object(claim.get("status", {}), f"{what}: status")
    pods = [one for one in _objects(status, "reservedFor", what) if one.get("resource") == "pods"]
    if len(pods) != 1:
        msg = f"{what} is reserved for {len(pods)} pods: use a ResourceClaimTemplate, one for each"
        raise ClaimError(msg)
    devices = _object(
        _object(status.get("allocation"), f"{what}: allocation").get("devices"), f"{what}: devices"
    )
    providers = _providers(_objects(devices, "config", what), what)
    requests = []
    for result in _objects(devices, "results", what):
        if result.get("driver") != DRIVER:
            continue
        # Of a prioritized list paths and configurations have the part before the slash.
        request = _checked(result, "request").partition("/")[0]
        provider = providers.get(request, providers.get("", ""))
        requests.append(
            Request(request, _checked(result, "pool"), _checked(result, "device"), provider)
        )
    if not requests:
        msg = f"{what} has no device of {DRIVER}"
        raise ClaimError(msg)
    if len({one.provider for one in requests}) < len(requests):
        msg = (
            f"{what} has several requests for one logical port: give each but one a provider of"
            f" its own, by opaque parameters of kind {PARAMETERS[1]}"
        )
        raise ClaimError(msg)
    annotations = _object(meta.get("annotations", {}), f"{what}: annotations")
    pod_claim = _checked(annotations, POD_CLAIM) if POD_CLAIM in annotations else ""
    return Claim(namespace, name, uid, _checked(pods[0], "name"), pod_claim, tuple(requests))


def _providers(configs: Sequence[Json], what: str) -> dict[str, str]:
    """Provider by request; "" stands for all of them."""
    found: dict[str, str] = {}
    for one in configs:
        opaque = one.get("opaque")
        if not isinstance(opaque, dict) or opaque.get("driver") != DRIVER:
            continue
        parameters = _object(opaque.get("parameters"), f"{what}: parameters")
        kind = (parameters.get("apiVersion"), parameters.get("kind"))
        unknown = sorted(parameters.keys() - {"apiVersion", "kind", "provider"})
        if kind != PARAMETERS or unknown:
            msg = (
                f"{what} has parameters {json.dumps(parameters)}: known are apiVersion"
                f" {PARAMETERS[0]}, kind {PARAMETERS[1]}, provider. VLANs and limits are OVN's"
            )
            raise ClaimError(msg)
        named = one.get("requests") or [""]
        if not isinstance(named, list):
            msg = f"{what}: requests of a configuration are {named!r}"
            raise ClaimError(msg)
        found |= {
            str(request).partition("/")[0]: _checked(parameters, "provider") for request in named
        }
    return found


def metadata_path(claim: Claim, request: str) -> str:
    """Where the containers of the pod find a request's metadata."""
    kind = "resourceclaimtemplates" if claim.pod_claim else "resourceclaims"
    return f"{METADATA_INSIDE}/{kind}/{claim.name_in_pod}/{request}/{DRIVER}-metadata.json"


def socket_path(claim: Claim, port: Port) -> str:
    """Where QEMU makes the socket, in the pod."""
    return f"{SOCKETS_INSIDE}/{claim.name_in_pod}/{port.request.name}/{port.ifname}.sock"


def metadata(claim: Claim, port: Port, generation: int) -> Json:
    """The metadata document of one request (metadata.resource.k8s.io/v1alpha1)."""
    device: Json = {
        "driver": DRIVER,
        "pool": port.request.pool,
        "name": port.request.device,
        "attributes": {
            "vhost-user-path": {"string": socket_path(claim, port)},
            "mtu": {"int": port.mtu},
        },
    }
    document: Json = {
        "kind": "DeviceMetadata",
        "apiVersion": "metadata.resource.k8s.io/v1alpha1",
        "metadata": {
            "name": claim.name,
            "namespace": claim.namespace,
            "uid": claim.uid,
            "generation": generation,
        },
        "requests": [{"name": port.request.name, "devices": [device]}],
    }
    if claim.pod_claim:
        document["podClaimName"] = claim.pod_claim
    return document


def cdi_id(claim: Claim, request: str) -> str:
    """The CDI device that kubelet hands to the container runtime for a request."""
    return f"{DRIVER}/vhost-user={claim.uid}-{request}"


def cdi_spec(claim: Claim, ports: Sequence[Port], files: Mapping[str, str]) -> Json:
    """The CDI specification: directory and metadata (`files`, by request) of each request."""
    devices = []
    for port in ports:
        directory, name = port.socket.rsplit("/", 1)
        inside = socket_path(claim, port)
        assert inside.endswith(f"/{name}")
        bind = ["bind", "nosuid", "nodev"]
        mounts = [
            {"hostPath": directory, "containerPath": inside.rsplit("/", 1)[0], "options": bind},
            {
                "hostPath": files[port.request.name],
                "containerPath": metadata_path(claim, port.request.name),
                "options": [*bind, "ro"],
            },
        ]
        device = cdi_id(claim, port.request.name).partition("=")[2]
        devices.append({"name": device, "containerEdits": {"mounts": mounts}})
    return {"cdiVersion": "0.5.0", "kind": f"{DRIVER}/vhost-user", "devices": devices}


def resource_slice(node: str, generation: int) -> Json:
    """What the scheduler is told of the node: one bridge, of which many claims have a port."""
    device: Json = {
        "name": BRIDGE,
        "allowMultipleAllocations": True,
        "attributes": {"bridgeName": {"string": BRIDGE}},
        "capacity": {
            "ports": {
                "value": str(PORTS),
                "requestPolicy": {"default": "1", "validRange": {"min": "1", "step": "1"}},
            }
        },
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": slice_name(node)},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": 1},
            "devices": [device],
        },
    }


def is_uid(text: str) -> bool:
    """Whether it can be a claim's uid, which also names files of ours."""
    return bool(_UID.fullmatch(text))


def slice_name(node: str) -> str:
    """The ResourceSlice of a node."""
    return f"{node}-millrace-vhost"


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        msg = f"{what} is a JSON {type(value).__name__}, not an object"
        raise ClaimError(msg)
    return value


def _objects(obj: Json, key: str, what: str) -> list[Json]:
    value = obj.get(key) or []
    if not isinstance(value, list):
        msg = f"{what}: {key} is a JSON {type(value).__name__}, not a list"
        raise ClaimError(msg)
    return [_object(one, f"{what}: an entry of {key}") for one in value]


def _checked(obj: Json, key: str) -> str:
    """A name that may be a part of a path."""
    value = obj.get(key)
    pattern = _UID if key == "uid" else _NAME
    parts = value.split("/") if isinstance(value, str) and key == "request" else [value]
    if not all(isinstance(part, str) and pattern.fullmatch(part) for part in parts):
        msg = f"a claim has {key} {value!r}"
        raise ClaimError(msg)
    return str(value)
