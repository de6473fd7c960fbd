"""CNI verbs against a whole node: OVS-DPDK, OVN, the daemon, and what they hold afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Interface
from typing import Any

import pytest

from cni import wire
from dataplane.drivers import processes
from dataplane.model.devices import device_name
from dataplane.model.names import ROUTES_KEY
from dataplane.model.state import PortKind
from tests.labs import logical
from tests.labs.cniverbs import Runtime, Sandbox, devices_of
from tests.labs.lab import Lab
from tests.labs.logical import PodPort
from tests.labs.netns import Namespace
from tests.labs.workloads import POD_NAMESPACE, call_cni

pytestmark = pytest.mark.system

PREFIX = "mrverb"
MODES = {"s0": "vhost-user", "s1": "vhost-user", "s2": "veth"}
SEQUENCES, STEPS = 6, 8


@pytest.fixture(scope="module")
def node(progress: Callable[[str], None]) -> Iterator[Lab]:
    with Lab(PREFIX, progress, guests=False) as built:
        for at, name in enumerate(MODES):
            port = PodPort(f"{name}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"10.1.0.{60 + at}/24"))
            logical.add_port(built.nb, port)
        yield built


def sandboxes(lab: Lab) -> list[Sandbox]:
    found = []
    for pod, mode in MODES.items():
        for turn in "ab":
            space = Namespace(f"{PREFIX}-{pod}{turn}")
            if mode == "veth" and not space.path.exists():
                space.create()
            path = str(space.path) if mode == "veth" else ""
            found.append(Sandbox(f"{pod}{turn}", pod, POD_NAMESPACE, mode, path))
    assert lab.node.cni_socket.exists()
    return found


def serves(lab: Lab) -> bool:
    """Whether the daemon says that ADD would be served."""
    try:
        wire.call(str(lab.node.cni_socket), "status", {}, 5.0)
    except (wire.WireError, wire.RemoteError):
        return False
    return True


def restart(lab: Lab) -> None:
    lab.node.start_agent()
    processes.wait_until(lambda: serves(lab), "the daemon serves CNI calls")


def iface_ids(lab: Lab) -> set[str]:
    """The logical ports that OVS has an interface for."""
    said = lab.node.vsctl("--bare", "--columns=external_ids", "find", "Interface")
    words = said.replace(",", " ").split()
    return {word.partition("=")[2] for word in words if word.startswith("iface-id=")}


def has_just(lab: Lab, before: set[str], vms: set[str]) -> bool:
    """Whether OVS has these VMs' interfaces more, and no others. Containers may have none."""
    return vms == {one for one in iface_ids(lab) - before if not one.startswith("s2.")}


def test_any_sequence_ends_with_what_should_be_attached(node: Lab) -> None:
    ours = sandboxes(node)
    records = node.node.statedir / "attachments"
    before, before_ids = devices_of(records), iface_ids(node)
    for seed in range(SEQUENCES):
        runtime = Runtime(
            node.node.cni_socket,
            ours,
            lambda: node.node.kill("node"),
            lambda: restart(node),
            seed,
        )
        runtime.run(STEPS, deaths=0.1)
        certain = runtime.settle()
        wanted = {device_name(PortKind(o.mode), o.container, "eth0") for o in certain.values()}
        assert devices_of(records) - before == wanted, "; ".join(runtime.history)
        vms = {f"{o.pod}.{o.namespace}" for o in certain.values() if o.mode == "vhost-user"}
        processes.wait_until(
            partial(has_just, node, before_ids, vms), f"OVS has the interfaces of {vms} alone"
        )
        runtime.empty()
        assert devices_of(records) == before
    processes.wait_until(lambda: iface_ids(node) == before_ids, "OVS has no interface left")


def add(lab: Lab, pod: str = "s0", **network: object) -> tuple[int, dict[str, object]]:
    done = call_cni(
        "ADD",
        socket=lab.node.cni_socket,
        container_id="bad",
        pod=pod,
        network={"mode": "vhost-user", **network},
    )
    return done.code, done.answer


@pytest.mark.parametrize(
    ("runtime", "code", "said"),
    [
        ({"mac": "01:00:5e:00:00:01"}, 7, "multicast"),
        ({"ips": ["10.9.0.5"]}, 7, "outside"),
        ({"ips": ["10.1.0.61"]}, 7, f"s1.{POD_NAMESPACE}"),
        ({"ips": ["10.1.0.1"]}, 7, "router"),
        ({"ips": ["10.1.0.99"]}, 11, "10.1.0.60"),
    ],
)
def test_what_a_pod_cannot_have_is_refused_and_leaves_nothing(
    node: Lab, runtime: dict[str, object], code: int, said: str
) -> None:
    before = devices_of(node.node.statedir / "attachments")
    failed, answer = add(node, runtimeConfig=runtime)
    assert (failed, answer["code"]) == (1, code), answer
    assert said in str(answer["msg"])
    assert devices_of(node.node.statedir / "attachments") == before


def test_without_the_daemon_add_is_to_be_tried_again_and_the_next_one_works(node: Lab) -> None:
    node.node.kill("node")
    try:
        began = time.monotonic()
        failed, answer = add(node)
        assert (failed, answer["code"]) == (1, 11), answer
        # Far above what it takes; a wait for the daemon would be longer.
        assert time.monotonic() - began < 10
        status = call_cni("STATUS", socket=node.node.cni_socket)
        assert (status.code, status.answer["code"]) == (1, 50)
    finally:
        restart(node)
    done, answer = add(node)
    assert done == 0, answer
    gone = call_cni("DEL", socket=node.node.cni_socket, container_id="bad", pod="s0")
    assert gone.code == 0, gone.answer


def test_a_further_network_has_its_own_port_socket_and_device_information(node: Lab) -> None:
    provider = "net1.demo.ovn"
    port = PodPort(f"s0.{POD_NAMESPACE}.{provider}", "sw0", IPv4Interface("10.1.0.70/24"))
    logical.add_port(node.nb, port)
    info = node.dir / "devinfo.json"
    definition = {
        "cniVersion": "0.3.1",
        "server_socket": "/run/openvswitch/kube-ovn-daemon.sock",
        "provider": provider,
        "vhost_user_socket_volume_name": "vhostuser-sockets",
        "vhost_user_socket_name": "sock",
        "runtimeConfig": {"CNIDeviceInfoFile": str(info)},
    }
    more = {
        "socket": node.node.cni_socket, "container_id": "multi", "ifname": "net1", "pod": "s0",
        "network": definition,
    }  # fmt: skip
    first = call_cni(
        "ADD", socket=node.node.cni_socket, container_id="multi", pod="s0",
        network={"mode": "vhost-user"},
    )  # fmt: skip
    second = call_cni("ADD", **more)  # type: ignore[arg-type]
    assert (first.code, second.code) == (0, 0), (first.answer, second.answer)
    assert second.answer["routes"] == []
    assert [one["address"] for one in second.answer["ips"]] == ["10.1.0.70/24"]
    assert port.name in iface_ids(node)
    assert '"mode": "server"' in info.read_text(encoding="utf-8")
    assert "/multi/sock" in info.read_text(encoding="utf-8")
    for words in (more, {**more, "ifname": "eth0", "network": {"mode": "vhost-user"}}):
        gone = call_cni("DEL", **words)  # type: ignore[arg-type]
        assert gone.code == 0, gone.answer
    assert not info.exists()
    assert not (node.node.rundir / "vhost" / "multi").exists()


def test_two_interfaces_of_one_network_and_routes_of_a_pods_own_carry_packets(node: Lab) -> None:
    """What the cluster controller writes of a pod's annotations, in the pod, with real packets.

    The way out is a pod, too: who has an address behind it answers.
    """
    network, octets = "fast.demo.ovn", {"far": 80, "twins.net1": 81, "twins.net2": 82}
    for name, octet in octets.items():
        pod, _, ifname = name.partition(".")
        behind = f".{network}.{ifname}" if ifname else ""
        address = IPv4Interface(f"10.1.0.{octet}/24")
        port = PodPort(f"{pod}.{POD_NAMESPACE}{behind}", "sw0", address)
        logical.add_port(node.nb, port)
        logical.nbctl(node.nb, "lsp-set-port-security", port.name)
    routes = "192.0.2.0/24 10.1.0.80,0.0.0.0/0 10.1.0.80"
    logical.nbctl(
        node.nb, "set", "Logical_Switch_Port", f"twins.{POD_NAMESPACE}.{network}.net1",
        f'external_ids:"{ROUTES_KEY}"="{routes}"',
    )  # fmt: skip
    spaces = {name: Namespace(f"{PREFIX}-{name}").create() for name in ("far", "twins")}
    calls: list[dict[str, Any]] = [
        {"pod": "far", "ifname": "eth0", "network": {}},
        {"pod": "twins", "ifname": "net1", "network": {"provider": network}},
        {"pod": "twins", "ifname": "net2", "network": {"provider": network}},
    ]
    for call in calls:
        call |= {
            "socket": node.node.cni_socket, "container_id": call["pod"],
            "netns": str(spaces[call["pod"]].path),
        }  # fmt: skip
        done = call_cni("ADD", **call)
        assert done.code == 0, done.answer
    said = {call["ifname"]: call_cni("ADD", **call).answer for call in calls}
    assert said["net1"]["routes"] == [
        {"dst": "192.0.2.0/24", "gw": "10.1.0.80"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.80"},
    ]  # fmt: skip
    assert said["net2"]["routes"] == []
    spaces["far"].run("ip", "address", "add", "192.0.2.9/32", "dev", "lo")
    spaces["far"].run("ip", "address", "add", "203.0.113.9/32", "dev", "lo")
    for words in (
        ("-I", "net1", "10.1.0.80"), ("-I", "net2", "10.1.0.80"), ("192.0.2.9",), ("203.0.113.9",),
    ):  # fmt: skip
        spaces["twins"].run("ping", "-c", "1", "-W", "5", *words)
    spaces["far"].run("ping", "-c", "1", "-W", "5", "10.1.0.82")
    # Another plugin asks for the addresses of its own interface of the same pod.
    address = IPv4Interface("10.1.0.83/24")
    logical.add_port(node.nb, PodPort(f"twins.{POD_NAMESPACE}.mac.demo", "sw0", address))
    part = {"type": "kube-ovn", "server_socket": str(node.node.cni_socket), "provider": "mac.demo"}
    macvlan = {"type": "macvlan", "master": "up0", "mode": "bridge", "ipam": part}
    asked = call_cni("ADD", **{**calls[1], "ifname": "net3", "network": macvlan})
    assert (asked.code, asked.answer["routes"]) == (0, []), asked.answer
    assert [one["address"] for one in asked.answer["ips"]] == ["10.1.0.83/24"]
    assert "interfaces" not in asked.answer
    for call in calls:
        gone = call_cni("DEL", **call)
        assert gone.code == 0, gone.answer
