"""The word by which a chassis gives its VIPs away reaches OVN, and goes again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.drivers import withdrawal
from dataplane.drivers.ovsdb import Ovs
from tests.labs.ovnsandbox import OvnSandbox, wait_until


@pytest.fixture
def chassis(ovn: OvnSandbox) -> Iterator[Ovs]:
    ovn.sbctl("chassis-del", "n1")
    ovn.start_chassis("n1", "127.0.0.1", "phys", "br-ex")
    connection = Ovs(f"unix:{ovn.directory}/db.sock")
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def options(ovn: OvnSandbox) -> str:
    """What every node reads of the chassis."""
    return ovn.sbctl(
        "--if-exists", "get", "Chassis", "n1", "other_config:ovn-cms-options"
    ).strip().strip('"')  # fmt: skip


def test_the_word_reaches_every_node_and_others_words_stay(ovn: OvnSandbox, chassis: Ovs) -> None:
    ovn.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-cms-options=card")
    wait_until("ovn-controller tells of it", lambda: options(ovn) == "card")
    assert withdrawal.mark(chassis, withdrawn=True)
    wait_until("it is told", lambda: options(ovn) == "card,millrace-withdrawn")
    assert withdrawal.mark(chassis, withdrawn=True)
    assert withdrawal.mark(chassis, withdrawn=False)
    wait_until("it is taken back", lambda: options(ovn) == "card")


def test_a_list_that_the_file_names_is_left_alone(ovn: OvnSandbox, chassis: Ovs) -> None:
    ovn.vsctl(
        "set", "Open_vSwitch", ".", "external_ids:ovn-cms-options=card",
        'external_ids:millrace-keys="v2 external_ids:ovn-cms-options"',
    )  # fmt: skip
    wait_until("ovn-controller tells of it", lambda: options(ovn) == "card")
    assert not withdrawal.mark(chassis, withdrawn=True)
    assert withdrawal.mark(chassis, withdrawn=False)
    assert options(ovn) == "card"
