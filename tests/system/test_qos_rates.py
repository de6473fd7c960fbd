"""No more than a limit gets through, whatever is offered: both directions, VMs and containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.config import DpdkConfig
from dataplane.plan.qos import burst_bytes
from perf.qos import ETHERNET, FRAMES
from perf.qoslab import KINDS, MTU, QosLab, built
from perf.vhostlab import VhostLab

RATE = 1_000_000
SECONDS = 2.0


@pytest.fixture(scope="module", params=KINDS)
def ends(request: pytest.FixtureRequest) -> Iterator[QosLab]:
    dpdk = DpdkConfig(lcore=(0,), pmd=(1,), socket_mem_mib=512, extra=("--no-pci",))
    with built(VhostLab(dpdk, 0), [request.param]) as labs:
        lab = labs[request.param]
        lab.start()
        yield lab


@pytest.mark.parametrize("size", sorted(FRAMES))
@pytest.mark.parametrize("sending", [True, False])
def test_a_limit_holds(ends: QosLab, size: int, sending: bool) -> None:
    wanted = Bandwidth(RATE)
    ends.limit(Limits(), sending=sending)
    free = ends.run(FRAMES[size], 0, SECONDS)
    assert free.octets > 2 * RATE / 8 * SECONDS
    ends.limit(Limits(send=wanted) if sending else Limits(receive=wanted), sending=sending)
    held = ends.run(FRAMES[size], 0, SECONDS)
    # Of IP packets; the bucket is full when the window begins.
    octets = held.octets - ETHERNET * held.received
    most = RATE / 8 * held.seconds * 1.05 + burst_bytes(wanted, MTU)
    print(f"{octets} of {most:.0f} octets, {free.octets} without a limit")
    assert 0 < octets <= most
