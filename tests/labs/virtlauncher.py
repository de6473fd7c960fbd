"""Domains and VMIs as KubeVirt hands them to a hook.

Constructed by us after what virt-launcher's converter writes, not taken from a cluster: elements,
their order and spelling (closing tags, units, aliases) are its.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum

NAMESPACE = "tests"


class Memory(StrEnum):
    """What a domain says of its memory before the hook."""

    PLAIN = ""
    HUGEPAGES = "<hugepages></hugepages>"
    SIZED = (
        '<hugepages><page size="2048" unit="KiB"></page></hugepages>'
        '<allocation mode="immediate"></allocation>'
    )
    VIRTIOFS = '<source type="memfd"></source><access mode="shared"></access>'
    ANONYMOUS = '<source type="anonymous"></source><access mode="private"></access>'
    FILE = '<source type="file"></source><nosharepages></nosharepages>'


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface of the VMI. `tap`: virt-launcher made a device for it already."""

    name: str
    binding: str = "millrace"
    mac: str = ""
    pci_address: str = ""
    acpi_index: int = 0
    boot_order: int = 0
    state: str = ""
    tap: bool = False
    claim: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine."""

    nics: tuple[Nic, ...] = (Nic("net1", mac="0a:58:0a:01:00:21"),)
    name: str = "vm1"
    arch: str = "x86_64"
    emulated: bool = False
    memory: Memory = Memory.PLAIN
    memory_mib: int = 1024
    cells: int = 0
    sockets: int = 1
    cores: int = 2
    threads: int = 1
    multiqueue: bool = False
    transitional: bool = False
    commandline: tuple[str, ...] = ()
    hotplug: bool = False
    extra_devices: str = ""
    vmi_cpu: bool = True
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def vcpus(self) -> int:
        """Virtual CPUs."""
        return self.sockets * self.cores * self.threads


def domain_xml(machine: Machine) -> bytes:
    """What virt-launcher would hand to OnDefineDomain."""
    kind = "qemu" if machine.emulated else "kvm"
    board = {"x86_64": "q35", "aarch64": "virt", "s390x": "s390-ccw-virtio"}[machine.arch]
    model = "virtio" if machine.arch == "s390x" else "virtio-non-transitional"
    cells = ""
    if machine.cells or machine.hotplug:
        count = machine.cells or 1
        each = machine.memory_mib // count
        per = machine.vcpus // count
        cells = "".join(
            f'<cell id="{n}" cpus="{n * per}-{n * per + per - 1}" memory="{each}" unit="MiB"/>'
            for n in range(count)
        )
        cells = f"<numa>{cells}</numa>"
    topology = f'sockets="{machine.sockets}" cores="{machine.cores}" threads="{machine.threads}"'
    text = f"""<domain type="{kind}" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
	<name>{NAMESPACE}_{machine.name}</name>
	<memory unit="b">{machine.memory_mib << 20}</memory>
	{'<maxMemory unit="b" slots="1">4294967296</maxMemory>' if machine.hotplug else ""}
	<os>
		<type arch="{machine.arch}" machine="{board}">hvm</type>
		{'<smbios mode="sysinfo"></smbios>' if machine.arch == "x86_64" else ""}
	</os>
	<sysinfo type="smbios">
		<system>
			<entry name="uuid">5c05a2f9-2dcf-5b94-a4de-a4f4a3ae0a9d</entry>
			<entry name="manufacturer">KubeVirt</entry>
		</system>
	</sysinfo>
	<devices>
{"".join(_interface(nic, model) for nic in machine.nics if nic.tap)}
		<channel type="unix">
			<target name="org.qemu.guest_agent.0" type="virtio"></target>
		</channel>
		<controller type="virtio-serial" index="0" model="{model}"></controller>
		<memballoon model="{model}">
			<stats period="10"></stats>
		</memballoon>
		{machine.extra_devices}
		{_DIMM if machine.hotplug else ""}
		{_CCW if machine.arch == "s390x" else ""}
	</devices>
	<metadata>
		<kubevirt xmlns="http://kubevirt.io">
			<uid>8f2c7ad2-55c5-4a10-8d1c-1e2b3c4d5e6f</uid>
			<graceperiod><deletionGracePeriodSeconds>30</deletionGracePeriodSeconds></graceperiod>
		</kubevirt>
	</metadata>
	{"<features><acpi></acpi></features>" if machine.arch != "s390x" else ""}
	<cpu mode="{"host-model" if kind == "kvm" else "maximum"}">
		<topology {topology}></topology>
		{cells}
	</cpu>
	<vcpu placement="static">{machine.vcpus}</vcpu>
	<!-- as the spec says -->
	<iothreads>1</iothreads>
	{f"<memoryBacking>{machine.memory}</memoryBacking>" if machine.memory else ""}
	{_commandline(machine)}
</domain>"""
    return text.encode()


_DIMM = """<memory model="virtio-mem"><target><size unit="MiB">512</size><node>0</node>
<block unit="KiB">2048</block><requested unit="MiB">0</requested></target></memory>"""

_CCW = """<rng model="virtio"><backend model="random">/dev/urandom</backend>
<address type="ccw" cssid="0xfe" ssid="0x0" devno="0x0003"></address></rng>"""


def _interface(nic: Nic, model: str) -> str:
    mac = f'<mac address="{nic.mac}"></mac>' if nic.mac else ""
    return f"""		<interface type="ethernet">
			<source></source>
			<target dev="tap{nic.name}" managed="no"></target>
			<model type="{model}"></model>
			{mac}
			<mtu size="1400"></mtu>
			<alias name="ua-{nic.name}"></alias>
			<rom enabled="no"></rom>
		</interface>
"""


def _commandline(machine: Machine) -> str:
    if not machine.commandline:
        return ""
    words = "".join(f'<qemu:arg value="{word}"></qemu:arg>' for word in machine.commandline)
    return f"<qemu:commandline>{words}</qemu:commandline>"


def vmi_json(machine: Machine) -> bytes:
    """The VMI that virt-launcher hands over beside."""
    domain: dict[str, object] = {
        "devices": {
            "interfaces": [_vmi_interface(nic) for nic in machine.nics],
            "networkInterfaceMultiqueue": machine.multiqueue,
            "useVirtioTransitional": machine.transitional,
        },
        "memory": {"guest": f"{machine.memory_mib}Mi"},
    }
    if machine.vmi_cpu:
        domain["cpu"] = {
            "sockets": machine.sockets, "cores": machine.cores, "threads": machine.threads,
        }  # fmt: skip
    return json.dumps(
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "name": machine.name, "namespace": NAMESPACE, "annotations": machine.annotations,
            },
            "spec": {
                "domain": domain,
                "networks": [_vmi_network(nic) for nic in machine.nics],
            },
        }
    ).encode()  # fmt: skip


def _vmi_interface(nic: Nic) -> dict[str, object]:
    found: dict[str, object] = {"name": nic.name}
    if nic.binding:
        found["binding"] = {"name": nic.binding}
    else:
        found["masquerade"] = {}
    for key, value in (
        ("macAddress", nic.mac), ("pciAddress", nic.pci_address), ("acpiIndex", nic.acpi_index),
        ("bootOrder", nic.boot_order), ("state", nic.state),
    ):  # fmt: skip
        if value:
            found[key] = value
    return found


def _vmi_network(nic: Nic) -> dict[str, object]:
    if nic.claim:
        claim, request = nic.claim
        return {"name": nic.name, "resourceClaim": {"claimName": claim, "requestName": request}}
    if nic.binding:
        return {"name": nic.name, "multus": {"networkName": f"{NAMESPACE}/vhost"}}
    return {"name": nic.name, "pod": {}}


def device_info(path: str, mode: str = "server") -> dict[str, object]:
    """What a CNI plugin writes for a vhost-user port (device information specification)."""
    return {
        "type": "vhost-user",
        "version": "1.1.0",
        "vhost-user": {"mode": mode, "path": path},
    }


def network_info(paths: dict[str, str], **more: object) -> bytes:
    """The file of the downward API: a socket's path by network; `more` goes to each interface."""
    return json.dumps(
        {
            "interfaces": [
                {"network": name, "deviceInfo": device_info(path), **more}
                for name, path in sorted(paths.items())
            ]
        }
    ).encode()


def define_params(domain: bytes, vmi: bytes) -> bytes:
    """The message OnDefineDomainParams, as virt-launcher encodes it."""
    return b"".join(
        bytes((field_number << 3 | 2,)) + _length(value) + value
        for field_number, value in ((1, domain), (2, vmi))
    )


def _length(value: bytes) -> bytes:
    size, out = len(value), bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*out, size))
