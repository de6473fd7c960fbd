"""The trunk's programs without a network: what they drop and count; maps, pins and their codec."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers.libbpf import LibbpfError, Map
from dataplane.drivers.trunkmaps import (
    POD,
    PODS,
    PORTS,
    TRUNK,
    PodEnd,
    PodTag,
    TrunkMaps,
    TrunkReason,
    decode_end,
    decode_tag,
    directory,
    encode_end,
    encode_tag,
    number,
)
from dataplane.plan.trunk import MAX_TAG

SHOT, REDIRECT = 2, 7
MACS = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02"
PLAIN = MACS + b"\x08\x00" + bytes(60)


@pytest.fixture
def maps(bpf_root: str) -> Iterator[TrunkMaps]:
    with TrunkMaps(bpf_root) as opened:
        yield opened


def test_entries_survive_their_codec_and_have_the_programs_sizes(maps: TrunkMaps) -> None:
    for end in (PodEnd(7, limited=False), PodEnd(2**32 - 1, limited=True), None):
        assert decode_end(encode_end(end)) == end
    tag = PodTag(3, MAX_TAG)
    assert decode_tag(encode_tag(tag)) == tag
    assert maps.maps[PODS].info.value_size == len(encode_end(None))
    assert maps.maps[PORTS].info.value_size == len(encode_tag(tag))
    assert maps.maps[PODS].info.max_entries > MAX_TAG


def test_who_opens_it_again_finds_the_entries(maps: TrunkMaps, bpf_root: str) -> None:
    maps.maps[PODS].update(number(5), encode_end(PodEnd(9, limited=True)))
    maps.maps[PORTS].update(number(9), encode_tag(PodTag(2, 5)))
    with TrunkMaps(bpf_root) as again:
        assert again.ends() == {5: PodEnd(9, limited=True)}
        assert again.ports() == {9: PodTag(2, 5)}
        assert again.ids == maps.ids
        assert again.tags == maps.tags


def test_a_pinned_map_of_another_layout_is_refused(bpf_root: str) -> None:
    where = directory(bpf_root)
    where.mkdir(parents=True)
    with Map.create(2, PODS, 4, 16, 4096) as other:
        other.pin(where / PODS)
    with pytest.raises(LibbpfError, match=PODS):
        TrunkMaps(bpf_root)


@pytest.mark.parametrize("ethertype", [b"\x81\x00", b"\x88\xa8"])
def test_a_pod_cannot_choose_its_tag(maps: TrunkMaps, ethertype: bytes) -> None:
    index = socket.if_nametoindex("lo")
    maps.maps[PORTS].update(number(index), encode_tag(PodTag(index, 5)))
    frame = MACS + ethertype + b"\x00\x07\x08\x00" + bytes(60)
    assert maps.programs[POD].run(frame).action == SHOT
    assert maps.counted()[TrunkReason.POD_TAGGED].packets == 1


def test_a_pod_without_a_tag_is_not_heard(maps: TrunkMaps) -> None:
    assert maps.programs[POD].run(PLAIN).action == SHOT
    assert set(maps.counted()) == {TrunkReason.POD_UNKNOWN}


def test_a_pods_frame_leaves_by_the_trunk(maps: TrunkMaps) -> None:
    index = socket.if_nametoindex("lo")
    maps.maps[PORTS].update(number(index), encode_tag(PodTag(index, 5)))
    assert maps.programs[POD].run(PLAIN).action == REDIRECT
    passed = maps.counted()
    assert set(passed) == {TrunkReason.TO_TRUNK}
    assert passed[TrunkReason.TO_TRUNK].octets == len(PLAIN)  # the tag is beside it


def test_what_ovs_sends_without_a_tag_is_nobodys(maps: TrunkMaps) -> None:
    assert maps.programs[TRUNK].run(PLAIN).action == SHOT
    assert set(maps.counted()) == {TrunkReason.TRUNK_UNTAGGED}


def test_the_reasons_are_as_many_as_the_programs(maps: TrunkMaps) -> None:
    assert maps.maps["trunk_counters"].info.max_entries == len(TrunkReason)
    assert ctypes.sizeof(ctypes.c_uint64) * 2 == maps.maps["trunk_counters"].info.value_size


def test_nothing_is_pinned_elsewhere(maps: TrunkMaps, bpf_root: str) -> None:
    pins = {path.name for path in Path(bpf_root).rglob("*") if path.is_file()}
    assert pins == set(maps.maps)
