"""The programs that walk conntrack (bpf/progs/sweep.bpf.c), and how they are told what to find.

The keys of a sweep are in a map of this process's own, so one sweep runs at a time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bpf import abi
from bpf.abi import SweepSide
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing, Map
from dataplane.drivers.libbpf_programs import Program, loaded
from dataplane.model.addr import IPAddress
from dataplane.model.conntrack import FlowState

EVERY_STATE = (1 << len(FlowState)) - 1
_PROGRAMS = {4: "millrace_swp4", 6: "millrace_swp6"}
_CLOCK_MONOTONIC_COARSE = 6
"""linux/time.h; Python has no name for it."""

_CHUNK = 65_536
"""Records of one run of the program: some milliseconds, between which others get the processor."""


def tick_s() -> float:
    """How long a tick of the programs' clock is [s]: 1/HZ of this kernel.

    Source: time(7): a coarse clock's resolution is the jiffy.
    """
    return time.clock_getres(_CLOCK_MONOTONIC_COARSE)


def mask_of(states: Iterable[FlowState]) -> int:
    """States as the programs take them."""
    return sum(1 << state for state in set(states))


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: flows that match by state, how many of them it ended, and the time."""

    live: Mapping[FlowState, int] = field(default_factory=dict)
    ended: int = 0
    tick: int = 0

    @property
    def total(self) -> int:
        """Flows that match."""
        return sum(self.live.values())

    def plus(self, other: Swept) -> Swept:
        """Both together, at the later's time."""
        live = {
            state: count
            for state in FlowState
            if (count := self.live.get(state, 0) + other.live.get(state, 0))
        }
        return Swept(live, self.ended + other.ended, other.tick)


def packed(address: IPAddress) -> bytes:
    """16 octets, as every `addr[16]` of the ABI."""
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


@dataclass(frozen=True, slots=True)
class End:
    """What a sweep looks for: one side of flows, in some states; what it does not name is zero."""

    side: SweepSide
    addr: bytes
    port: int = 0
    protocol: int = 0
    service_id: int = 0
    states: int = EVERY_STATE

    def key(self) -> bytes:
        """As the map of ends has it."""
        return abi.SWEEP_KEY.pack(
            addr=self.addr,
            service_id=self.service_id,
            port=self.port,
            proto=self.protocol,
            side=self.side,
        )


class Sweeps(Closing):
    """The two programs over the tables that `maps` are of.

    Raises:
        LibbpfError: they cannot be loaded; with the verifier's words.
    """

    def __init__(self, maps: Mapping[str, Map], objects: Path = OBJECT_DIRECTORY) -> None:
        self._sizes = {v: maps[f"ct{v}"].info.max_entries for v in _PROGRAMS}
        self._open = ExitStack()
        self._sweeping = threading.Lock()
        path = objects / "sweep.bpf.o"
        try:
            made = self._open.enter_context(
                loaded(path, {name: maps[name] for name in ("ct4", "ct6", "node")})
            )
            self._programs: dict[int, Program] = {
                version: self._open.enter_context(made.program(name))
                for version, name in _PROGRAMS.items()
            }
            self._ends = self._open.enter_context(made.map("sweep_ends"))
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Let go of the programs."""
        self._open.close()

    @property
    def room(self) -> int:
        """How many keys one sweep can look for."""
        return self._ends.info.max_entries

    def tick(self) -> int:
        """The programs' clock [ticks]."""
        return self._run(4, 0, 0, abi.SWEEP.pack()).tick

    def sweep(
        self,
        version: int,
        flags: int = 0,
        ends: Sequence[End] = (),
        states: int = EVERY_STATE,
        proto: int = 0,
    ) -> Swept:
        """One walk through a table.

        Args:
            version: which family's.
            flags: `abi.SweepFlag`.
            ends: what to find, at most `room` of them; none: every flow matches.
            states: a mask of states, whatever `ends` say.
            proto: a protocol's number; 0: any.
        """
        size = self._sizes[version]
        swept = Swept()
        sides = 0
        for end in ends:
            sides |= 1 << end.side
        with self._sweeping:
            self._fill_ends(ends)
            for first in range(0, size, _CHUNK):
                argument = abi.SWEEP.pack(flags=flags, sides=sides, states=states, proto=proto)
                swept = swept.plus(self._run(version, first, min(_CHUNK, size - first), argument))
        return swept

    def _fill_ends(self, ends: Sequence[End]) -> None:
        for key in list(self._ends.keys()):
            self._ends.delete(key)
        masks: dict[bytes, int] = {}
        for end in ends:
            key = end.key()
            masks[key] = masks.get(key, 0) | end.states
        self._ends.update_batch(
            [(key, mask.to_bytes(abi.U32, sys.byteorder)) for key, mask in masks.items()]
        )

    def _run(self, version: int, first: int, count: int, argument: bytes) -> Swept:
        fields = abi.SWEEP.unpack(argument) | {"first": first, "count": count}
        answer = abi.SWEEP.unpack(self._programs[version].call(abi.SWEEP.pack(**fields)))
        counts = np.frombuffer(answer["live"], np.uint32)
        live = {state: int(counts[state]) for state in FlowState if counts[state]}
        return Swept(live, answer["ended"], answer["tick"])
