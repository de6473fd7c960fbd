"""The program that makes flows of another version's maps this version's (bpf/progs/adopt.bpf.c)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing, Map
from dataplane.drivers.libbpf_programs import loaded
from dataplane.drivers.mapbulk import dtype_of, read_array, write_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROW = np.dtype(
    [
        *dtype_of(abi.FLOW6).descr,
        *((name, "=u4") for name in ("family", "orders", "reason", "number")),
    ]
)
"""struct adoption, with the fields of its flow among its own."""


class Adoption(Closing):
    """The program over the tables that `maps` are of.

    Raises:
        LibbpfError: it cannot be loaded; with the verifier's words.
    """

    def __init__(self, maps: Mapping[str, Map], objects: Path = OBJECT_DIRECTORY) -> None:
        self._open = ExitStack()
        try:
            with loaded(objects / "adopt.bpf.o", maps) as made:
                self._program = self._open.enter_context(made.program("millrace_adopt"))
                self._rows = self._open.enter_context(made.map("adoptions"))
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Let go of the program."""
        self._open.close()

    def run(self, rows: NDArray[Any], orders: int) -> NDArray[Any]:
        """Adopt flows, or end them, as `orders` say.

        Args:
            rows: of `ROW`; `life` does not count.
            orders: `abi.AdoptFlag`.

        Returns:
            For each row 0, or `abi.Reason` why it is no flow.
        """
        reasons = np.zeros(len(rows), np.uint32)
        room = self._rows.info.max_entries
        for at in range(0, len(rows), room):
            some = rows[at : at + room].copy()
            some["orders"] = orders
            write_array(self._rows, some)
            self._program.call(abi.ADOPT.pack(count=len(some)))
            answered = read_array(self._rows, ROW, len(some))
            reasons[at : at + len(some)] = answered["reason"]
        return reasons
