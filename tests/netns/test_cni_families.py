"""A pod of both families in a real namespace: what ADD sets, each version says, each drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from cni import spec
from dataplane.drivers import netns
from tests.netns.memory_host import logical_port
from tests.netns.test_cni_end_to_end import check, node, off_loop, run

pytestmark = pytest.mark.netns

NetnsMaker = Callable[[str], str]
DUAL = replace(
    logical_port("web-0.shop"),
    addresses=(*logical_port("web-0.shop").addresses, IPv6Interface("fd00:1::5/64")),
    gateway6=IPv6Address("fd00:1::1"),
)
ROUTES = [{"dst": "10.9.0.0/16", "gw": "10.0.0.9"}, {"dst": "fd09::/64", "gw": "fd00:1::9"}]


def inside(path: str, *words: str, **more: object) -> None:
    """One netlink request in the namespace: "link set", "addr del", ..."""

    def ask() -> None:
        with IPRoute() as ipr:
            index = ipr.link_lookup(ifname="eth0")[0]
            kind, verb = words
            key = {"route": "oif"}.get(kind, "index")
            getattr(ipr, kind)(verb, **{key: index, **more})

    with netns.opened(path) as fd:
        off_loop(netns.inside, fd, path, ask)


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_both_families_are_set_and_said_in_every_version(
    tmp_path: Path, new_netns: NetnsMaker, version: str
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            n.host.ports["web-0.shop"] = DUAL
            more = {"cniVersion": version, "routes": ROUTES}
            status, result = await n.run("ADD", pod, **more)
            assert status == 0, result
            assert await n.run("ADD", pod, **more) == (0, result)
            assert result["cniVersion"] == version
            ips = [{k: v for k, v in one.items() if k != "version"} for one in result["ips"]]  # type: ignore[attr-defined]
            assert ips == [
                {"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 1},
                {"address": "fd00:1::5/64", "gateway": "fd00:1::1", "interface": 1},
            ]
            said = [one.get("version") for one in result["ips"]]  # type: ignore[attr-defined]
            assert said == (["4", "6"] if version < "1" else [None, None])
            assert result["routes"] == [
                {"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0", "gw": "fd00:1::1"},
                *ROUTES,
            ]  # fmt: skip
            (attachment,) = n.host.attachments()
            assert check(attachment) == []
            if version >= "0.4":
                checked = await n.run("CHECK", pod, prevResult=result, **more)
                assert checked == (0, {})
            for path in (pod, "", "/run/netns/gone"):
                assert await n.run("DEL", path, **more) == (0, {})
            assert n.left(pod) == []

    run(main)


DRIFTS: list[tuple[str, tuple[str, str], dict[str, object], str]] = [
    ("address 6", ("addr", "del"), {"address": "fd00:1::5", "prefixlen": 64}, "fd00:1::5/64"),
    ("address 4", ("addr", "del"), {"address": "10.0.0.5", "prefixlen": 24}, "10.0.0.5/24"),
    ("route 6", ("route", "del"), {"dst": "::/0", "gateway": "fd00:1::1"}, "fd00:1::1"),
    ("route 4", ("route", "del"), {"dst": "0.0.0.0/0", "gateway": "10.0.0.1"}, "10.0.0.1"),
    ("mtu", ("link", "set"), {"mtu": 1300}, "MTU 1300"),
    ("mac", ("link", "set"), {"address": "0a:58:0a:00:00:77"}, "0a:58:0a:00:00:77"),
    ("down", ("link", "set"), {"state": "down"}, "down"),
    ("gone", ("link", "del"), {}, "missing"),
]


@pytest.mark.parametrize(
    ("words", "more", "said"), [row[1:] for row in DRIFTS], ids=[row[0] for row in DRIFTS]
)
def test_check_finds_each_drift_and_add_mends_it(
    tmp_path: Path,
    new_netns: NetnsMaker,
    words: tuple[str, str],
    more: dict[str, object],
    said: str,
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            n.host.ports["web-0.shop"] = DUAL
            _, result = await n.run("ADD", pod)
            assert await n.run("CHECK", pod, prevResult=result) == (0, {})
            inside(pod, *words, **more)
            status, refused = await n.run("CHECK", pod, prevResult=result)
            assert (status, refused["code"]) == (1, spec.NOT_AS_EXPECTED)
            assert said in f"{refused['msg']} {refused['details']}"
            assert await n.run("ADD", pod) == (0, result)
            assert await n.run("CHECK", pod, prevResult=result) == (0, {})
            assert await n.run("DEL", pod) == (0, {})
            assert await n.run("DEL", pod) == (0, {})
            assert n.left(pod) == []

    run(main)
