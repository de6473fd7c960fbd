"""What a container runtime hands to a plugin, checked: the network configuration and CNI_ARGS.

Source: CNI specification 1.1.0, "Network configuration format" and "Parameters". Imported by the
executable: standard library only, and nothing slow (so classes are written out by hand).
"""

from __future__ import annotations

from cni import asked, quickjson, spec, wire

DEFAULT_SOCKET = "/run/millrace/cni.sock"
MODES = ("veth", "vhost-user")
MTU_RANGE = (68, 65535)
QUEUES_RANGE = (1, 64)
_BANDWIDTH = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
MAX_CONFIG_SIZE = wire.MAX_SIZE // 2
"""Bytes of network configuration; the rest of a request must fit beside it on the wire."""

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME = _ALNUM | frozenset("_.-")
_POD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
_NAMESPACE = _POD - frozenset(".")

_WELL_KNOWN = frozenset(
    {
        "cniVersion", "cniVersions", "name", "type", "args", "dns", "capabilities",
        "runtimeConfig", "prevResult", "disableCheck", "disableGC", "deviceID",
    }
)  # fmt: skip
_OURS = frozenset({"socket", "mode", "mtu", "queues", "provider", "routes", "iface_id"})
_KUBE_OVN = frozenset(
    {
        "server_socket", "vhost_user_socket_volume_name", "vhost_user_socket_name",
        "vhost_user_socket_consumption",
    }
)  # fmt: skip
"""Keys of a NetworkAttachmentDefinition for Kube-OVN, which serves for Millrace as it is."""

KUBE_OVN_SOCKET = "kube-ovn-daemon.sock"
PRIMARY_PROVIDER = "ovn"
"""Kube-OVN's word for a pod's first network; its logical port has no provider in its name."""

_KNOWN_ARGS = frozenset(
    {
        "IgnoreUnknown", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID",
        "K8S_POD_INFRA_CONTAINER_ID", "MAC", "IP",
    }
)  # fmt: skip


class NetworkConfig:
    """A network configuration that passed every check.

    `mtu` 0 means that OVN's and the node's settings decide. `bandwidth` has what runtimeConfig
    limits, of ingressRate, ingressBurst (to the workload), egressRate, egressBurst, in bits.
    `valid` are the attachments that GC must keep, `prev_result` the object that CHECK compares
    with; both None where absent. `provider` is "" for a pod's first network. `socket_name` is the
    file that QEMU makes, "" for our own name. `asked` has what the runtime asks for besides.
    `iface_id` is the template of the logical port's name, "" for ours; `args` what it may name.
    """

    __slots__ = (
        "args", "asked", "bandwidth", "dns", "iface_id", "mode", "mtu", "name", "prev_result",
        "provider", "queues", "routes", "socket", "socket_name", "valid",
    )  # fmt: skip

    def __init__(self, obj: spec.Json, command: str) -> None:
        self.name = _network_name(obj)
        self.socket = _socket_path(obj)
        if command != "DEL":
            # A removal has to work whatever became of the configuration since.
            _refuse_unsupported(obj)
        self.mode = _mode(obj)
        self.mtu, self.queues, self.provider, self.socket_name = 0, 1, "", ""
        self.routes: list[spec.Json] = []
        self.dns: spec.Json = {}
        self.bandwidth: dict[str, int] = {}
        self.asked: spec.Json = {}
        self.iface_id = ""
        self.args: dict[str, str] = {}
        self.valid = _valid_attachments(obj) if command == "GC" else []
        self.prev_result: spec.Json | None = None
        if command == "DEL":
            # By container and interface; a wrong value elsewhere keeps nothing from going.
            self.mode = self.mode if self.mode in MODES else MODES[0]
            return
        self._check(obj, command)

    def _check(self, obj: spec.Json, command: str) -> None:
        """Everything that a removal does not need."""
        _plugin_type(obj)
        if self.mode not in MODES:
            msg = f'"mode" is {self.mode!r}'
            raise _invalid(msg, 'use "veth" for a container or "vhost-user" for a VM')
        self.mtu = _number(obj, "mtu", 0, MTU_RANGE)
        self.queues = _number(obj, "queues", 1, QUEUES_RANGE)
        if self.mode == "veth" and self.queues != 1:
            msg = f'"queues" is {self.queues} with mode "veth"'
            raise _invalid(msg, 'only a "vhost-user" port takes more than one')
        self.provider = _provider(obj)
        self.socket_name = _socket_name(obj)
        self.routes = asked.routes(obj.get("routes"))
        if command == "ADD":
            self.bandwidth = _bandwidth(obj)
            self.asked = asked.of(obj)
            self.iface_id = asked.text(obj.get("iface_id"), "iface_id")
            self.args = asked.args(obj)
        self.dns = _dns(obj)
        self.prev_result = _prev_result(obj, command)


def parse_config(data: bytes) -> spec.Json:
    """The JSON object on stdin.

    Raises:
        CniError: too long, not UTF-8, not JSON, not an object.
    """
    if len(data) > MAX_CONFIG_SIZE:
        msg = f"the network configuration has more than {MAX_CONFIG_SIZE} bytes"
        raise spec.CniError(spec.DECODE_FAILURE, msg)
    try:
        obj = quickjson.loads(data.decode("utf-8"), parse_constant=wire.no_constant)
    except (ValueError, RecursionError) as error:
        msg = f"the network configuration on stdin is not JSON: {error}"
        raise spec.CniError(spec.DECODE_FAILURE, msg) from error
    if not isinstance(obj, dict):
        msg = f"the network configuration on stdin is a JSON {type(obj).__name__}, not an object"
        raise spec.CniError(spec.DECODE_FAILURE, msg)
    return obj


def parse_version(obj: spec.Json) -> str:
    """The supported `cniVersion` of a network configuration.

    Raises:
        CniError: absent (which means 0.1.0), unsupported, or not a string.
    """
    version = obj.get("cniVersion", "0.1.0")
    if not isinstance(version, str):
        msg = f'"cniVersion" is {version!r}, not a string'
        raise spec.CniError(spec.DECODE_FAILURE, msg)
    if version not in spec.VERSIONS:
        msg = f"incompatible CNI version: the network configuration says {version!r}"
        details = f"supported: {', '.join(spec.VERSIONS)}"
        raise spec.CniError(spec.INCOMPATIBLE_VERSION, msg, details)
    return version


def require_command(version: str, command: str) -> None:
    """Refuse a command that the specification's version does not have.

    Raises:
        CniError: it came later.
    """
    since = spec.COMMANDS_SINCE[command]
    if not spec.at_least(version, since):
        msg = f"incompatible CNI version: {command} exists since {since}, not in {version}"
        raise spec.CniError(spec.INCOMPATIBLE_VERSION, msg)


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS, `KEY=value;KEY=value`, as a mapping of the keys that we use.

    Raises:
        CniError: malformed, a pod's name that cannot be one, or an unknown key without
            IgnoreUnknown.
    """
    pairs: dict[str, str] = {}
    for item in text.split(";"):
        key, equals, value = item.partition("=")
        if not item:
            continue
        if not equals or not key:
            msg = f"CNI_ARGS: {item!r} is not KEY=value"
            raise spec.CniError(spec.INVALID_ENVIRONMENT, msg)
        pairs[key] = value
    ignore = pairs.get("IgnoreUnknown", "").lower() in ("1", "true", "t")
    unknown = sorted(pairs.keys() - _KNOWN_ARGS)
    if unknown and not ignore:
        msg = f"CNI_ARGS: unknown keys {', '.join(unknown)}"
        raise spec.CniError(spec.INVALID_ENVIRONMENT, msg, "set IgnoreUnknown=1 to allow them")
    for key, allowed, longest in (
        ("K8S_POD_NAME", _POD, 253),
        ("K8S_POD_NAMESPACE", _NAMESPACE, 63),
        ("K8S_POD_UID", _NAME, 128),
    ):
        value = pairs.get(key, "")
        if value and not _is_name(value, allowed, longest):
            msg = f"CNI_ARGS: {key} {value!r} is no such name as Kubernetes gives"
            raise spec.CniError(spec.INVALID_ENVIRONMENT, msg)
    return pairs


def is_container_id(text: str) -> bool:
    """Alphanumeric first, then also `_`, `.`, `-` (the specification's CNI_CONTAINERID)."""
    return _is_name(text, _NAME, 200)


def is_pod_uid(text: str) -> bool:
    """Whether it can be a pod's uid, which also names a directory of ours."""
    return _is_name(text, _NAME, 128)


def is_ifname(text: str) -> bool:
    """Whether the kernel takes it for an interface (dev_valid_name in net/core/dev.c)."""
    size = len(text.encode("utf-8", "surrogateescape")) if _encodable(text) else 0
    printable = all("!" <= char <= "~" and char not in "/:" for char in text)
    return 1 <= size <= 15 and printable and text not in (".", "..")


def _is_name(text: str, allowed: frozenset[str], longest: int) -> bool:
    return 0 < len(text) <= longest and text[0] in _ALNUM and allowed.issuperset(text)


def _encodable(text: str) -> bool:
    """Whether the text is one that the file system can have (no lone surrogates from JSON)."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _invalid(msg: str, details: str = "") -> spec.CniError:
    return spec.CniError(spec.INVALID_CONFIG, f"network configuration: {msg}", details)


def _network_name(obj: spec.Json) -> str:
    name = obj.get("name")
    if not isinstance(name, str) or not _is_name(name, _NAME, 255):
        msg = f'"name" is {name!r}'
        raise _invalid(msg, "it starts with a letter or digit; then also _ . - are allowed")
    return name


def _mode(obj: spec.Json) -> str:
    """How to attach. Kube-OVN has no such key: naming a volume for the socket says vhost-user."""
    consumer = obj.get("vhost_user_socket_consumption")
    if "mode" not in obj and (obj.get("vhost_user_socket_volume_name") or consumer == "kubevirt"):
        return "vhost-user"
    mode = obj.get("mode", "veth")
    return mode if isinstance(mode, str) else quickjson.dumps(mode)


def _provider(obj: spec.Json) -> str:
    provider = obj.get("provider", "")
    if not isinstance(provider, str) or (provider and not _is_name(provider, _POD, 253)):
        msg = f'"provider" is {provider!r}'
        raise _invalid(msg, "it is <network attachment definition>.<namespace>.ovn")
    return "" if provider == PRIMARY_PROVIDER else provider


def _socket_name(obj: spec.Json) -> str:
    name = obj.get("vhost_user_socket_name", "")
    if not isinstance(name, str) or (name and not _is_name(name, _NAME, 64)):
        msg = f'"vhost_user_socket_name" is {name!r}'
        raise _invalid(msg, "it is a file's name of at most 64 letters, digits, _ . -")
    return name


def _plugin_type(obj: spec.Json) -> None:
    kind = obj.get("type")
    if not isinstance(kind, str) or not kind:
        msg = f'"type" is {kind!r}'
        raise _invalid(msg, 'it names the executable, "millrace-cni"')


def _socket_path(obj: spec.Json) -> str:
    path = obj.get("socket")
    if path is None:
        path = obj.get("server_socket", DEFAULT_SOCKET)
        # Kube-OVN's own daemon speaks HTTP, so it is not what is meant.
        if isinstance(path, str) and path.endswith(f"/{KUBE_OVN_SOCKET}"):
            path = DEFAULT_SOCKET
    if (
        not isinstance(path, str)
        or not path.startswith("/")
        or "\0" in path
        or not _encodable(path)
        or len(path.encode("utf-8", "surrogateescape")) > wire.MAX_PATH_SIZE
    ):
        msg = f'"socket" is {path!r}'
        details = f"it is an absolute path of at most {wire.MAX_PATH_SIZE} bytes"
        raise _invalid(msg, f"{details}, by default {DEFAULT_SOCKET}")
    return path


def _refuse_unsupported(obj: spec.Json) -> None:
    for key in sorted(obj.keys() - _WELL_KNOWN - _OURS - _KUBE_OVN):
        value = obj[key]
        # Prefixed keys are other people's; an empty ipam or a false ipMasq asks for nothing.
        if "/" in key or (key in ("ipam", "ipMasq") and not value):
            continue
        reason = f"our own keys are {', '.join(sorted(_OURS))}"
        if key == "ipam":
            reason = "addresses come from OVN's logical switch port; leave ipam out"
        text = quickjson.dumps(value)
        shown = text if len(text) <= 200 else text[:200] + "..."
        msg = f"unsupported field in the network configuration: {key!r}: {shown}"
        raise spec.CniError(spec.UNSUPPORTED_FIELD, msg, reason)


def _number(obj: spec.Json, key: str, default: int, allowed: tuple[int, int]) -> int:
    value = obj.get(key, default)
    low, high = allowed
    if key in obj and (
        isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
    ):
        msg = f'"{key}" is {value!r}' if isinstance(value, bool | int | str) else f'"{key}"'
        raise _invalid(msg, f"it is a whole number, {low} to {high}")
    return value if isinstance(value, int) else default


def _bandwidth(obj: spec.Json) -> dict[str, int]:
    """The limits of the capability `bandwidth`; a rate of 0 is none (CNI conventions)."""
    runtime = obj.get("runtimeConfig")
    if runtime is None:
        return {}
    asked = runtime.get("bandwidth", {}) if isinstance(runtime, dict) else None
    if not isinstance(asked, dict):
        msg = '"runtimeConfig" and its "bandwidth" are objects'
        raise _invalid(msg)
    found: dict[str, int] = {}
    for key in _BANDWIDTH:
        value = asked.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
            msg = f'"runtimeConfig.bandwidth.{key}" is not a number of bits'
            raise _invalid(msg, "a whole number, 0 for none")
        if value:
            found[key] = value
    return found


def _dns(obj: spec.Json) -> spec.Json:
    dns = obj.get("dns", {})
    if not isinstance(dns, dict):
        msg = '"dns" is not an object'
        raise _invalid(msg)
    for key, value in dns.items():
        if key == "domain":
            good = isinstance(value, str)
        elif key in ("nameservers", "search", "options"):
            good = isinstance(value, list) and all(isinstance(one, str) for one in value)
        else:
            good = False
        if not good:
            msg = f'"dns": {key!r} is not as the specification has it'
            raise _invalid(msg, "nameservers, search, options: lists of strings; domain: a string")
    return dns


def _prev_result(obj: spec.Json, command: str) -> spec.Json | None:
    value = obj.get("prevResult")
    if value is not None and not isinstance(value, dict):
        msg = '"prevResult" is not an object'
        raise _invalid(msg)
    if command == "CHECK" and value is None:
        msg = '"prevResult" is missing'
        raise _invalid(msg, "the runtime has to hand CHECK the result of ADD")
    if command == "ADD" and value is not None:
        msg = '"prevResult" is given to ADD: another plugin is before this one in the list'
        details = (
            "this plugin makes the interface, so it is the first; portmap and bandwidth cannot be "
            "chained to it, for packets do not pass the node's iptables and qdiscs: give its own "
            'entry "capabilities": {"portMappings": true, "bandwidth": true} instead'
        )
        raise _invalid(msg, details)
    return value


def _valid_attachments(obj: spec.Json) -> list[spec.Json]:
    """What GC must keep. Missing is an error: it must not pass for "remove everything"."""
    # libcni also sends the older key, for plugins written against drafts of 1.1.
    value = obj.get("cni.dev/valid-attachments", obj.get("cni.dev/attachments"))
    if not isinstance(value, list):
        msg = '"cni.dev/valid-attachments" is not a list'
        raise _invalid(msg, "GC needs the list of attachments to keep; it may be empty")
    valid: list[spec.Json] = []
    for one in value:
        container_id = one.get("containerID") if isinstance(one, dict) else None
        ifname = one.get("ifname") if isinstance(one, dict) else None
        if not isinstance(container_id, str) or not isinstance(ifname, str):
            msg = '"cni.dev/valid-attachments" has an entry without containerID and ifname'
            raise _invalid(msg)
        valid.append({"container_id": container_id, "ifname": ifname})
    return valid
