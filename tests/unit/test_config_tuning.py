"""The table [tuning]: what it fixes, what is refused, and which keys of OVS follow from it."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from controller import tuning
from controller.config import ConfigProblems, parse_node, read_node
from controller.config_tuning import FLAGS, NUMBERS
from controller.tuning import plan_of, settled
from dataplane.model.config import PlanWishes
from dataplane.model.tuning import FlowCache, Mempools, RxqAssign, Tuning
from dataplane.plan.ovs import foreign_settings, ovs_settings, spelt
from tests.labs.topologies import load

NODE = """\
[node]
name = "n1"
[dpdk]
lcore = [0]
pmd = [1]
socket_mem_mib = 512
[tuning]
"""
EVERY = {
    **{key: (str(low), low) for key, (low, _) in NUMBERS.items()},
    **dict.fromkeys(FLAGS, ("true", True)),
    "mempools": ('"per-port"', Mempools.PER_PORT),
    "flow_cache": ('"none"', FlowCache.NONE),
    "rxq_assign": ('"roundrobin"', RxqAssign.ROUND_ROBIN),
    "hugepage_dir": ('"/mnt/huge"', "/mnt/huge"),
    "mempool_mtus": ("[9000, 1500]", (9000, 1500)),
    "socket_limit_mib": ("[1024, 0]", {0: 1024, 1: 0}),
}


def test_every_intent_can_be_fixed_here_or_below_dpdk() -> None:
    below_dpdk = {"lcore", "pmd", "socket_mem_mib", "eal", "ports"}
    assert EVERY.keys() == {one.name for one in fields(Tuning)} - below_dpdk


@pytest.mark.parametrize("key", sorted(EVERY))
def test_each_key_is_taken_and_said_to_ovs(key: str) -> None:
    written, value = EVERY[key]
    config = parse_node(f"{NODE}{key} = {written}\n", "n.toml")
    assert config.tuning == {key: value}
    bare = ovs_settings(replace(config, tuning={}))
    assert ovs_settings(config).keys() - bare.keys()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pmd_sleep_us = 10001", "range is 0..10000"),
        ('pmd_sleep_us = "50"', "pmd_sleep_us"),
        ("vlan_limit = 3", "range is 0..2"),
        ('rxq_assign = "groups"', 'write rxq_assign = "group"'),
        ("rxq_isolate = false", "pmd-rxq-assign=group"),
        ("mempool_mtus = []", "it says nothing"),
        ("mempool_mtus = [20]", "within 68..9702"),
        ("pmd_sleep = 50", "did you mean pmd_sleep_us?"),
        ('hugepage_dir = "huge"', "hugepage_dir"),
    ],
)
def test_what_is_wrong_is_refused_at_its_line(line: str, words: str) -> None:
    with pytest.raises(ConfigProblems) as refused:
        parse_node(f"{NODE}{line}\n", "n.toml")
    assert "n.toml:8" in str(refused.value)
    assert words in str(refused.value)


def test_the_release_decides_the_name_and_what_cannot_be() -> None:
    text = f"{NODE}pmd_sleep_us = 50\ntso = true\n"
    config = parse_node(text, "n.toml")
    old, new = replace(config, ovs_release="3.1"), replace(config, ovs_release="3.5")
    assert ("other_config", "pmd-maxsleep") in ovs_settings(old)
    assert ("other_config", "pmd-sleep-max") in ovs_settings(new)
    assert "tso: OVS 3.1 cannot" in spelt(old).cannot[0]
    assert spelt(new).cannot == ()


def test_what_others_set_is_told_apart() -> None:
    config = parse_node(f"{NODE}max_idle_ms = 5000\n", "n.toml")
    there = {
        "max-idle": "5000", "pmd-perf-metrics": "true", "dpdk-init": "true",
        "ovn-chassis-idx-n": "", "vlan-limit": "0",
    }  # fmt: skip
    assert foreign_settings(config, there) == {"pmd-perf-metrics": "true"}


@pytest.mark.parametrize("mode", ["off", "advise", "apply"])
def test_whether_queues_are_moved_is_no_key_of_ovs(mode: str) -> None:
    config = parse_node(f'{NODE}rebalance = "{mode}"\n', "n.toml")
    assert config.rebalance == mode
    assert "rebalance" not in config.tuning


def test_what_the_plan_computes_with_can_be_said() -> None:
    text = '[node]\nname = "n"\n[tuning]\npmd_cores = 2\nflows = 100000\nsaves_power = true\n'
    source = read_node(text, "n.toml")
    assert source.config.wishes == PlanWishes(2, 100_000, saves_power=True)
    assert source.config.tuning == {}
    config = settled(source.config, plan_of(source, load("two-sockets-smt")))
    assert config.computed is not None
    assert config.computed.tuning.flow_cache is FlowCache.SMC
    assert config.computed.tuning.pmd_sleep_us == 100


@pytest.mark.parametrize("line", ["pmd_cores = 2", "flows = 9", "saves_power = true"])
def test_an_explicit_file_computes_with_nothing(line: str) -> None:
    with pytest.raises(ConfigProblems, match=r"n.toml:8: .*nothing is computed"):
        parse_node(f"{NODE}{line}\n", "n.toml")


def test_the_release_is_asked_for_whatever_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What OVN may use of the datapath depends on it, also where nothing was tuned."""
    monkeypatch.setattr(tuning, "release_of", lambda _: "3.5")
    source = read_node(NODE.removesuffix("[tuning]\n"), "n.toml")
    assert tuning.is_explicit(source.config)
    assert tuning.settle(source).ovs_release == "3.5"
