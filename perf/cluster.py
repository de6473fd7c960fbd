"""A large cluster as API objects, and what the Kubernetes controller needs for it.

    python -m perf.cluster [--pods N] [--seconds S] [--rate N] [--json]

Three processes beside this one: the API's stand-in (perf/clusterapi.py), a real northbound
ovsdb-server, and the controller (controller/kubetrial.py). No northd: its work is not ours. Times
are from the controller process's start to its last transaction, or from the moment at which the API
made a change (in the churn: at which it arrived at the controller) to that at which the transaction
was known to be committed.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from perf.kubecache import rank
from tests.labs.ovnsandbox import northbound

SIZE = {"pods": 10_000, "nodes": 200, "services": 2_000, "policies": 500, "subnets": 100}
PATIENCE_S = 300.0
OWN_S = 3.0
"""How long rows of one change are collected [s]."""
BOUNDS = {
    "cold_empty_s": 60.0,
    "cold_right_s": 15.0,
    "cold_right_writes": 0.0,
    "rss_peak_mb": 400.0,
    "pod_p99_ms": 50.0,
    "service_foreign_rows": 0.0,
    "policy_foreign_rows": 0.0,
    "churn_lag_s": 1.0,
}
"""What issue and documentation promise; a figure above is a failure."""


class Talk:
    """A process that is told lines of JSON and tells lines of JSON."""

    def __init__(self, *arguments: str) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        # Always, or the pipe is full one day, and the other side waits for us.
        assert self.process.stdout is not None
        with self.process.stdout as told:
            for line in told:
                self._lines.put(line)
        self._lines.put("")

    def read(self) -> str:
        """The next line."""
        line = self._lines.get()
        if not line:
            msg = f"{self.process.args!r}: it ended with {self.process.wait()}"
            raise RuntimeError(msg)
        return line.strip()

    def tell(self, text: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def until(self, word: str) -> dict[str, Any]:
        """The next answer that has this field."""
        while True:
            answer: dict[str, Any] = json.loads(self.read())
            if word in answer:
                return answer

    def end(self) -> None:
        """End it by its standard input, and wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@contextmanager
def database() -> Iterator[str]:
    """An empty northbound database; its remote."""
    with northbound() as box:
        yield box.nb


def status(controller: Talk) -> dict[str, Any]:
    """What the controller says of itself."""
    controller.tell("status")
    return controller.until("pid")


def quiet(controller: Talk) -> dict[str, Any]:
    """Wait until all is written back; the status then."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = status(controller)
        if not found["write_backs"]["waiting"]:
            return found
        if time.monotonic() > deadline:
            msg = f"write-backs are not done: {found['write_backs']}"
            raise RuntimeError(msg)
        time.sleep(0.5)


def one_change(api: Talk, controller: Talk, key: str, **order: Any) -> float:
    """Make one change; how long until a transaction with that row [ms]."""
    api.tell(json.dumps(order))
    made = api.until("at")["at"]
    while True:
        written = controller.until("keys")
        if key in written["keys"]:
            return float(written["at"] - made) * 1000


def foreign_rows(api: Talk, controller: Talk, mine: str, **order: Any) -> tuple[int, int]:
    """Make one change of an object: rows written, and those that only others want."""
    quiet(controller)
    api.tell(json.dumps(order))
    api.until("at")
    said: dict[str, list[str]] = {}
    deadline = time.monotonic() + OWN_S
    while time.monotonic() < deadline:
        time.sleep(0.3)
        controller.tell("status")
        while "pid" not in (answer := json.loads(controller.read())):
            said |= answer.get("by", {})
    return len(said), sum(bool(refs) and mine not in refs for refs in said.values())


def measure(size: dict[str, int], changes: int, rate: int, seconds: float) -> dict[str, float]:
    """All phases, one after the other."""
    figures: dict[str, float] = {}
    api = Talk("perf.clusterapi", json.dumps(size))
    url = api.read()
    figures["fill_s"] = time.monotonic() - api.began
    with database() as nb:
        controller = Talk("controller.kubetrial", url, nb)
        settled = controller.until("settled")["settled"]
        figures["cold_empty_s"] = settled - controller.began
        found = quiet(controller)
        figures["write_back_s"] = time.monotonic() - settled
        figures |= {f"{name}_s": found["started_s"][name] for name in ("listed", "computed")}
        figures["rows"] = found["rows"]
        figures["transactions"] = found["written"]["transactions"]
        figures["refused"] = len(found["refused"])
        figures["problems"] = len(found["problems"])
        figures["failed_units"] = len(found["failed_units"])
        figures["rss_mb"], figures["rss_peak_mb"] = found["rss_mb"], found["rss_peak_mb"]
        delays = []
        for number in range(changes):
            pod = size["pods"] + number
            key = f"Logical_Switch_Port pod{pod}.ns{pod % size['subnets']}"
            delays.append(one_change(api, controller, key, do="pod", number=pod))
            time.sleep(0.02)
        delays.sort()
        seven = f"ns{7 % size['subnets']}"
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            figures[f"pod_{name}_ms"] = rank(delays, share)
        rows, foreign = foreign_rows(
            api, controller, f"services {seven}/svc7", do="service", number=7, port=81
        )
        figures["service_rows"], figures["service_foreign_rows"] = rows, foreign
        rows, foreign = foreign_rows(
            api,
            controller,
            f"networkpolicies.networking.k8s.io {seven}/policy7",
            do="policy",
            number=7,
            port=81,
        )
        figures["policy_rows"], figures["policy_foreign_rows"] = rows, foreign
        quiet(controller)
        if seconds:
            before = status(controller)
            api.tell(json.dumps({"do": "churn", "rate": rate, "seconds": seconds}))
            made = api.until("last")
            key = f"Logical_Switch_Port {made['last']}"
            waits: list[float] = []
            while key not in (written := controller.until("keys"))["keys"]:
                waits += written["waited"].values()
            waits = sorted([*waits, *written["waited"].values()])
            figures["churn_rows"] = len(waits)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
                figures[f"churn_{name}_ms"] = rank(waits, share) * 1000
            figures["churn_rate"] = made["changes"] / made["seconds"]
            figures["churn_api_late_s"] = made["late_s"]
            figures["churn_lag_s"] = written["waited"][key]
            figures["churn_api_lag_s"] = written["at"] - made["at"] - written["waited"][key]
            after = status(controller)
            figures["churn_cpu_s"] = after["cpu_s"] - before["cpu_s"]
            figures["rss_peak_mb"] = after["rss_peak_mb"]
            quiet(controller)
        controller.end()
        again = Talk("controller.kubetrial", url, nb)
        settled = again.until("settled")["settled"]
        figures["cold_right_s"] = settled - again.began
        found = status(again)
        figures["cold_right_writes"] = sum(
            found["written"][name] for name in ("inserts", "updates", "deletes")
        )
        figures |= {f"right_{name}_s": found["started_s"][name] for name in ("listed", "computed")}
        again.end()
    api.end()
    return figures


def main(argv: Sequence[str]) -> int:
    """Measure and print; 1 if a figure is above its bound."""
    options = argparse.ArgumentParser(prog="python -m perf.cluster", description=__doc__)
    options.add_argument("--pods", type=int, default=SIZE["pods"])
    options.add_argument("--nodes", type=int, default=SIZE["nodes"])
    options.add_argument("--services", type=int, default=SIZE["services"])
    options.add_argument("--policies", type=int, default=SIZE["policies"])
    options.add_argument("--subnets", type=int, default=SIZE["subnets"])
    options.add_argument("--changes", type=int, default=200, help="pods made one by one")
    options.add_argument("--rate", type=int, default=1_000, help="changes a second of the churn")
    options.add_argument("--seconds", type=float, default=60.0, help="of the churn; 0: none")
    options.add_argument("--json", action="store_true")
    given = options.parse_args(argv)
    size = {name: getattr(given, name) for name in SIZE}
    figures = measure(size, given.changes, given.rate, given.seconds)
    missed = [name for name, bound in BOUNDS.items() if figures.get(name, 0.0) > bound]
    if given.json:
        print(json.dumps({"size": size, "figures": figures, "bounds": BOUNDS, "missed": missed}))
        return 0
    for name, value in figures.items():
        bound = f"  at most {BOUNDS[name]:g}" if name in BOUNDS else ""
        print(f"{name:22} {value:10.2f}{bound}{'  MISSED' if name in missed else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
