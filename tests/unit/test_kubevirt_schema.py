"""The domains that the sidecar makes are domains by libvirt's own schema.

The inputs are of tests/labs/virtlauncher.py, constructed after virt-launcher's; Debian's libvirt
has the schema (virt-xml-validate).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cni.kubevirt.domain import define
from cni.kubevirt.vmi import Device, parse_vmi
from dataplane.drivers.processes import ProcessError
from tests.labs.libvirt import validate
from tests.labs.virtlauncher import Machine, Memory, Nic, domain_xml, vmi_json

MAC, OTHER = "0a:58:0a:01:00:21", "0a:58:0a:01:00:22"
PLAIN = Nic("net1", mac=MAC)
FULL = Nic("net2", mac=OTHER, pci_address="0000:81:01.7", acpi_index=9, boot_order=1, state="down")

MACHINES = {
    "plain": Machine(),
    "beside a pod network": Machine(nics=(Nic("default", "", tap=True), PLAIN, FULL)),
    "made by the launcher already": Machine(nics=(Nic("net1", mac=MAC, tap=True),)),
    "many queues": Machine(sockets=2, cores=64, threads=2, multiqueue=True),
    "hugepages, NUMA": Machine(memory=Memory.SIZED, cells=2, cores=4),
    "virtiofs": Machine(memory=Memory.VIRTIOFS),
    "anonymous": Machine(memory=Memory.ANONYMOUS),
    "file": Machine(memory=Memory.FILE, transitional=True),
    "hotplug of memory": Machine(hotplug=True),
    "arguments for QEMU": Machine(commandline=("-set", "device.ua-net1.x=1")),
    "emulated": Machine(emulated=True),
    "aarch64": Machine(arch="aarch64"),
    "s390x": Machine(arch="s390x"),
}


def checked(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    validate(path)


@pytest.mark.parametrize("name", MACHINES)
def test_the_schema_takes_what_goes_in_and_what_comes_out(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    before = domain_xml(machine)
    checked(tmp_path / "before.xml", before)
    vmi = parse_vmi(vmi_json(machine), "millrace")
    devices = {nic.name: Device(f"/run/v/{nic.name}.sock", 1442) for nic in machine.nics}
    after = define(before, vmi, devices)
    assert after.count(b'type="vhostuser"') == sum(nic.binding != "" for nic in machine.nics)
    checked(tmp_path / "after.xml", after)


def test_the_schema_would_notice(tmp_path: Path) -> None:
    text = domain_xml(Machine()).replace(b"</devices>", b'<interface type="vhost"/></devices>')
    with pytest.raises(ProcessError, match="fails to validate"):
        checked(tmp_path / "wrong.xml", text)
