"""`python -m tests.oracle --packets N --seed S`: programs and model side by side, with progress."""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from tests.oracle.campaign import Tally, run
from tests.oracle.place import standing
from tests.oracle.shrink import shrunk, told
from tests.oracle.tables import Table


def main() -> int:
    """Run; 1 if there is a difference, which is printed as small as it gets."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--packets", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="of the first world")
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument(
        "--crowded", dest="table", action="store_const", const=Table.CROWDED, default=Table.ROOMY,
        help="a table of a few flows",
    )  # fmt: skip
    parser.add_argument(
        "--laden", dest="table", action="store_const", const=Table.LADEN,
        help="a wide table that others' flows fill",
    )  # fmt: skip
    parser.add_argument("--objects", type=Path, default=OBJECT_DIRECTORY)
    parser.add_argument("--keep", action="store_true", help="do not make a failure small")
    parser.add_argument("--tally", type=Path, help="write what was counted there, as JSON")
    parser.add_argument("--reasons", action="store_true", help="say what was counted")
    chosen = parser.parse_args()
    seed = secrets.randbelow(1 << 40) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)

    def progress(tally: Tally) -> None:
        if tally.worlds % 10 == 0:
            print(
                f"{tally.packets:,} packets, {tally.worlds} worlds, {tally.rate:,.0f} a second",
                flush=True,
            )

    # Ended from outside, too, it takes its namespace and its BPF filesystem away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with standing(chosen.table, chosen.objects, chosen.cpu) as bench:
        tally, failure = run(bench, chosen.packets, seed, chosen.table, progress=progress)
        if chosen.tally:
            counted = dict(tally.reasons + tally.classes)
            chosen.tally.write_text(json.dumps({"packets": tally.packets, "counted": counted}))
        if chosen.reasons:
            for reason, count in (tally.reasons + tally.classes).most_common():
                print(f"{count:10,}  {reason}")
        print(f"{tally.packets:,} packets, {tally.rate:,.0f} a second", flush=True)
        if failure is None:
            return 0
        print(f"seed {failure.seed}: {failure.wrong[:300]}", flush=True)
        small = None if chosen.keep else shrunk(bench, failure)
        if small is None:
            print(f"seed {failure.seed}, after {len(failure.events)} events: {failure.wrong}")
            print(failure.events[-1])
        else:
            print(told(small))
        return 1


if __name__ == "__main__":
    sys.exit(main())
