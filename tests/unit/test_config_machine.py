"""Configurations that are valid in themselves and ask for what the machine has not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.config import read_node
from controller.config_machine import check_machine
from dataplane.drivers.machinefacts import cpu_list, machine_facts, meminfo
from dataplane.model.machine import HugepagePool, MachineFacts, NicFacts
from dataplane.ports import ObserveError

NODE = """\
[node]
name = "n"
[hugepages]
count = 1024
[dpdk]
pmd = [
  1,
  2,
]
[[bridge]]
name = "br-ex"
[[uplink]]
device = "up0"
bridge = "br-ex"
queues = 2
[[uplink]]
device = "0000:3b:00.0"
bridge = "br-ex"
mode = "vfio"
"""

GOOD = MachineFacts(
    cpus=frozenset({0, 1, 2, 3}),
    numa_nodes=1,
    memory_kib=16 << 20,
    available_kib=8 << 20,
    hugepages={2048: HugepagePool(0, 0)},
    nics={"lo": NicFacts("", 65536, 1, 1), "up0": NicFacts("veth", 1500, 2, 2)},
    pci_devices=frozenset({"0000:3b:00.0"}),
)


def problems(facts: MachineFacts) -> list[str]:
    return [str(problem) for problem in check_machine(read_node(NODE, "n.toml"), facts)]


def test_a_machine_that_has_everything() -> None:
    assert problems(GOOD) == []


def test_a_core_that_does_not_exist() -> None:
    assert problems(replace(GOOD, cpus=frozenset({0, 1, 4}))) == [
        "n.toml:8: dpdk.pmd names core 2; this machine has no such core online; it has 0-1,4;"
        " name one of 0-1,4"
    ]


def test_a_nic_that_does_not_exist() -> None:
    facts = replace(GOOD, nics={"lo": GOOD.nics["lo"], "up9": GOOD.nics["up0"]})
    assert problems(facts) == [
        'n.toml:13: uplink[0].device = "up0"; there is no such network device here;'
        " there are: up9; did you mean up9?"
    ]


def test_a_pci_device_that_does_not_exist() -> None:
    (problem,) = problems(replace(GOOD, pci_devices=frozenset()))
    assert problem.startswith("n.toml:17: ")


def test_a_nic_that_is_named_by_its_name_and_by_its_address() -> None:
    twice = {"up0": replace(GOOD.nics["up0"], kind="", pci="0000:3b:00.0")}
    assert problems(replace(GOOD, nics=twice)) == [
        'n.toml:17: uplink[1].device = "0000:3b:00.0"; it is the NIC up0 of uplink[0].device: two'
        " ports on its queues; name a NIC once, by its name or by its address"
    ]


def test_a_nic_that_a_bridge_or_a_bond_has_already() -> None:
    assert problems(replace(GOOD, nics={"up0": replace(GOOD.nics["up0"], master="virbr0")})) == [
        'n.toml:13: uplink[0].device = "up0"; virbr0 has it: what comes in goes there, and not to'
        " OVS; `ip link set up0 nomaster`, or name another NIC"
    ]


def test_more_queues_than_the_nic_has() -> None:
    (problem,) = problems(replace(GOOD, nics={"up0": NicFacts("veth", 1500, 1, 1)}))
    assert problem.startswith("n.toml:15: uplink[0].queues = 2; up0 has 1 receive queues")


def test_more_hugepages_than_memory() -> None:
    (problem,) = problems(replace(GOOD, available_kib=1 << 20))
    assert problem == (
        "n.toml:4: hugepages.count = 1024 pages of 2048 KiB, 2048 MiB in all; the machine has"
        " 16384 MiB of memory, 1024 MiB of it available; write at most count = 512"
    )


def test_pages_that_are_there_already_need_no_memory() -> None:
    facts = replace(GOOD, available_kib=0, hugepages={2048: HugepagePool(1024, 0)})
    assert problems(facts) == []


def test_a_page_size_that_the_kernel_has_not() -> None:
    (problem,) = problems(replace(GOOD, hugepages={1048576: HugepagePool(0, 0)}))
    assert problem.startswith("n.toml:3: hugepages.size_kib = 2048; this kernel has no such")


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", {0, 1, 2, 3, 8}), ("0\n", {0}), ("\n", set())]
)
def test_cpu_list(text: str, cpus: set[int]) -> None:
    assert cpu_list(text) == cpus


def test_meminfo() -> None:
    assert meminfo("MemTotal:  1024 kB\nHugePages_Total:   3\n") == {
        "MemTotal": 1024,
        "HugePages_Total": 3,
    }


def test_this_machine_can_be_read() -> None:
    facts = machine_facts()
    assert "lo" in facts.nics
    assert 0 < facts.available_kib <= facts.memory_kib
    assert facts.cpus


def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(ObserveError, match="no network namespace mr-nowhere"):
        machine_facts("mr-nowhere")


TUNNEL = """\
[node]
name = "n"
{mtu}
[hugepages]
count = 1024
[[bridge]]
name = "br-phy"
[[uplink]]
device = "up0"
bridge = "br-phy"
[tunnel]
type = "{kind}"
bridge = "br-phy"
address = "10.0.0.1/24"
"""


@pytest.mark.parametrize(("kind", "most"), [("geneve", 1442), ("vxlan", 1450)])
def test_workloads_get_what_the_tunnel_leaves(kind: str, most: int) -> None:
    source = read_node(TUNNEL.format(kind=kind, mtu=""), "n.toml")
    assert source.config.port_mtu == most
    assert check_machine(source, GOOD) == []


def test_an_mtu_that_the_tunnel_cannot_carry() -> None:
    source = read_node(TUNNEL.format(kind="geneve", mtu="port_mtu = 1500"), "n.toml")
    assert [str(problem) for problem in check_machine(source, GOOD)] == [
        "n.toml:3: node.port_mtu = 1500; up0, below the tunnel, has an MTU of 1500, of which geneve"
        " takes 58; write at most port_mtu = 1442, or give up0 an MTU of 1558"
    ]


def test_a_default_that_a_narrow_link_cannot_carry() -> None:
    source = read_node(TUNNEL.format(kind="vxlan", mtu=""), "n.toml")
    facts = replace(GOOD, nics={"up0": replace(GOOD.nics["up0"], mtu=1400)})
    (problem,) = check_machine(source, facts)
    assert problem.next_step == "write at most port_mtu = 1350, or give up0 an MTU of 1500"
