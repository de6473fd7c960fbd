"""Filters before hash maps: arrays of bits, in which a clear bit says that no key hashes there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from bpf import abi
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import read_array, update_keys


class Filter:
    """One bit for each hash of a key, set while any key has it. Keys are given by their bits."""

    def __init__(self, held: Map) -> None:
        self._map = held
        self._uses: Counter[int] = Counter()
        self._words = np.zeros(abi.Limit.FILTER_BITS // 64, np.uint64)

    def reset(self, bits: Iterable[int]) -> None:
        """Make the map equal to these keys, if it is not."""
        uses = Counter(bits)
        words = np.zeros_like(self._words)
        used = np.fromiter(uses, np.uint64, len(uses))
        np.bitwise_or.at(words, used // 64, np.uint64(1) << (used % 64))
        self._uses, self._words = uses, words
        held = read_array(self._map, np.dtype(np.uint64))
        wrong = np.flatnonzero(held != words).astype(np.uint32)
        if len(wrong):
            update_keys(self._map, wrong, np.ascontiguousarray(words[wrong]))

    def add(self, bits: Iterable[int]) -> None:
        """Keys are about to be put in: before their entries."""
        self._change(bits, 1)

    def remove(self, bits: Iterable[int]) -> None:
        """Keys were taken out: after their entries."""
        self._change(bits, -1)

    def _change(self, bits: Iterable[int], by: int) -> None:
        touched = set()
        for bit in bits:
            self._uses[bit] += by
            word, mask = bit // 64, np.uint64(1 << (bit % 64))
            if self._uses[bit] > 0:
                self._words[word] |= mask
            else:
                del self._uses[bit]
                self._words[word] &= ~mask
            touched.add(word)
        if touched:
            keys = np.array(sorted(touched), np.uint32)
            update_keys(self._map, keys, np.ascontiguousarray(self._words[keys]))
