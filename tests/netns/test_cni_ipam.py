"""The plugin as another plugin's IPAM, several interfaces of one network, and pods' own routes.

The other plugin's part is played by its configuration, as runtimes hand it on: the kernel here has
no macvlan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from cni import spec
from controller.cni_host import Patience
from dataplane.drivers import netns, podroutes
from dataplane.model.addr import Mac
from dataplane.model.state import LogicalPort, Route
from tests.netns.memory_host import logical_port
from tests.netns.test_cni_end_to_end import LONG, Node, node, off_loop, run

pytestmark = pytest.mark.netns

NetnsMaker = Callable[[str], str]
MACVLAN: dict[str, Any] = {
    "type": "macvlan", "master": "up0", "mode": "bridge", "socket": None,
    "capabilities": {"ips": True, "mac": True},
}  # fmt: skip
FEW = Patience(logical_port=0.05, attach=60, installed=600, check=0.05)


def port(name: str, octet: int, *routes: tuple[str, str]) -> LogicalPort:
    """A port of the network 10.0.0.0/24, and its own routes."""
    own = tuple(Route(ip_network(to), ip_address(via)) for to, via in routes)
    found = logical_port(name, octet)
    return replace(found, routes=own, mac=Mac(f"0a:58:0a:00:00:{octet:02x}"))


async def addresses(
    on: Node, command: str, path: str, version: str = "0.3.0", **more: Any
) -> tuple[int, spec.Json]:
    """One verb of a macvlan's IPAM for net1 of web-0.shop."""
    part = {"type": "kube-ovn", "server_socket": str(on.socket), "provider": "mac.shop"}
    ipam = {**part, **more.pop("ipam", {})}
    return await on.run(
        command, path, ifname=more.pop("ifname", "net1"), **MACVLAN, cniVersion=version, ipam=ipam,
        **more,
    )  # fmt: skip


def routes_in(path: str) -> set[tuple[str, str, str]]:
    """Routes by a gateway in a namespace: destination, gateway, interface."""

    def look() -> set[tuple[str, str, str]]:
        with IPRoute() as ipr:
            names = {one["index"]: one.get_attr("IFLA_IFNAME") for one in ipr.get_links()}
            return {
                (
                    f"{one.get_attr('RTA_DST') or 'default'}/{one['dst_len']}",
                    str(one.get_attr("RTA_GATEWAY")),
                    names[one.get_attr("RTA_OIF")],
                )
                for one in ipr.get_routes(table=254)
                if one.get_attr("RTA_GATEWAY")
            }

    with netns.opened(path) as fd:
        return netns.inside(fd, path, look)


def test_another_plugin_gets_the_addresses_that_ovn_has(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, FEW) as on:
            code, error = await addresses(on, "ADD", pod)
            assert (code, error["code"]) == (1, spec.TRY_AGAIN_LATER)
            assert "mac.shop" in str(error["details"])
            on.host.not_ready = "no OVN"
            assert "no OVN" in str((await addresses(on, "ADD", pod))[1]["msg"])
            on.host.not_ready = None
            mine = port("web-0.shop.mac.shop", 9, ("192.168.0.0/24", "10.0.0.254"))
            on.host.ports[mine.name] = mine
            given = {"address": "10.0.0.9/24", "gateway": "10.0.0.1"}
            routes = [{"dst": "192.168.0.0/24", "gw": "10.0.0.254"}]
            for _ in range(2):
                assert await addresses(on, "ADD", pod) == (0, {
                    "cniVersion": "0.3.0", "ips": [{"version": "4", **given}],
                    "routes": routes, "dns": {},
                })  # fmt: skip
            newest = await addresses(on, "ADD", pod, "1.1.0")
            assert newest == (
                0, {"cniVersion": "1.1.0", "ips": [given], "routes": routes, "dns": {}},
            )  # fmt: skip
            # As the pod's first interface it leads out, too.
            _, first = await addresses(on, "ADD", pod, "1.1.0", ifname="eth0")
            assert first["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, *routes]
            had = {"cniVersion": "1.1.0", "ips": [given], "interfaces": [{"name": "net1"}]}
            assert await addresses(on, "CHECK", pod, "1.1.0", prevResult=had) == (0, {})
            stale = {**had, "ips": [{"address": "10.0.0.8/24"}]}
            code, error = await addresses(on, "CHECK", pod, "1.1.0", prevResult=stale)
            assert (code, error["code"]) == (1, spec.NOT_AS_EXPECTED)
            assert await addresses(on, "STATUS", "", "1.1.0") == (0, {})
            assert on.left(pod) == []
            assert await addresses(on, "GC", "", "1.1.0", **{"cni.dev/valid-attachments": []}) == (
                0, {},
            )  # fmt: skip
            del on.host.ports[mine.name]
            code, error = await addresses(on, "CHECK", pod, "1.1.0", prevResult=had)
            assert (code, error["code"]) == (1, spec.UNKNOWN_CONTAINER)
        # A removal asks nobody: the daemon is down.
        assert await addresses(on, "DEL", pod) == (0, {})

    run(main)


@pytest.mark.parametrize(
    ("ipam", "code"),
    [
        ({"provider": ""}, spec.INVALID_CONFIG),
        ({"provider": "ovn"}, spec.INVALID_CONFIG),
        ({"range": "10.0.0.0/24"}, spec.UNSUPPORTED_FIELD),
        ({"routes": [{"gw": "10.0.0.9"}]}, spec.INVALID_CONFIG),
    ],
)
def test_a_wish_for_addresses_that_means_nothing_is_refused(
    tmp_path: Path, new_netns: NetnsMaker, ipam: spec.Json, code: int
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, FEW) as on:
            status, error = await addresses(on, "ADD", pod, ipam=ipam)
            assert (status, error["code"]) == (1, code)

    run(main)


def test_an_address_that_the_runtime_asks_for_is_compared(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, FEW) as on:
            on.host.ports["web-0.shop.mac.shop"] = port("web-0.shop.mac.shop", 9)
            for ip, code in (
                ("10.0.0.9/24", None),
                ("10.0.0.8", spec.TRY_AGAIN_LATER),
                ("10.1.0.8", spec.INVALID_CONFIG),
            ):
                # The MAC is the other plugin's.
                wish = {"ips": [ip], "mac": "02:00:00:00:00:99"}
                _, said = await addresses(on, "ADD", pod, runtimeConfig=wish)
                assert said.get("code") == code

    run(main)


def test_two_interfaces_of_one_network_and_a_default_route_that_moves(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")
    fast = {"type": "kube-ovn", "provider": "fast.shop.ovn"}
    moved = ("0.0.0.0/0", "10.0.0.254")

    async def main() -> None:
        async with node(tmp_path, LONG) as on:
            for mine in (
                port("web-0.shop.fast.shop.ovn.net1", 11, ("192.168.0.0/24", "10.0.0.254"), moved),
                port("web-0.shop.fast.shop.ovn.net2", 12),
            ):
                on.host.ports[mine.name] = mine
            assert (await on.run("ADD", pod))[0] == 0
            assert off_loop(routes_in, pod) == {("default/0", "10.0.0.1", "eth0")}
            for ifname, octet in (("net1", 11), ("net2", 12)):
                code, said = await on.run("ADD", pod, ifname=ifname, **fast)
                assert (code, said["ips"]) == (
                    0, [{"address": f"10.0.0.{octet}/24", "interface": 1}],
                )  # fmt: skip
            after = {
                ("default/0", "10.0.0.254", "net1"), ("192.168.0.0/24", "10.0.0.254", "net1"),
            }  # fmt: skip
            assert off_loop(routes_in, pod) == after
            # Asked again, the first interface leaves the default route where it is.
            assert (await on.run("ADD", pod))[0] == 0
            assert off_loop(routes_in, pod) == after
            for ifname in ("net1", "net2", "eth0"):
                assert (await on.run("DEL", pod, ifname=ifname, **fast))[0] == 0
            assert on.left(pod) == []

    run(main)


def test_another_plugin_that_sets_the_default_route_finds_none(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, LONG) as on:
            mine = port("web-0.shop.mac.shop", 9, ("0.0.0.0/0", "10.0.0.254"))
            on.host.ports[mine.name] = mine
            assert (await on.run("ADD", pod))[0] == 0
            assert len(off_loop(routes_in, pod)) == 1
            _, said = await addresses(on, "ADD", pod)
            assert said["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.0.254"}]
            assert off_loop(routes_in, pod) == set()
            # IPv6 stays as it is, and nothing to take away is no failure.
            off_loop(podroutes.clear_defaults, pod, {4, 6})
            assert (await on.run("DEL", pod))[0] == 0

    run(main)
