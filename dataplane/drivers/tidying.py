"""The programs that clear what former flows left in conntrack's index (bpf/progs/tidy.bpf.c)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing, Map
from dataplane.drivers.libbpf_programs import Program, loaded

_PROGRAMS = {4: "millrace_tidy4", 6: "millrace_tidy6"}
_CHUNK = 16_384
"""Records of one run of a program: at some 80 ns for each that has a word, a millisecond."""


class Tidying(Closing):
    """The two programs over the tables that `maps` are of.

    A record's word is a cache line that the next flow's first packet would have to wait for. Who is
    ended in the middle of it leaves nothing half-done: a run of a program is the kernel's. What the
    programs work with is one CPU's, so one run is made at a time.

    Raises:
        LibbpfError: they cannot be loaded; with the verifier's words.
    """

    def __init__(self, maps: Mapping[str, Map], objects: Path = OBJECT_DIRECTORY) -> None:
        self._sizes = {version: maps[f"ct{version}"].info.max_entries for version in _PROGRAMS}
        self._tidying = threading.Lock()
        with loaded(objects / "tidy.bpf.o", maps) as made, ExitStack() as stack:
            self._programs: dict[int, Program] = {
                version: stack.enter_context(made.program(name))
                for version, name in _PROGRAMS.items()
            }
            self._open = stack.pop_all()

    def close(self) -> None:
        """Let go of the programs."""
        self._open.close()

    def run(self) -> int:
        """Clear all that is to be cleared, of both families; how many words it was."""
        cleared = 0
        with self._tidying:
            for version, program in self._programs.items():
                size = self._sizes[version]
                for first in range(0, size, _CHUNK):
                    told = abi.TIDY.pack(first=first, count=min(_CHUNK, size - first), cleared=0)
                    cleared += int(abi.TIDY.unpack(program.call(told))["cleared"])
        return cleared
