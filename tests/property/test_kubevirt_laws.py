"""Laws of the KubeVirt sidecar's pure parts: the domain that it makes, and its messages."""

from __future__ import annotations

import contextlib
import json
from xml.etree import ElementTree as ET

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from cni.kubevirt import xmltree
from cni.kubevirt.domain import MAX_QUEUES, define
from cni.kubevirt.messages import (
    CloudInitParams,
    DomainParams,
    HookPoint,
    InfoResult,
    MessageError,
    domain_result,
)
from cni.kubevirt.vmi import (
    Claim,
    Device,
    InputError,
    parse_device_metadata,
    parse_network_info,
    parse_vmi,
)
from tests.labs.virtlauncher import Machine, Memory, Nic, domain_xml, vmi_json

names = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
macs = st.integers(0, 2**40 - 1).map(
    lambda n: "02:" + ":".join(f"{n >> shift & 255:02x}" for shift in (32, 24, 16, 8, 0))
)
nics = st.builds(
    Nic,
    name=names,
    binding=st.sampled_from(["millrace", "millrace", "other", ""]),
    mac=macs,
    pci_address=st.sampled_from(["", "0000:07:00.0", "0000:81:01.7"]),
    acpi_index=st.integers(0, 200),
    boot_order=st.integers(0, 3),
    state=st.sampled_from(["", "", "up", "down", "absent"]),
    tap=st.booleans(),
)
machines = st.builds(
    Machine,
    nics=st.lists(nics, max_size=5, unique_by=lambda nic: nic.name).map(tuple),
    emulated=st.booleans(),
    memory=st.sampled_from(Memory),
    cells=st.integers(0, 2),
    sockets=st.integers(1, 4),
    cores=st.integers(1, 64),
    threads=st.integers(1, 2),
    multiqueue=st.booleans(),
    transitional=st.booleans(),
    commandline=st.sampled_from([(), ("-set", "device.x.y=1")]),
    hotplug=st.booleans(),
    vmi_cpu=st.booleans(),
)


def devices_of(machine: Machine, mtu: int = 1442) -> dict[str, Device]:
    return {nic.name: Device(f"/run/v/{nic.name}.sock", mtu) for nic in ours(machine)}


def ours(machine: Machine) -> list[Nic]:
    return [n for n in machine.nics if n.binding == "millrace" and n.state != "absent"]


def made(machine: Machine) -> ET.Element:
    vmi = parse_vmi(vmi_json(machine), "millrace")
    return ET.fromstring(define(domain_xml(machine), vmi, devices_of(machine)))


@given(machines)
def test_applied_to_its_own_result_it_changes_nothing(machine: Machine) -> None:
    vmi = parse_vmi(vmi_json(machine), "millrace")
    devices = devices_of(machine)
    once = define(domain_xml(machine), vmi, devices)
    assert define(once, vmi, devices) == once


@given(machines)
def test_each_interface_of_ours_is_a_server_on_its_own_socket(machine: Machine) -> None:
    found = {one.find("alias").attrib["name"]: one for one in made(machine).iter("interface")}  # type: ignore[union-attr]
    for nic in ours(machine):
        one = found[f"ua-{nic.name}"]
        assert one.get("type") == "vhostuser"
        assert one.find("source").attrib == {  # type: ignore[union-attr]
            "type": "unix", "path": f"/run/v/{nic.name}.sock", "mode": "server",
        }  # fmt: skip
        assert one.find("mac").attrib == {"address": nic.mac}  # type: ignore[union-attr]
        assert one.find("mtu").attrib == {"size": "1442"}  # type: ignore[union-attr]
        queues = int(one.find("driver").get("queues", "1"))  # type: ignore[union-attr]
        assert queues == (min(machine.vcpus, MAX_QUEUES) if machine.multiqueue else 1)
        assert (one.find("address") is not None) == bool(nic.pci_address)
        assert (one.find("target") is None) and (one.find("backend") is None)
        tags = [child.tag for child in one]
        assert len(tags) == len(set(tags))


@given(machines)
def test_the_rest_of_the_domain_stays_as_it_was(machine: Machine) -> None:
    before, after = ET.fromstring(domain_xml(machine)), made(machine)
    if not ours(machine):
        assert ET.tostring(after) == ET.tostring(before)
    aliases = {f"ua-{nic.name}" for nic in ours(machine)}
    for root in (before, after):
        devices = root.find("devices")
        assert devices is not None
        for one in list(devices):
            alias = one.find("alias")
            if one.tag == "interface" and alias is not None and alias.get("name") in aliases:
                devices.remove(one)
        for module in devices.findall("memory"):
            module.attrib.pop("access", None)
        for cell in root.findall("cpu/numa/cell"):
            cell.attrib.pop("memAccess", None)
        for backing in root.findall("memoryBacking"):
            root.remove(backing)
    # Only the white space around what was taken out may differ.
    assert _bare(before) == _bare(after)


def _bare(root: ET.Element) -> str:
    for one in root.iter():
        one.tail = (one.tail or "").strip()
        one.text = (one.text or "").strip()
    return ET.canonicalize(ET.tostring(root, encoding="unicode"))


@given(machines)
def test_the_memory_of_a_guest_with_a_port_of_ours_can_be_mapped(machine: Machine) -> None:
    root = made(machine)
    if not ours(machine):
        return
    assert root.find("memoryBacking/access").attrib == {"mode": "shared"}  # type: ignore[union-attr]
    source = root.find("memoryBacking/source")
    by_descriptor = root.find("memoryBacking/hugepages") is not None or (
        source is not None and source.get("type") in ("memfd", "file")
    )
    assert by_descriptor
    assert all(cell.get("memAccess") == "shared" for cell in root.findall("cpu/numa/cell"))
    assert all(one.get("access") == "shared" for one in root.findall("devices/memory"))


@given(machines)
def test_what_the_peers_read_literally_is_spelt_as_before(machine: Machine) -> None:
    vmi = parse_vmi(vmi_json(machine), "millrace")
    text = define(domain_xml(machine), vmi, devices_of(machine))
    assert b'xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"' in text
    assert b'<kubevirt xmlns="http://kubevirt.io">' in text
    assert (b"<qemu:arg" in text) == bool(machine.commandline)
    assert b"<!-- as the spec says -->" in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                "metadata", "spec", "domain", "devices", "interfaces", "networks", "name",
                "binding", "macAddress", "cpu", "cores", "deviceInfo", "vhost-user", "type",
                "path", "mode", "mtu", "network", "requests", "attributes", "apiVersion", "x",
            ]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(json_values | st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused_in_words(value: object) -> None:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    with contextlib.suppress(InputError):
        parse_vmi(text, "millrace")
    with contextlib.suppress(InputError):
        parse_network_info(text, frozenset({"net1"}))
    with contextlib.suppress(InputError):
        parse_device_metadata(text, Claim("a", "b"))
    with contextlib.suppress(xmltree.XmlError):
        xmltree.parse(text)
    with contextlib.suppress(MessageError):
        DomainParams.decode(text)


def _message(*fields: tuple[str, int, int]) -> type:
    """A message class of the protobuf library: the oracle for our codec."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    point = file.message_type.add(name="Point")
    point.field.add(name="name", number=1, type=9, label=1)
    point.field.add(name="priority", number=2, type=5, label=1)
    message = file.message_type.add(name="M")
    for name, number, kind in fields:
        label = 3 if name in ("hookPoints", "versions") else 1
        added = message.field.add(name=name, number=number, type=kind, label=label)
        if kind == 11:
            added.type_name = ".t.Point"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: type = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.M"))
    return made


# Numbers and types as in KubeVirt's proto files: 9 is string, 11 message, 12 bytes.
INFO = _message(("name", 1, 9), ("hookPoints", 3, 11), ("versions", 4, 9))
DOMAIN = _message(("domainXML", 1, 12), ("vmi", 2, 12))
CLOUD = _message(("cloudInitNoCloudSource", 1, 12), ("vmi", 2, 12), ("cloudInitData", 3, 12))
FOREIGN = _message(
    ("a", 1, 12), ("b", 2, 12), ("number", 9, 3), ("fixed", 10, 6), ("short", 1000, 7)
)

sizes = st.binary(max_size=300)


@given(sizes, sizes)
def test_the_protobuf_library_and_we_read_the_same_domain(xml: bytes, vmi: bytes) -> None:
    theirs = DOMAIN(domainXML=xml, vmi=vmi).SerializeToString()
    assert DomainParams.decode(theirs) == DomainParams(xml, vmi)
    back = DOMAIN()
    back.ParseFromString(domain_result(xml))
    assert back.domainXML == xml


@given(sizes, sizes, sizes)
def test_cloud_init_data_comes_back_unchanged(old: bytes, vmi: bytes, new: bytes) -> None:
    theirs = CLOUD(cloudInitNoCloudSource=old, vmi=vmi, cloudInitData=new).SerializeToString()
    back = CLOUD()
    back.ParseFromString(CloudInitParams.decode(theirs).encode_result())
    assert (back.cloudInitNoCloudSource, back.cloudInitData) == (old, new)


points = st.builds(HookPoint, st.text(max_size=20), st.integers(-(2**31), 2**31 - 1))


@given(st.text(max_size=200), st.lists(points, max_size=4), st.lists(names, max_size=3))
def test_the_protobuf_library_reads_our_info(
    name: str, hooks: list[HookPoint], versions: list[str]
) -> None:
    back = INFO()
    back.ParseFromString(InfoResult(name, tuple(hooks), tuple(versions)).encode())
    assert back.name == name
    assert [(one.name, one.priority) for one in back.hookPoints] == [
        (one.name, one.priority) for one in hooks
    ]
    assert list(back.versions) == versions


@given(sizes, sizes, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1))
def test_fields_of_a_newer_peer_are_passed_over(a: bytes, b: bytes, x: int, y: int) -> None:
    theirs = FOREIGN(a=a, b=b, number=x, fixed=y, short=y).SerializeToString()
    assert DomainParams.decode(theirs) == DomainParams(a, b)
