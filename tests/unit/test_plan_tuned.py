"""What of the computed plan reaches OVS, keys of NICs, too, and where a hand's value wins."""

from __future__ import annotations

from dataclasses import replace

from controller.config import parse_node, read_node
from controller.tuning import plan_of, settled
from dataplane.model.config import NodeConfig
from dataplane.model.rows import Affinity
from dataplane.model.state import HeldIds, NodeState
from dataplane.plan.node import plan
from dataplane.plan.ovs import foreign_settings, named_keys, ovs_settings, spelt, yielded
from tests.labs.topologies import load

HEAD = '[node]\nname = "n"\n[[bridge]]\nname = "br-ex"\n'
VFIO = '[[uplink]]\ndevice = "0000:02:00.3"\nbridge = "br-ex"\nmode = "vfio"\n'
AFXDP = '[[uplink]]\ndevice = "veth0"\nbridge = "br-ex"\nqueues = 2\n'
COMPUTED_ONLY = {
    "dpdk-socket-limit", "pmd-rxq-assign", "pmd-rxq-isolate", "pmd-auto-lb", "per-port-memory",
}  # fmt: skip


def tuned(text: str, machine: str = "two-sockets-nics-on-one") -> NodeConfig:
    source = read_node(HEAD + text, "n.toml")
    return settled(source.config, plan_of(source, load(machine)))


def other_config(config: NodeConfig, theirs: dict[str, str] | None = None) -> dict[str, str]:
    rows = ovs_settings(config, theirs)
    return {key: row.value for (column, key), row in rows.items() if column == "other_config"}


def planned(config: NodeConfig, **known: object) -> NodeState:
    empty = NodeState(config, None, (), (), {}, HeldIds())
    return replace(empty, **known)  # type: ignore[arg-type]


def test_memory_of_every_node_and_the_limit_reach_ovs() -> None:
    config = tuned(VFIO)
    keys = other_config(config)
    assert config.computed is not None
    values = config.computed.tuning
    assert keys["dpdk-socket-mem"] == ",".join(
        str(values.socket_mem_mib.get(node, 0)) for node in range(max(values.socket_mem_mib) + 1)
    )
    assert "," in keys["dpdk-socket-mem"]
    assert keys.keys() >= COMPUTED_ONLY
    assert keys["dpdk-extra"] == "-a 0000:02:00.3 --file-prefix=millrace-n"


def test_a_nics_queues_and_pins_reach_its_row() -> None:
    config = tuned(VFIO + AFXDP)
    assert config.computed is not None
    port = config.computed.tuning.ports["0000:02:00.3"]
    rows = plan(planned(config))
    options = dict(rows.ports["vf000002003"].options)
    assert options["n_rxq"] == str(port.rx_queues)
    assert rows.affinity["vf000002003"] == Affinity(
        ",".join(f"{queue}:{cpu}" for queue, cpu in sorted(port.affinity.items()))
    )
    # As many as the NIC has channels, whatever the plan would like.
    assert dict(rows.ports["veth0"].options)["n_rxq"] == "2"


def test_a_hands_pins_of_a_nic_stay() -> None:
    state = planned(tuned(VFIO), pinned_by_hand=frozenset({"vf000002003"}))
    assert "vf000002003" not in plan(state).affinity


def test_no_queue_is_pinned_where_that_would_take_the_thread_from_guests() -> None:
    assert plan(planned(tuned(VFIO), theirs={"pmd-rxq-assign": "cycles"})).affinity == {}
    assert plan(planned(tuned(VFIO + '[tuning]\nrxq_assign = "cycles"\n'))).affinity == {}


def test_a_hands_value_wins_over_the_plans_and_is_told() -> None:
    config, theirs = tuned(VFIO), {"pmd-auto-lb": "false", "theirs": "1"}
    before = other_config(config)
    assert other_config(config, theirs).keys() == before.keys() - {"pmd-auto-lb"}
    assert foreign_settings(config, theirs) == theirs
    assert yielded(config, theirs) == {"pmd-auto-lb": ("false", before["pmd-auto-lb"])}


def test_a_pinned_value_does_not_give_way() -> None:
    config, theirs = tuned(VFIO + "[tuning]\nauto_lb = true\n"), {"pmd-auto-lb": "false"}
    assert other_config(config, theirs)["pmd-auto-lb"] == "true"
    assert "pmd-auto-lb" in named_keys(config)
    assert (foreign_settings(config, theirs), yielded(config, theirs)) == ({}, {})


def test_what_goes_with_a_computed_value_is_not_said_beside_a_pinned_one() -> None:
    config = tuned(VFIO + '[tuning]\nrxq_assign = "cycles"\nflow_cache = "smc"\n')
    assert spelt(config).cannot == ()
    assert "pmd-rxq-isolate" not in other_config(config)
    assert other_config(config)["emc-insert-inv-prob"] == "0"


def test_an_explicit_file_is_told_as_it_is_and_no_more() -> None:
    text = '[node]\nname = "n"\n[dpdk]\nlcore = [0]\npmd = [1]\nsocket_mem_mib = 512\n'
    config = parse_node(text, "n.toml")
    assert config.computed is None
    assert other_config(config, {"dpdk-lcore-mask": "0x8"}) == {
        "dpdk-init": "true",
        "dpdk-extra": "--no-pci --file-prefix=millrace-n",
        "dpdk-socket-mem": "512",
        "dpdk-lcore-mask": "0x1",
        "pmd-cpu-mask": "0x2",
    }


def test_ovn_must_not_translate_to_nothing_before_3_3() -> None:
    config = tuned(AFXDP)
    for release, told in (("", "false"), ("3.1", "false"), ("3.2", "false"), ("3.3", None)):
        rows = plan(planned(replace(config, ovs_release=release))).datapath
        assert {key: row.value for key, row in rows.items()} == (
            {"ct_zero_snat": told} if told else {}
        )
