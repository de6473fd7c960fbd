"""The tuning plan on machines, recorded and constructed, and what a person may pin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.model.machine import HugepagePool
from dataplane.model.topology import Core, Guest, GuestPort, NicPort, OriginKind, Taken, cpu_list
from dataplane.model.tuning import FlowCache, Mempools, RxqAssign
from dataplane.plan.tuning.compute import every_nic, tuning
from dataplane.plan.tuning.memory import buffer_bytes, mtu_classes
from dataplane.plan.tuning.outcome import (
    PINNED,
    Access,
    Pins,
    PortPin,
    Refused,
    TuningPlan,
    WantedPort,
    Wants,
)
from tests.labs.topologies import FILES, broken_laws, load

PLANNABLE = [path for path in FILES if path.stem != "one-core"]
NONE = Pins()
AF_XDP = WantedPort("eth1", "eth1", Access.AF_XDP)


def plan(name: str, pins: Pins = NONE, wants: Wants | None = None) -> TuningPlan:
    topology = load(name)
    return tuning(topology, wants or every_nic(topology), pins)


def lacks(plan: TuningPlan) -> dict[str, str]:
    return {one.name: " | ".join((one.what, one.why, *one.fix)) for one in plan.warnings}


def refusal(name: str, pins: Pins = NONE, wants: Wants | None = None) -> str:
    with pytest.raises(Refused) as caught:
        plan(name, pins, wants)
    return str(caught.value)


@pytest.mark.parametrize("path", PLANNABLE, ids=lambda path: path.stem)
def test_every_machine_has_a_plan_that_keeps_the_laws(path: Path) -> None:
    topology = load(path.stem)
    wants = every_nic(topology)
    assert broken_laws(topology, wants, tuning(topology, wants, Pins())) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_machine_says_where_it_is_from(path: Path) -> None:
    origin = load(path.stem).origin
    public = "github.com/" in origin.source or "by `millrace plan --record`" in origin.source
    assert (origin.kind is OriginKind.RECORDED) == public


@pytest.mark.parametrize(
    ("name", "lcore", "pmd", "memory"),
    [
        ("two-cpu-vm", "0", "1", {0: 610}),
        ("one-socket-smt", "0", "1,5", {0: 512}),
        ("one-socket-no-smt", "0", "1", {0: 2048}),
        ("two-sockets-smt", "0", "1-2,13-14", {0: 1264, 1: 1264}),
        ("two-sockets-nics-on-one", "0", "1,8", {0: 1264, 1: 1264}),
        ("nic-on-a-node-without-cores", "0", "3,9", {0: 610, 1: 690}),
    ],
)
def test_cores_and_memory(name: str, lcore: str, pmd: str, memory: dict[int, int]) -> None:
    values = plan(name).tuning
    assert (values.lcore, values.pmd) == (cpu_list(lcore), cpu_list(pmd))
    assert values.socket_mem_mib == memory


def test_one_core_cannot_be_planned() -> None:
    said = refusal("one-core")
    assert "1 physical cores" in said and "siblings included" in said


def test_a_machine_that_is_prepared_lacks_nothing() -> None:
    assert lacks(plan("one-socket-no-smt")) == {}


def test_what_kubelet_reserves_is_the_hosts_unless_it_is_isolated() -> None:
    ready = load("one-socket-no-smt")
    wants = every_nic(ready)
    bare = replace(ready, boot=replace(ready.boot, isolated=frozenset()))
    assert tuning(ready, wants, Pins()).tuning.pmd == {1}
    assert tuning(bare, wants, Pins()).tuning.pmd == {3}
    assert 'reservedSystemCPUs: "0-3"' in lacks(tuning(bare, wants, Pins()))["kubelet"]


def test_a_kubelet_that_reserves_nothing_is_told_of_all_of_ours() -> None:
    topology = replace(load("two-sockets-nics-on-one"), taken=Taken(kubelet=frozenset()))
    said = lacks(tuning(topology, every_nic(topology), Pins()))["kubelet"]
    assert 'reservedSystemCPUs: "0-1,8"' in said


def test_the_fixes_that_it_names_change_nothing_but_the_warnings() -> None:
    before = load("sub-numa-clusters")
    wants = every_nic(before)
    first = tuning(before, wants, Pins())
    pmd = first.tuning.pmd
    kubelet = (before.taken.kubelet or frozenset()) | pmd
    after = replace(
        before,
        boot=replace(before.boot, isolated=pmd, nohz_full=pmd, rcu_nocbs=pmd),
        taken=replace(before.taken, kubelet=kubelet),
    )
    second = tuning(after, wants, Pins())
    assert second.tuning == first.tuning
    assert {"not-isolated", "kubelet"} <= lacks(first).keys()
    assert not {"not-isolated", "kubelet", "ticks"} & lacks(second).keys()


def test_isolated_cores_come_first() -> None:
    topology = load("two-sockets-nics-on-one")
    isolated = replace(topology, boot=replace(topology.boot, isolated=cpu_list("5,13")))
    computed = tuning(isolated, every_nic(isolated), Pins())
    assert computed.tuning.pmd == cpu_list("5,13")
    assert "ticks" in lacks(computed)


def test_a_vm_on_a_node_counts_and_none_changes_nothing() -> None:
    topology = load("two-sockets-nics-on-one")
    wants = every_nic(topology)
    vm = Guest("vm", {1: 256}, (GuestPort("vhu"),))
    with_vm = replace(topology, guests=(vm,))
    assert tuning(with_vm, wants, Pins()).tuning.pmd == tuning(topology, wants, Pins()).tuning.pmd


def test_pages_on_the_wrong_node_are_named_with_what_mends_it() -> None:
    said = lacks(plan("amd-nps4"))["memory-on-node-5"]
    assert "node 0 has 1024 MiB" in said
    assert "/sys/devices/system/node/node5/hugepages/hugepages-2048kB/nr_hugepages" in said
    # 798 MiB, and as much again for VMs.
    assert "hugepages=5:798" in said


def test_pages_are_not_asked_for_beyond_the_nodes_memory() -> None:
    said = lacks(plan("one-socket-smt"))["memory-on-node-0"]
    assert "610 MiB are needed" in said
    assert "hugepages=0:305" in said
    topology = load("one-socket-smt")
    (node,) = topology.nodes
    smaller = replace(topology, nodes=(replace(node, memory_mib=700),))
    assert (
        "700 MiB in all, too little"
        in lacks(tuning(smaller, every_nic(smaller), Pins()))["memory-on-node-0"]
    )


def test_iommu_off_is_named_with_the_vendors_argument() -> None:
    assert "amd_iommu=on iommu=pt" in lacks(plan("amd-nps4"))["iommu"]
    intel = replace(load("sub-numa-clusters"), boot=load("amd-nps4").boot)
    said = lacks(tuning(intel, every_nic(intel), Pins()))["iommu"]
    assert "intel_iommu=on iommu=pt" in said
    assert "iommu" not in lacks(tuning(intel, Wants(), Pins()))


def test_a_nic_whose_node_has_no_core_is_served_from_the_nearest() -> None:
    computed = plan("nic-on-a-node-without-cores")
    said = lacks(computed)
    assert "no core that is online" in said["no-pmd-on-node-1"]
    assert "queues 0, 1 of ens5" in said["far-queues-ens5"]
    assert computed.tuning.ports["ens5"].affinity == {0: 3, 1: 9}


def test_a_nic_of_no_known_node_is_said() -> None:
    assert "numa_node" in lacks(plan("two-sockets-smt"))["nic-node-eth1"]
    assert "nic-node-eth0" not in lacks(plan("two-cpu-vm"))


def test_jumbo_frames_share_one_pool_of_the_greatest_class() -> None:
    values = plan("arm-128-cores").tuning
    assert values.mempools is Mempools.SHARED
    assert values.mempool_mtus == (9000,)
    assert values.socket_mem_mib[2] >= 262_144 * buffer_bytes(9000) >> 20
    assert values.ports["enp189s0f0"].descriptors_rx == 4096
    assert values.ports["enp125s0f0"].descriptors_rx is None
    assert values.eal == ("-a", "0000:7d:00.0", "-a", "0000:bd:00.0")


@pytest.mark.parametrize(("mtu", "size"), [(1500, 3008), (1800, 3008), (6000, 7104), (9000, 10176)])
def test_buffers_are_as_large_as_ovs_documents(mtu: int, size: int) -> None:
    assert buffer_bytes(mtu) == size


def test_mtus_of_one_class_are_one() -> None:
    assert mtu_classes([1500, 1442, 9000, 8900, 1800]) == (1800, 9000)


def test_small_memory_gives_each_port_its_own_pool() -> None:
    assert plan("two-cpu-vm").tuning.mempools is Mempools.PER_PORT
    assert plan("two-sockets-smt").tuning.mempools is Mempools.SHARED


def test_memory_of_vms_is_not_given_twice() -> None:
    topology = load("two-sockets-nics-on-one")
    full = replace(topology, guests=(Guest("vm", {0: 4000}),))
    computed = tuning(full, every_nic(full), Pins())
    assert computed.tuning.socket_mem_mib[0] == 96
    assert "96 MiB of hugepages for OVS" in lacks(computed)["memory-on-node-0"]


def test_the_nodes_own_pages_are_counted_before_they_are_made() -> None:
    topology = load("two-cpu-vm")
    none = replace(
        topology, nodes=(replace(topology.nodes[0], hugepages={2048: HugepagePool(0, 0)}),)
    )
    wants = Wants(hugepages=(2048, 512))
    assert tuning(none, wants, Pins()) == tuning(topology, wants, Pins())
    assert tuning(none, Wants(), Pins()).tuning.socket_mem_mib == {0: 0}


def test_many_flows_take_the_signature_cache() -> None:
    many = plan("one-socket-no-smt", wants=Wants(flows=100_000))
    few = plan("one-socket-no-smt", wants=Wants(flows=1000))
    assert (many.tuning.flow_cache, few.tuning.flow_cache) == (FlowCache.SMC, FlowCache.EMC)


def test_a_tiny_machine_sleeps_and_says_what_is_given_up() -> None:
    computed = plan("two-cpu-vm")
    assert computed.tuning.pmd_sleep_us == 100
    assert "share it with OVS's main thread" in lacks(computed)["tiny"]
    assert plan("two-sockets-smt").tuning.pmd_sleep_us == 0


def test_a_share_of_the_node_bounds_the_cores_and_the_file_may_say_more() -> None:
    slow, fast = load("two-sockets-nics-on-one"), load("two-sockets-nics-on-one")
    fast = replace(fast, nics=tuple(replace(nic, speed_mbps=200_000) for nic in fast.nics))
    cores = [len(tuning(one, every_nic(one), Pins()).tuning.pmd) for one in (slow, fast)]
    assert cores == [2, 2]  # 7 free cores on the node: one of four at most
    wants = replace(every_nic(fast), pmd_cores=3)
    assert tuning(fast, wants, Pins()).tuning.pmd == cpu_list("1-3,8")


def test_queues_are_dealt_out_by_load_over_cores_before_siblings() -> None:
    ports = plan("sub-numa-clusters").tuning.ports
    assert ports["ens1f0"].affinity == {0: 1, 1: 2, 2: 41, 3: 42}
    assert ports["ens8"].affinity == {0: 30, 1: 70}


def test_an_af_xdp_port_keeps_the_queues_of_the_file() -> None:
    wants = Wants(ports=(replace(AF_XDP, queues=2),))
    values = plan("two-sockets-nics-on-one", wants=wants).tuning
    assert values.ports["eth1"].rx_queues == 2
    assert values.ports["eth1"].affinity == {0: 1, 1: 1}
    assert values.eal == ("--no-pci",)


PINNED_CASES = [
    (Pins(pmd=cpu_list("1,99")), "pmd = 1,99; the machine has no CPU 99; name some of 0-79"),
    (Pins(lcore=cpu_list("4000")), "lcore = 4000; the machine has no CPU 4000"),
    (Pins(pmd=cpu_list("20,60")), "kubelet keeps it for the system (reservedSystemCPUs), not iso"),
    (Pins(pmd=cpu_list("35,75")), "it is given to a container or a VM exclusively"),
    (Pins(lcore=cpu_list("36")), "it is given to a container or a VM exclusively"),
    (Pins(pmd=cpu_list("1,41"), lcore=cpu_list("1")), "CPU 1 is in lcore and in pmd"),
    (Pins(pmd=frozenset()), "pmd has no CPU"),
    (Pins(socket_mem_mib={0: 9000}), "node 0 has 8192 MiB in hugepages"),
    (Pins(socket_mem_mib={7: 1}), "the machine has no such node; nodes are: 0, 1, 2, 3"),
    (Pins(settings={"pmd_sleep_us": 10_001}), "it has to be a number within 0..10000"),
    (Pins(settings={"pmd_sleep": 1}), "there is no such value; values are: auto_lb, "),
    (Pins(settings={"tso": 1}), "it has to be true or false"),
    (Pins(settings={"flow_cache": "emc"}), "it has to be one of: emc, smc, none"),
    (
        Pins(settings={"rxq_isolate": False, "rxq_assign": RxqAssign.CYCLES}),
        "OVS takes it with rxq_assign = group only",
    ),
    (Pins(ports={"ens9": PortPin(1)}), "it has: ens1f0, ens1f1, ens8"),
    (Pins(ports={"ens8": PortPin(rx_queues=64)}), "ens8 has 63 queues"),
    (Pins(ports={"ens8": PortPin(rx_queues=0)}), "write 1 to 63"),
    (Pins(ports={"ens8": PortPin(affinity="0:30,0:70")}), "queue 0 is given to CPU 30 and to CPU"),
    (Pins(ports={"ens8": PortPin(affinity="0-30")}), "'0-30' is not QUEUE:CPU"),
    (Pins(ports={"ens8": PortPin(affinity="0:31")}), "CPU 31 has no PMD thread"),
    (Pins(ports={"ens8": PortPin(2, affinity="2:30")}), "there is no queue 2"),
    (Pins(ports={"ens8": PortPin(descriptors_rx=1000)}), "it has to be a power of two"),
]


@pytest.mark.parametrize(
    ("pins", "said"), PINNED_CASES, ids=[said[:40] for _, said in PINNED_CASES]
)
def test_a_pin_that_cannot_work_is_refused_with_the_reason(pins: Pins, said: str) -> None:
    assert said in refusal("sub-numa-clusters", pins)


def test_all_refusals_come_at_once() -> None:
    pins = Pins(pmd=cpu_list("99"), socket_mem_mib={0: 9000}, settings={"tso": 1})
    assert len(refusal("sub-numa-clusters", pins).splitlines()) == 3


def test_an_offline_cpu_is_called_offline() -> None:
    topology = load("one-socket-smt")
    cores = tuple(Core(core.cpus - {7}, 0, 1) for core in topology.cores)
    half = replace(topology, cores=cores, offline=frozenset({7}))
    with pytest.raises(Refused, match="CPU 7 is offline"):
        tuning(half, Wants(), Pins(pmd=frozenset({7})))


def test_two_ports_pinned_to_one_queue_are_refused() -> None:
    wants = Wants(
        ports=(
            WantedPort("a", "ens8", Access.AF_XDP, queues=4),
            WantedPort("b", "0000:d8:00.0", Access.AF_XDP, queues=4, first_queue=3),
        )
    )
    said = refusal("sub-numa-clusters", wants=wants)
    assert "ports a and b are both given queue 3" in said and "queues from 4 on" in said


def test_the_nic_with_the_default_route_is_not_taken_away() -> None:
    wants = Wants(ports=(WantedPort("up", "eth0", Access.VFIO),))
    assert "the machine would be cut off" in refusal("two-sockets-nics-on-one", wants=wants)
    bad = Wants(ports=(WantedPort("up", "eth9", Access.VFIO),))
    assert "it has: eth0, eth1" in refusal("two-sockets-nics-on-one", wants=bad)


def test_pins_hold_and_are_marked() -> None:
    pins = Pins(
        lcore=cpu_list("9"),
        pmd=cpu_list("2,42,33,73"),
        socket_mem_mib={0: 1024, 3: 2048},
        ports={"ens8": PortPin(4, 1024, 512, "1:73")},
        settings={"pmd_sleep_us": 7, "tso": True, "mempools": Mempools.SHARED},
    )
    computed = plan("sub-numa-clusters", pins)
    values = computed.tuning
    assert (values.lcore, values.pmd) == (cpu_list("9"), cpu_list("2,42,33,73"))
    assert values.socket_mem_mib == {0: 1024, 3: 2048}
    assert values.ports["ens8"].affinity == {0: 33, 1: 73, 2: 33, 3: 73}
    assert (values.ports["ens8"].descriptors_rx, values.ports["ens8"].descriptors_tx) == (1024, 512)
    assert (values.pmd_sleep_us, values.tso, values.mempools) == (7, True, Mempools.SHARED)
    pinned = {one.key for one in computed.decisions if one.source == PINNED}
    assert {"lcore", "pmd", "socket_mem_mib[0]", "pmd_sleep_us", "tso", "mempools"} <= pinned
    assert computed.pinned >= {"lcore", "pmd", "socket_mem_mib", "tso", "ports.ens8"}
    assert {"no-pmd-on-node-1", "no-pmd-on-node-2"} <= lacks(computed).keys()


def test_a_pinned_half_core_works_and_is_said() -> None:
    said = lacks(plan("one-socket-smt", Pins(pmd=cpu_list("1"))))
    assert "half of core 1,5" in said["half-core-1"]


def test_the_main_thread_leaves_the_pinned_cores() -> None:
    assert plan("two-cpu-vm", Pins(pmd=cpu_list("0"))).tuning.lcore == {1}


def test_cpus_for_the_host_take_the_main_thread() -> None:
    topology = load("two-sockets-nics-on-one")
    kept = replace(topology, taken=Taken(host=cpu_list("6-7,14-15")))
    computed = tuning(kept, every_nic(kept), Pins())
    assert (computed.tuning.lcore, computed.tuning.pmd) == (cpu_list("6"), cpu_list("0,8"))


def test_a_cpuset_bounds_both() -> None:
    topology = load("two-sockets-nics-on-one")
    caged = replace(topology, taken=Taken(allowed=cpu_list("4-5")))
    computed = tuning(caged, every_nic(caged), Pins())
    assert (computed.tuning.lcore, computed.tuning.pmd) == (cpu_list("4"), cpu_list("5"))
    assert "all of its cores are taken" in lacks(computed)["no-pmd-on-node-1"]


def test_a_bifurcated_nic_keeps_its_driver() -> None:
    wants = every_nic(load("arm-128-cores"))
    assert [port.access for port in wants.ports] == [Access.VFIO, Access.BIFURCATED]
    nic = NicPort("0000:01:00.0", "", "vfio-pci", 0)
    assert every_nic(replace(load("arm-128-cores"), nics=(nic,))).ports[0].name == "0000:01:00.0"
