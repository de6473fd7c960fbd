"""The sidecar as KubeVirt meets it: a process, a socket, gRPC."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import grpc
import pytest

from cni.kubevirt import sidecar
from cni.kubevirt.messages import DomainParams
from cni.kubevirt.sidecar import Hook, Places, make_server
from controller import vhost_pods
from dataplane.drivers.processes import wait_until
from tests.labs.virtlauncher import (
    Machine,
    Nic,
    define_params,
    domain_xml,
    network_info,
    vmi_json,
)

Call = Callable[..., bytes]
INFO = "/kubevirt.hooks.info.Info/Info"
DEFINE = "/kubevirt.hooks.{}.Callbacks/OnDefineDomain"
SOCKET = "/var/run/kubevirt-hooks/millrace/vhost/net1.sock"
ON_THE_NODE = "/run/millrace/node1/vhost/5c05a2f9-2dcf-5b94-a4de-a4f4a3ae0a9d/net1.sock"


def asked(machine: Machine) -> bytes:
    return define_params(domain_xml(machine), vmi_json(machine))


def interfaces(answer: bytes) -> list[ET.Element]:
    root = ET.fromstring(DomainParams.decode(answer).domain_xml)
    return root.findall("devices/interface")


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook("millrace", Places(tmp_path / "network-info", tmp_path / "dra"), patience_s=0.5)


@pytest.fixture
def call(hook: Hook, tmp_path: Path) -> Iterator[Call]:
    server = make_server(hook)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    server.start()
    with grpc.insecure_channel(f"unix:{tmp_path}/s") as channel:

        def ask(method: str, data: bytes = b"", timeout_s: float = 30) -> bytes:
            answer: bytes = channel.unary_unary(method)(data, timeout=timeout_s)
            return answer

        yield ask
    server.stop(None)


def test_daemon_and_sidecar_agree_on_where_the_sockets_are() -> None:
    assert sidecar.SOCKETS == vhost_pods.INSIDE
    assert str(sidecar.SOCKETS / "net1.sock") == SOCKET


def test_info_names_the_hook_points_and_the_versions(call: Call) -> None:
    answer = call(INFO)
    for word in (b"OnDefineDomain", b"Shutdown", b"v1alpha3", b"v1alpha2"):
        assert word in answer
    # Not asked for, so that virt-launcher spares itself the call.
    assert b"PreCloudInitIso" not in answer


@pytest.mark.parametrize("version", ["v1alpha2", "v1alpha3"])
def test_a_domain_gets_its_interface(call: Call, hook: Hook, version: str) -> None:
    hook.places.network_info.write_bytes(network_info({"net1": ON_THE_NODE}, mtu=1442))
    (found,) = interfaces(call(DEFINE.format(version), asked(Machine())))
    assert found.get("type") == "vhostuser"
    assert found.find("source").get("path") == SOCKET  # type: ignore[union-attr]


def test_it_waits_for_the_annotation_that_comes_after_the_pod(call: Call, hook: Hook) -> None:
    hook.patience_s = 30
    path = hook.places.network_info
    path.write_bytes(b"")
    writer = threading.Timer(0.5, path.write_bytes, [network_info({"net1": ON_THE_NODE})])
    writer.start()
    (found,) = interfaces(call(DEFINE.format("v1alpha3"), asked(Machine())))
    writer.join()
    assert found.get("type") == "vhostuser"


def test_what_does_not_come_is_named_with_the_next_step(call: Call) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(DEFINE.format("v1alpha3"), asked(Machine()))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    for word in ("net1", "network-info", "downwardAPI: device-info", "CNIDeviceInfoFile"):
        assert word in raised.value.details()


def test_it_answers_before_virt_launcher_gives_up(call: Call, hook: Hook) -> None:
    hook.patience_s = 3600
    with pytest.raises(grpc.RpcError) as raised:
        call(DEFINE.format("v1alpha3"), asked(Machine()), timeout_s=4)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_claims_metadata_serves_as_well(call: Call, hook: Hook) -> None:
    machine = Machine(nics=(Nic("net1", mac="0a:58:0a:01:00:21", claim=("dpdk", "port")),))
    with pytest.raises(grpc.RpcError) as raised:
        call(DEFINE.format("v1alpha3"), asked(machine))
    assert "no device metadata in" in raised.value.details()
    where = hook.places.metadata / "resourceclaimtemplates/dpdk/port"
    where.mkdir(parents=True)
    path = "/var/run/ovsdpdk/dpdk/port/vhost.sock"
    attributes = {"vhost-user-path": {"string": path}, "mtu": {"int": 9000}}
    device = {"driver": "d", "pool": "p", "name": "n", "attributes": attributes}
    document = {
        "apiVersion": "metadata.resource.k8s.io/v1alpha1",
        "kind": "DeviceMetadata",
        "requests": [{"name": "port", "devices": [device]}],
    }
    (where / "d-metadata.json").write_text(json.dumps(document))
    (found,) = interfaces(call(DEFINE.format("v1alpha3"), asked(machine)))
    assert found.find("source").get("path") == path  # type: ignore[union-attr]
    assert found.find("mtu").get("size") == "9000"  # type: ignore[union-attr]


@pytest.mark.parametrize("data", [b"\x0a\xff", b"", b"\x0a\x02<a\x12\x02{}"])
def test_nonsense_is_an_invalid_argument(call: Call, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(DEFINE.format("v1alpha3"), data)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith("millrace: ")


def test_a_vmi_without_an_interface_of_ours_keeps_its_domain(call: Call) -> None:
    machine = Machine(nics=(Nic("default", binding=""),))
    answer = call(DEFINE.format("v1alpha3"), asked(machine))
    assert DomainParams.decode(answer).domain_xml == domain_xml(machine)


def test_cloud_init_comes_back_as_it_went(call: Call) -> None:
    data = b"\x0a\x01a\x1a\x02{}"
    assert call("/kubevirt.hooks.v1alpha3.Callbacks/PreCloudInitIso", data) == data


def test_the_process_serves_its_socket_and_ends_with_the_vm(tmp_path: Path) -> None:
    socket = tmp_path / "millrace.sock"
    socket.touch()  # what a killed container left
    (tmp_path / "info").write_bytes(network_info({"net1": ON_THE_NODE}))
    command = [sys.executable, "-m", "cni.kubevirt.sidecar", "--version", "v1alpha3"]
    command += ["--socket", str(socket), "--network-info", str(tmp_path / "info")]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: socket.is_socket() or process.poll() is not None, "it listens")
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            answer = channel.unary_unary(DEFINE.format("v1alpha3"))(asked(Machine()), timeout=30)
            assert len(interfaces(answer)) == 1
            shutdown = "/kubevirt.hooks.v1alpha3.Callbacks/Shutdown"
            assert channel.unary_unary(shutdown)(b"", timeout=30) == b""
        _out, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert not socket.exists()
    assert f"net1 on {SOCKET}" in told


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cni.kubevirt.sidecar", "--socket", str(tmp_path / "no/s")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot listen on {tmp_path}/no/s" in done.stderr
