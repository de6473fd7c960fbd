"""CNI calls as values: requests parsed, results made, differences named."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_network,
)
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import spec
from cni.wire import CODE_BAD_REQUEST, RemoteError
from controller import cni_asked, cni_request, device_info
from controller.completion import finish, in_thread
from controller.vhost_dirs import VhostDirs
from dataplane.model.addr import Mac
from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.state import Attachment, LogicalPort, PortKind, Route

ARGS: dict[str, object] = {
    "network": "mill", "container_id": "c0ffee", "ifname": "eth0", "netns": "/run/netns/web",
    "pod": "web-0", "namespace": "shop", "pod_uid": "u-1", "mode": "veth", "mtu": 0, "queues": 1,
}  # fmt: skip
PORT = LogicalPort(
    name="web-0.shop",
    mac=Mac("0a:58:0a:00:00:05"),
    addresses=(IPv4Interface("10.0.0.5/24"),),
    gateway=IPv4Address("10.0.0.1"),
    mtu=None,
    chassis=None,
)
REQUEST = cni_request.interface_request(ARGS)
VETH = cni_request.attachment_of(REQUEST, PORT, 1442, "")
VHOST = cni_request.attachment_of(
    replace(REQUEST, kind=PortKind.VHOST_USER, netns=""), PORT, 1442, "/run/v/u-1/eth0.sock"
)


def test_a_request_is_what_the_plugin_said() -> None:
    assert (REQUEST.iface_id, REQUEST.kind, REQUEST.directory) == (
        "web-0.shop", PortKind.VETH, "u-1",
    )  # fmt: skip
    assert replace(REQUEST, pod_uid="").directory == "c0ffee"


@pytest.mark.parametrize(
    "change",
    [
        {"container_id": "../x"}, {"container_id": ""}, {"ifname": "a/b"}, {"ifname": "x" * 16},
        {"pod_uid": ".."}, {"pod_uid": "a/b"}, {"mode": "tap"}, {"mode": 1}, {"mtu": "9"},
        {"mtu": True}, {"mtu": -1}, {"queues": 0}, {"netns": None}, {"prev_result": []},
        {"asked": 1},
        {"provider": 1}, {"routes": {}}, {"routes": [1]}, {"socket_name": "a/b"},
        {"bandwidth": []}, {"bandwidth": {"egressRate": True}}, {"bandwidth": {"egressRate": "9"}},
    ],
)  # fmt: skip
def test_what_the_plugin_would_not_send_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RemoteError) as caught:
        cni_request.interface_request({**ARGS, **change})
    assert caught.value.code == CODE_BAD_REQUEST
    assert next(iter(change)) in caught.value.msg


def test_the_runtimes_bandwidth_is_the_attachments_limits() -> None:
    asked = {"ingressRate": 10**6, "ingressBurst": 2**32 - 1, "egressRate": 64_000}
    request = cni_request.interface_request({**ARGS, "bandwidth": asked})
    limits = Limits(send=Bandwidth(64_000), receive=Bandwidth(10**6, 2**32 - 1))
    assert request.limits == limits
    assert cni_request.attachment_of(request, PORT, 1442, "").limits == limits
    assert REQUEST.limits == Limits()
    with pytest.raises(RemoteError, match="1000 bit/s is not between") as caught:
        cni_request.interface_request({**ARGS, "bandwidth": {"egressRate": 1000}})
    assert caught.value.code == spec.INVALID_CONFIG


@given(
    st.dictionaries(
        st.sampled_from([*ARGS, "prev_result"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()),
    )
)
def test_any_arguments_are_a_request_or_a_refusal(change: dict[str, object]) -> None:
    try:
        request = cni_request.interface_request({**ARGS, **change})
    except RemoteError:
        return
    assert "/" not in request.directory + request.ifname
    assert request.directory not in ("", ".", "..")


@pytest.mark.parametrize(
    ("asked", "of_port", "mtu"), [(0, None, 1442), (0, 1400, 1400), (1300, 1400, 1300)]
)
def test_the_mtu_is_the_networks_else_the_ports_else_the_nodes(
    asked: int, of_port: int | None, mtu: int
) -> None:
    made = cni_request.attachment_of(
        replace(REQUEST, mtu=asked), replace(PORT, mtu=of_port), 1442, ""
    )
    assert made.mtu == mtu


def test_a_port_without_an_address_is_not_yet_to_be_attached() -> None:
    with pytest.raises(RemoteError, match=r"web-0\.shop") as caught:
        cni_request.attachment_of(REQUEST, replace(PORT, mac=None), 1442, "")
    assert caught.value.code == spec.TRY_AGAIN_LATER


def test_results_index_the_pods_interface() -> None:
    veth, vhost = cni_request.result_of(VETH), cni_request.result_of(VHOST)
    assert veth["ips"] == [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 1}]
    assert vhost["ips"] == [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 0}]
    assert "socketPath" in json.dumps(vhost["interfaces"])
    assert "socketPath" not in json.dumps(veth["interfaces"])
    bare = cni_request.result_of(replace(VETH, gateway=None, addresses=()))
    assert (bare["ips"], bare["routes"]) == ([], [])


@pytest.mark.parametrize("attachment", [VETH, VHOST], ids=["veth", "vhost-user"])
def test_a_results_own_claims_hold(attachment: Attachment) -> None:
    result = cni_request.result_of(attachment)
    assert cni_request.differences(attachment, PORT, result) == []
    assert cni_request.differences(attachment, PORT, None) == []


@pytest.mark.parametrize(
    ("port", "change", "said"),
    [
        (None, {}, "no logical port"),
        (replace(PORT, mac=Mac("0a:58:00:00:00:01")), {}, "OVN now says MAC"),
        (replace(PORT, addresses=()), {}, "no address"),
        (PORT, {"interfaces": []}, "no interface"),
        (PORT, {"interfaces": 7}, "no interface"),
        (PORT, {"interfaces": [{"name": "eth0", "sandbox": "x", "mac": "01:02"}]}, "MAC 01:02"),
        (PORT, {"ips": []}, "lacks the address 10.0.0.5/24"),
    ],
)
def test_differences_are_named(
    port: LogicalPort | None, change: dict[str, object], said: str
) -> None:
    prev = {**cni_request.result_of(VETH), **change}
    assert said in "; ".join(cni_request.differences(VETH, port, prev))


def test_a_later_plugin_may_add_interfaces() -> None:
    prev = cni_request.result_of(VETH)
    interfaces = prev["interfaces"]
    assert isinstance(interfaces, list)
    more = {**prev, "interfaces": [*interfaces, {"name": "lo", "sandbox": "x"}]}
    assert cni_request.differences(VETH, PORT, more) == []


DUAL = replace(
    PORT,
    addresses=(IPv4Interface("10.0.0.5/24"), IPv6Interface("fd00::5/64")),
    gateway6=IPv6Address("fd00::1"),
)


def asked(**values: object) -> cni_request.InterfaceRequest:
    return cni_request.interface_request({**ARGS, "asked": values})


def test_both_families_have_their_gateway_and_route() -> None:
    request = cni_request.interface_request(
        {**ARGS, "routes": [{"dst": "10.9.0.0/16", "gw": "10.0.0.9"}, {"dst": "fd09::/64"}]}
    )
    result = cni_request.result_of(cni_request.attachment_of(request, DUAL, 1442, ""))
    assert result["ips"] == [
        {"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 1},
        {"address": "fd00::5/64", "gateway": "fd00::1", "interface": 1},
    ]
    assert result["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0", "gw": "fd00::1"},
        {"dst": "10.9.0.0/16", "gw": "10.0.0.9"}, {"dst": "fd09::/64"},
    ]  # fmt: skip


def test_a_further_network_is_named_by_its_provider_and_leaves_the_default_route() -> None:
    request = cni_request.interface_request({**ARGS, "provider": "net1.shop.ovn"})
    assert request.iface_id == "web-0.shop.net1.shop.ovn"
    named = replace(request, ifname="net1")
    made = cni_request.attachment_of(named, DUAL, 1442, "")
    assert cni_request.result_of(made)["routes"] == []
    # A network that stands in for the cluster's is the pod's first.
    assert cni_request.result_of(cni_request.attachment_of(request, DUAL, 1442, ""))["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0", "gw": "fd00::1"},
    ]  # fmt: skip


def test_routes_of_the_port_go_before_the_networks_and_take_the_default_route() -> None:
    own = {"routes": [{"dst": "10.9.0.0/16", "gw": "10.0.0.9"}]}
    request = cni_request.interface_request({**ARGS, **own})
    told = replace(
        DUAL,
        routes=(
            Route(ip_network("10.9.0.0/16"), ip_address("10.0.0.8")),
            Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.254")),
        ),
    )
    made = cni_request.attachment_of(request, told, 1442, "")
    assert cni_request.result_of(made)["routes"] == [
        {"dst": "::/0", "gw": "fd00::1"},
        {"dst": "10.9.0.0/16", "gw": "10.0.0.8"},
        {"dst": "0.0.0.0/0", "gw": "10.0.0.254"},
    ]
    without = cni_request.attachment_of(REQUEST, replace(DUAL, default_route=False), 1442, "")
    assert cni_request.result_of(without)["routes"] == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mac": "01:00:5e:00:00:01"}, "multicast"),
        ({"mac": "00:00:00:00:00:00"}, "none"),
        ({"mac": "x"}, "MAC"),
        ({"ips": ["10.0.0.300"]}, "10.0.0.300"),
    ],
)
def test_what_no_interface_can_have_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(RemoteError, match=said) as caught:
        asked(**values)
    assert caught.value.code == spec.INVALID_CONFIG


def test_what_ovn_does_not_have_yet_is_to_be_tried_again() -> None:
    assert cni_asked.not_yet(asked(mac=str(PORT.mac), ips=["10.0.0.5/8"]).asked, PORT) is None
    for values in ({"mac": "0a:58:0a:00:00:06"}, {"ips": ["10.0.0.6"]}, {"ips": ["fd00::5"]}):
        error = cni_asked.not_yet(asked(**values).asked, PORT)
        assert error is not None
        assert error.code == spec.TRY_AGAIN_LATER


def test_a_port_of_the_node_has_one_workload() -> None:
    mapping = {"host_port": 80, "port": 8080, "protocol": "tcp", "host_ip": ""}
    mine = cni_request.attachment_of(asked(port_mappings=[mapping]), PORT, 1442, "")
    other = replace(mine, iface_id="db-0.shop", container_id="beef")
    with pytest.raises(RemoteError, match=r"TCP port 80 .*db-0\.shop"):
        cni_asked.refuse_shared(mine, other)
    cni_asked.refuse_shared(mine, replace(mine, container_id="beef"))
    udp = asked(port_mappings=[{**mapping, "protocol": "udp"}]).asked.host_ports
    cni_asked.refuse_shared(mine, replace(other, host_ports=udp))


def test_two_networks_of_a_pod_have_two_sockets() -> None:
    other = replace(VHOST, iface_id="web-0.shop.net1.shop.ovn", ifname="net1")
    with pytest.raises(RemoteError, match="vhost_user_socket_name"):
        cni_asked.refuse_shared(VHOST, other)


def test_the_device_information_is_the_workloads_view(tmp_path: Path) -> None:
    path = tmp_path / "devinfo" / "web.json"
    mine = replace(VHOST, device_info=str(path))
    device_info.write(mine)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "type": "vhost-user",
        "version": "1.1.0",
        "vhost-user": {"mode": "server", "path": mine.socket},
    }
    assert device_info.problems(mine) == []
    device_info.remove(replace(mine, socket="/another"))
    assert path.exists()
    device_info.remove(mine)
    device_info.remove(mine)
    assert list(path.parent.iterdir()) == []
    path.write_text("{}", encoding="utf-8")
    assert device_info.problems(mine)


@pytest.mark.parametrize("value", [None, {}, [1], [{"container_id": "a"}]])
def test_gc_without_a_proper_list_is_refused(value: object) -> None:
    with pytest.raises(RemoteError):
        cni_request.valid_attachments({"valid": value})


# Directories of vhost-user sockets.


def test_a_pods_directory_is_its_own(tmp_path: Path) -> None:
    dirs = VhostDirs(tmp_path)
    dirs.make("u-1")
    dirs.make("u-1")
    path = tmp_path / "vhost" / "u-1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o770
    assert dirs.problems("u-1") == []
    assert dirs.socket("u-1", "eth0") == str(path / "eth0.sock")
    path.chmod(0o777)
    assert "mode 777" in dirs.problems("u-1")[0]
    assert "u-2" in dirs.problems("u-2")[0]


def test_a_directory_goes_with_its_last_interface(tmp_path: Path) -> None:
    dirs = VhostDirs(tmp_path)
    dirs.make("u-1")
    path = tmp_path / "vhost" / "u-1"
    for name in ("eth0.sock", "net1.sock"):
        (path / name).touch()
    dirs.remove("u-1", "eth0", last=False)
    assert [one.name for one in path.iterdir()] == ["net1.sock"]
    dirs.remove("u-1", "net1", last=True)
    dirs.remove("u-1", "net1", last=True)
    dirs.remove("u-1", "net1", last=False)
    assert not path.exists()


def test_removal_follows_no_link_out_of_the_directory(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    dirs = VhostDirs(tmp_path)
    dirs.make("u-1")
    (tmp_path / "vhost" / "u-1" / "eth0.sock").symlink_to(precious / "file")
    (tmp_path / "vhost" / "u-1" / "away").symlink_to(precious)
    dirs.remove("u-1", "eth0", last=True)
    assert (precious / "file").exists()


def test_sweep_removes_the_unknown(tmp_path: Path) -> None:
    dirs = VhostDirs(tmp_path)
    assert dirs.sweep(()) == []
    dirs.make("u-1")
    dirs.make("u-2")
    assert dirs.sweep({"u-1"}) == ["u-2"]
    assert dirs.problems("u-1") == []


# Work that ends.


def run_cancelled(work: Callable[[asyncio.Event], object]) -> None:
    """Start it, cancel it twice while it runs, let it go on; it must end as cancelled."""

    async def main() -> None:
        go_on = asyncio.Event()
        task = asyncio.ensure_future(work(go_on))  # type: ignore[call-overload]
        for _ in range(2):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_finish_ends_the_work_and_is_then_cancelled() -> None:
    done: list[bool] = []

    async def work(go_on: asyncio.Event) -> None:
        async def inner() -> None:
            await go_on.wait()
            done.append(True)

        await finish(inner())

    run_cancelled(work)
    assert done == [True]


def test_a_failure_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work(go_on: asyncio.Event) -> None:
        async def inner() -> None:
            await go_on.wait()
            raise ZeroDivisionError

        await finish(inner())

    run_cancelled(work)
    assert "ZeroDivisionError" in caplog.text


def test_results_and_errors_pass() -> None:
    async def main() -> None:
        assert await in_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 7, 0)

    asyncio.run(main())
