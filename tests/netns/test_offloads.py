"""Receive offloads of a real veth: off while the row is there, as before when it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from dataplane.drivers.offloads import OffloadsTable, harmful_features, switch_features
from dataplane.model.rows import ReceiveOffloads
from dataplane.ports import ObserveError

DEVICE, PEER = "mroff0", "mroff1"
BOTH = frozenset({"rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"})


@pytest.fixture
def device() -> Iterator[str]:
    with IPRoute() as netlink:
        netlink.link("add", ifname=DEVICE, kind="veth", peer=PEER)
        try:
            switch_features(DEVICE, BOTH, on=True)
            yield DEVICE
        finally:
            netlink.link("del", ifname=DEVICE)


def test_what_changes_frames_is_off_while_the_row_is_there(device: str, tmp_path: Path) -> None:
    table = OffloadsTable(tmp_path / "offloads.json")
    assert harmful_features(device) == BOTH
    assert table.observe() == {}
    assert table.upsert([(device, ReceiveOffloads())]) == {}
    assert harmful_features(device) == frozenset()
    assert table.observe() == {device: ReceiveOffloads()}


def test_a_restarted_daemon_puts_back_only_what_was_on(device: str, tmp_path: Path) -> None:
    switch_features(device, frozenset({"rx-vlan-stag-hw-parse"}), on=False)
    OffloadsTable(tmp_path / "offloads.json").upsert([(device, ReceiveOffloads())])
    again = OffloadsTable(tmp_path / "offloads.json")
    assert again.observe() == {device: ReceiveOffloads()}
    assert again.delete([device]) == {}
    assert harmful_features(device) == {"rx-vlan-hw-parse"}
    assert again.observe() == {}


def test_somebody_who_switches_it_on_again_is_noticed(device: str, tmp_path: Path) -> None:
    table = OffloadsTable(tmp_path / "offloads.json")
    table.upsert([(device, ReceiveOffloads())])
    switch_features(device, frozenset({"rx-vlan-hw-parse"}), on=True)
    assert table.observe() == {}
    table.upsert([(device, ReceiveOffloads())])
    assert harmful_features(device) == frozenset()
    table.delete([device])
    assert harmful_features(device) == BOTH


def test_a_missing_device_waits_and_its_removal_succeeds(tmp_path: Path) -> None:
    table = OffloadsTable(tmp_path / "offloads.json")
    failures = table.upsert([("mroffgone", ReceiveOffloads())])
    assert failures["mroffgone"].waiting
    assert "mroffgone" in failures["mroffgone"].reason
    assert table.delete(["mroffgone"]) == {}


def test_a_spoilt_record_is_named(tmp_path: Path) -> None:
    record = tmp_path / "offloads.json"
    record.write_text("{")
    with pytest.raises(ObserveError, match=r"offloads\.json.*remove it"):
        OffloadsTable(record).observe()
