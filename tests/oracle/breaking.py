"""Copies of the C with one fault each, compiled: what an oracle is worth is what it finds.

A fault is one replacement in one file. A text that is not there exactly once is an error that names
the fault: then the C has changed, and the fault has to be written anew, not left out.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from tests.oracle.tables import Table

SOURCES = OBJECT_DIRECTORY.parent


@dataclass(frozen=True, slots=True)
class Broken:
    """One fault: `old` in `file` becomes `new`; `programs` are those it is compiled into.

    It has to be found within so many packets of worlds with such a table.
    """

    name: str
    file: str
    old: str
    new: str
    programs: tuple[str, ...] = ("uplink",)
    packets: int = 20_000
    table: Table = Table.ROOMY


class DoesNotApplyError(AssertionError):
    """The C has changed where a fault wants to be."""


def built(fault: Broken, into: Path) -> Path:
    """The objects of a copy with this fault, in a directory of their own below `into`.

    Raises:
        DoesNotApplyError: the text to replace is not in the file, or more than once.
        subprocess.CalledProcessError: the broken copy does not compile; make has said why.
    """
    copy = into / "bpf"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("obj", "*.py", "__pycache__"))
    shutil.copytree(OBJECT_DIRECTORY, copy / "obj")
    file = copy / fault.file
    text = file.read_text()
    if (times := text.count(fault.old)) != 1:
        raise DoesNotApplyError(
            f"fault {fault.name!r}: bpf/{fault.file} has {fault.old!r} {times} times, not once; "
            "write the fault anew for what is there now (tests/oracle/test_broken_copies.py)"
        )
    file.write_text(text.replace(fault.old, fault.new))
    objects = [f"obj/{program}.bpf.o" for program in fault.programs]
    for made in objects:
        (copy / made).unlink()
    subprocess.run(["make", "-s", "-C", str(copy), *objects], check=True, capture_output=True)
    return copy / "obj"
