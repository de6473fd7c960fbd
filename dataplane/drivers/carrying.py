"""An upgrade of the layouts, as a node daemon does it: what it carries over from older maps.

Before its own maps are made it pins those that have not changed as its own (`keep_maps`): both
versions' programs then work on them. Flows go over around every swap of programs (`Carried`), as
`dataplane.drivers.migration` says, and a last time when today's programs are everywhere.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from bpf import abi
from dataplane.drivers.libbpf import Closing, Map
from dataplane.drivers.migration import Converter, Move, Moved, older, open_maps
from dataplane.drivers.version2 import FromVersion2
from dataplane.ports import DataplaneError, Failure, Table

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

CONVERTERS: Mapping[tuple[int, int], Callable[[], Converter]] = {(2, 3): FromVersion2}
"""By source and target."""


def _converter(bpf_root: str) -> tuple[Converter, Path] | None:
    """For the newest of the older versions that have pins, and where they are."""
    found = older(bpf_root)
    if not found:
        return None
    newest = max(found)
    make = CONVERTERS.get((newest, int(abi.Limit.ABI_VERSION)))
    return (make(), found[newest]) if make is not None else None


def keep_maps(bpf_root: str) -> list[str]:
    """Pin the maps of an older version that are the same in this one; the names of those that were.

    Call it before `BpfState` makes what is missing. A map that has a pin of this version stays.

    Raises:
        LibbpfError: the kernel refused.
    """
    found = _converter(bpf_root)
    if found is None:
        return []
    converter, directory = found
    ours = Path(bpf_root) / f"v{abi.Limit.ABI_VERSION:d}"
    ours.mkdir(mode=0o700, exist_ok=True)
    names = []
    for name in sorted(converter.kept):
        if (directory / name).exists() and not (ours / name).exists():
            with Map.at(directory / name) as held:
                held.pin(ours / name)
            names.append(name)
    return names


class Carrying(Closing):
    """Flows on their way from an older version's maps; nothing to do where there are none.

    What fails is logged, and ends it: an upgrade goes on without the flows. Whatever it is, since
    older pins may be half there, of a daemon that died as it made or removed them.

    Args:
        bpf_root: where the pins of all versions are.
        new: this version's maps, before a program over them is attached.
    """

    def __init__(self, bpf_root: str, new: Mapping[str, Map]) -> None:
        self._open = ExitStack()
        self._move: Move | None = None
        with self._trying():
            found = _converter(bpf_root)
            if found is None:
                return
            converter, directory = found
            self._open.callback(converter.close)
            old = open_maps(self._open, directory)
            due = converter.begin(old, new)
            self._move = Move(converter, old, new, due=due)

    def close(self) -> None:
        """Let go of the older version's maps; flows begin as ever."""
        move, self._move = self._move, None
        if move is not None:
            with contextlib.suppress(DataplaneError):
                move.hold(on=False)
        self._open.close()

    @property
    def active(self) -> bool:
        """Whether programs of an older version may be attached."""
        return self._move is not None

    @contextmanager
    def around_a_swap(self, *, last: bool = True) -> Iterator[None]:
        """Programs are swapped inside; `last`: what was there before is out of use afterwards.

        Programs that are swapped before the last ones begin no flows (bpf/progs/host.bpf.c), so
        nothing is held for them: whether others come after them in this round is not known.
        """
        self._take(Move.before_swap if last else Move.again)
        try:
            yield
        finally:
            if last:
                self._take(Move.after_swap)

    def finish(self) -> Moved | None:
        """Today's programs are everywhere: carry over what is left; None: there was nothing.

        If a daemon before this one has carried everything over, what older maps say is long past:
        flows that have ended since would be there again.
        """
        move = self._move
        if move is not None and move.due:
            self.again()
            move = self._move
        self.close()
        if move is None:
            return None
        log.info(
            "flows_carried copied=%d changed=%d ended=%d refused=%d",
            move.done.copied, move.done.again, move.done.ended, move.done.refused,
        )  # fmt: skip
        return move.done

    def again(self) -> None:
        """Carry over what there is, or what changed since the last time."""
        self._take(Move.again)

    def _take(self, step: Callable[[Move], None]) -> None:
        if self._move is not None:
            with self._trying():
                step(self._move)

    @contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except DataplaneError as error:
            log.warning("flows_not_carried error=%s; they begin anew", error)
            self.close()
        except Exception:
            # The boundary: nothing that older maps have or lack may keep the node from its work.
            log.exception("flows_not_carried; they begin anew")
            self.close()


class Carried(Generic[K, V]):
    """A table that swaps programs, with flows carried over; `last`: no other comes after it."""

    def __init__(self, table: Table[K, V], carrying: Carrying, *, last: bool = True) -> None:
        self.name = table.name
        self._last = last
        self._table = table
        self._carrying = carrying

    def observe(self) -> Mapping[K, V]:
        """As the table."""
        return self._table.observe()

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """As the table."""
        with self._carrying.around_a_swap(last=self._last):
            return self._table.upsert(batch)

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """As the table."""
        return self._table.delete(keys)
