"""Domains for particular machines, and what is refused with which words."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from cni.kubevirt import xmltree
from cni.kubevirt.domain import define
from cni.kubevirt.vmi import (
    Claim,
    Device,
    InputError,
    parse_device_metadata,
    parse_network_info,
    parse_vmi,
)
from tests.labs.virtlauncher import Machine, Memory, Nic, domain_xml, network_info, vmi_json

MAC = "0a:58:0a:01:00:21"
SOCKET = "/run/v/net1.sock"
WANTED = frozenset({"net1"})


def one(machine: Machine, device: Device | None = None) -> ET.Element:
    """The interface that the hook makes of net1."""
    vmi = parse_vmi(vmi_json(machine), "millrace")
    text = define(domain_xml(machine), vmi, {"net1": device or Device(SOCKET)})
    found = ET.fromstring(text).findall("devices/interface")
    return next(e for e in found if e.get("type") == "vhostuser")


def test_the_interface_in_full() -> None:
    nic = Nic("net1", mac=MAC, pci_address="0000:81:01.0", acpi_index=3, boot_order=1)
    machine = Machine(nics=(nic,), multiqueue=True, cores=4)
    found = ET.tostring(one(machine, Device(SOCKET, 1442)), encoding="unicode")
    assert found.replace(" />", "/>") == (
        '<interface type="vhostuser">'
        f'<mac address="{MAC}"/>'
        f'<source type="unix" path="{SOCKET}" mode="server"/>'
        '<model type="virtio-non-transitional"/>'
        '<driver name="vhost" queues="4" rx_queue_size="1024" tx_queue_size="1024"/>'
        '<mtu size="1442"/><boot order="1"/><acpi index="3"/><alias name="ua-net1"/>'
        '<address type="pci" domain="0x0000" bus="0x81" slot="0x01" function="0x0"/>'
        "</interface>"
    )


@pytest.mark.parametrize(
    ("machine", "model"),
    [
        (Machine(), "virtio-non-transitional"),
        (Machine(transitional=True), "virtio-transitional"),
        (Machine(arch="aarch64"), "virtio-non-transitional"),
        (Machine(arch="s390x"), "virtio"),
    ],
)
def test_the_model_is_that_of_the_machine(machine: Machine, model: str) -> None:
    assert one(machine).find("model").attrib == {"type": model}  # type: ignore[union-attr]


def test_a_device_that_the_launcher_made_keeps_what_is_not_of_its_back_end() -> None:
    found = one(Machine(nics=(Nic("net1", mac=MAC, tap=True),)), Device(SOCKET))
    assert [child.tag for child in found] == ["mac", "source", "model", "driver", "rom", "alias"]
    assert found.find("mtu") is None


def test_the_mac_may_come_from_either_and_must_not_differ() -> None:
    assert one(Machine()).find("mac").attrib == {"address": MAC}  # type: ignore[union-attr]
    silent = Machine(nics=(Nic("net1"),))
    found = one(silent, Device(SOCKET, mac=MAC))
    assert found.find("mac").attrib == {"address": MAC}  # type: ignore[union-attr]
    other = Device(SOCKET, mac="0a:58:0a:01:00:22")
    with pytest.raises(InputError, match=f"has MAC {MAC}, its port in OVN {other.mac}"):
        one(Machine(), other)
    with pytest.raises(InputError, match="set macAddress"):
        one(silent)


def test_a_vmi_without_cpu_has_the_domains_virtual_cpus() -> None:
    machine = Machine(cores=6, multiqueue=True, vmi_cpu=False)
    assert one(machine).find("driver").get("queues") == "6"  # type: ignore[union-attr]


def test_an_interface_that_is_unplugged_is_not_made() -> None:
    machine = Machine(nics=(Nic("net1", mac=MAC, state="absent"),))
    text = domain_xml(machine)
    assert define(text, parse_vmi(vmi_json(machine), "millrace"), {}) == text


@pytest.mark.parametrize(
    ("memory", "source"),
    [
        (Memory.PLAIN, "memfd"),
        (Memory.ANONYMOUS, "memfd"),
        (Memory.VIRTIOFS, "memfd"),
        (Memory.FILE, "file"),
        (Memory.HUGEPAGES, None),
    ],
)
def test_the_memory_has_a_descriptor(memory: Memory, source: str | None) -> None:
    machine = Machine(memory=memory, cells=2)
    vmi = parse_vmi(vmi_json(machine), "millrace")
    root = ET.fromstring(define(domain_xml(machine), vmi, {"net1": Device(SOCKET)}))
    found = root.find("memoryBacking/source")
    assert (found.get("type") if found is not None else None) == source
    assert len(root.findall("cpu/numa/cell[@memAccess='shared']")) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the text is not XML"),
        (b"<domain>", "the text is not XML"),
        (b"<network/>", "an element <network>, not <domain>"),
        (b'<!DOCTYPE d [<!ENTITY a "aaa">]><domain>&a;</domain>', "document type"),
        (b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><domain/>', "document type"),
        (b"<domain>&a;</domain>", "undefined entity"),
        (b"<a>" * 100 + b"</a>" * 100, "more than 64 deep"),
        (b"<domain>" + b" " * xmltree.MAX_SIZE, "bytes, more than"),
    ],
)
def test_a_domain_that_is_none_is_refused(text: bytes, words: str) -> None:
    vmi = parse_vmi(vmi_json(Machine()), "millrace")
    with pytest.raises(InputError, match=words) as raised:
        define(text, vmi, {"net1": Device(SOCKET)})
    assert "VMI tests/vm1" in str(raised.value)


def test_two_interfaces_cannot_have_one_socket() -> None:
    machine = Machine(nics=(Nic("a", mac=MAC), Nic("b", mac=MAC)))
    vmi = parse_vmi(vmi_json(machine), "millrace")
    with pytest.raises(InputError, match="'a' and 'b' both have the socket"):
        define(domain_xml(machine), vmi, {"a": Device(SOCKET), "b": Device(SOCKET)})
    with pytest.raises(InputError, match="'b' has no vhost-user device"):
        define(domain_xml(machine), vmi, {"a": Device(SOCKET)})


def changed(path: str, value: object) -> bytes:
    """The usual VMI with one value changed; a path of keys and indices."""
    vmi = json.loads(vmi_json(Machine()))
    *way, last = path.split(".")
    place = vmi
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    return json.dumps(vmi).encode()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("spec", [], "VMI tests/vm1: spec is a JSON list, not an object"),
        ("spec.networks", [], "'net1' has no network of its name"),
        ("spec.domain.cpu.cores", "two", "cores is 'two'"),
        ("spec.domain.cpu.cores", -1, "cores is -1"),
        ("spec.domain.devices.interfaces.0.model", "e1000", "model 'e1000'"),
        ("spec.domain.devices.interfaces.0.macAddress", "01:00:5e:00:00:01", "'net1': '01:00"),
        ("spec.domain.devices.interfaces.0.macAddress", "0a:58", "'0a:58' is not the MAC"),
        ("spec.domain.devices.interfaces.0.name", 7, "has the name 7"),
        ("spec.networks.0.resourceClaim", {"claimName": "../x"}, "has '../x' as a name"),
    ],
)
def test_a_vmi_that_cannot_be_is_refused(path: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        parse_vmi(changed(path, value), "millrace")


def test_a_pci_address_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"pciAddress '7\.0'"):
        one(Machine(nics=(Nic("net1", mac=MAC, pci_address="7.0"),)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON"),
        (b'{"interfaces": {}}', "interfaces is a JSON dict, not a list"),
        (
            b'{"interfaces": [{"network": "net1", "deviceInfo": {"type": "pci"}}]}',
            "type 'pci', not 'vhost-user'",
        ),
        (network_info({"net1": "relative.sock"}), "not an absolute path"),
        (network_info({"net1": "/" + "x" * 107}), "longer than 107 bytes"),
        (network_info({"net1": "/a\nb"}), "characters"),
        (network_info({"net1": SOCKET}, mtu=65000), "the MTU is 65000"),
        (network_info({"net1": SOCKET}, mac="ff:ff:ff:ff:ff:ff"), "is not the MAC"),
    ],
)
def test_device_information_that_cannot_be_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        parse_network_info(text, WANTED)
    assert "network-info" in str(raised.value)


def test_a_port_whose_host_is_the_server_is_refused() -> None:
    text = network_info({"net1": SOCKET}).replace(b'"server"', b'"client"')
    with pytest.raises(InputError, match="mode 'client'"):
        parse_network_info(text, WANTED)


def test_only_the_networks_asked_for_are_looked_at() -> None:
    text = network_info({"net1": SOCKET, "other": "nonsense"}, mtu=1442, mac=MAC.upper())
    assert parse_network_info(text, WANTED) == {"net1": Device(SOCKET, 1442, MAC)}
    assert parse_network_info(b"\n", WANTED) == {}
    assert parse_network_info(b'{"interfaces": [{"network": "net1"}]}', WANTED) == {}


METADATA = {
    "apiVersion": "metadata.resource.k8s.io/v1alpha1",
    "kind": "DeviceMetadata",
    "metadata": {"name": "c", "namespace": "tests", "uid": "u", "generation": 1},
    "podClaimName": "dpdk",
    "requests": [
        {
            "name": "port",
            "devices": [
                {
                    "driver": "ovsdpdk.k8snetworkplumbingwg.io",
                    "pool": "node1",
                    "name": "br-int",
                    "attributes": {
                        "vhost-user-path": {"string": SOCKET},
                        "mtu": {"int": 1442},
                    },
                }
            ],
        }
    ],
}


def test_a_dra_drivers_metadata_names_the_device() -> None:
    claim = Claim("dpdk", "port")
    newer = json.dumps({"apiVersion": "metadata.resource.k8s.io/v9", "requests": "other"})
    text = (newer + "\n" + json.dumps(METADATA)).encode()
    assert parse_device_metadata(text, claim) == Device(SOCKET, 1442)
    for wrong in (newer.encode(), b"", b"{}"):
        with pytest.raises(InputError, match="no device with the attribute 'vhost-user-path'"):
            parse_device_metadata(wrong, claim)
    with pytest.raises(InputError, match="claim 'dpdk', request 'port' is not JSON"):
        parse_device_metadata(b"{" + text, claim)


def test_an_interface_of_another_plugin_is_not_ours() -> None:
    machine = Machine(nics=(Nic("net1", binding="passt"), Nic("default", binding="")))
    assert parse_vmi(vmi_json(machine), "millrace").interfaces == ()
    assert [i.name for i in parse_vmi(vmi_json(machine), "passt").interfaces] == ["net1"]
    named = replace(machine, nics=(Nic("net1", claim=("dpdk", "port")),))
    assert parse_vmi(vmi_json(named), "millrace").interfaces[0].claim == Claim("dpdk", "port")
