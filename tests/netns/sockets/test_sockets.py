"""Connect-time translation with real sockets: processes of a cgroup ask for VIPs, and real servers
on several backends answer, in the node's namespace and from a container's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

import pytest

from bpf import abi
from bpf.abi import Reason, VipFlag
from dataplane.drivers.sockprograms import SocketTable
from dataplane.model.addr import L4Addr
from tests.netns.sockets.sockworld import (
    DNS,
    DNS6,
    NODE,
    NODE6,
    TCP,
    UDP,
    V4,
    V6,
    VIP,
    VIP6,
    WEB,
    WEB6,
    Client,
    Refused,
    Servers,
    SockWorld,
    endpoint,
    names,
    udp,
)

pytestmark = pytest.mark.netns

MAPPED = f"::ffff:{VIP}"
MANY = 60
"""Connections enough to meet every backend: the odds against it are 1 in 10^10."""


# TCP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "asked", "backends"),
    [(V4, VIP, WEB), (V6, MAPPED, WEB), (V6, VIP6, WEB6)],
    ids=["ipv4", "mapped", "ipv6"],
)
def test_connections_are_spread_and_show_the_vip(
    world: SockWorld, client: Client, family: int, asked: str, backends: Sequence[L4Addr]
) -> None:
    vip = endpoint(f"[{asked}]:80" if asked == VIP6 else f"{VIP}:80")
    service = world.serve(vip, backends)
    assert set(client("ask_often", MANY, family, asked, 80)) == names(backends)
    client("make", "s", family, TCP)
    client("connect", "s", asked, 80)
    assert client("peer", "s") == [asked, 80]
    assert world.stats(service)["new_flows"] == MANY + 1


def test_what_is_no_vip_is_left_alone(world: SockWorld, client: Client) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB)
    assert client.ask("10.16.0.3:8080") == "10.16.0.3:8080"
    client("make", "s", V4, TCP)
    with pytest.raises(Refused):
        client("connect", "s", NODE, 80)


def test_a_process_outside_the_cgroup_is_left_alone(
    world: SockWorld, table: SocketTable, start: Callable[..., Client]
) -> None:
    subprocess.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"], check=True)
    world.serve(endpoint(f"{VIP}:80"), WEB)
    with pytest.raises(Refused, match="ECONNREFUSED"):
        start(inside=False).ask(f"{VIP}:80")
    assert start().ask(f"{VIP}:80") in names(WEB)


def test_weights_are_kept_to(world: SockWorld, client: Client) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB[:2], weights=[9, 1])
    seen = client("ask_often", 400, V4, VIP, 80)
    assert 320 <= seen["10.16.0.2:8080"] <= 392


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_a_container_connects_by_its_own_address(
    world: SockWorld,
    table: SocketTable,
    start: Callable[..., Client],
    pod: str,
    vip: str,
) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB)
    world.serve(endpoint(f"[{VIP6}]:80"), WEB6)
    process = start(pod)
    backends = WEB if vip == VIP else WEB6
    family = V4 if vip == VIP else V6
    assert set(process("ask_often", MANY, family, vip, 80)) == names(backends)


def test_no_endpoint_is_refused_and_no_local_one_unreachable(
    world: SockWorld, client: Client
) -> None:
    refused = world.serve(endpoint("10.96.0.11:80"), [])
    world.serve(endpoint("10.96.0.12:80"), [], flags=VipFlag(0))
    local = VipFlag.VIP_INNER_LOCAL | VipFlag.VIP_REJECT
    world.serve(endpoint("10.96.0.13:80"), WEB, local=[], flags=local)
    world.serve(udp("10.96.0.14:53"), [])
    before = world.counted(Reason.DROP_SOCK_NO_LOCAL)
    for asked, error in (
        ("10.96.0.11:80", "ECONNREFUSED"),
        ("10.96.0.12:80", "EHOSTUNREACH"),
        ("10.96.0.13:80", "EHOSTUNREACH"),
    ):
        with pytest.raises(Refused, match=error):
            client.ask(asked)
    client("make", "u", V4, UDP)
    with pytest.raises(Refused, match="ECONNREFUSED"):
        client("connect", "u", "10.96.0.14", 53)
    with pytest.raises(Refused, match="ECONNREFUSED"):
        client("sendto", "u", "x", "10.96.0.14", 53)
    assert world.stats(refused)["drops_no_backend"] == 1
    assert world.counted(Reason.DROP_SOCK_NO_LOCAL) == before + 1


def test_policy_local_is_that_of_clients_inside(world: SockWorld, client: Client) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB, local=WEB[:1], flags=VipFlag.VIP_INNER_LOCAL)
    world.serve(endpoint("10.96.0.20:80"), WEB, local=WEB[:1], flags=VipFlag.VIP_LOCAL)
    assert set(client("ask_often", MANY, V4, VIP, 80)) == {"10.16.0.2:8080"}
    assert set(client("ask_often", MANY, V4, "10.96.0.20", 80)) == names(WEB)


def test_source_ranges_are_for_clients_outside(world: SockWorld, client: Client) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB, flags=VipFlag.VIP_SOURCE_RANGES)
    assert client.ask(f"{VIP}:80") in names(WEB)


def test_a_backend_that_terminates_gets_no_new_connection_and_keeps_its_old(
    world: SockWorld, client: Client
) -> None:
    vip = endpoint(f"{VIP}:80")
    world.serve(vip, WEB[:1])
    client("make", "old", V4, TCP)
    client("connect", "old", VIP, 80)
    assert client("recv", "old") == "10.16.0.2:8080\n"
    world.serve(vip, WEB[1:])
    assert set(client("ask_often", MANY, V4, VIP, 80)) == names(WEB[1:])
    client("send", "old", "still there")
    assert client("recv", "old") == "still there"
    assert client("peer", "old") == [VIP, 80]


def test_a_socket_that_connects_elsewhere_shows_where(world: SockWorld, client: Client) -> None:
    world.serve(udp(f"{VIP}:53"), DNS[:1])
    client("make", "u", V4, UDP)
    client("connect", "u", VIP, 53)
    assert client("peer", "u") == [VIP, 53]
    client("connect", "u", "10.16.0.2", 5353)
    assert client("peer", "u") == ["10.16.0.2", 5353]
    client("send", "u", "x")
    assert client("recvfrom", "u") == ["10.16.0.2:5353 x", "10.16.0.2", 5353]


# Affinity ------------------------------------------------------------------------------------


def test_affinity_is_of_a_network_namespace_and_lapses(
    world: SockWorld, client: Client, start: Callable[..., Client], pod: str
) -> None:
    vip = endpoint(f"{VIP}:80")
    world.serve(vip, WEB, flags=VipFlag.VIP_AFFINITY, affinity_ticks=1 << 30)
    here = client("ask_often", MANY, V4, VIP, 80)
    assert len(here) == 1
    assert start()("ask_often", MANY, V4, VIP, 80) == here, "another process of the same namespace"
    assert len(start(pod)("ask_often", MANY, V4, VIP, 80)) == 1
    affinities = list(world.maps["affinities"].keys())
    keys = [abi.AFFINITY_KEY.unpack(key) for key in affinities]
    assert len({key["client"] for key in keys}) == 2, "one for each namespace"
    assert all(key["client"].startswith(b"\xff") for key in keys), "no address of a packet's"


def test_affinity_ends_with_its_backend(world: SockWorld, client: Client) -> None:
    vip = endpoint(f"{VIP}:80")
    world.serve(vip, WEB, flags=VipFlag.VIP_AFFINITY, affinity_ticks=1 << 30)
    [bound] = client("ask_often", 10, V4, VIP, 80)
    rest = [target for target in WEB if names([target]) != {bound}]
    world.serve(vip, rest, flags=VipFlag.VIP_AFFINITY, affinity_ticks=1 << 30)
    [moved] = client("ask_often", 10, V4, VIP, 80)
    assert moved in names(rest)
    world.serve(vip, WEB, flags=VipFlag.VIP_AFFINITY, affinity_ticks=1 << 30)
    assert set(client("ask_often", 10, V4, VIP, 80)) == {moved}


# UDP -----------------------------------------------------------------------------------------

FAMILIES = pytest.mark.parametrize(
    ("family", "asked"), [(V4, VIP), (V6, MAPPED), (V6, VIP6)], ids=["ipv4", "mapped", "ipv6"]
)


def serve_dns(world: SockWorld) -> None:
    world.serve(udp(f"{VIP}:53"), DNS)
    world.serve(udp(f"[{VIP6}]:53"), DNS6)


@FAMILIES
def test_a_connected_udp_socket_hears_from_the_vip(
    world: SockWorld, client: Client, family: int, asked: str
) -> None:
    serve_dns(world)
    client("make", "u", family, UDP)
    client("connect", "u", asked, 53)
    assert client("peer", "u") == [asked, 53]
    for text in ("one", "two"):
        client("send", "u", text)
        answer, *source = client("recvfrom", "u")
        assert answer.endswith(text)
        assert source == [asked, 53]
    client("sendto", "u", "by name", asked, 53)
    again, *source = client("recvfrom", "u")
    assert again.partition(" ")[0] == answer.partition(" ")[0]
    assert source == [asked, 53]


@FAMILIES
def test_an_unconnected_udp_socket_keeps_its_backend_and_hears_from_the_vip(
    world: SockWorld, client: Client, family: int, asked: str
) -> None:
    serve_dns(world)
    spoken = set()
    for at in range(20):
        client("make", "u", family, UDP)
        heard = set()
        for text in ("one", "two", "three"):
            client("sendto", "u", text, asked, 53)
            answer, *source = client("recvfrom", "u")
            assert source == [asked, 53]
            heard.add(answer.partition(" ")[0])
        assert len(heard) == 1, f"socket {at} was moved"
        spoken |= heard
    assert spoken == names(DNS6 if asked == VIP6 else DNS)


def test_a_socket_of_many_services_hears_from_each(world: SockWorld, client: Client) -> None:
    vips = [f"10.96.1.{n}" for n in range(1, 11)]
    for at, vip in enumerate(vips):
        world.serve(udp(f"{vip}:53"), [DNS[at % 3]])
    client("make", "u", V4, UDP)
    for _ in range(3):
        for vip in vips:
            client("sendto", "u", vip, vip, 53)
            answer, *source = client("recvfrom", "u")
            assert answer.endswith(vip)
            assert source == [vip, 53], "of two VIPs with one backend, the one spoken to last"
    client("sendto", "u", "direct", "10.16.0.2", 5353)
    assert client("recvfrom", "u")[0] == "10.16.0.2:5353 direct"


def test_an_unconnected_socket_moves_at_once_when_its_backend_goes(
    world: SockWorld, client: Client
) -> None:
    vip = udp(f"{VIP}:53")
    world.serve(vip, DNS)
    client("make", "u", V4, UDP)
    client("sendto", "u", "x", VIP, 53)
    first = client("recvfrom", "u")[0].partition(" ")[0]
    world.serve(vip, [target for target in DNS if names([target]) != {first}])
    client("sendto", "u", "x", VIP, 53)
    second, *source = client("recvfrom", "u")
    assert second.partition(" ")[0] != first
    assert source == [VIP, 53]
    world.serve(vip, DNS)
    client("sendto", "u", "x", VIP, 53)
    assert client("recvfrom", "u")[0] == second, "it does not move back"


def test_datagrams_are_counted_by_service(world: SockWorld, client: Client) -> None:
    service = world.serve(udp(f"{VIP}:53"), DNS)
    client("make", "u", V4, UDP)
    for _ in range(3):
        client("sendto", "u", "x", VIP, 53)
        client("recvfrom", "u")
    stats = world.stats(service)
    assert (stats["new_flows"], stats["forward_packets"], stats["reply_packets"]) == (1, 3, 3)


# Node ports ----------------------------------------------------------------------------------


def test_node_ports_on_the_nodes_addresses_and_loopback(
    world: SockWorld, client: Client, start: Callable[..., Client], pod: str
) -> None:
    for host, backends in (
        (NODE, WEB), ("0.0.0.0", WEB), (f"[{NODE6}]", WEB6), ("[::]", WEB6)
    ):  # fmt: skip
        world.serve(endpoint(f"{host}:30080"), backends)
    assert client.ask(f"{NODE}:30080") in names(WEB)
    assert client.ask(f"[{NODE6}]:30080") in names(WEB6)
    assert client.ask("127.0.0.1:30080") in names(WEB)
    assert client.ask("[::1]:30080") in names(WEB6)
    assert client.ask("0.0.0.0:30080") in names(WEB), "loopback by another name"
    assert client.ask("[::]:30080") in names(WEB6)
    process = start(pod)
    assert process.ask(f"{NODE}:30080") in names(WEB)
    for loopback in ("127.0.0.1:30080", "[::1]:30080", "0.0.0.0:30080", "[::]:30080"):
        with pytest.raises(Refused, match="ECONNREFUSED"):
            process.ask(loopback)  # its own, not the node's


def test_a_process_may_bind_a_node_ports_number(world: SockWorld, client: Client) -> None:
    world.serve(endpoint("0.0.0.0:30080"), WEB)
    client("make", "s", V4, TCP)
    client("bind", "s", "127.0.0.1", 30080)


@pytest.mark.parametrize(("kind", "backends"), [(TCP, WEB), (UDP, DNS)], ids=["tcp", "udp"])
def test_a_container_leaves_a_service_with_hosts_to_svc0(
    world: SockWorld,
    client: Client,
    servers: Servers,
    start: Callable[..., Client],
    pod: str,
    kind: int,
    backends: Sequence[L4Addr],
) -> None:
    """Whoever listens at the VIP itself stands for svc0, which the container's packets meet."""
    subprocess.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"], check=True)
    vip = endpoint(f"{VIP}:80") if kind == TCP else udp(f"{VIP}:80")
    servers.listen(vip)
    world.serve(vip, backends, flags=VipFlag.VIP_HOSTS)

    def who(process: Client) -> set[str]:
        if kind == TCP:
            return set(process("ask_often", MANY, V4, VIP, 80))
        process("make", "s", V4, UDP)
        process("sendto", "s", "x", VIP, 80)
        return {process("recvfrom", "s")[0].split()[0]}

    assert who(client) <= names(backends)
    assert who(start(pod)) == names([vip])
