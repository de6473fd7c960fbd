"""Which logical switch port a pod has: a virtual machine keeps its own from pod to pod."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import pytest

from controller.vm_ports import first_known, fits, port_names, vm_name
from dataplane.model.names import KUBERNETES_OWNER
from dataplane.model.state import LogicalPort, PortKind


@pytest.mark.parametrize(
    ("pod", "vm"),
    [
        ("virt-launcher-vm1-x7k2p", "vm1"),
        ("virt-launcher-my-db-0-abcde", "my-db-0"),
        ("virt-launcher-vm.with.dots-abcde", "vm.with.dots"),
        ("virt-launcher-vm1", ""),
        ("virt-launcher-vm1-abcdef", ""),
        ("virt-launcher--abcde", ""),
        ("virt-launcher-vm1-ABCDE", ""),
        ("web-virt-launcher-vm1-abcde", ""),
        ("virt-launcher-vm1-abcde\n", ""),
    ],
)
def test_a_launchers_pod_is_named_after_its_machine(pod: str, vm: str) -> None:
    assert vm_name(pod) == vm


def test_the_machines_port_goes_before_the_pods_for_a_vhost_user_interface() -> None:
    pod = "virt-launcher-vm1-abcde"
    names = ("vm1.shop", f"{pod}.shop")
    assert port_names(PortKind.VHOST_USER, pod, "shop") == names
    assert port_names(PortKind.VETH, pod, "shop") == names[::-1]
    assert port_names(PortKind.VHOST_USER, "vm1", "shop") == ("vm1.shop",)


@pytest.mark.parametrize(
    ("owner", "found"), [("", None), ("millrace", None), (KUBERNETES_OWNER, "vm1.shop")]
)
def test_a_veth_has_the_machines_port_only_where_the_kubernetes_controller_made_it(
    owner: str, found: str | None
) -> None:
    pod = "virt-launcher-vm1-abcde"
    ovn = Ovn(now={"vm1.shop"}, later={"vm1.shop"}, owner=owner)
    serves = partial(fits, PortKind.VETH, pod)
    names = port_names(PortKind.VETH, pod, "shop")
    port = asyncio.run(first_known(ovn, names, 1.0, serves))
    assert (port.name if port else None) == found
    assert fits(PortKind.VHOST_USER, pod, _port("vm1.shop", owner))
    ovn.now.add(f"{pod}.shop")
    own = asyncio.run(first_known(ovn, names, 1.0, serves))
    assert own is not None
    assert own.name == f"{pod}.shop"


def test_a_further_network_of_a_machine_is_a_port_of_its_own() -> None:
    names = port_names(PortKind.VHOST_USER, "virt-launcher-vm1-abcde", "shop", "fast.shop")
    assert names == ("vm1.shop.fast.shop", "virt-launcher-vm1-abcde.shop.fast.shop")
    # Of several interfaces of one network each has a port; who has one has the network's.
    assert port_names(PortKind.VETH, "web-0", "shop", "fast.shop.ovn", "net1") == (
        "web-0.shop.fast.shop.ovn.net1", "web-0.shop.fast.shop.ovn",
    )  # fmt: skip
    assert port_names(PortKind.VETH, "web-0", "shop", "", "eth0") == ("web-0.shop",)


@dataclass
class Ovn:
    """Ports that are there, and those that come while somebody waits."""

    now: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    owner: str = ""

    def logical_port(self, name: str) -> LogicalPort | None:
        return _port(name, self.owner) if name in self.now else None

    async def wait_logical_port(self, name: str, _timeout: float) -> LogicalPort | None:
        await asyncio.sleep(0)
        return _port(name, self.owner) if name in self.later else None


def _port(name: str, owner: str = "") -> LogicalPort:
    return LogicalPort(name, None, (), None, None, None, owner=owner)


@pytest.mark.parametrize(
    ("ovn", "found"),
    [
        (Ovn(now={"vm", "pod"}), "vm"),
        (Ovn(now={"pod"}), "pod"),
        (Ovn(later={"vm"}), "vm"),
        (Ovn(later={"pod"}), "pod"),
        (Ovn(), None),
    ],
)
def test_whichever_port_ovn_has_is_it_and_the_machines_goes_first(
    ovn: Ovn, found: str | None
) -> None:
    port = asyncio.run(first_known(ovn, ("vm", "pod"), 1.0))
    assert (port.name if port else None) == found
