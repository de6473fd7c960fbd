"""A libvirt domain with the interfaces of our plugin made vhost-user ports.

A pure function of the domain's XML, the VMI and the devices; applied to its own result it changes
nothing, which it must not, because KubeVirt defines a domain more than once.
Source of the elements: libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from cni.kubevirt import xmltree
from cni.kubevirt.vmi import Device, InputError, Interface, Vmi

MAX_QUEUES = 128
"""Pairs of queues. QEMU refuses to start with more than the back end offers, and DPDK's vhost
offers 128 (VHOST_MAX_QUEUE_PAIRS)."""

RING_SIZE = 1024
"""Descriptors: QEMU's upper limit. 256, its default, drops in bursts."""

_ALIAS = "ua-"
"""libvirt takes aliases of users with this prefix only; KubeVirt's are the interface's name."""

_KEPT = ("mac", "boot", "link", "rom", "acpi", "address")
"""Children of an interface that virt-launcher made, which say nothing of its back end."""

_ORDER = (
    "mac",
    "source",
    "model",
    "driver",
    "mtu",
    "link",
    "boot",
    "rom",
    "acpi",
    "alias",
    "address",
)
"""Whatever was there before: the same input has to give the same text."""

_PCI = re.compile(r"([0-9a-f]{4}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)


def define(domain_xml: bytes, vmi: Vmi, devices: Mapping[str, Device]) -> bytes:
    """The domain's XML with each interface of `vmi` on its device, and memory that can be shared.

    Raises:
        InputError: the XML is no domain, a device is missing, or two things contradict.
    """
    try:
        root = xmltree.parse(domain_xml)
    except xmltree.XmlError as error:
        msg = f"the domain of VMI {vmi.name}: {error}"
        raise InputError(msg) from error
    if root.tag != "domain":
        msg = f"the domain of VMI {vmi.name} is an element <{root.tag}>, not <domain>"
        raise InputError(msg)
    if not vmi.interfaces:
        return domain_xml
    place = _child(root, "devices")
    queues = _queues(root, vmi)
    users: dict[str, str] = {}
    for wanted in vmi.interfaces:
        if wanted.name not in devices:
            msg = f"VMI {vmi.name}: interface {wanted.name!r} has no vhost-user device"
            raise InputError(msg)
        path = devices[wanted.name].path
        other = users.setdefault(path, wanted.name)
        if other != wanted.name:
            msg = f"VMI {vmi.name}: {other!r} and {wanted.name!r} both have the socket {path}"
            raise InputError(msg)
        _put(place, _interface(place, wanted, devices[wanted.name], vmi, queues))
    _share_memory(root)
    return xmltree.serialize(root)


def _queues(root: ET.Element, vmi: Vmi) -> int:
    """Pairs of queues: as many as virtual CPUs, where the VMI asks for several."""
    if not vmi.multiqueue:
        return 1
    vcpus = vmi.vcpus
    if not vcpus:
        text = (root.findtext("vcpu") or "1").strip()
        if not text.isdecimal() or not int(text):
            msg = f"the domain of VMI {vmi.name} has {text!r} virtual CPUs"
            raise InputError(msg)
        vcpus = int(text)
    return min(vcpus, MAX_QUEUES)


def _interface(
    place: ET.Element, wanted: Interface, device: Device, vmi: Vmi, queues: int
) -> ET.Element:
    before = _find(place, wanted.name)
    made = ET.Element("interface", {"type": "vhostuser"})
    if before is not None:
        made.tail = before.tail
        made.extend(child for child in before if child.tag in _KEPT)
    mac = _mac(made, wanted, device, vmi)
    _set(made, "mac", address=mac)
    _set(made, "source", type="unix", path=device.path, mode="server")
    _set(made, "model", type=_model(vmi, place))
    driver = {"name": "vhost"}
    if queues > 1:
        driver["queues"] = str(queues)
    size = str(RING_SIZE)
    _set(made, "driver", **driver, rx_queue_size=size, tx_queue_size=size)
    if device.mtu:
        _set(made, "mtu", size=str(device.mtu))
    if wanted.down:
        _set(made, "link", state="down")
    if wanted.boot_order:
        _set(made, "boot", order=str(wanted.boot_order))
    elif made.find("boot") is None and made.find("rom") is None:
        # As virt-launcher does it: what is not booted from needs no option ROM.
        _set(made, "rom", enabled="no")
    if wanted.acpi_index:
        _set(made, "acpi", index=str(wanted.acpi_index))
    if wanted.pci_address:
        _set(made, "address", **_pci(wanted, vmi))
    _set(made, "alias", name=_ALIAS + wanted.name)
    made[:] = sorted(made, key=lambda child: _ORDER.index(child.tag))
    return made


def _mac(made: ET.Element, wanted: Interface, device: Device, vmi: Vmi) -> str:
    """The MAC address; OVN's port security drops what another one sends."""
    where = f"VMI {vmi.name}: interface {wanted.name!r}"
    if wanted.mac and device.mac and wanted.mac != device.mac:
        msg = (
            f"{where} has MAC {wanted.mac}, its port in OVN {device.mac}: make them equal, or"
            " leave macAddress out"
        )
        raise InputError(msg)
    kept = made.find("mac")
    mac = wanted.mac or device.mac or (kept.get("address", "") if kept is not None else "")
    if not mac:
        msg = (
            f"{where} has no MAC address: KubeVirt before 1.8 does not hand on the port's, so"
            " set macAddress to that of the logical port"
        )
        raise InputError(msg)
    return mac


def _model(vmi: Vmi, place: ET.Element) -> str:
    """The model; machines without PCI's two generations know plain virtio only."""
    if vmi.transitional:
        return "virtio-transitional"
    kinds = {one.get("type") for one in place.iter("address")}
    return "virtio" if kinds & {"ccw"} else "virtio-non-transitional"


def _pci(wanted: Interface, vmi: Vmi) -> dict[str, str]:
    found = _PCI.fullmatch(wanted.pci_address)
    if not found:
        msg = (
            f"VMI {vmi.name}: interface {wanted.name!r} has pciAddress {wanted.pci_address!r},"
            " which is not of the form 0000:81:01.0"
        )
        raise InputError(msg)
    keys = ("domain", "bus", "slot", "function")
    return {"type": "pci", **{k: f"0x{v}" for k, v in zip(keys, found.groups(), strict=True)}}


def _share_memory(root: ET.Element) -> None:
    """Let the back end map the guest's memory: by a file descriptor, and shared."""
    backing = _child(root, "memoryBacking")
    source = backing.find("source")
    if backing.find("hugepages") is None and (source is None or source.get("type") == "anonymous"):
        # Neither file nor hugepages: anonymous memory has no descriptor to hand over.
        _set(backing, "source", type="memfd")
    _set(backing, "access", mode="shared")
    for cell in root.findall("cpu/numa/cell"):
        cell.set("memAccess", "shared")
    for module in root.findall("devices/memory"):
        if module.get("model") in ("dimm", "virtio-mem"):
            module.set("access", "shared")


def _find(place: ET.Element, name: str) -> ET.Element | None:
    for one in place.findall("interface"):
        alias = one.find("alias")
        if alias is not None and alias.get("name") in (name, _ALIAS + name):
            return one
    return None


def _put(place: ET.Element, made: ET.Element) -> None:
    """In the place of the interface of this name, or after the last child."""
    alias = made.find("alias")
    name = alias.get("name", "").removeprefix(_ALIAS) if alias is not None else ""
    before = _find(place, name)
    if before is None:
        place.append(made)
    else:
        place[list(place).index(before)] = made


def _child(parent: ET.Element, tag: str) -> ET.Element:
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found


def _set(parent: ET.Element, tag: str, **attributes: str) -> None:
    """Make the one child of this name have exactly these attributes."""
    child = _child(parent, tag)
    child.attrib.clear()
    child.attrib.update(attributes)
