"""The tables that are BPF maps: what is written is read back, by us and after a restart."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from bpf import abi
from dataplane.drivers.bpfmaps import (
    BackendTable,
    LocalAddressTable,
    MaglevMapTable,
    NodeTable,
    VipTable,
    held_ids,
    service_stats,
)
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.drivers.libbpf import MAP_TYPE_ARRAY, Map
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol
from dataplane.model.rows import (
    BackendEntry,
    LocalAddress,
    MaglevTable,
    NodeEntry,
    ProgramKind,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.plan.maglev import maglev_table
from dataplane.ports import AbiMismatch, CapabilityMissing
from tests.bpf.world import VIP_TCP, VIP_UDP, WEB, WEB_TWO, World, from_client

pytestmark = pytest.mark.bpf


@pytest.fixture
def state(bpf_root: str) -> Iterator[BpfState]:
    with BpfState(bpf_root) as made:
        yield made


VIPS = {
    VIP_TCP: VipEntry(1, VipFlag.SNAT),
    VIP_UDP: VipEntry(2, VipFlag(0)),
    L4Addr(Protocol.TCP, IPv4Address("255.255.255.254"), 65535): VipEntry(
        16383, VipFlag.SNAT | VipFlag.NO_BACKEND
    ),
}
BACKENDS = {
    number: BackendEntry(target, place)
    for number, (target, place) in enumerate(
        zip([WEB, WEB_TWO, VIP_UDP, VIP_TCP], Place, strict=True), 1
    )
}
MAGLEV = {1: MaglevTable(maglev_table([(1, WEB), (2, WEB_TWO)])), 16383: MaglevTable(bytes(16372))}
ADDRESSES: dict[IPAddress, LocalAddress] = {
    IPv4Address("172.18.0.11"): LocalAddress(),
    IPv6Address("fd00::11"): LocalAddress(),
    IPv6Address("::1"): LocalAddress(),
}
NODE = {
    0: NodeEntry(
        IPv4Address("100.64.255.1"),
        Mac("0a:58:64:40:ff:01"),
        Mac("0a:58:ac:12:00:6f"),
        7,
        Mac("02:00:00:00:00:0a"),
    )
}
TABLES: list[tuple[type[Any], dict[Any, Any]]] = [
    (VipTable, VIPS),
    (BackendTable, BACKENDS),
    (MaglevMapTable, MAGLEV),
    (LocalAddressTable, ADDRESSES),
    (NodeTable, NODE),
]


@pytest.mark.parametrize(("kind", "rows"), TABLES, ids=lambda value: getattr(value, "name", ""))
def test_rows_come_back_as_they_were_written(
    state: BpfState, kind: type[Any], rows: dict[Any, Any]
) -> None:
    table = kind(state)
    assert table.observe() == {}
    assert table.upsert(list(rows.items())) == {}
    assert table.observe() == rows
    assert kind(state).observe() == rows
    assert table.delete(list(rows)) == {}
    assert table.delete(list(rows)) == {}
    assert table.observe() == {}


def test_ids_are_read_back_after_a_restart(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        VipTable(state).upsert(list(VIPS.items()))
        BackendTable(state).upsert(list(BACKENDS.items()))
    with BpfState(bpf_root) as state:
        held = held_ids(state)
        assert held.services == {vip: entry.service_id for vip, entry in VIPS.items()}
        assert held.backends == {entry.target: number for number, entry in BACKENDS.items()}


def test_many_rows_come_back(state: BpfState) -> None:
    rows = {
        L4Addr(Protocol.TCP, IPv4Address(0x0A000000 + number), 80): VipEntry(number, VipFlag.SNAT)
        for number in range(1, 10_001)
    }
    table = VipTable(state)
    assert table.upsert(list(rows.items())) == {}
    assert table.observe() == rows


def test_of_too_many_rows_those_that_do_not_fit_are_named(state: BpfState) -> None:
    size = abi.Limit.MAX_LOCAL_ADDRESSES
    rows: list[tuple[IPAddress, LocalAddress]] = [
        (IPv4Address(0x0A000000 + number), LocalAddress()) for number in range(size + 5)
    ]
    failures = LocalAddressTable(state).upsert(rows)
    assert {key for key, _ in rows[size:]} == set(failures)
    assert failures[rows[size][0]].reason == f"map local_addresses is full ({size} entries)"


def test_a_table_of_another_size_is_refused(state: BpfState) -> None:
    assert "not 16372" in MaglevMapTable(state).upsert([(1, MaglevTable(b"\0" * 4))])[1].reason


def test_a_new_table_takes_the_place_of_the_old_in_one_step(state: BpfState) -> None:
    table = MaglevMapTable(state)
    outer, key = state.maps["maglev"], struct.pack("=I", 1)
    table.upsert([(1, MaglevTable(maglev_table([(1, WEB)])))])
    old = outer.lookup(key)
    table.upsert([(1, MaglevTable(maglev_table([(2, WEB)])))])
    assert outer.lookup(key) not in (None, old)
    assert table.observe()[1] == MaglevTable(maglev_table([(2, WEB)]))


def test_a_table_that_another_process_put_is_read_anew(state: BpfState) -> None:
    mine, theirs = MaglevMapTable(state), MaglevMapTable(state)
    mine.upsert([(1, MAGLEV[1])])
    theirs.upsert([(1, MAGLEV[16383])])
    assert mine.observe() == {1: MAGLEV[16383]}


def test_statistics_begin_anew_with_a_service(world: World) -> None:
    service_id = world.vips.observe()[VIP_TCP].service_id
    world.arrive(from_client())
    assert service_stats(world.state)[service_id].forward.packets
    world.vips.delete([VIP_TCP])
    assert service_id not in service_stats(world.state)


def test_all_state_survives_a_restart(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        before = {name: found.info.id for name, found in state.maps.items()}
    with BpfState(bpf_root) as state:
        assert {name: found.info.id for name, found in state.maps.items()} == before


def test_a_lost_pin_is_made_again(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        (state.directory / "vips").unlink()
        (state.directory / "tx_ports").unlink()
    with BpfState(bpf_root) as state:
        assert (state.directory / "vips").exists()
        assert (state.directory / "tx_ports").exists()
        assert state.program_info(ProgramKind.UPLINK).map_ids


def test_a_pinned_map_of_another_layout_is_refused(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        directory = state.directory
    (directory / "backends").unlink()
    with Map.create(MAP_TYPE_ARRAY, "backends", 4, 12, 8) as wrong:
        wrong.pin(directory / "backends")
    with pytest.raises(AbiMismatch, match=r"backends.*remove .*/v1 and start it again"):
        BpfState(bpf_root)


def test_a_directory_that_is_on_no_bpf_filesystem_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityMissing, match="mount -t bpf bpf"):
        BpfState(str(tmp_path / "node"))


def test_after_down_no_pin_is_left(bpffs: Path) -> None:
    root = bpffs / "gone"
    BpfState(str(root)).close()
    remove_pins(str(root))
    assert not root.exists()
    remove_pins(str(root))
