"""Which logical switch port an interface is where another CMS named the ports: `iface_id`.

Our own controller and Kube-OVN name a pod's port `<pod>.<namespace>`. Neutron names ports by UUID,
OVN-Kubernetes `<namespace>_<pod>`, a person as it comes. A template says how the name follows from
what a runtime tells of a pod:

    {namespace}_{pod}                                     the port's name
    {args.port}                                           the pod's own word, by `args.cni`
    external_ids:neutron:port_name={pod}.{namespace}      the port with this in its external_ids

Pure. A port that is found by a template is kept by somebody else, so nothing is written to its row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cni import spec
from cni.wire import RemoteError
from controller.translate.index import Index
from controller.translate.ovn import LogicalSwitchPort, is_ours

VARIABLES = ("pod", "namespace", "uid", "vm", "ifname", "provider", "container", "network")
BY_EXTERNAL_IDS = "external_ids:"
MAX_NAME = 255
"""Characters of a name; OVN has no limit, but messages and commands have."""

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_ARGUMENT = re.compile(r"args\.[A-Za-z0-9_.-]{1,63}")


def fault(template: str) -> str | None:
    """What is wrong with a template, in words; None: nothing."""
    rest = _VARIABLE.sub("", template)
    if "{" in rest or "}" in rest:
        return "a { has no } of its own"
    for name in _VARIABLE.findall(template):
        if name not in VARIABLES and not _ARGUMENT.fullmatch(name):
            return f"it has no {{{name}}}; there are {', '.join(VARIABLES)}, and args.KEY"
    if not template or len(template) > MAX_NAME or not template.isprintable():
        return f"it has 1 to {MAX_NAME} printable characters"
    key, equals, value = template.removeprefix(BY_EXTERNAL_IDS).partition("=")
    if template.startswith(BY_EXTERNAL_IDS) and not (key and equals and value):
        return f"{BY_EXTERNAL_IDS} is followed by KEY=VALUE"
    if not _VARIABLE.search(template) and template.startswith(BY_EXTERNAL_IDS):
        return "every interface would be the same port: name a variable, such as {pod}"
    return None


def expand(template: str, values: Mapping[str, str], args: Mapping[str, str]) -> str:
    """The name that a template gives one interface.

    Args:
        template: a sound one (`fault`).
        values: of VARIABLES.
        args: `args.cni` of the network configuration.

    Raises:
        RemoteError: it names something that the runtime did not tell, or gives no such name.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        found = args.get(name.removeprefix("args."), "") if "." in name else values.get(name, "")
        if not found:
            what = f"args.cni has no {name[5:]!r}" if "." in name else f"it has no {name}"
            msg = f'"iface_id" is {template!r}, and of this interface {what}'
            step = "name it in the pod's annotation of networks (cni-args), or change the template"
            raise RemoteError(spec.INVALID_CONFIG, msg, step)
        return found

    name = _VARIABLE.sub(value, template)
    if len(name) > MAX_NAME or not name.isprintable():
        msg = f'"iface_id" {template!r} gives a name that is none: {name[:MAX_NAME]!r}'
        raise RemoteError(spec.INVALID_CONFIG, msg, f"at most {MAX_NAME} printable characters")
    return name


def absent(name: str) -> RemoteError:
    """The answer where OVN has no such port (yet)."""
    msg = f"OVN has no logical switch port {name!r}"
    details = f"create it (ovn-nbctl lsp-add SWITCH {name}), or let the cluster controller"
    if name.startswith(BY_EXTERNAL_IDS):
        msg = f"OVN has no logical switch port with {name}"
        details = "give the pod's port that name where ports are made"
    return RemoteError(spec.TRY_AGAIN_LATER, msg, f"{details}; the runtime will try again")


def port_named(index: Index, name: str) -> str | None:
    """The logical switch port that an expanded template means; None: OVN has none (yet).

    Raises:
        RemoteError: several ports have these external_ids.
    """
    if not name.startswith(BY_EXTERNAL_IDS):
        port = index.port_by_name.get(name)
        return name if port is not None and _is_a_workloads(port) else None
    key, _, value = name.removeprefix(BY_EXTERNAL_IDS).partition("=")
    found = sorted(
        port.name
        for port in index.nb.switch_ports.values()
        if _is_a_workloads(port) and port.external_ids.get(key) == value
    )
    if len(found) > 1:
        msg = f"{len(found)} logical ports have external_ids:{key}={value}: {', '.join(found[:3])}"
        raise RemoteError(spec.INVALID_CONFIG, msg, "give each port its own, or name the port")
    return found[0] if found else None


def _is_a_workloads(port: LogicalSwitchPort) -> bool:
    """A router's or a DHCP agent's port is no workload's, nor a node's own, whatever its name."""
    return port.type == "" and not is_ours(port.external_ids)
