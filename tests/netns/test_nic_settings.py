"""The table `nics` on veths: MTU, queues and deferral of interrupts are set, found, put back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from dataplane.drivers import nicsettings
from dataplane.drivers.netns import inside_named
from dataplane.drivers.nicsettings import BUSY, NicsTable, deferral, mtu_of, queues_of
from dataplane.model.rows import NicSettings
from dataplane.plan.mtu import AF_XDP_MTU
from tests.labs.netns import Namespace, receive_transmitted, sweep, veth

T = TypeVar("T")

pytestmark = pytest.mark.netns
Inside = Callable[[Callable[[], T]], T]


@pytest.fixture
def space() -> Iterator[Namespace]:
    sweep("mrtns")
    made, other = Namespace("mrtns-a").create(), Namespace("mrtns-b").create()
    try:
        veth(made, "eth1", other, "far1", queues=2)
        yield made
    finally:
        sweep("mrtns")


@pytest.fixture
def table(tmp_path: Path) -> NicsTable:
    return NicsTable(tmp_path / "nic-settings.json")


def test_what_is_told_is_found_and_put_back(space: Namespace, table: NicsTable) -> None:
    def work() -> None:
        wanted = NicSettings(3000, 1, busy_poll=True)
        assert table.observe() == {}
        assert table.upsert([("eth1", wanted)]) == {}
        assert table.observe() == {"eth1": wanted}
        assert (mtu_of("eth1"), queues_of("eth1"), deferral("eth1")) == (3000, 1, BUSY)
        # Somebody else's hand is seen.
        nicsettings.set_mtu("eth1", 1400)
        assert table.observe()["eth1"].mtu == 1400
        assert table.upsert([("eth1", wanted)]) == {}
        assert mtu_of("eth1") == 3000
        assert table.delete(["eth1"]) == {}
        assert table.observe() == {}
        assert (mtu_of("eth1"), queues_of("eth1")) == (1500, 2)
        assert set(deferral("eth1").values()) == {0}

    inside_named(space.name, work)


def test_what_is_no_longer_asked_for_goes_back_alone(space: Namespace, table: NicsTable) -> None:
    def work() -> None:
        table.upsert([("eth1", NicSettings(3000, 2, busy_poll=True))])
        table.upsert([("eth1", NicSettings(None, 2, busy_poll=False))])
        assert mtu_of("eth1") == 1500
        assert set(deferral("eth1").values()) == {0}
        assert table.observe() == {"eth1": NicSettings(None, 2, busy_poll=False)}

    inside_named(space.name, work)


def test_a_crash_between_record_and_change_loses_nothing(
    space: Namespace, table: NicsTable, tmp_path: Path
) -> None:
    record = tmp_path / "nic-settings.json"
    record.write_text(json.dumps({"eth1": {"mtu": 1500, "queues": 2}}))

    def work() -> None:
        wanted = NicSettings(2000, 2, busy_poll=False)
        assert table.observe() == {"eth1": NicSettings(1500, 2, busy_poll=False)}
        table.upsert([("eth1", wanted)])
        table.delete(["eth1"])
        assert mtu_of("eth1") == 1500

    inside_named(space.name, work)


def test_what_the_device_refuses_and_what_is_not_there(space: Namespace, table: NicsTable) -> None:
    def work() -> None:
        failures = table.upsert(
            [("eth1", NicSettings(None, 64, busy_poll=False)),
             ("eth9", NicSettings(1500, 1, busy_poll=False))]
        )  # fmt: skip
        assert failures["eth1"].reason.startswith("eth1 does not take 64 receive queues")
        assert failures["eth9"].waiting
        assert table.delete(["eth9"]) == {}

    inside_named(space.name, work)


def test_the_largest_mtu_of_a_device_with_a_program_is_the_one_that_is_refused_beyond(
    space: Namespace,
) -> None:
    """AF_XDP_MTU is the kernel's own limit for a veth whose other end has a program."""
    receive_transmitted(space, "eth1")
    other = Namespace("mrtns-b")

    def work() -> None:
        nicsettings.set_mtu("far1", AF_XDP_MTU)
        with pytest.raises(OSError, match="far1 does not take an MTU of"):
            nicsettings.set_mtu("far1", AF_XDP_MTU + 1)

    inside_named(other.name, work)
