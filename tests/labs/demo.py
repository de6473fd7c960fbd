"""The demonstration: a real node in network namespaces, and traffic over every path of it.

python tests/labs/demo.py up     build it, show it, leave it running (exit 1 if a path is wrong)
python tests/labs/demo.py down   put everything back, hugepages included
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from dataplane.drivers.processes import ProcessError  # noqa: E402
from tests.labs import lab as topology  # noqa: E402
from tests.labs import paths  # noqa: E402
from tests.labs.lab import Lab  # noqa: E402
from tests.labs.paths import Outcome  # noqa: E402
from tests.labs.workloads import CniRefused  # noqa: E402

PREFIX = "demo"
COLUMNS = ("path", "served by", "result", "cost", "proof")


def progress_since(began: float) -> Callable[[str], None]:
    """A printer of lines with the time that has passed."""

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    return progress


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in columns; the last one may be long and is not padded."""
    rows = [COLUMNS] + [(o.path, o.served_by, o.result, o.cost, o.proof) for o in outcomes]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    lines = []
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in [*widths, len(COLUMNS[-1])]))
    return "\n".join(lines)


def next_steps(lab: Lab) -> str:
    """What a person may try now."""
    millrace = f"{Path(sys.executable).parent}/millrace"
    client = f"nsenter --net={lab.client.path}"
    return "\n".join(
        (
            "It stays up. Try:",
            f"  {client} curl http://{topology.VIP_VM}/        # the QEMU guest, through XDP",
            f"  {client} curl http://{topology.VIP_WEB}/        # a container, through XDP",
            f"  {millrace} status --config {lab.node.config_path}",
            f"  {millrace} services --config {lab.node.config_path}",
            f"  {millrace} ports --config {lab.node.config_path}",
            f"  ovn-nbctl --db={lab.nb} show",
            f"  ovs-appctl -t {lab.node.rundir}/ovs-vswitchd.ctl dpctl/dump-flows",
            f"  tail -f {lab.dir}/{topology.QEMU[0]}.console",
            "Put everything back: make undo",
        )
    )


def up() -> int:
    """Build the lab, send traffic over every path, print the table."""
    progress = progress_since(time.monotonic())
    lab = Lab(PREFIX, progress)
    try:
        lab.build()
        outcomes = []
        for outcome in paths.every_path(lab):
            progress(f"{'ok   ' if outcome.right else 'WRONG'} {outcome.path}")
            outcomes.append(outcome)
    except (ProcessError, CniRefused) as error:
        progress(f"failed: {error}")
        print(f"It is left as it is, to be looked at: {lab.node.rundir}. `make undo` removes it.")
        return 1
    print(f"\n{table(outcomes)}\n")
    wrong = [outcome.path for outcome in outcomes if not outcome.right]
    if wrong:
        print(f"WRONG: {'; '.join(wrong)}")
    print(next_steps(lab))
    return 1 if wrong else 0


def down() -> int:
    """Everything back as it was."""
    Lab(PREFIX, progress_since(time.monotonic())).remove()
    return 0


def main(argv: list[str]) -> int:
    """The command."""
    if argv == ["up"]:
        return up()
    if argv == ["down"]:
        return down()
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
