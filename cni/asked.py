"""What a runtime asks for beside the network configuration: addresses, host ports, a file.

Source: CNI's conventions (CONVENTIONS.md: capabilities `mac`, `ips`, `portMappings`, `args.cni`)
and the device information specification 1.1.0 (`CNIDeviceInfoFile`). Of the places to say one
thing the newest convention goes first: runtimeConfig, then args.cni, then CNI_ARGS. Imported by
the executable: standard library only, and nothing slow (so addresses are the daemon's to parse).
"""

from __future__ import annotations

from cni import spec

PROTOCOLS = ("tcp", "udp", "sctp")
MAX_ASKED = 256
"""Addresses, host ports or routes of one interface."""

_KNOWN = frozenset(
    {"bandwidth", "mac", "ips", "portMappings", "CNIDeviceInfoFile", "deviceID"}
)  # fmt: skip


def of(obj: spec.Json) -> spec.Json:
    """`mac`, `ips`, `port_mappings`, `device_info`: each only where something is asked for.

    Raises:
        CniError: a value is not of its form.
    """
    runtime = _object(obj.get("runtimeConfig"), "runtimeConfig")
    args = _object(_object(obj.get("args"), "args").get("cni"), "args.cni")
    found: spec.Json = {}
    for place, values in (("args.cni", args), ("runtimeConfig", runtime)):
        if mac := text(values.get("mac"), f"{place}.mac"):
            found["mac"] = mac
        if ips := _texts(values.get("ips"), f"{place}.ips"):
            found["ips"] = ips
    if mappings := _mappings(runtime.get("portMappings")):
        found["port_mappings"] = mappings
    if path := text(runtime.get("CNIDeviceInfoFile"), "runtimeConfig.CNIDeviceInfoFile"):
        if not path.startswith("/") or "\0" in path or "/../" in f"{path}/":
            raise invalid(path, "runtimeConfig.CNIDeviceInfoFile", "it is an absolute path")
        found["device_info"] = path
    unknown = sorted(key for key in runtime.keys() - _KNOWN if "/" not in key)
    if unknown:
        msg = f"unsupported field in runtimeConfig: {', '.join(unknown)}"
        details = f"take them out of the entry's capabilities; known: {', '.join(sorted(_KNOWN))}"
        raise spec.CniError(spec.UNSUPPORTED_FIELD, msg, details)
    return found


def by_environment(pairs: dict[str, str]) -> spec.Json:
    """`mac` and `ips` of CNI_ARGS."""
    found: spec.Json = {}
    if mac := pairs.get("MAC", ""):
        found["mac"] = mac
    if ips := [one for one in pairs.get("IP", "").split(",") if one]:
        found["ips"] = ips
    return found


def routes(value: object) -> list[spec.Json]:
    """The network's own routes, `{"dst": CIDR, "gw": address}` as the result has them.

    Raises:
        CniError: not of that form.
    """
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ASKED:
        raise invalid(value, "routes", "a list of objects with dst and, if not on link, gw")
    found: list[spec.Json] = []
    for one in value:
        if not isinstance(one, dict) or not one.keys() <= {"dst", "gw"}:
            raise invalid(one, "routes", "each is an object with dst and gw")
        dst, gw = text(one.get("dst"), "routes.dst"), text(one.get("gw"), "routes.gw")
        if not dst:
            raise invalid(dst, "routes.dst", "a network such as 10.9.0.0/16")
        found.append({"dst": dst, "gw": gw})
    return found


def invalid(value: object, key: str, reason: str) -> spec.CniError:
    """The error for a value that is not of its form."""
    shown = repr(value)
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return spec.CniError(spec.INVALID_CONFIG, f'network configuration: "{key}" is {shown}', reason)


def _mappings(value: object) -> list[spec.Json]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ASKED:
        raise invalid(value, "runtimeConfig.portMappings", f"a list of at most {MAX_ASKED}")
    return [found for one in value if (found := _mapping(one)) is not None]


def _mapping(one: object) -> spec.Json | None:
    key = "runtimeConfig.portMappings"
    if not isinstance(one, dict):
        raise invalid(one, key, "each is an object with hostPort, containerPort, protocol")
    host, inside = one.get("hostPort"), one.get("containerPort")
    # A kubelet lists ports that nobody wants on the host, too.
    if host in (None, 0):
        return None
    for number in (host, inside):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 65536:
            raise invalid(one, key, "hostPort and containerPort are 1 to 65535")
    protocol = one.get("protocol", "tcp")
    if not isinstance(protocol, str) or protocol.lower() not in PROTOCOLS:
        raise invalid(one, key, f"protocol is one of {', '.join(PROTOCOLS)}")
    return {
        "host_port": host,
        "port": inside,
        "protocol": protocol.lower(),
        "host_ip": text(one.get("hostIP"), f"{key}.hostIP"),
    }


def args(obj: spec.Json) -> dict[str, str]:
    """The texts of `args.cni`, by key: what a pod's own annotation says of this network.

    Raises:
        CniError: no object.
    """
    found = _object(_object(obj.get("args"), "args").get("cni"), "args.cni")
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _object(value: object, key: str) -> spec.Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(value, key, "it is an object")
    return value


def text(value: object, key: str) -> str:
    """A text that may be missing.

    Raises:
        CniError: something else, or too long.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 4096:
        raise invalid(value, key, "it is a text")
    return value


def _texts(value: object, key: str) -> list[str]:
    if value is None:
        return []
    if (
        not isinstance(value, list)
        or len(value) > MAX_ASKED
        or not all(isinstance(one, str) for one in value)
    ):
        raise invalid(value, key, "it is a list of addresses")
    return list(value)
