"""What watching a large cluster costs: processor time, memory, and delay of a change.

    python -m perf.kubecache [--pods N] [--changes N] [--rate N] [--page N] [--rounds N] [--json]

Each round starts a process that serves the list (perf/kubeserver.py) and one that reads it into a
cache with three indexes, as the controller does (controller/kube/trial.py). Processor time and
memory are the reader's own, above what the interpreter and its modules had before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def rank(ordered: Sequence[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def one_round(pods: int, changes: int, rate: int, page: int) -> dict[str, float]:
    """Serve and read in two processes; the reader's figures."""
    serving = [sys.executable, "-m", "perf.kubeserver", str(pods), str(changes), str(rate)]
    with subprocess.Popen(  # noqa: S603 - our own module
        serving, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url, size = server.stdout.readline().split()
            reading = [sys.executable, "-m", "controller.kube.trial", "--server", url]
            reading += ["--changes", str(changes), "--seconds", "120", "--page", str(page)]
            found = subprocess.run(  # noqa: S603 - our own module
                reading, check=True, capture_output=True, text=True, timeout=300
            )
        finally:
            server.terminate()
    cost: dict[str, Any] = json.loads(found.stdout)
    delays = cost.pop("delays_ms")
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        cost[f"change_{name}_ms"] = rank(delays, share)
    return {"list_mb": int(size) / 1e6, **cost}


def main(argv: Sequence[str]) -> int:
    """Measure and print; 1 if a change did not arrive."""
    options = argparse.ArgumentParser(prog="python -m perf.kubecache", description=__doc__)
    options.add_argument("--pods", type=int, default=10_000)
    options.add_argument("--changes", type=int, default=5_000)
    options.add_argument("--rate", type=int, default=1_000, help="changes per second")
    options.add_argument("--page", type=int, default=500, help="objects of a page; 0: no pages")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", action="store_true")
    given = options.parse_args(argv)
    rounds = [
        one_round(given.pods, given.changes, given.rate, given.page) for _ in range(given.rounds)
    ]
    missing = [one for one in rounds if one["changes"] < given.changes]
    if given.json:
        print(json.dumps(rounds))
        return 1 if missing else 0
    print(f"{given.rounds} rounds, median (min..max)")
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        middle = statistics.median(values)
        print(f"{name:16} {middle:10.2f} ({min(values):.2f}..{max(values):.2f})")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
