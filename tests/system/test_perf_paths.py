"""The paths of the paced generator: frames go every way that a scenario names, and are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dataplane.model.config import DpdkConfig
from perf.harness import catalog, ovscount
from perf.pacedlab import PacedLab
from perf.pktgen.driver import Load
from perf.vhostlab import VhostLab
from tests.labs.perfruns import until_whole

CORE = (os.cpu_count() or 1) - 1
DPDK = DpdkConfig(lcore=(0,), pmd=(CORE,), socket_mem_mib=512, extra=("--no-pci",))
FRAMES, PPS = 400, 1_000
PACED = sorted({each.way for each in catalog.SCENARIOS if each.lab == "paced"})
RELAYS = {"pvp": 1, "pvvp": 2, "geneve": 1, "vxlan": 1}
PASSES = {"pvp": 2, "pvvp": 3, "geneve": 3, "vxlan": 3, "ovn/allow-related:100": 3, "shared/0": 2}


@pytest.fixture(scope="module")
def paced() -> Iterator[PacedLab]:
    made = PacedLab(VhostLab(DPDK, 0))
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize("name", PACED)
def test_frames_go_every_way(paced: PacedLab, name: str) -> None:
    lab = paced.lab
    way = paced.arrange(name, 64)
    load = Load(
        PPS, FRAMES / PPS, flows=64, tx=way.tx, rx=way.rx, relays=way.relays,
        src_mac=way.macs[0], dst_mac=way.macs[1],
    )  # fmt: skip
    until_whole(paced.generator, load)
    before = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir)
    found = until_whole(paced.generator, load)
    assert found.relayed == RELAYS.get(name, 0) * FRAMES
    threads = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir).since(before).threads
    passes = threads["packets received"] + threads["packet recirculations"]
    # More than one run, if one was not whole; and OVS itself speaks now and then.
    assert passes >= PASSES.get(name, 1) * FRAMES


def test_frames_as_large_as_the_path_carries(paced: PacedLab) -> None:
    paced.arrange("p2p", 9018)
    load = Load(PPS, FRAMES / PPS, sizes=(64, 9018))
    found = until_whole(paced.generator, load)
    assert found.octets == FRAMES // 2 * (60 + 9014)
