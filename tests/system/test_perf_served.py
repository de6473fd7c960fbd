"""One service in four ways, as the harness measures them: each serves it, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bpf.abi import Reason
from dataplane.model.config import DpdkConfig
from perf import peerlab
from perf.pktgen.driver import Load
from perf.servedlab import CLIENT_MAC, WAYS, ServedLab, Way
from perf.vhostlab import VhostLab
from tests.labs.perfruns import until_whole

CORE = (os.cpu_count() or 1) - 1
DPDK = DpdkConfig(lcore=(0,), pmd=(CORE,), socket_mem_mib=512, extra=("--no-pci",))
FRAMES, PPS = 400, 1_000
ASKED = (*WAYS, Way("ovn", 1), Way("ovn", 10_000))


@pytest.fixture(scope="module")
def served() -> Iterator[ServedLab]:
    made = ServedLab(VhostLab(DPDK, 0), CORE, asked=ASKED)
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize("name", [way.name for way in ASKED])
def test_every_way_serves_the_service(served: ServedLab, name: str) -> None:
    way = served.arrange(name)
    way.forget()
    load = Load(
        PPS, FRAMES / PPS, flows=64, tx=way.ports[0], rx=way.ports[1], src_mac=CLIENT_MAC,
        dst_mac=way.router_mac, src_ip="198.51.100.1",
        dst_ip=str(peerlab.vip(way.services - 1)), dst_port=peerlab.PORT,
    )  # fmt: skip
    found = until_whole(served.generator, load)
    assert found.duplicates == 0
    if way.busy_ns is not None:
        before = way.busy_ns()
        served.generator.run(load)
        assert way.busy_ns() > before
    if name == "xdp":
        # What is for no service goes on untranslated, to OVS on a node. So ask what this was.
        reasons = served.ours[name].reasons()
        assert reasons[Reason.VIP_NEW] >= 64
        assert reasons[Reason.VIP_NEW] + reasons[Reason.VIP_FORWARD] >= FRAMES
        return
    # To an address that nobody serves, nothing comes.
    lost = served.generator.run(
        Load(
            PPS, 0.1, tx=way.ports[0], rx=way.ports[1], src_mac=CLIENT_MAC,
            dst_mac=way.router_mac, src_ip="198.51.100.1",
            dst_ip=str(peerlab.vip(way.services + 7)), dst_port=peerlab.PORT,
        )
    )  # fmt: skip
    assert lost.received == 0
