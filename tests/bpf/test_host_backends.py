"""Backends in the node's own network, with real sockets: passed to the kernel, answered by the VIP.

A client outside and a pod behind svc0, each in a namespace of its own, and servers in the node's::

    client c0 --- up0 [uplink, host] node [svc, host] svc0 --- svc0-ovs pod

The pod stands where OVS and the gateway router do: what leaves svc0 has their MAC.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path

import pytest

from bpf import abi
from bpf.abi import Reason, VipFlag
from dataplane.drivers import hostreplies, tchook
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.drivers.hostreplies import HostRepliesTable
from dataplane.drivers.links import LinksTable
from dataplane.drivers.programs import ProgramTable
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.rows import HostReplies, Link, Program, ProgramKind
from dataplane.model.state import Gateway
from dataplane.plan.hostnet import svc_addresses, svc_neighbours
from tests.bpf.roundtrip import inside
from tests.bpf.world import (
    GATEWAY_MAC,
    SERVICE_ADDRESS,
    SERVICE_ADDRESS6,
    SERVICE_MAC,
    To,
    World,
    mac,
)
from tests.labs.netns import Namespace, finish_checksums, veth
from tests.netns.sockets.sockworld import Servers

pytestmark = pytest.mark.bpf

NODE = {4: "10.98.0.1", 6: "fd98::1"}
CLIENT = {4: "10.98.0.2", 6: "fd98::2"}
POD = {4: "10.16.0.9", 6: "fd10::9"}
VIP = {4: "192.0.2.10", 6: "2001:db8:1::10"}
RANGE = {4: "192.0.2.0/24", 6: "2001:db8:1::/64"}
PORT, SILENT, KEPT = 443, 444, 445
"""Ports of the VIP: served, with nobody behind it, and one with the policy Local."""
BACKEND, NOBODY = 6443, 6444
HERE = abi.Place.PLACE_HOST
GATEWAY = Gateway(
    "GR_n1", Mac(GATEWAY_MAC), (ip_interface("172.18.0.101/16"),), IPv4Address(SERVICE_ADDRESS),
    "ext", "ext_n1-localnet", IPv6Address(SERVICE_ADDRESS6),
)  # fmt: skip
ROWS = dict.fromkeys(("up0", "svc0"), HostReplies())
FAMILIES = pytest.mark.parametrize("family", [4, 6])
WHERE = pytest.mark.parametrize("where", ["outside", "pod"])


@dataclass(frozen=True, slots=True)
class Lab:
    """The namespaces, and the node's maps."""

    outside: Namespace
    node: Namespace
    pod: Namespace
    world: World

    def place(self, where: str) -> Namespace:
        return self.outside if where == "outside" else self.pod


def end(protocol: Protocol, address: str, port: int) -> L4Addr:
    return L4Addr(protocol, ip_interface(address).ip, port)


def _links(client: Namespace, node: Namespace, pod: Namespace) -> None:
    veth(client, "c0", node, "up0", left_addresses=[f"{CLIENT[4]}/24"],
         right_addresses=[f"{NODE[4]}/24"])  # fmt: skip
    link = Link(
        "svc0-ovs", Mac(SERVICE_MAC), 1500, 1, svc_addresses(GATEWAY),
        neighbours=svc_neighbours(GATEWAY),
    )  # fmt: skip
    with inside(node):
        assert LinksTable().upsert([("svc0", link)]) == {}
        assert LinksTable().observe() == {"svc0": link}
    node.run("ip", "link", "set", "svc0-ovs", "netns", pod.name)
    client.run("ip", "address", "add", f"{CLIENT[6]}/64", "dev", "c0", "nodad")
    node.run("ip", "address", "add", f"{NODE[6]}/64", "dev", "up0", "nodad")
    pod.run("sysctl", "-q", "-w", "net.ipv6.conf.svc0-ovs.disable_ipv6=0")
    pod.run("ip", "link", "set", "svc0-ovs", "address", GATEWAY_MAC, "up")
    for family, length, via in ((4, 24, "10.16.0.1"), (6, 64, "fd10::1")):
        pod.run("ip", "address", "add", f"{POD[family]}/{length}", "dev", "svc0-ovs",
                *(["nodad"] if family == 6 else []))  # fmt: skip
        pod.run("ip", "neigh", "add", via, "lladdr", SERVICE_MAC, "dev", "svc0-ovs", "nud",
                "permanent")  # fmt: skip
        pod.run("ip", "route", "add", RANGE[family], "via", via)
        client.run("ip", "route", "add", RANGE[family], "via", NODE[family])
    for space, device in ((client, "c0"), (pod, "svc0-ovs")):
        finish_checksums(space, device)


def _serve(world: World) -> None:
    for family in (4, 6):
        for protocol in (Protocol.TCP, Protocol.UDP):
            for port, behind, flags in (
                (PORT, BACKEND, VipFlag.VIP_SNAT),
                (SILENT, NOBODY, VipFlag.VIP_SNAT),
                (KEPT, BACKEND, VipFlag.VIP_LOCAL),
            ):
                to = To(end(protocol, NODE[family], behind), HERE)
                vip = end(protocol, VIP[family], port)
                flags |= VipFlag.VIP_INNER_SNAT | VipFlag.VIP_HOSTS
                world.serve(vip, [to], flags, local=[to])


@pytest.fixture(scope="module")
def lab(bpffs: Path) -> Iterator[Lab]:
    spaces = [Namespace(f"mrh-{os.getpid()}-{name}") for name in ("c", "n", "p")]
    with ExitStack() as stack:
        for one in spaces:
            one.create()
            stack.callback(one.delete)
        client, node, pod = spaces
        _links(client, node, pod)
        stack.enter_context(inside(node))
        root = str(bpffs / "hosts")
        stack.callback(remove_pins, root)
        state = stack.enter_context(BpfState(root))
        world = World(state, socket.if_nametoindex("up0"), socket.if_nametoindex("svc0"))
        world.set_node()
        flags = world._node["flags"] & ~int(abi.NodeFlag.NODE_FIXED_CLOCK)
        world.set_node(flags=flags, local4=IPv4Address(NODE[4]).packed, uplink_mac=mac(_mac(node)))
        for address in NODE.values():
            world.know(address, abi.AddressFlag.ADDRESS_LOCAL)
        world.maps["tx_ports"].update(*(world.uplink.to_bytes(4, "little"),) * 2)
        _serve(world)
        replies, programs = HostRepliesTable(state), ProgramTable(state)
        assert replies.upsert(list(ROWS.items())) == {}
        xdp = [
            ("up0", Program(ProgramKind.UPLINK, swap=False)),
            ("svc0", Program(ProgramKind.SERVICE, swap=False)),
        ]
        assert programs.upsert(xdp) == {}
        stack.callback(programs.delete, ["up0", "svc0"])
        servers = Servers()
        stack.callback(servers.close)
        for family in (4, 6):
            for protocol in (Protocol.TCP, Protocol.UDP):
                servers.listen(end(protocol, NODE[family], BACKEND))
        yield Lab(client, node, pod, world)


def _mac(node: Namespace) -> str:
    words = node.run("ip", "-br", "link", "show", "up0").split()
    return next(word for word in words if word.count(":") == 5)


def connected(space: Namespace, kind: int, family: int, port: int) -> socket.socket:
    with inside(space):
        made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        made.settimeout(10)
        try:
            made.connect((VIP[family], port))
        except OSError:
            made.close()
            raise
        return made


def said_by(family: int) -> bytes:
    return str(end(Protocol.TCP, NODE[family], BACKEND)).partition("/")[0].encode()


@WHERE
@FAMILIES
@pytest.mark.parametrize("port", [PORT, KEPT], ids=["cluster", "local"])
def test_a_connection_and_all_of_its_octets(lab: Lab, where: str, family: int, port: int) -> None:
    before = lab.world.counted().get(Reason.HOST_REPLY, 0)
    octets = os.urandom(200_000)
    with connected(lab.place(where), socket.SOCK_STREAM, family, port) as made:
        assert made.makefile("rb").readline() == said_by(family) + b"\n"
        for at in range(0, len(octets), 4000):
            made.sendall(octets[at : at + 4000])
            back = b""
            while len(back) < len(octets[at : at + 4000]):
                back += made.recv(65536)
            assert back == octets[at : at + 4000]
    assert lab.world.counted()[Reason.HOST_REPLY] > before


@WHERE
@FAMILIES
@pytest.mark.parametrize("size", [20, 3900], ids=["whole", "fragments"])
def test_datagrams_come_back_from_the_vip(lab: Lab, where: str, family: int, size: int) -> None:
    octets = os.urandom(size)
    with connected(lab.place(where), socket.SOCK_DGRAM, family, PORT) as made:
        for _ in range(3):
            made.send(octets)
            assert made.recv(8192) == said_by(family) + b" " + octets


@WHERE
@FAMILIES
def test_datagrams_are_a_stream_when_the_client_goes_on_after_an_answer(
    lab: Lab, where: str, family: int
) -> None:
    with connected(lab.place(where), socket.SOCK_DGRAM, family, PORT) as made:
        client, states = made.getsockname()[:2], []
        for _ in range(2):
            made.send(b"who?")
            made.recv(100)
            (state,) = (
                abi.CtState(flow.fields["state"])
                for flow in lab.world.records(family)
                if (flow.ends[:2], flow.fields["proto"]) == (client, Protocol.UDP)
            )
            states.append(state)
    assert states == [abi.CtState.CT_UDP_ANSWERED, abi.CtState.CT_UDP]


@WHERE
@FAMILIES
def test_what_the_kernel_refuses_is_refused_by_the_vip(lab: Lab, where: str, family: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        connected(lab.place(where), socket.SOCK_STREAM, family, SILENT)
    before = lab.world.counted().get(Reason.HOST_ICMP_ERROR, 0)
    with connected(lab.place(where), socket.SOCK_DGRAM, family, SILENT) as made:
        made.send(b"is anybody there?")
        with pytest.raises(ConnectionRefusedError):
            made.recv(100)
    assert lab.world.counted()[Reason.HOST_ICMP_ERROR] > before


@FAMILIES
def test_the_kernel_sees_the_client_outside_and_a_neighbour_for_one_inside(
    lab: Lab, family: int
) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with inside(lab.node), socket.socket(kind, socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        server.bind((NODE[family], NOBODY))
        seen = []
        for where in ("outside", "pod"):
            with connected(lab.place(where), socket.SOCK_DGRAM, family, SILENT) as made:
                made.send(b"hello")
                seen.append(server.recvfrom(100)[1][0])
    hidden = abi.HOST_SOURCE4 if family == 4 else abi.HOST_SOURCE6
    assert seen == [CLIENT[family], str(hidden)]


def test_what_is_of_no_service_goes_as_it_is(lab: Lab) -> None:
    before = lab.world.counted()
    with inside(lab.outside), socket.create_connection((NODE[4], BACKEND), timeout=10) as made:
        assert made.makefile("rb").readline() == said_by(4) + b"\n"
    after = lab.world.counted()
    assert after[Reason.PASS_IPV4] > before.get(Reason.PASS_IPV4, 0)
    assert after.get(Reason.HOST_REPLY, 0) == before.get(Reason.HOST_REPLY, 0)


def test_the_program_is_found_again_and_taken_off(lab: Lab) -> None:
    with inside(lab.node):
        table = HostRepliesTable(lab.world.state)
        assert table.observe() == ROWS
        assert table.upsert([("svc0", HostReplies())]) == {}  # in place of itself
        assert table.observe() == ROWS
        assert table.delete(["svc0", "gone"]) == {}
        assert table.observe() == {"up0": HostReplies()}
        assert table.upsert([("svc0", HostReplies()), ("gone", HostReplies())]).keys() == {"gone"}
        assert hostreplies.take_off("svc0", [0]) == "millrace_host"  # another node's counters
        assert hostreplies.take_off("svc0", ()) is None
        assert tchook.attached(socket.if_nametoindex("svc0")) is None
        assert table.upsert(list(ROWS.items())) == {}
