"""The doctor's look at a node's certificates."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from controller.doctor_ovn import DAY_S, problems
from dataplane.drivers.ovsdb_tls import Tls
from tests.labs.authority import Authority, Identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "ca")


def found(identity: Identity, later_days: int = 0) -> list[str]:
    tls = Tls(identity.key, identity.certificate, identity.authority)
    return list(problems(tls, "node1", time.time() + later_days * DAY_S))


def test_good_ones_are_good_until_two_weeks_before_their_end(authority: Authority) -> None:
    good = authority.identity("node1", days=100)
    assert found(good) == []
    assert found(good, 85) == []
    assert found(good, 90) == [f"{good.certificate} expires in 9 days"]
    assert found(good, 101) == [f"{good.certificate} has expired"]
    assert len(found(good, 3651)) == 2


def test_another_nodes_is_named(authority: Authority) -> None:
    other = authority.identity("node2", days=100)
    assert found(other) == [
        f"{other.certificate} is of 'node2', and this node is 'node1': the southbound database's "
        "roles go by that"
    ]


def test_files_that_are_not_what_they_should_be(authority: Authority, tmp_path: Path) -> None:
    good, nowhere = authority.identity("node1", days=100), str(tmp_path / "nowhere.pem")
    assert found(Identity(nowhere, good.certificate, good.authority)) == [
        f"private_key {nowhere}: No such file or directory; put it there, or correct the path"
    ]
    assert "is no PEM file" in found(Identity(good.key, __file__, good.authority))[0]
