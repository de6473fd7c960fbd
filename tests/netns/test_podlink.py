"""Pod links for real: veth pairs between this namespace and ones made for the test."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from dataplane.drivers import ethtool, netns, podlink, podroutes
from dataplane.drivers.netlink import messages
from dataplane.drivers.podwire import PodWire
from dataplane.model.addr import Mac
from dataplane.model.devices import device_name, peer_name
from dataplane.model.state import Attachment, PortKind, Route
from tests.labs.attachments import WEB

pytestmark = pytest.mark.netns

NetnsMaker = Callable[[str], str]


@pytest.fixture
def pod(new_netns: NetnsMaker, tmp_path: Path) -> Iterator[Attachment]:
    # The container's id is the test's own directory, so that runs side by side do not meet.
    container = tmp_path.name + f"-{os.getpid()}"
    attachment = replace(
        WEB,
        container_id=container,
        netns=new_netns("pod"),
        device=device_name(PortKind.VETH, container, "eth0"),
        peer=peer_name(PortKind.VETH, container, "eth0"),
    )
    yield attachment
    with IPRoute() as ipr:
        for index in ipr.link_lookup(ifname=attachment.device):
            ipr.link("del", index=index)


def inside(path: str, work: Callable[[Any], Any]) -> Any:
    """What `work` finds with a netlink socket of the namespace."""

    def run() -> Any:
        with IPRoute() as ipr:
            return work(ipr)

    with netns.opened(path) as fd:
        return netns.inside(fd, path, run)


def links(path: str) -> list[str]:
    return [str(link.get_attr("IFLA_IFNAME")) for link in inside(path, lambda i: i.get_links())]


def host_index(name: str) -> int | None:
    with IPRoute() as ipr:
        found: list[int] = ipr.link_lookup(ifname=name)
    return found[0] if found else None


def edit(path: str, work: Callable[[Any, int], Any], ifname: str = "eth0") -> None:
    """Do something to an interface of the namespace."""
    inside(path, lambda ipr: work(ipr, ipr.link_lookup(ifname=ifname)[0]))


def default_routes(path: str) -> list[tuple[str, int]]:
    return [
        (route.get_attr("RTA_GATEWAY"), route["flags"] & podroutes.RTNH_F_ONLINK)
        for route in inside(path, lambda ipr: list(ipr.get_routes(family=socket.AF_INET)))
        if route["dst_len"] == 0
    ]


def test_ensure_makes_what_check_finds_right(pod: Attachment) -> None:
    podlink.ensure(pod)
    assert podlink.check(pod) == []
    assert links(pod.netns) == ["lo", "eth0"]
    assert default_routes(pod.netns) == [("10.0.0.1", 0)]
    assert host_index(pod.peer) is None


def test_ensure_twice_keeps_the_link(pod: Attachment) -> None:
    podlink.ensure(pod)
    before = host_index(pod.device)
    assert podlink.create(pod) is False
    podlink.ensure(pod)
    assert host_index(pod.device) == before
    assert podlink.check(pod) == []


def test_remove_takes_both_ends_and_is_idempotent(pod: Attachment) -> None:
    podlink.ensure(pod)
    podlink.remove(pod.device)
    podlink.remove(pod.device)
    assert host_index(pod.device) is None
    assert links(pod.netns) == ["lo"]
    assert podlink.check(pod) == [f"the node's link {pod.device} is missing"]


def test_a_gateway_outside_a_32_is_reached_on_link(pod: Attachment) -> None:
    narrow = replace(
        pod, addresses=(IPv4Interface("10.0.0.5/32"),), gateway=IPv4Address("169.254.1.1")
    )
    podlink.ensure(narrow)
    assert podlink.check(narrow) == []
    assert default_routes(pod.netns) == [("169.254.1.1", podroutes.RTNH_F_ONLINK)]


def test_no_gateway_no_route(pod: Attachment) -> None:
    podlink.ensure(replace(pod, gateway=None, addresses=()))
    assert default_routes(pod.netns) == []


def test_anybodys_default_routes_of_a_family_are_taken_away(pod: Attachment) -> None:
    podlink.ensure(pod)
    protocols = {"dhcp": 16, "boot": 3}

    def add(ipr: Any, index: int) -> None:
        # One behind a gateway, one on the link; and one of the other family.
        ipr.route("add", dst="0.0.0.0/0", gateway="10.0.0.9", oif=index, priority=7,
                  proto=protocols["dhcp"])  # fmt: skip
        ipr.route("add", dst="0.0.0.0/0", oif=index, priority=9, scope=253,
                  proto=protocols["boot"])  # fmt: skip
        ipr.route("add", dst="::/0", oif=index, family=socket.AF_INET6, proto=protocols["boot"])

    def sixes(ipr: Any) -> int:
        routes = ipr.get_routes(family=socket.AF_INET6, table=254)
        return sum(1 for route in routes if route["dst_len"] == 0 and route["type"] == 1)

    edit(pod.netns, add)
    assert len(default_routes(pod.netns)) == 3
    podroutes.clear_defaults(pod.netns, {4})
    assert (default_routes(pod.netns), inside(pod.netns, sixes)) == ([], 1)
    podroutes.clear_defaults(pod.netns, {4, 6})
    assert inside(pod.netns, sixes) == 0


def test_another_interfaces_default_route_is_kept(pod: Attachment) -> None:
    second = replace(
        pod,
        ifname="net1",
        device=device_name(PortKind.VETH, pod.container_id, "net1"),
        addresses=(IPv4Interface("10.9.0.5/24"),),
        gateway=IPv4Address("10.9.0.1"),
    )
    podlink.ensure(pod)
    try:
        podlink.ensure(second)
        assert default_routes(pod.netns) == [("10.0.0.1", 0)]
        assert podlink.check(pod) == []
        assert podlink.check(second) == []
    finally:
        podlink.remove(second.device)


def test_a_changed_attachment_is_applied_to_the_same_link(pod: Attachment) -> None:
    podlink.ensure(pod)
    before = host_index(pod.device)
    changed = replace(
        pod,
        mac=Mac("0a:58:0a:00:01:07"),
        mtu=1300,
        addresses=(IPv4Interface("10.0.1.7/24"),),
        gateway=IPv4Address("10.0.1.1"),
    )
    assert podlink.check(changed) != []
    podlink.ensure(changed)
    assert podlink.check(changed) == []
    assert host_index(pod.device) == before
    assert default_routes(pod.netns) == [("10.0.1.1", 0)]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda ipr, i: ipr.link("set", index=i, state="down"), "down"),
        (lambda ipr, i: ipr.link("set", index=i, mtu=1000), "MTU 1000"),
        (lambda ipr, i: ipr.link("set", index=i, address="0a:58:00:00:00:01"), "MAC"),
        (lambda ipr, i: ipr.flush_addr(index=i), "lacks the address 10.0.0.5/24"),
        (lambda ipr, _: ipr.route("del", dst="0.0.0.0/0"), "no default route"),
        (lambda _, __: ethtool.set_tx_checksum("eth0", on=True), "offload"),
    ],
    ids=["down", "mtu", "mac", "address", "route", "offload"],
)
def test_damage_in_the_pod_is_found_and_mended(
    pod: Attachment, damage: Callable[[Any, int], Any], said: str
) -> None:
    podlink.ensure(pod)
    edit(pod.netns, damage)
    assert said in "; ".join(podlink.check(pod))
    podlink.ensure(pod)
    assert podlink.check(pod) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda ipr, i, _: ipr.link("set", index=i, state="down"), "is down"),
        (lambda ipr, i, _: ipr.link("set", index=i, ifalias="millrace:pod:other"), "alias"),
        (lambda _, __, n: ethtool.set_tx_checksum(n, on=True), "offload"),
    ],
    ids=["down", "alias", "offload"],
)
def test_damage_on_the_node_is_found_and_mended(
    pod: Attachment, damage: Callable[[Any, int, str], Any], said: str
) -> None:
    podlink.ensure(pod)
    index = host_index(pod.device)
    assert index is not None
    with IPRoute() as ipr:
        damage(ipr, index, pod.device)
    assert said in "; ".join(podlink.check(pod))
    podlink.ensure(pod)
    assert podlink.check(pod) == []


@pytest.mark.parametrize("path", ["/nonexistent/ns", "/etc/hostname", "/proc/self/ns/net"])
def test_without_a_pods_namespace_nothing_is_left(pod: Attachment, path: str) -> None:
    with pytest.raises((netns.NetnsError, podlink.LinkError)):
        podlink.ensure(replace(pod, netns=path))
    assert host_index(pod.device) is None


def test_a_taken_interface_name_leaves_nothing(pod: Attachment) -> None:
    inside(pod.netns, lambda ipr: ipr.link("add", ifname="eth0", kind="veth", peer="eth9"))
    with pytest.raises(podlink.LinkError, match="exists already"):
        podlink.ensure(pod)
    assert host_index(pod.device) is None
    assert sorted(links(pod.netns)) == ["eth0", "eth9", "lo"]


def test_a_failure_inside_the_pod_takes_the_link_back(pod: Attachment) -> None:
    # A broadcast address is no gateway: the kernel refuses the route, the last step.
    bad = replace(pod, gateway=IPv4Address("255.255.255.255"))
    with pytest.raises(podlink.LinkError, match="cannot be configured"):
        podlink.ensure(bad)
    assert host_index(pod.device) is None
    assert links(pod.netns) == ["lo"]


def test_a_foreign_link_of_that_name_is_left_alone(pod: Attachment) -> None:
    with IPRoute() as ipr:
        ipr.link("add", ifname=pod.device, kind="veth", peer=pod.peer)
        (index,) = ipr.link_lookup(ifname=pod.device)
        ipr.link("set", index=index, ifalias="somebody's")
        with pytest.raises(podlink.LinkError, match="not ours"):
            podlink.ensure(pod)
        with pytest.raises(podlink.LinkError, match="not ours"):
            podlink.remove(pod.device)
        assert ipr.link_lookup(ifname=pod.device) == [index]
        assert pod.device not in podlink.orphans(())


def test_a_new_namespace_for_the_same_container_gets_a_new_link(
    pod: Attachment, new_netns: NetnsMaker
) -> None:
    podlink.ensure(pod)
    moved = replace(pod, netns=new_netns("again"))
    podlink.ensure(moved)
    assert podlink.check(moved) == []
    assert links(pod.netns) == ["lo"]


def test_a_namespace_that_went_away_takes_the_link_with_it(pod: Attachment) -> None:
    podlink.ensure(pod)
    assert ctypes.CDLL(None).umount2(os.fsencode(pod.netns), 2) == 0
    # The kernel tears a namespace down in its own time; until then the link may still show.
    assert any("is no network namespace" in one or "missing" in one for one in podlink.check(pod))
    podlink.remove(pod.device)
    assert host_index(pod.device) is None


def test_orphans_are_ours_and_not_known(pod: Attachment) -> None:
    podlink.ensure(pod)
    assert pod.device in podlink.orphans(())
    assert pod.device not in podlink.orphans({pod.device})


def test_a_link_that_a_crash_left_unnamed_is_an_orphan_and_is_adopted(pod: Attachment) -> None:
    with netns.opened(pod.netns) as fd, PodWire() as wire:
        podlink._add(wire, fd, pod)
    index = host_index(pod.device)
    assert pod.device in podlink.orphans(())
    podlink.ensure(pod)
    assert host_index(pod.device) == index
    assert podlink.check(pod) == []


def test_nobody_but_the_kernel_is_heard(new_netns: NetnsMaker) -> None:
    path = new_netns("heard")

    def asked() -> None:
        with PodWire() as wire, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as other:
            port = wire._socket.getsockname()[0]
            with pytest.raises(ConnectionRefusedError):
                other.sendto(bytes(16), (port, 0))
            assert wire.index_of("lo") == 1

    with netns.opened(path) as fd:
        netns.inside(fd, path, asked)


def test_a_message_without_an_end_ends_the_reading_and_others_answers_are_passed_over() -> None:
    whole = struct.pack("=IHHII", 20, 16, 0x10, 7, 0) + b"last"
    assert list(messages(whole + bytes(16) + whole)) == [(16, 0x10, 7, b"last")]
    with PodWire() as wire:
        # What an answer that was given up has left in the socket.
        wire._socket.send(struct.pack("=IHHIIBxHiII", 32, 18, 0x5, 0, 0, 0, 0, 1, 0, 0))
        assert wire.find_link("no-such-link") is None
        found = wire.find_link("lo")
        assert found is not None
        assert (found.name, found.index) == ("lo", 1)


def test_where_no_descriptor_is_left_a_link_is_not_called_missing(pod: Attachment) -> None:
    podlink.ensure(pod)
    with PodWire() as wire:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            index = wire.index_of(pod.device)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert index == host_index(pod.device)
        assert wire.index_of("no-such-link") is None
        assert wire.index_of("a-name-of-more-than-15") is None


def test_a_route_goes_by_no_gateway_of_another_family(pod: Attachment) -> None:
    route = Route(ip_network("10.9.0.0/16"), ip_address("fd00::9"))
    with pytest.raises(podlink.LinkError, match="another family"):
        podlink.ensure(replace(pod, routes=(route,)))
    assert host_index(pod.device) is None


def test_the_callers_thread_stays_where_it_is(pod: Attachment) -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    podlink.ensure(pod)
    with pytest.raises(ZeroDivisionError):
        inside(pod.netns, lambda _: 1 / 0)
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before
