"""What is counted for services: by processor, summed, cleared, and taken along from former maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import numpy as np
import pytest

from bpf import abi
from dataplane.drivers.bpfstate import BpfState, version_directory
from dataplane.drivers.formermaps import COUNTS, FORMER, remove_former, take_counts
from dataplane.drivers.libbpf import Map, possible_cpus
from dataplane.drivers.mapbulk import update_keys
from dataplane.drivers.servicestats import FIELDS, clear_counts, read_counts, services_of
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.plan.capacity import map_sizes
from tests.bpf.world import WEB, To, World, from_client

pytestmark = pytest.mark.bpf

_PERCPU_ARRAY = 6


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
    clear_counts(world.maps, [services[0]])
    cleared = read_counts(world.maps)
    assert not cleared[services[0]].any()
    assert (cleared[services[1:]] == after[services[1:]]).all(), "others' are as they were"


def test_the_map_has_a_row_for_each_processor_and_way(bpf_root: str) -> None:
    sizes = map_sizes(ServicesConfig(flows=1024, services=100, backends=512))
    for _ in range(2):  # made, then found pinned
        with BpfState(bpf_root, sizes=sizes) as state:
            traffic = state.maps[abi.TRAFFIC]
            assert traffic.info.max_entries == possible_cpus() * 2 * 100
            assert services_of(traffic) == 100
            assert len(read_counts(state.maps)) == 100
            assert state.resized == {}


def former_map(services: int) -> Map:
    """As older programs had it: all counts of a service, by processor."""
    made = Map.create(_PERCPU_ARRAY, COUNTS, 4, 8 * len(FIELDS), services)
    values = np.zeros((services, possible_cpus(), len(FIELDS)), np.uint64)
    values[7, :, :] = np.arange(1, 1 + len(FIELDS))
    update_keys(made, np.arange(services, dtype=np.uint32), values)
    return made


def test_counts_of_a_former_map_are_taken_along_once(bpf_root: str) -> None:
    sizes = map_sizes(ServicesConfig(flows=1024, services=64, backends=512))
    with BpfState(bpf_root, sizes=sizes) as state:
        assert not take_counts(bpf_root, state.maps), "there is none"
        with former_map(128) as former:
            former.pin(version_directory(bpf_root) / COUNTS)
        assert take_counts(bpf_root, state.maps)
        rows = read_counts(state.maps)
        expected = [possible_cpus() * count for count in range(1, 1 + len(FIELDS))]
        assert rows[7].tolist() == expected
        assert np.flatnonzero(rows.any(axis=1)).tolist() == [7]
        assert not take_counts(bpf_root, state.maps), "again, by a daemon that died in between"
        assert read_counts(state.maps)[7].tolist() == expected
        assert remove_former(bpf_root) == [COUNTS]
        assert remove_former(bpf_root) == []
        assert not any((version_directory(bpf_root) / name).exists() for name in FORMER)


def test_counts_are_taken_from_an_older_versions_directory(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        older = version_directory(bpf_root).with_name("v2")
        older.mkdir(mode=0o700)
        with former_map(16) as former:
            former.pin(older / COUNTS)
        assert take_counts(bpf_root, state.maps)
        assert read_counts(state.maps)[7].any()
        assert remove_former(bpf_root) == [], "whole directories of versions go by themselves"
