"""A guest that libvirt starts from the XML that the sidecar made, on a node of ours.

The way of a KubeVirt VM without the cluster: kubelet's volume is there, CNI ADD gives the port, the
hook gets the domain by gRPC and answers, libvirt checks it and starts it as a user who is not root
and sees the volume where virt-launcher's container does, OVN gives the address by DHCP, and packets
flow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

import grpc
import pytest

from cni.dra.claims import DRIVER
from cni.dra.driver import Driver, ask_daemon
from cni.dra.driver import Places as DraPlaces
from cni.kubevirt import messages, sidecar
from cni.kubevirt.sidecar import Hook, Places, make_server
from controller import vhost_pods
from dataplane.drivers.processes import wait_until
from tests.labs import lab as topology
from tests.labs import logical, traffic
from tests.labs.lab import Lab
from tests.labs.libvirt import LibvirtGuest
from tests.labs.logical import PodPort
from tests.labs.virtlauncher import (
    Machine,
    Nic,
    define_params,
    domain_xml,
    network_info,
    vmi_json,
)
from tests.labs.workloads import POD_NAMESPACE, Workload

ADDRESS = "10.1.0.77"
NAME = "kv1"
DEFINE = f"/{messages.CALLBACK_SERVICES['v1alpha3']}/{messages.ON_DEFINE_DOMAIN}"


@dataclass(frozen=True, slots=True)
class Started:
    lab: Lab
    work: Workload
    guest: LibvirtGuest
    console: str
    domain: bytes


@pytest.fixture(scope="module")
def small_lab(progress: Callable[[str], None]) -> Iterator[Lab]:
    with Lab("mrkv", progress, guests=False) as built:
        yield built


@pytest.fixture(scope="module")
def started(small_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    lab = small_lab
    _port_with_dhcp(lab.nb)
    work = Workload(NAME, f"{lab.prefix}-{NAME}", lab.node.cni_socket, "vhost-user")
    with _kubelets_volume(work.container_id) as volume, _directory(sidecar.HOOKS):
        work.attach()
        yield from _run(lab, work, ((volume, sidecar.HOOKS),), tmp_path_factory.mktemp("hook"))
        work.detach()
        assert list(volume.rglob("*.sock")) == []


def _run(
    lab: Lab, work: Workload, mounts: tuple[tuple[Path, Path], ...], scratch: Path
) -> Iterator[Started]:
    group = work.socket.parent.stat().st_gid
    machine = Machine(nics=(Nic("net1", mac=work.mac),), name=NAME, emulated=True, memory_mib=256,
        cores=1,
        # QEMU 7.2 under TCG crashes in its MSI-X notifiers otherwise.
        commandline=("-global", "virtio-net-pci-non-transitional.vectors=0"),
    )  # fmt: skip
    guest = LibvirtGuest(f"tests_{NAME}", lab.dir / "libvirt", group, mounts)
    guest.prepare()
    domain = _ask_the_hook(machine, work, scratch)
    guest.start(_with_direct_boot(domain, guest))
    try:
        console = guest.wait_ready(f"guest {NAME} ready")
        yield Started(lab, work, guest, console, domain)
    finally:
        guest.stop()


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """A directory, and its missing parents, for the time being."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        for one in missing:
            one.rmdir()


@contextmanager
def _kubelets_volume(uid: str) -> Iterator[Path]:
    """The emptyDir that kubelet has made for a pod before its sandbox."""
    pod = vhost_pods.KUBELET / "pods" / uid
    with _directory(pod):
        volume = pod / vhost_pods.VOLUME
        volume.mkdir(parents=True)
        volume.chmod(0o777)
        try:
            yield volume
        finally:
            for one in pod.iterdir():
                shutil.rmtree(one)


def _port_with_dhcp(nb: str) -> None:
    """The port, and DHCP of OVN's own on its switch."""
    port = PodPort(f"{NAME}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{ADDRESS}/24"))
    logical.add_port(nb, port)
    logical.nbctl(
        nb, "--", "--id=@d", "create", "DHCP_Options", "cidr=10.1.0.0/24",
        'options={lease_time="3600",router="10.1.0.1",server_id="10.1.0.1",'
        'server_mac="0a:58:0a:01:00:01",mtu="1400"}',
        "--", "set", "Logical_Switch_Port", port.name, "dhcpv4_options=@d",
    )  # fmt: skip


def _ask_the_hook(machine: Machine, work: Workload, where: Path) -> bytes:
    """OnDefineDomain, by the socket and gRPC, with the socket that the CNI result names."""
    info = where / "network-info"
    info.write_bytes(network_info({"net1": str(work.socket)}, mac=work.mac))
    server = make_server(Hook("millrace", Places(info, where)))
    server.add_insecure_port(f"unix:{where}/s")
    server.start()
    try:
        with grpc.insecure_channel(f"unix:{where}/s") as channel:
            asked = define_params(domain_xml(machine), vmi_json(machine))
            answer: bytes = channel.unary_unary(DEFINE)(asked, timeout=30)
    finally:
        server.stop(None)
    return messages.DomainParams.decode(answer).domain_xml


def _with_direct_boot(domain: bytes, guest: LibvirtGuest) -> bytes:
    """A kernel for the disk that a VM would have, and a console that can be read."""
    words = f"console=ttyS0 quiet panic=-1 mr.name={NAME} mr.ip=dhcp mr.port={topology.PORT}"
    boot = (
        f"<kernel>{guest.kernel}</kernel><initrd>{guest.initramfs}</initrd>"
        f"<cmdline>{words}</cmdline></os>"
    )
    serial = (
        f'<serial type="file"><source path="{guest.console}"/><target port="0"/></serial></devices>'
    )
    text = domain.decode()
    assert (text.count("</os>"), text.count("</devices>")) == (1, 1)
    return text.replace("</os>", boot).replace("</devices>", serial).encode()


def test_the_guest_has_its_address_from_ovn(started: Started) -> None:
    assert f"guest {NAME} ready {ADDRESS}/24" in started.console


def test_libvirt_starts_qemu_as_the_server_of_the_socket(started: Started) -> None:
    command = started.guest.qemu_log.read_text()
    assert f"path={sidecar.SOCKETS}/eth0.sock,server=on" in command
    assert '"type":"vhost-user"' in command
    assert '"memory-backend-memfd"' in command
    assert '"share":true' in command
    assert f'"mac":"{started.work.mac}"' in command
    assert '"rx_queue_size":1024,"tx_queue_size":1024' in command


def test_the_socket_is_where_ovs_connects_to_it(started: Started) -> None:
    assert started.work.socket.is_socket()
    assert started.work.call("CHECK", prevResult=started.work.result).code == 0


def test_the_node_knows_the_guest_by_its_name(started: Started) -> None:
    ports = started.lab.node.ask("ports")["ports"]
    (found,) = [port for port in ports if port["iface_id"] == f"{NAME}.{POD_NAMESPACE}"]
    assert (found["link"], found["vrings"]) == ("connected", 2)
    assert found["addresses"] == [f"{ADDRESS}/24"]


def test_packets_flow_to_it_and_from_it(started: Started) -> None:
    lab = started.lab
    wait_until(
        lambda: traffic.ping(lab.containers["c1"], ADDRESS, 1)[0] == 1, "it answers a container"
    )
    # From another switch, by the router: the guest took its route from DHCP.
    answers = traffic.http(lab.containers["c3"], ADDRESS, topology.PORT, count=3)
    assert answers.ok == 3, answers


def test_a_claim_is_a_port_too(small_lab: Lab) -> None:
    lab = small_lab
    port = PodPort(f"kv2.{POD_NAMESPACE}", "sw0", IPv4Interface("10.1.0.78/24"))
    logical.add_port(lab.nb, port)
    result = {"request": "vhost-port", "driver": DRIVER, "pool": "node", "device": "br-int"}
    claim = {
        "metadata": {"namespace": POD_NAMESPACE, "name": "c", "uid": f"{lab.prefix}-claim"},
        "status": {
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": "kv2"}],
        },
    }
    places = DraPlaces(lab.dir / "kubelet", lab.dir / "cdi")
    driver = Driver(places, lambda _path: claim, ask_daemon(str(lab.node.cni_socket)))
    arguments = (POD_NAMESPACE, "c", f"{lab.prefix}-claim")
    assert driver.prepare(*arguments) == driver.prepare(*arguments)
    (document,) = places.claim(arguments[2]).glob("*-metadata.json")
    attributes = json.loads(document.read_text())["requests"][0]["devices"][0]["attributes"]
    assert attributes["vhost-user-path"] == {"string": "/var/run/ovsdpdk/c/vhost-port/vhost.sock"}
    (found,) = [p for p in lab.node.ask("ports")["ports"] if p["iface_id"] == port.name]
    assert (found["state"], attributes["mtu"]) == ("done", {"int": found["mtu"]})
    spec = json.loads(places.spec(arguments[2]).read_text())
    mounts = spec["devices"][0]["containerEdits"]["mounts"]
    assert Path(found["socket"]).parent == Path(mounts[0]["hostPath"])
    assert Path(mounts[0]["hostPath"]).is_dir()
    driver.unprepare(arguments[2])
    assert all(p["iface_id"] != port.name for p in lab.node.ask("ports")["ports"])
    assert not Path(mounts[0]["hostPath"]).exists()
