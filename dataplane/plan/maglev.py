"""Maglev's consistent hashing: which backend each slot of a service's table belongs to.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
section 3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dataplane.model.addr import L4Addr
from dataplane.model.names import MAGLEV_SIZE

_EMPTY = -1


def _walk(target: L4Addr, size: int) -> tuple[int, int]:
    """Where a backend's permutation of the slots begins, and its step.

    From the target's text and not from its id: ids are each node's own, and all nodes have to
    agree on the table, so that a flow which moves to another node keeps its backend.
    """
    digest = hashlib.blake2b(str(target).encode(), digest_size=16).digest()
    offset, step = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
    return offset % size, step % (size - 1) + 1


def _owners(targets: Sequence[L4Addr], size: int) -> list[int]:
    """The index of the target that owns each slot: each takes its next free slot in turn."""
    owners = [_EMPTY] * size
    walks = [_walk(target, size) for target in targets]
    at, steps = [offset for offset, _ in walks], [step for _, step in walks]
    turns, left = range(len(targets)), size
    while True:
        for turn in turns:
            slot, step = at[turn], steps[turn]
            while owners[slot] >= 0:
                slot = (slot + step) % size
            owners[slot] = turn
            at[turn] = slot
            left -= 1
            if not left:
                return owners


@lru_cache(maxsize=16_384)
def _table(backends: tuple[tuple[L4Addr, int], ...], size: int) -> bytes:
    ids = np.array([number for _, number in backends] or [0], dtype=np.uint32)
    if len(backends) < 2:
        return ids.repeat(size).tobytes()
    owners = np.array(_owners([target for target, _ in backends], size), dtype=np.intp)
    return ids[owners].tobytes()


def maglev_table(backends: Sequence[tuple[int, L4Addr]], size: int = MAGLEV_SIZE) -> bytes:
    """The table of a service: uint32[size] backend ids, host byte order.

    Depends on the set of backends only, not on their order. Kept for the sets seen last, because
    a plan is computed whole each time. All slots are 0 without backends.

    Args:
        backends: (id, target) pairs; no target twice.
        size: how many slots; a prime.
    """
    return _table(tuple(sorted((target, number) for number, target in backends)), size)
