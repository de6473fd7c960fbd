"""Which keys are written for which release, and that the installed one documents them."""

from __future__ import annotations

import gzip
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dataplane.model.tuning import FlowCache, Mempools, PortTuning, RxqAssign, Tuning
from dataplane.plan.ovskeys import KEYS, NEWEST, OLDEST, RESTART_KEYS, OvsVersion, translate

MAN_PAGE = Path("/usr/share/man/man5/ovs-vswitchd.conf.db.5.gz")
RELEASES = [*(OvsVersion(3, minor) for minor in range(1, 8)), OvsVersion(4, 0)]
BARE = Tuning(frozenset(), frozenset(), {})
WHOLE = Tuning(
    lcore=frozenset({0}),
    pmd=frozenset({2, 3, 34}),
    socket_mem_mib={0: 1024, 2: 2048},
    socket_limit_mib={0: 1024},
    hugepage_dir="/dev/hugepages",
    eal=("-a", "0000:3b:00.0"),
    mempools=Mempools.SHARED,
    mempool_mtus=(9000, 1500),
    flow_cache=FlowCache.SMC,
    emc_insert_inverse=20,
    pmd_sleep_us=50,
    rxq_assign=RxqAssign.GROUP,
    rxq_isolate=False,
    auto_lb=True,
    auto_lb_load_percent=80,
    handlers=10,
    revalidators=4,
    tx_flush_us=0,
    tso=False,
    vlan_limit=2,
    vhost_iommu=True,
    vhost_postcopy=True,
    max_idle_ms=5000,
    flow_limit=100000,
    ports={"eth0": PortTuning(2, 2048, 1024, {1: 3, 0: 2})},
)
SAID = {
    "dpdk-lcore-mask": "0x1",
    "pmd-cpu-mask": "0x40000000c",
    "dpdk-socket-mem": "1024,0,2048",
    "dpdk-socket-limit": "1024",
    "dpdk-hugepage-dir": "/dev/hugepages",
    "dpdk-extra": "-a 0000:3b:00.0",
    "per-port-memory": "false",
    "shared-mempool-config": "9000,1500",
    "smc-enable": "true",
    "emc-insert-inv-prob": "20",
    "pmd-rxq-assign": "group",
    "pmd-rxq-isolate": "false",
    "pmd-auto-lb": "true",
    "pmd-auto-lb-load-threshold": "80",
    "n-handler-threads": "10",
    "n-revalidator-threads": "4",
    "tx-flush-interval": "0",
    "userspace-tso-enable": "false",
    "vlan-limit": "2",
    "vhost-iommu-support": "true",
    "vhost-postcopy-support": "true",
    "max-idle": "5000",
    "flow-limit": "100000",
}


@pytest.mark.parametrize("version", RELEASES, ids=str)
def test_every_intent_has_one_key_in_every_release(version: OvsVersion) -> None:
    said = translate(WHOLE, version)
    sleep = "pmd-maxsleep" if version == OLDEST else "pmd-sleep-max"
    assert said.keys == {**SAID, sleep: "50"}
    assert said.cannot == ()
    assert said.port_keys["eth0"] == {
        ("options", "n_rxq"): "2",
        ("options", "n_rxq_desc"): "2048",
        ("options", "n_txq_desc"): "1024",
        ("other_config", "pmd-rxq-affinity"): "0:2,1:3",
    }
    assert translate(BARE, version).keys == {}


def test_no_intent_is_without_a_key() -> None:
    assert {key.intent for key in KEYS} == {one.name for one in fields(Tuning)} - {"ports"}


def test_the_oldest_releases_keys_are_in_its_man_page() -> None:
    text = gzip.decompress(MAN_PAGE.read_bytes()).decode().replace("\\-", "-")
    said = translate(WHOLE, OLDEST)
    options = [key for _, key in said.port_keys["eth0"]]
    assert [key for key in (*said.keys, *options) if key not in text] == []


@pytest.mark.parametrize(
    ("version", "tunnelled", "value", "word"),
    [
        ("3.1", False, "false", "3.3 can"),
        ("3.2", False, "false", "3.3 can"),
        ("3.3", False, "true", ""),
        ("3.3", True, "false", "3.5 can"),
        ("3.4", True, "false", "3.5 can"),
        ("3.5", True, "true", ""),
        ("4.0", True, "true", ""),
    ],
)
def test_tso_is_said_where_it_drops_nothing(
    version: str, tunnelled: bool, value: str, word: str
) -> None:
    said = translate(replace(BARE, tso=True), OvsVersion.parse(version), tunnelled=tunnelled)
    assert said.keys == {"userspace-tso-enable": value}
    assert (word in said.cannot[0]) if word else said.cannot == ()


def test_long_rings_wait_for_the_release_without_a_limit() -> None:
    wanted = replace(BARE, ports={"eth0": PortTuning(1, 8192)})
    old, new = translate(wanted, OvsVersion(3, 5)), translate(wanted, OvsVersion(3, 6))
    assert old.port_keys["eth0"]["options", "n_rxq_desc"] == "4096"
    assert "n_rxq_desc = 8192 of eth0" in old.cannot[0]
    assert new.port_keys["eth0"]["options", "n_rxq_desc"] == "8192"
    assert new.cannot == ()


@pytest.mark.parametrize(
    ("cache", "inverse", "smc", "probability", "complaints"),
    [
        (FlowCache.EMC, None, "false", None, 0),
        (FlowCache.EMC, 0, "false", "0", 1),
        (FlowCache.SMC, None, "true", "0", 0),
        (FlowCache.SMC, 20, "true", "20", 0),
        (FlowCache.NONE, None, "false", "0", 0),
        (FlowCache.NONE, 20, "false", "0", 1),
        (None, 1, None, "1", 0),
    ],
)
def test_flow_caches(
    cache: FlowCache | None, inverse: int | None, smc: str | None, probability: str | None,
    complaints: int,
) -> None:  # fmt: skip
    said = translate(replace(BARE, flow_cache=cache, emc_insert_inverse=inverse), NEWEST)
    assert said.keys.get("smc-enable") == smc
    assert said.keys.get("emc-insert-inv-prob") == probability
    assert len(said.cannot) == complaints


def test_a_pinned_core_serves_others_with_group_only() -> None:
    said = translate(replace(BARE, rxq_isolate=False), OLDEST)
    assert said.keys == {}
    assert "rxq_assign = group" in said.cannot[0]


def test_an_unknown_release_is_named() -> None:
    assert "4.1" in translate(BARE, OvsVersion(4, 1)).cannot[0]
    assert OvsVersion.parse("3.3.1-dev") == OvsVersion(3, 3)
    with pytest.raises(ValueError, match="is no version of OVS"):
        OvsVersion.parse("unknown")


def test_what_waits_for_a_restart() -> None:
    assert {"dpdk-init", "dpdk-socket-limit", "userspace-tso-enable"} <= RESTART_KEYS
    assert not {"pmd-cpu-mask", "pmd-maxsleep", "pmd-auto-lb"} & RESTART_KEYS
