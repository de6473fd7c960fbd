"""Addresses as keys: equal ones have equal hashes, and copies are as good as the first."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from ipaddress import ip_address

from dataplane.model.addr import L4Addr, Protocol


def test_equal_ones_are_one_key_and_others_are_others() -> None:
    first = L4Addr(Protocol.TCP, ip_address("10.0.0.1"), 80)
    assert first == L4Addr(Protocol.TCP, ip_address("10.0.0.1"), 80)
    assert len({first, L4Addr(Protocol.TCP, ip_address("10.0.0.1"), 80)}) == 1
    others = {
        replace(first, port=81),
        replace(first, protocol=Protocol.UDP),
        replace(first, address=ip_address("10.0.0.2")),
        # The same number of another family.
        replace(first, address=ip_address("::a00:1")),
    }
    assert len(others) == 4
    assert first not in others


def test_a_copy_is_the_same_key_whether_it_was_one_before_or_not() -> None:
    for used in (False, True):
        first = L4Addr(Protocol.SCTP, ip_address("fd00::1"), 9)
        if used:
            hash(first)
        for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first)), replace(first)):
            assert {first: 1}[other] == 1
            assert repr(other) == repr(first)
