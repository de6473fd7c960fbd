"""What a file fixes of a NIC's queues, and of memory by NUMA node: taken, told OVS, or refused."""

from __future__ import annotations

import pytest

from controller.config import ConfigProblems, read_node
from controller.tuning import plan_of, queue_pins, settled
from dataplane.model.config import NodeConfig
from dataplane.model.rows import Affinity, OvsSetting
from dataplane.plan.ovs import ovs_settings, port_keys
from dataplane.plan.ports import nic_affinity, uplink_port
from tests.labs.topologies import load

HEAD = """\
[node]
name = "n"
[[bridge]]
name = "br-ex"
"""
EXPLICIT = "[dpdk]\nlcore = [0]\npmd = [1, 2]\nsocket_mem_mib = 512\n"
XDP = '[[uplink]]\ndevice = "eth9"\nbridge = "br-ex"\nqueues = 2\n'
VFIO = '[[uplink]]\ndevice = "0000:3b:00.0"\nbridge = "br-ex"\nmode = "vfio"\n'


def explicit(text: str) -> NodeConfig:
    source = read_node(HEAD + EXPLICIT + text, "n.toml")
    if problems := queue_pins(source, source.config):
        raise ConfigProblems(problems)
    return source.config


def planned(text: str, machine: str = "one-socket-no-smt") -> NodeConfig:
    source = read_node(HEAD + text, "n.toml")
    config = settled(source.config, plan_of(source, load(machine)))
    if problems := queue_pins(source, config):
        raise ConfigProblems(problems)
    return config


def pins(config: NodeConfig, by_hand: tuple[str, ...] = ()) -> dict[str, Affinity]:
    return nic_affinity(config.uplinks, port_keys(config, {}), by_hand)


@pytest.mark.parametrize("make", [explicit, planned])
def test_a_pin_of_the_file_reaches_ovs(make: object) -> None:
    assert callable(make)
    config = make(XDP + 'affinity = "1:1"\n')
    assert pins(config) == {"eth9": Affinity("1:1")}
    # It is named, so a hand's gives way to it; a computed one would not be there.
    assert pins(config, ("eth9",)) == {"eth9": Affinity("1:1")}
    assert pins(make(XDP)) == {}


def test_a_pin_is_kept_where_pins_isolate() -> None:
    text = XDP + 'affinity = "0:1"\n[dpdk]\npmd = [1, 2]\n[tuning]\nrxq_assign = "cycles"\n'
    config = planned(text)
    assert pins(config) == {"eth9": Affinity("0:1")}


def test_descriptors_of_the_file_reach_the_port_and_the_rest_is_planned() -> None:
    config = planned(VFIO + "rx_descriptors = 1024\ntx_descriptors = 512\n")
    (uplink,) = config.uplinks
    port = uplink_port(uplink, port_keys(config, {})[uplink.device])
    assert dict(port.options).items() >= {"n_rxq_desc": "1024", "n_txq_desc": "512"}.items()
    assert list(pins(config).values()) == [Affinity("0:1")]


def test_members_of_a_bond_have_descriptors_and_no_pins() -> None:
    text = (
        '[[bond]]\nname = "b0"\nbridge = "br-ex"\nmode = "active-backup"\n'
        'devices = ["0000:3b:00.0", "0000:3b:00.1"]\nrx_descriptors = 256\n'
    )
    (bond,) = explicit(text).bonds
    assert [one.rx_descriptors for one in bond.members] == [256, 256]
    with pytest.raises(ConfigProblems, match=r"n\.toml:15: bond\[0\]\.affinity is unknown"):
        explicit(text + 'affinity = "0:1"\n')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (XDP + 'affinity = "0:1,0:2"\n', "queue 0 is given to CPU 1 and to CPU 2"),
        (XDP + 'affinity = "all"\n', "pairs of a queue and the CPU"),
        (XDP + 'affinity = "2:1"\n', "names queue 2; this NIC has 2 of them here"),
        (XDP + 'affinity = "0:7"\n', "CPU 7 has no PMD thread; OVS would ignore it"),
        (XDP + 'affinity = "0:1,1:2"\n', "guests' queues would not be polled"),
        (XDP + 'mode = "kernel"\naffinity = "0:1"\n', "no PMD thread polls a NIC in kernel mode"),
        (XDP + "rx_descriptors = 1024\n", "only a NIC that DPDK drives"),
        (VFIO + "rx_descriptors = 1000\n", "a power of two up to 32768"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigProblems) as refused:
        explicit(text)
    (problem,) = refused.value.problems
    assert said in str(problem)
    assert problem.line == len((HEAD + EXPLICIT + text).splitlines())


def test_all_threads_may_be_pinned_where_pins_isolate_nothing() -> None:
    shared = '[tuning]\nrxq_assign = "group"\nrxq_isolate = false\n'
    config = explicit(XDP + 'affinity = "0:1,1:2"\n' + shared)
    assert pins(config) == {"eth9": Affinity("0:1,1:2")}


def test_two_ports_on_one_queue_are_refused() -> None:
    with pytest.raises(ConfigProblems, match=r"uplink\[1\]\.device.*eth9"):
        explicit(XDP + XDP)


def test_a_pin_that_the_plan_refuses_is_told_at_its_line() -> None:
    text = VFIO + 'affinity = "0:3"\n'
    with pytest.raises(ConfigProblems, match=r"n\.toml:9: .*CPU 3 has no PMD thread"):
        planned(text)
    device = VFIO.replace("3b", "01")
    with pytest.raises(ConfigProblems, match=r"n\.toml:9: .*eno1 has 8 queues"):
        planned(device + "queues = 9\n")


def memory(config: NodeConfig) -> OvsSetting | None:
    return ovs_settings(config).get(("other_config", "dpdk-socket-mem"))


def test_memory_of_every_node_can_be_fixed() -> None:
    text = "[dpdk]\nlcore = [0]\npmd = [1]\nsocket_mem_mib = [512, 1024]\n"
    source = read_node(HEAD + text, "n.toml")
    assert memory(source.config) == OvsSetting("512,1024")
    two = "two-sockets-nics-on-one"
    config = planned("[dpdk]\nsocket_mem_mib = [0, 256]\n", two)
    assert memory(config) == OvsSetting("0,256")
    # One number is the first node's, and the others have none.
    assert memory(planned("[dpdk]\nsocket_mem_mib = 512\n", two)) == OvsSetting("512")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[512, 5]", "within 16..1048576"),
        ("[0, 0]", "vswitchd would have no memory"),
        ("[]", "vswitchd would have no memory"),
        ("[0, 0, 512]", "the machine has no such node"),
        ("[512, 99999]", "node 1 has 4096 MiB in hugepages"),
    ],
)
def test_memory_that_cannot_be_is_refused(value: str, said: str) -> None:
    with pytest.raises(ConfigProblems, match=said):
        planned(f"[dpdk]\nsocket_mem_mib = {value}\n", "two-sockets-nics-on-one")
