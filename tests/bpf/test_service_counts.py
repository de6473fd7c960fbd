"""What is counted for services: by processor, summed, cleared; how large its maps are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest

from bpf import abi
from controller import doctor
from dataplane.drivers.bpfmaps import held_ids
from dataplane.drivers.bpfstate import BpfState, version_directory
from dataplane.drivers.formermaps import FORMER, remove_former
from dataplane.drivers.libbpf import Map, possible_cpus
from dataplane.drivers.mapbulk import update_keys
from dataplane.drivers.servicestats import FIELDS, clear_counts, read_counts, services_of
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import ProgramKind
from dataplane.plan.capacity import map_sizes
from perf import xdptables
from perf.xdpbench import Bench
from perf.xdpframes import frame
from tests.bpf.world import WEB, To, World, from_client
from tests.unit.test_doctor import outcome, site

pytestmark = pytest.mark.bpf

_ARRAY = 2


@contextmanager
def on_cpu(number: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def vip(number: int) -> L4Addr:
    return L4Addr(Protocol.TCP, IPv4Address("10.96.0.0") + number, 80)


def test_each_processor_counts_for_itself_and_all_are_summed(world: World) -> None:
    services = [world.serve(vip(number), [To(WEB)]) for number in (1, 2, 3)]
    packets, new = FIELDS.index("forward_packets"), FIELDS.index("new_flows")
    before = read_counts(world.maps)
    cpus = sorted(os.sched_getaffinity(0))
    for cpu in cpus:
        with on_cpu(cpu):
            for number in (1, 2):
                world.deliver(from_client(vip(number), port=20_000 + 100 * number + cpu))
    after = read_counts(world.maps)
    gained = (after - before)[services][:, [packets, new]].tolist()
    assert gained == [[len(cpus)] * 2, [len(cpus)] * 2, [0, 0]]


def test_what_was_counted_for_a_service_is_cleared_and_for_no_other(world: World) -> None:
    traffic, events = world.maps[abi.TRAFFIC], world.maps["service_events"]
    for one in (traffic, events):
        keys = np.arange(one.info.max_entries, dtype=np.uint32)
        update_keys(one, keys, np.ones((len(keys), one.value_size // 8), np.uint64))
    cpus = possible_cpus()
    full = read_counts(world.maps)
    assert (full == cpus).all()
    clear_counts(world.maps, [])
    assert (read_counts(world.maps) == full).all()
    clear_counts(world.maps, [3, 7, services_of(world.maps) + 1])
    cleared = np.flatnonzero((read_counts(world.maps) != full).any(axis=1)).tolist()
    assert cleared == [3, 7]
    assert not read_counts(world.maps)[[3, 7]].any()
    clear_counts(world.maps, range(len(full)))
    assert not read_counts(world.maps).any()


def test_the_map_has_a_row_for_each_processor_and_way(bpf_root: str) -> None:
    sizes = map_sizes(ServicesConfig(flows=1024, services=100, backends=512))
    for _ in range(2):  # made, then found pinned
        with BpfState(bpf_root, sizes=sizes) as state:
            traffic = state.maps[abi.TRAFFIC]
            assert traffic.info.max_entries == possible_cpus() * 2 * 100
            assert services_of(state.maps) == 100
            assert len(read_counts(state.maps)) == 100
            assert state.resized == {}


def test_pins_of_former_maps_are_removed(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        assert remove_former(bpf_root) == [], "there are none"
        directory = version_directory(bpf_root)
        for name in FORMER:
            with Map.create(_ARRAY, name, 4, 8, 16) as former:
                former.pin(directory / name)
        assert remove_former(bpf_root) == list(FORMER)
        assert sorted(path.name for path in directory.iterdir() if path.is_file()) == sorted(
            set(abi.MAPS) & set(state.maps)
        )


def test_counts_have_the_services_that_pinned_maps_have(bpf_root: str) -> None:
    """Made anew beside maps of a build that had others for it, whatever the configuration says."""
    small, large = (
        map_sizes(ServicesConfig(flows=1024, services=services, backends=512))
        for services in (64, 4096)
    )
    with BpfState(bpf_root, sizes=small):
        pass
    for name in ("service_events", abi.TRAFFIC):
        (version_directory(bpf_root) / name).unlink()
    with BpfState(bpf_root, sizes=large) as state:
        assert state.maps["sets"].info.max_entries == 2 * 64
        assert services_of(state.maps) == 64
        assert held_ids(state).max_services == 63


def test_benchmarks_of_many_services_count_each_for_itself() -> None:
    many = 10_000
    packet = frame(xdptables.vip_of(4, 0))
    with Bench(None, many) as bench, on_cpu(max(os.sched_getaffinity(0))):
        bench.run(ProgramKind.UPLINK, packet, repeat=many - 2, services=many)
        counts = read_counts(bench.maps)
        assert counts[1 : 1 + many, FIELDS.index("forward_packets")].tolist() == [1] * many
        assert not counts[1 + many :].any()
        assert bench.maps[abi.TRAFFIC].info.max_entries == 2 * possible_cpus() * 32_768


def pinned_maps(bpf_root: str, rundir: Path) -> doctor.Finding:
    where = site(rundir)
    return outcome("pinned maps", replace(where, config=replace(where.config, bpf_root=bpf_root)))


def test_the_doctor_takes_maps_of_any_size_and_names_another_layout(
    bpf_root: str, tmp_path: Path
) -> None:
    with BpfState(bpf_root, sizes=map_sizes(ServicesConfig(flows=1024, services=100))):
        pass
    assert pinned_maps(bpf_root, tmp_path).state == "ok"
    path = version_directory(bpf_root) / "service_events"
    path.unlink()
    with Map.create(_ARRAY, path.name, 4, 8, 100) as other:
        other.pin(path)
    found = pinned_maps(bpf_root, tmp_path)
    assert found.state == "fail"
    assert str(path) in found.cause
