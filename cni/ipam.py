"""The plugin as another plugin's IPAM: that one makes the interface, and asks here for addresses.

Source: CNI specification 1.1.0, section 4 (delegation): the other plugin hands its whole network
configuration on, of which only `ipam` is ours. Kube-OVN's configurations say `"type": "kube-ovn"`
there. Imported by the executable: standard library only, and nothing slow.
"""

from __future__ import annotations

from cni import spec

TYPES = ("millrace-cni", "kube-ovn")
"""Names of this executable."""

_KEYS = frozenset({"type", "socket", "server_socket", "provider", "routes"})
_KEPT = (
    "cniVersion", "name", "args", "prevResult", "cni.dev/valid-attachments",
    "cni.dev/attachments",
)  # fmt: skip
"""Of the other plugin's configuration."""


def section(obj: spec.Json) -> spec.Json | None:
    """The part that asks for addresses; None: the interface is ours to make."""
    part = obj.get("ipam")
    ours = isinstance(part, dict) and part.get("type") in TYPES
    return part if ours and isinstance(part, dict) and obj.get("type") not in TYPES else None


def network(obj: spec.Json, part: spec.Json, command: str) -> spec.Json:
    """The same wish as a network configuration of our own, for `cni.config` to check.

    Raises:
        CniError: the part names no network, or has keys that mean nothing here.
    """
    found = {key: obj[key] for key in _KEPT if key in obj}
    found |= {key: part[key] for key in part.keys() & _KEYS}
    if command == "DEL":
        return found
    unknown = sorted(key for key in part.keys() - _KEYS if "/" not in key)
    if unknown:
        msg = f"unsupported field in ipam: {', '.join(unknown)}"
        details = f"known: {', '.join(sorted(_KEYS))}"
        raise spec.CniError(spec.UNSUPPORTED_FIELD, msg, details)
    if part.get("provider") in (None, "", "ovn"):
        msg = f'network configuration: "ipam.provider" is {part.get("provider")!r}'
        details = "it is <network attachment definition>.<namespace>, as a Subnet's spec.provider"
        raise spec.CniError(spec.INVALID_CONFIG, msg, details)
    # What else the runtime asks for is the other plugin's.
    runtime = obj.get("runtimeConfig")
    if isinstance(runtime, dict) and "ips" in runtime:
        found["runtimeConfig"] = {"ips": runtime["ips"]}
    if command == "ADD":
        # A plugin before the other one is that one's matter.
        found.pop("prevResult", None)
    return found


def result_object(result: spec.Json, version: str) -> spec.Json:
    """The daemon's result in the form of `version`: without interfaces, which the other makes.

    Raises:
        CniError: the daemon's result is not of its own form.
    """
    found = spec.result_object({**result, "interfaces": []}, version, {})
    del found["interfaces"]
    return found
