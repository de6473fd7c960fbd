"""The rows of `millrace perf xdp` are what their names say: whom they visit, in what state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from bpf import abi
from bpf.abi import Event, Reason
from dataplane.drivers.mapbulk import dtype_of, read_array
from dataplane.drivers.servicestats import FIELDS, read_counts
from dataplane.model.addr import Protocol
from dataplane.model.rows import ProgramKind
from perf import xdpcases, xdptables
from perf.ctstate import grown
from perf.strides import stride
from perf.xdpbench import Bench, BenchError
from perf.xdpcases import Case
from perf.xdpframes import CLIENT_PORTS, CLIENTS, SYN, frame, from_client

pytestmark = pytest.mark.bpf

SERVICES, FLOWS = 50, 300
ENOUGH = 10_000
"""Services that give nearly every record a flow within USE_ROUNDS: as many as the benchmark has."""
FRAME = {version: frame(xdptables.vip_of(version, 0), tcp_flags=SYN) for version in (4, 6)}
BEFORE = 2
"""Packets of a run that are not measured."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(None, SERVICES) as made:
        yield made


def forwarded(bench: Bench) -> NDArray[np.int64]:
    """Packets towards backends, by service id."""
    rows = read_counts(bench.maps)
    return rows[:, FIELDS.index("forward_packets")].astype(np.int64)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("sample", range(3))
def test_services_are_visited_once_a_round_each(bench: Bench, version: int, sample: int) -> None:
    step = stride(SERVICES, sample)
    for rounds in (1, 2, 3):
        before = forwarded(bench)
        repeat = rounds * SERVICES - BEFORE
        bench.run(ProgramKind.UPLINK, FRAME[version], repeat=repeat, services=SERVICES, stride=step)
        more = forwarded(bench) - before
        assert sorted(more[more > 0]) == [rounds] * SERVICES


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_visited_once_a_round_each(bench: Bench, version: int) -> None:
    for sample, expected in ((0, Reason.VIP_NEW), (1, Reason.VIP_FORWARD)):
        before = bench.counted()
        step = stride(FLOWS, sample)
        bench.run(
            ProgramKind.UPLINK, FRAME[version], repeat=FLOWS - BEFORE, flows=FLOWS, stride=step
        )
        assert grown(before, bench.counted()) == {expected: FLOWS}


def test_a_round_goes_back_by_the_way_of_the_one_before(bench: Bench) -> None:
    step = stride(SERVICES)
    order = [number * step % SERVICES for number in range(SERVICES)]
    visited = [*order, order[0], *reversed(order[1:])]
    for count in (SERVICES + 3, 2 * SERVICES - 4):
        before = forwarded(bench)
        bench.run(
            ProgramKind.UPLINK, FRAME[4], repeat=count - BEFORE, services=SERVICES, stride=step
        )
        # The first of them has service 1: 0 is of none.
        more = (forwarded(bench) - before)[1 : 1 + SERVICES]
        assert more.tolist() == np.bincount(visited[:count], minlength=SERVICES).tolist()


def clients(bench: Bench, version: int) -> set[bytes]:
    """Whose flows there are."""
    flows = read_array(bench.maps[f"ct{version}"], dtype_of((abi.FLOW4, abi.FLOW6)[version == 6]))
    return {client.tobytes() for client in flows["client"][flows["life"] & 1 != 0]}


def new(name: str, version: int, services: int) -> Case:
    packet, flows = FRAME[version], xdpcases.NEW_FLOWS
    return Case(name, version, ProgramKind.UPLINK, packet, Reason.VIP_NEW, "tcp", flows, services)


@pytest.mark.parametrize("version", [4, 6])
def test_new_flows_are_of_a_used_table(version: int) -> None:
    """Each round has clients of its own, in records that others had; or the same ones again."""
    with Bench(None, ENOUGH) as bench:
        case = new(xdpcases.NEW_EACH, version, ENOUGH)
        with pytest.raises(BenchError, match="records that none had before"):
            xdpcases.run(bench, case, case.flows)
        xdpcases.use_up(bench, case)
        assert bench.never_used(version) < abi.Limit.MAX_FLOW_SLOTS / 10
        for name, shared in ((xdpcases.NEW_EACH, False), (xdpcases.NEW_SAME, True)):
            case = new(name, version, ENOUGH)
            rounds = []
            for _ in range(2):
                xdpcases.run(bench, case, case.flows)
                rounds.append(clients(bench, version))
            assert all(len(each) == case.flows // CLIENT_PORTS for each in rounds)
            assert (rounds[0] == rounds[1]) is shared
            assert rounds[0].isdisjoint(rounds[1]) is not shared


def test_clients_come_again_when_all_were_there(bench: Bench) -> None:
    seen = [bench.fresh_client(4, 2 * CLIENT_PORTS) for _ in range(129)]
    assert len(set(seen)) == 128
    assert seen[0] == seen[128] == CLIENTS[4][0]
    assert bench.fresh_client(6, 1) == CLIENTS[6][0]


def test_more_flows_than_their_backend_has_records_for_are_refused() -> None:
    """They would push each other out, and what is called established would not be."""
    with Bench(None, 1, backends=1) as bench, pytest.raises(BenchError) as told:
        xdpcases.established(bench, xdptables.vip_of(4, 0), 65_536)
    assert Event.EVENT_EVICTED.name in str(told.value)


def test_a_service_with_a_table_spreads_over_all_its_backends() -> None:
    backends = 300
    with Bench(None, 1, backends=backends) as bench:
        vip = xdptables.vip_of(4, 0, Protocol.TCP)
        case = xdpcases.established(bench, vip, 8_192)
        xdpcases.run(bench, case, case.flows)
        flows = read_array(bench.maps["ct4"], dtype_of(abi.FLOW4))
    assert len(set(flows["backend"][flows["life"] & 1 != 0].tolist())) == backends


def test_a_flood_to_one_backend_ends_weak_flows_of_its_own_and_is_not_refused() -> None:
    """More flows than it can have ports: half-open ones go, and others' stretches stay empty."""
    packet, flows = FRAME[4], CLIENT_PORTS
    with Bench(None, 1, backends=1) as bench:
        for _ in range(4):
            before = bench.counted()
            fresh = from_client(packet, bench.fresh_client(4, flows))
            bench.run(ProgramKind.UPLINK, fresh, repeat=flows - BEFORE, flows=flows)
            told = grown(before, bench.counted())
            assert told.pop(Reason.VIP_NEW) == flows
            assert told.keys() <= {Event.EVENT_EVICTED}
        rows = read_array(bench.maps["ct4"], dtype_of(abi.FLOW4))
    living = rows[rows["life"] & 1 != 0]
    assert len(living) > 3 * 16_000
    assert (living["source_port"] < 16_384).sum() < 100
