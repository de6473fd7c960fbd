"""From one version of the shared layouts to the next, without losing what can be kept.

Maps are pinned by version (<bpf_root>/v<ABI_VERSION>), so the maps of two versions are there side
by side while programs go from one to the other:

1. maps whose layout is the same in both are pinned as the new version's, too (`Converter.kept`):
   tables, affinities, sockets' peers, counters; the others are made, and flows are copied by a
   `Converter` from the old version to the new;
2. the programs are swapped, each at one stroke (a pinned link goes along: `take_links_over`);
3. what changed in the old maps until the last old program ended is carried over again;
4. the old pins are removed (`remove_older`).

A packet meets either the old program over the old maps or the new one over the new, and its flow
is in both. Without a converter steps 1 and 3 copy nothing: no packet is lost by the swap, but
flows begin anew. That is so from version 1: its conntrack was two hashes of the kernel's, without
the states and reply tuples that a record of version 2 consists of, and its flows were picked by
another function, so that even a guess would send half of them elsewhere.

`dataplane.drivers.carrying` is how a node daemon does it, and knows the converters.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from dataplane.drivers.libbpf import Map, pinned

if TYPE_CHECKING:
    from numpy.typing import NDArray

OLD_PROGRAMS_END_S = 0.05
"""A processor that was inside the old program when it was replaced is out of it by far sooner."""

LINKS = "links"


class Converter(ABC):
    """How flows of one version of the layouts are carried over to the next.

    Rows are numpy's structured arrays, in a layout that the converter chooses; the same for
    `live` and for what it is given.

    Attributes:
        source: the ABI version that it reads.
        target: the one that it writes.
        identity: the fields by which a flow is told from others, also from one that took its
            place (its tuple, and the `life` of its record or the like).
        content: the fields whose change has to be carried over (not the time of the last packet:
            the flow's next packet brings it).
        kept: names of the maps that are the same in both.
    """

    source: int
    target: int
    identity: tuple[str, ...]
    content: tuple[str, ...]
    kept: frozenset[str] = frozenset()

    def begin(self, old: Mapping[str, Map], new: Mapping[str, Map]) -> bool:
        """Fill what has to be there before flows are, and is the programs' own besides.

        Returns:
            Whether flows are to come, even if no program is swapped any more: not if new programs
            have been there before, unless whoever put them there died over it.
        """
        del old, new
        return True

    def hold(self, new: Mapping[str, Map], *, on: bool) -> None:  # noqa: B027
        """From `on` until off again: the new programs make no flow of what may be one already."""

    def close(self) -> None:  # noqa: B027
        """Let go of what the others hold."""

    @abstractmethod
    def live(self, old: Mapping[str, Map]) -> NDArray[Any]:
        """The flows of the old maps."""

    @abstractmethod
    def adopt(self, new: Mapping[str, Map], rows: NDArray[Any]) -> int:
        """Put flows into the new maps, or bring those that are there up to date.

        New programs may run over the new maps meanwhile: what they wrote of a flow is newer than
        the row, and stays. So it has to be done by a program that takes the tables' locks.

        Returns:
            How many found no place.
        """

    @abstractmethod
    def end(self, new: Mapping[str, Map], rows: NDArray[Any]) -> None:
        """Take flows out of the new maps that ended in the old ones after they were copied."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did, in flows: copied at first, copied later on, ended since, without a place."""

    copied: int = 0
    again: int = 0
    ended: int = 0
    refused: int = 0


class Move:
    """Live flows on their way from old maps to new ones.

    Attributes:
        done: what was done so far.
        due: whether there is something to carry over though no program is swapped.
    """

    def __init__(
        self,
        converter: Converter,
        old: Mapping[str, Map],
        new: Mapping[str, Map],
        *,
        due: bool = True,
    ) -> None:
        self._converter, self._old, self._new = converter, old, new
        self._copied: NDArray[Any] | None = None
        self.done = Moved()
        self.due = due

    def again(self) -> None:
        """Carry over the old maps' flows; later on those that began, changed or ended since.

        Raises:
            LibbpfError: the kernel refused.
        """
        converter, before = self._converter, self._copied
        self.due = True
        now = converter.live(self._old)
        if before is None:
            self._copied = now
            self.done = Moved(len(now), refused=converter.adopt(self._new, now))
            return
        ended = before[~_among(before, now, converter.identity)]
        changed = now[~_among(now, before, [*converter.identity, *converter.content])]
        converter.end(self._new, ended)
        refused = converter.adopt(self._new, changed)
        self._copied = now
        self.done = Moved(
            self.done.copied,
            self.done.again + len(changed),
            self.done.ended + len(ended),
            self.done.refused + refused,
        )

    def hold(self, *, on: bool) -> None:
        """From `on` until off again flows may not be there yet: see `Converter.hold`."""
        self._converter.hold(self._new, on=on)

    def before_swap(self) -> None:
        """Carry over what there is, and hold back what may be on its way.

        Raises:
            LibbpfError: the kernel refused.
        """
        self.again()
        self.hold(on=True)

    def after_swap(self) -> None:
        """Carry over what changed until the last old program ended, and hold nothing back any more.

        At once, for what began meanwhile has packets coming already; and when the old have ended.

        Raises:
            LibbpfError: the kernel refused; flows are held back still.
        """
        self.again()
        time.sleep(OLD_PROGRAMS_END_S)
        self.again()
        self.hold(on=False)

    def take_back(self) -> None:
        """End the copies: the old programs stay."""
        if self._copied is not None:
            self._converter.end(self._new, self._copied)
            self._copied = None


def migrate(
    converter: Converter,
    old: Mapping[str, Map],
    new: Mapping[str, Map],
    swap: Callable[[], None],
) -> Moved:
    """Carry the live flows over while `swap` puts the new programs in the old ones' places.

    If `swap` fails, its error is the caller's, the old programs run over the old maps, and the
    flows that were copied are ended in the new ones.
    """
    move = Move(converter, old, new)
    move.before_swap()
    try:
        swap()
    except BaseException:
        move.hold(on=False)
        move.take_back()
        raise
    move.after_swap()
    return move.done


def _octets(rows: NDArray[Any], fields: Sequence[str]) -> NDArray[Any]:
    """These fields of each row as one value that can be compared."""
    parts = [
        np.ascontiguousarray(rows[name]).view(np.uint8).reshape(len(rows), -1) for name in fields
    ]
    joined = np.ascontiguousarray(np.concatenate(parts, axis=1))
    return joined.view(np.dtype((np.void, joined.shape[1]))).ravel()


def _among(rows: NDArray[Any], others: NDArray[Any], fields: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows have an equal among others, in these fields."""
    if not len(rows) or not len(others):
        return np.zeros(len(rows), bool)
    known = {value.tobytes() for value in _octets(others, fields)}
    found = (value.tobytes() in known for value in _octets(rows, fields))
    return np.fromiter(found, bool, count=len(rows))


# -- pins of other versions -------------------------------------------------------------------


def versions(bpf_root: str) -> dict[int, Path]:
    """The directories of pins by version, those of other versions included."""
    found: dict[int, Path] = {}
    for path in Path(bpf_root).glob("v*"):
        number = re.fullmatch(r"v(\d+)", path.name)
        if number and path.is_dir():
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def older(bpf_root: str) -> dict[int, Path]:
    """The same, those before this version's."""
    return {
        number: path
        for number, path in versions(bpf_root).items()
        if number < abi.Limit.ABI_VERSION
    }


def take_links_over(bpf_root: str) -> list[str]:
    """Pin the links of older versions as this version's; the names of those that were.

    A link stays what it is, attached to its device; the reconciler then finds another program
    under it than today's, and replaces that at one stroke. The newest version's link counts.

    Raises:
        LibbpfError: the kernel refused.
    """
    ours = Path(bpf_root) / f"v{abi.Limit.ABI_VERSION:d}" / LINKS
    taken = []
    for _, directory in sorted(older(bpf_root).items(), reverse=True):
        links = directory / LINKS
        for path in sorted(links.rglob("*")):
            if path.is_dir():
                continue  # of a cgroup's links (`dataplane.drivers.sockprograms`)
            name = path.relative_to(links)
            mine = ours / name
            if not mine.exists():
                mine.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with pinned(path) as link:
                    link.pin(mine)
                taken.append(str(name))
            path.unlink()
    return taken


def remove_older(bpf_root: str) -> list[int]:
    """Remove the pins of older versions; which versions there were.

    Call it when no program of theirs is attached any more: their maps go with the last one.
    """
    gone = []
    for number, directory in older(bpf_root).items():
        for path in sorted(directory.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        directory.rmdir()
        gone.append(number)
    return gone


def open_maps(stack: ExitStack, directory: Path) -> dict[str, Map]:
    """The pinned maps of a version, whatever its layouts; closed with `stack`.

    Raises:
        LibbpfError: the kernel refused.
    """
    return {
        path.name: stack.enter_context(Map.at(path))
        for path in sorted(directory.iterdir())
        if not path.is_dir()
    }
