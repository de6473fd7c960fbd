"""Which logical switch port serves a pod: a virtual machine's outlives its pods.

KubeVirt makes a new pod for each start and each migration of a machine and names it
`virt-launcher-<vm>-<five characters>`. The port is the machine's, `<vm>.<namespace>` (the name
that Kube-OVN gives it), so that its MAC and addresses stay.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from dataplane.model.names import KUBERNETES_OWNER
from dataplane.model.state import LogicalPort, PortKind

_LAUNCHER = re.compile(r"virt-launcher-(?P<vm>.+)-[a-z0-9]{5}\Z")
"""Kubernetes appends five characters to a generated name (apiserver, names.SimpleNameGenerator)."""


def vm_name(pod: str) -> str:
    """The virtual machine that KubeVirt runs in this pod; "" if the pod is none of its."""
    found = _LAUNCHER.match(pod)
    return found["vm"] if found else ""


def port_names(
    kind: PortKind, pod: str, namespace: str, provider: str = "", ifname: str = ""
) -> tuple[str, ...]:
    """The names that the pod's logical switch port may have; the first that OVN knows is it.

    A vhost-user interface is the machine's own; a veth of the same pod is the pod's, unless the
    port is made of Kubernetes' objects (`fits`). Further networks have their provider in it, as
    Kube-OVN names them, and the interface behind it where a pod has several of one network.
    """
    vm = vm_name(pod)
    further = [f".{provider}.{ifname}"] if provider and ifname else []
    further.append(f".{provider}" if provider else "")
    owners = (vm, pod) if kind is PortKind.VHOST_USER else (pod, vm)
    return tuple(f"{owner}.{namespace}{behind}" for owner in owners if owner for behind in further)


def fits(kind: PortKind, pod: str, port: LogicalPort) -> bool:
    """Whether a port of one of these names serves this interface.

    The Kubernetes controller names every interface of a machine's pod by the machine; another CMS
    may have made the machine's port for its vhost-user interface, and the pod's has yet to come.
    Without a pod's name any port does: a template said which.
    """
    if not pod:
        return True
    if kind is PortKind.VHOST_USER or port.owner == KUBERNETES_OWNER:
        return True
    return port.name.startswith(f"{pod}.")


class Ports(Protocol):
    """Where logical ports are looked up (`controller.cni_host.Host`)."""

    def logical_port(self, name: str) -> LogicalPort | None:
        """The port as OVN's databases have it now."""
        ...

    async def wait_logical_port(self, name: str, timeout: float) -> LogicalPort | None:
        """The port, as soon as OVN has it; None after `timeout` seconds."""
        ...


async def first_known(
    ports: Ports,
    names: Sequence[str],
    timeout: float,
    serves: Callable[[LogicalPort], bool] = lambda _: True,
) -> LogicalPort | None:
    """The first of these ports that OVN has, else the one it gets first within `timeout` seconds.

    None if it gets none. One that does not serve (`fits`) counts as none.
    """
    for name in names:
        if (port := ports.logical_port(name)) is not None and serves(port):
            return port
    waits = [asyncio.create_task(ports.wait_logical_port(name, timeout)) for name in names]
    try:
        for first in asyncio.as_completed(waits):
            if (port := await first) is not None and serves(port):
                return port
    finally:
        for wait in waits:
            wait.cancel()
    return None
