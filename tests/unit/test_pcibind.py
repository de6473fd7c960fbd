"""Giving NICs to vfio-pci and back, on a fabricated sysfs tree (tests/labs/fabricated.py)."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.drivers.pcibind import BindError, NicRefused
from dataplane.plan.nicbinding import Wanted
from dataplane.ports import ObserveError
from tests.labs.fabricated import Killed, Machine

NIC = "0000:3b:00.0"
OTHER = "0000:3b:00.1"
MAC = "b8:ce:f6:00:00:01"
WANTED = (Wanted(NIC),)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Two ports of a card, each in an IOMMU group of its own."""
    made = Machine(tmp_path / "root")
    made.add(NIC, "eth4", MAC, "ice", group="21")
    made.add(OTHER, "eth5", "b8:ce:f6:00:00:02", "ice", group="22")
    return made


@pytest.fixture
def statedir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_nic_goes_to_vfio_and_comes_back(machine: Machine, statedir: Path) -> None:
    before = machine.snapshot()
    binder = machine.binder(statedir)
    assert binder.bind(WANTED) == [f"NIC eth4 ({NIC}): vfio-pci"]
    assert machine.driver(NIC) == "vfio-pci"
    assert machine.driver(OTHER) == "ice"
    kept = json.loads((statedir / "nics.json").read_text())
    assert kept["nics"] == {"eth4": {"address": NIC, "mac": MAC, "driver": "ice"}}
    assert binder.bind(WANTED) == []
    assert binder.release() == [f"NIC eth4 ({NIC}): ice"]
    after = machine.snapshot()
    assert {k: v for k, v in after.items() if not k.endswith(("bind", "probe"))} == {
        k: v for k, v in before.items() if not k.endswith(("bind", "probe"))
    }
    assert not (statedir / "nics.json").exists()


def test_killed_after_any_write_the_next_call_ends_where_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    """Both ways, and whichever way it goes on: also a release of what is half bound."""
    killed_at = 0
    for undo in (False, True):
        for number in range(1, 30):
            machine = Machine(tmp_path / f"root-{undo}-{number}")
            machine.add(NIC, "eth4", MAC, "ice")
            machine.add_noiommu()
            statedir = tmp_path / f"state-{undo}-{number}"
            wanted = (Wanted(NIC, unsafe_noiommu=True),)
            machine.writes_left = number
            ended = True
            try:
                machine.binder(statedir).bind(wanted)
                machine.binder(statedir).release()
            except Killed:
                ended, killed_at = False, max(killed_at, number)
            machine.writes_left = None
            binder = machine.binder(statedir)
            if not undo:
                binder.bind(wanted)
                assert machine.driver(NIC) == "vfio-pci"
                assert binder.records()[NIC].driver == "ice"
                assert binder.records()[NIC].mac == MAC
            binder.release()
            assert (machine.driver(NIC), machine.override(NIC)) == ("ice", "(null)")
            assert not (statedir / "nics.json").exists()
            assert (
                machine.root / "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
            ).read_text().strip() == "N"
            if ended:
                break
    # Record, mode noted, mode, override, unbind, probe; clear, unbind, bind, forget, mode, note.
    assert killed_at >= 12


def test_a_record_cut_off_in_its_middle_counts_for_nothing(
    machine: Machine, statedir: Path
) -> None:
    statedir.mkdir()
    (statedir / "nics.json.partial").write_text('{"format": 1, "ni')
    machine.binder(statedir).bind(WANTED)
    assert machine.binder(statedir).records()[NIC].name == "eth4"


def test_a_record_that_cannot_be_read_stops_everything(machine: Machine, statedir: Path) -> None:
    statedir.mkdir()
    (statedir / "nics.json").write_text('{"format": 7}')
    with pytest.raises(ObserveError, match=r"nics\.json.*format 7"):
        machine.binder(statedir).bind(WANTED)
    assert machine.driver(NIC) == "ice"


def test_one_nic_that_cannot_be_taken_leaves_all_of_them(machine: Machine, statedir: Path) -> None:
    machine.route_by("eth5")
    before = machine.snapshot()
    with pytest.raises(NicRefused, match=rf"eth5 \({OTHER}\).*default route"):
        machine.binder(statedir).bind((Wanted(NIC), Wanted(OTHER)))
    assert machine.snapshot() == before
    assert not (statedir / "nics.json").exists()


def test_an_address_in_use_refuses_unless_it_moves_along(machine: Machine, statedir: Path) -> None:
    machine.give_address("eth4", "10.0.0.1")
    with pytest.raises(NicRefused, match=r"10\.0\.0\.1.*ip addr flush dev eth4"):
        machine.binder(statedir).bind(WANTED)
    assert machine.binder(statedir).bind(WANTED, moving=(ip_address("10.0.0.1"),))


@pytest.mark.parametrize("driver", ["igb_uio", "uio_pci_generic", "vfio-pci"])
def test_a_nic_bound_elsewhere_is_refused_by_its_driver(
    driver: str, machine: Machine, statedir: Path
) -> None:
    machine.add("0000:5e:00.0", "eth6", "b8:ce:f6:00:00:03", driver, group="30")
    with pytest.raises(NicRefused, match=f"somebody else has bound it to {driver}"):
        machine.binder(statedir).bind((Wanted("0000:5e:00.0"),))
    assert machine.driver("0000:5e:00.0") == driver


def test_a_bifurcated_nic_is_never_rebound(machine: Machine, statedir: Path) -> None:
    machine.add("0000:5e:00.0", "eth6", "b8:ce:f6:00:00:03", "mlx5_core")
    assert machine.binder(statedir).bind((Wanted("0000:5e:00.0"),)) == []
    assert machine.driver("0000:5e:00.0") == "mlx5_core"
    assert not (statedir / "nics.json").exists()


def test_without_an_iommu_the_kernels_arguments_are_named(machine: Machine, statedir: Path) -> None:
    machine.add("0000:5e:00.0", "eth6", "b8:ce:f6:00:00:03", "ixgbe")
    machine.add_noiommu()
    with pytest.raises(NicRefused, match=r"intel_iommu=on iommu=pt.*unsafe_noiommu = true"):
        machine.binder(statedir).bind((Wanted("0000:5e:00.0"),))
    said = machine.binder(statedir).bind((Wanted("0000:5e:00.0", unsafe_noiommu=True),))
    assert said == ["NIC eth6 (0000:5e:00.0): vfio-pci"]


def test_the_unsafe_mode_that_somebody_else_switched_on_stays_on(
    machine: Machine, statedir: Path
) -> None:
    machine.add("0000:5e:00.0", "eth6", "b8:ce:f6:00:00:03", "ixgbe")
    machine.add_noiommu(on=True)
    binder = machine.binder(statedir)
    binder.bind((Wanted("0000:5e:00.0", unsafe_noiommu=True),))
    binder.release()
    mode = machine.root / "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
    assert mode.read_text().strip() == "Y"


def test_other_devices_of_the_group_are_named(machine: Machine, statedir: Path) -> None:
    machine.add("0000:5e:00.0", "eth6", "b8:ce:f6:00:00:03", "ixgbe", group="30")
    machine.add("0000:5e:00.1", "eth7", "b8:ce:f6:00:00:04", "ixgbe", group="30")
    machine.add("0000:5d:00.0", "", "", "pcieport", group="30", kind="0x060400")
    with pytest.raises(NicRefused, match=r"group 30 holds 0000:5e:00\.1 \(ixgbe\) as well"):
        machine.binder(statedir).bind((Wanted("0000:5e:00.0"),))
    both = (Wanted("0000:5e:00.0"), Wanted("0000:5e:00.1"))
    assert len(machine.binder(statedir).bind(both)) == 2


def test_another_card_at_the_address_is_left_alone(machine: Machine, statedir: Path) -> None:
    binder = machine.binder(statedir)
    binder.bind(WANTED)
    machine.detach(NIC)
    (machine.root / "sys/bus/pci/devices" / NIC / "driver_override").write_text("(null)\n")
    machine._names[NIC] = ("eth4", "b8:ce:f6:00:00:99")
    machine.attach(NIC, "ice")
    with pytest.raises(NicRefused, match=f"{MAC} was noted.*b8:ce:f6:00:00:99 now"):
        binder.bind(WANTED)
    assert machine.driver(NIC) == "ice"


def test_after_a_boot_the_record_binds_again(machine: Machine, statedir: Path) -> None:
    binder = machine.binder(statedir)
    binder.bind(WANTED)
    machine.detach(NIC)
    (machine.root / "sys/bus/pci/devices" / NIC / "driver_override").write_text("(null)\n")
    machine.attach(NIC, "ice")
    assert machine.binder(statedir).bind(WANTED) == [f"NIC eth4 ({NIC}): vfio-pci"]
    assert binder.records()[NIC].driver == "ice"


def test_a_nic_that_is_open_is_not_given_back(machine: Machine, statedir: Path) -> None:
    binder = machine.binder(statedir)
    binder.bind(WANTED)
    process = machine.root / "proc/4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("ovs-vswitchd\n")
    (process / "fd/9").symlink_to("/dev/vfio/21")
    with pytest.raises(NicRefused, match=r"ovs-vswitchd \(4711\) has it open"):
        binder.release()
    assert machine.driver(NIC) == "vfio-pci"


def test_a_nic_whose_netdev_is_in_another_namespace_is_refused(
    machine: Machine, statedir: Path
) -> None:
    (machine.root / "sys/bus/pci/devices" / NIC / "net/eth4").rmdir()
    with pytest.raises(NicRefused, match="ice has it, and its network device is not in this"):
        machine.binder(statedir).bind(WANTED)
    assert machine.driver(NIC) == "ice"


def test_a_member_of_a_kernel_bond_is_refused(machine: Machine, statedir: Path) -> None:
    (machine.root / "sys/class/net/eth4/master").symlink_to("../bond0")
    with pytest.raises(NicRefused, match="it is a member of bond0"):
        machine.binder(statedir).bind(WANTED)


def test_no_device_no_nic_no_driver(machine: Machine, statedir: Path) -> None:
    machine.add("0000:01:00.0", "", "", "nvme", group="1", kind="0x010802")
    binder = machine.binder(statedir)
    with pytest.raises(NicRefused, match=r"0000:ff:00\.0 is not there"):
        binder.bind((Wanted("0000:ff:00.0"),))
    with pytest.raises(NicRefused, match=r"no network device \(PCI class 0x010802\)"):
        binder.bind((Wanted("0000:01:00.0"),))
    for file in (machine.root / "sys/bus/pci/drivers/vfio-pci").iterdir():
        file.unlink()
    (machine.root / "sys/bus/pci/drivers/vfio-pci").rmdir()
    with pytest.raises(NicRefused, match="modprobe vfio-pci"):
        binder.bind(WANTED)


def test_a_kernel_that_does_not_obey_ends_the_attempt(machine: Machine, statedir: Path) -> None:
    binder = machine.binder(statedir)
    machine.wrote = lambda path, text: None  # type: ignore[method-assign]
    with pytest.raises(BindError, match="nothing changed"):
        binder.bind(WANTED)
    assert binder.records()[NIC].driver == "ice"


def test_a_removed_card_is_forgotten(machine: Machine, statedir: Path) -> None:
    binder = machine.binder(statedir)
    binder.bind(WANTED)
    (machine.root / "sys/bus/pci/devices" / NIC).rename(machine.root / "gone")
    assert binder.release() == []
    assert binder.records() == {}
