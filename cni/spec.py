"""The words of the CNI specification that this plugin speaks: versions, error codes, results.

Source: the CNI specification, 0.3.0 to 1.1.0 (github.com/containernetworking/cni, SPEC.md).
Imported by the executable: standard library only, and nothing slow.
"""

from __future__ import annotations

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Supported, oldest first; 0.3.1 only corrected the text of 0.3.0, which Kube-OVN's pages write."""

NEWEST = VERSIONS[-1]

COMMANDS_SINCE = {
    "ADD": "0.3.0",
    "DEL": "0.3.0",
    "VERSION": "0.3.0",
    "CHECK": "0.4.0",
    "STATUS": "1.1.0",
    "GC": "1.1.0",
}

# Error codes of the specification.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
"""Not available, and what is attached already may not be connected either."""


# Ours; 100..103 are cni.wire's.
INTERNAL = 103
LINK_FAILED = 110
"""The pod's link could not be made in its network namespace."""

PORT_REJECTED = 111
"""Open vSwitch did not take the port; the message carries its own words."""

NOT_AS_EXPECTED = 112
"""CHECK found a difference."""

PORT_CONFLICT = 113
"""Another interface of the same container has the logical port already."""

MAX_CODE = 0xFFFFFFFF
"""The reference library reads the code into an unsigned 32-bit integer."""

Json = dict[str, object]


class CniError(Exception):
    """A failure with the code, message and details of a CNI error object."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(code, msg, details)
        self.code = code
        self.msg = msg
        self.details = details


def error_object(error: CniError, version: str) -> Json:
    """What a plugin prints when it fails."""
    obj: Json = {"cniVersion": version, "code": error.code, "msg": error.msg}
    if error.details:
        obj["details"] = error.details
    return obj


def version_object(version: str) -> Json:
    """What a plugin prints for VERSION."""
    return {"cniVersion": version, "supportedVersions": list(VERSIONS)}


def at_least(version: str, floor: str) -> bool:
    """Whether a supported version is the floor or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(floor)


def result_object(result: Json, version: str, dns: Json) -> Json:
    """The daemon's result, which is in the newest form, in the form of `version`.

    Raises:
        CniError: the daemon's result is not of its own form.
    """
    interfaces = _objects(result, "interfaces")
    ips = _objects(result, "ips")
    routes = _objects(result, "routes")
    if not at_least(version, "1.1.0"):
        added = ("mtu", "socketPath", "pciID")
        interfaces = [{k: v for k, v in one.items() if k not in added} for one in interfaces]
    if not at_least(version, "1.0.0"):
        ips = [{"version": "6" if ":" in str(one.get("address")) else "4", **one} for one in ips]
    return {
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
        "dns": dns,
    }


def _objects(result: Json, key: str) -> list[Json]:
    value = result.get(key)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        msg = f"the daemon's result has no list of objects under {key!r}"
        raise CniError(INTERNAL, msg, "plugin and daemon differ in version; install both anew")
    return value
