"""The stack of every program as kernel 6.1, our floor, counts it: all frames of a chain of calls.

Source: kernel/bpf/verifier.c, check_max_stack_depth. Up to 6.8 a frame has 32 octets at least and
is rounded up to them; later kernels with a JIT round to 16, and so take what this one refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Symbol

from bpf.objects import OBJECT_DIRECTORY

pytestmark = pytest.mark.abi

LIMIT, ROUNDED_TO, CALLS_MAX = 512, 32, 8
"""MAX_BPF_STACK and the rounding [octets]; MAX_CALL_FRAMES."""

_SIZE = 8
_CALL, _LOAD_64, _MOVE, _ADD = 0x85, 0x18, 0xBF, 0x07
_CLASS, _LOAD, _STORE, _STORE_REGISTER = 0x07, 1, 2, 3
_FRAME_POINTER = 10
_PSEUDO_CALL = 1
"""uapi linux/bpf.h: BPF_PSEUDO_CALL, what it is told from a helper by."""


Place = tuple[int, int]
"""A function: its section, and its offset there."""


@dataclass(slots=True)
class Function:
    """One function: its frame [octets], and what it calls or has a helper call."""

    name: str
    frame: int
    calls: set[Place] = field(default_factory=set)


def _instructions(code: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Opcode, destination, source, offset, immediate."""
    for opcode, registers, offset, value in struct.iter_unpack("<BBhi", code):
        yield opcode, registers & 15, registers >> 4, offset, value


def _frame(code: bytes) -> int:
    """What is read or written below the frame pointer, by it or by an address made of it."""
    lowest, copies = 0, set()
    for opcode, to, source, offset, value in _instructions(code):
        base = {_LOAD: source, _STORE: to, _STORE_REGISTER: to}.get(opcode & _CLASS)
        if base == _FRAME_POINTER:
            lowest = min(lowest, offset)
        if opcode == _ADD and to in copies:
            lowest = min(lowest, value)
        copies.discard(to)
        if opcode == _MOVE and source == _FRAME_POINTER:
            copies.add(to)
    return -lowest


def functions_of(path: Path) -> dict[Place, Function]:
    """The functions of an object."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        symbols = list(elf.get_section_by_name(".symtab").iter_symbols())
        found = {}
        for symbol in symbols:
            if symbol["st_info"]["type"] == "STT_FUNC":
                section, at = symbol["st_shndx"], symbol["st_value"]
                code = elf.get_section(section).data()[at : at + symbol["st_size"]]
                found[section, at] = Function(symbol.name, _frame(code))
        for index in {section for section, _ in found}:
            section = elf.get_section(index)
            relocations = elf.get_section_by_name(f".rel{section.name}")
            named = {
                entry["r_offset"]: symbols[entry["r_info_sym"]]
                for entry in (relocations.iter_relocations() if relocations else ())
            }
            for caller, called in _calls(section.data(), index, named):
                owner = max(place for place in found if place <= (index, caller))
                if called in found:
                    found[owner].calls.add(called)
    return found


def _calls(code: bytes, index: int, named: dict[int, Symbol]) -> Iterator[tuple[int, Place]]:
    """Where a section calls, or names for a helper to call, and what."""
    for number, (opcode, _, source, _, value) in enumerate(_instructions(code)):
        at = number * _SIZE
        symbol = named.get(at)
        if opcode == _CALL and source == _PSEUDO_CALL:
            if symbol is None:
                yield at, (index, at + _SIZE + value * _SIZE)
                continue
            # Of a section's symbol the immediate says the rest, in instructions.
            inside = symbol["st_info"]["type"] == "STT_SECTION"
            start = symbol["st_value"] + (value + 1) * _SIZE * inside
            yield at, (symbol["st_shndx"], start)
        elif opcode == _LOAD_64 and symbol is not None:
            yield at, (symbol["st_shndx"], symbol["st_value"] + value)


def deepest(found: dict[Place, Function], place: Place) -> tuple[int, list[str]]:
    """The stack of the chain of calls from here that has the most, and the chain."""
    function = found[place]
    mine = max(-(-function.frame // ROUNDED_TO), 1) * ROUNDED_TO
    below, chain = max((deepest(found, called) for called in function.calls), default=(0, []))
    return mine + below, [f"{function.name} ({function.frame})", *chain]


OBJECTS = [
    *("adopt", "host", "perf_peers", "perf_wrapper", "qos", "sock", "sockpeers"),
    *("svc", "sweep", "tidy", "trunk", "uplink"),
]


@pytest.mark.parametrize("name", OBJECTS)
def test_every_chain_of_calls_has_room_on_the_oldest_kernel(name: str) -> None:
    found = functions_of(OBJECT_DIRECTORY / f"{name}.bpf.o")
    assert found
    for place in found:
        octets, chain = deepest(found, place)
        assert octets <= LIMIT, f"{octets} octets: {' -> '.join(chain)}"
        assert len(chain) <= CALLS_MAX, " -> ".join(chain)


def test_calls_are_seen_at_all() -> None:
    """Else the one above would say yes to everything."""
    found = functions_of(OBJECT_DIRECTORY / "uplink.bpf.o")
    names = {function.name: function for function in found.values()}
    called = {found[place].name for place in names["open6"].calls}
    assert {"ct6_begin", "ct6_enter"} <= called
    walked = {found[place].name for place in names["pick"].calls}
    assert walked == {"pick_step"}, "what a helper calls back is a call as well"
