"""What one node is sent of OVN's databases as it connects, and what a narrower wish would cost.

    python -m perf.ovnreads [--ports N] [--json]

A cluster of `perf control` (a hundred ports to a chassis, a service for ten), and the questions
that daemons ask: everything that Millrace knows of, what a node asks, and as a node, but with ports
of the northbound database by name. Bytes are of the server's answers; seconds of the last are the
server's time for one more name, in which it answers nobody else.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataplane.drivers.ovsjson import Framer
from perf.controllab import PORTS_OF_CHASSIS, ControlLab, port_name
from perf.labrun import Progress, in_lab
from perf.verdicts import aligned
from tests.labs import monitored

Clauses = Mapping[str, Sequence[object]]
ZERO = "00000000-0000-0000-0000-000000000000"
NAMES = 20
"""Ports whose names are asked for one after the other."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: rows of all tables together."""

    question: str
    octets: int
    rows: int
    port_rows: int


class Asker:
    """One connection that monitors; a context manager is not needed: `close` it."""

    def __init__(self, path: Path, database: str) -> None:
        self._database = database
        self._framer = Framer()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(120)
        self._sock.connect(str(path))
        self.octets = 0

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def monitor(self, tables: Mapping[str, Sequence[str]], where: Clauses) -> dict[str, Any]:
        """All rows of these tables, but of those with clauses the rows that fit one."""
        asked = {
            table: [
                {"columns": list(columns), **({"where": where[table]} if table in where else {})}
            ]
            for table, columns in tables.items()
        }
        found: list[Any] = self._call("monitor_cond_since", [self._database, "m", asked, ZERO])
        return dict(found[2])

    def change(self, where: Clauses) -> None:
        """Other clauses from now on."""
        tables = {table: [{"where": clauses}] for table, clauses in where.items()}
        self._call("monitor_cond_change", ["m", "m", tables])

    def _call(self, method: str, params: list[object]) -> Any:
        request = {"id": method, "method": method, "params": params}
        self._sock.sendall(json.dumps(request).encode())
        while True:
            message = self._framer.next()
            if message is None:
                chunk = self._sock.recv(1 << 18)
                self.octets += len(chunk)
                self._framer.feed(chunk)
            elif isinstance(message, dict) and message.get("id") == method:
                return message["result"]


def measure(lab: ControlLab) -> tuple[list[Answer], list[float]]:
    """Every question once, and the seconds for each further name."""
    with lab.sb() as database:
        (row,) = database.select("Chassis", ["_uuid"], [["name", "==", "chassis-0"]])
    own: Clauses = {"Port_Binding": [["chassis", "==", row["_uuid"]]]}
    held = range(0, lab.ports, lab.ports // PORTS_OF_CHASSIS)
    names: list[object] = [["type", "!=", ""], *(["name", "==", port_name(n)] for n in held)]
    north, south = ("nb", monitored.NORTHBOUND), ("sb", monitored.SOUTHBOUND)
    found: list[Answer] = []
    seconds: list[float] = []
    for question, (name, database_name), tables, where in (
        ("northbound, all that the cluster controller reads", north, monitored.CENTRAL, {}),
        ("northbound, a node", north, monitored.NODE, {}),
        ("northbound, a node, ports by name", north, monitored.NODE,
         {"Logical_Switch_Port": names}),
        ("southbound, all ports", south, monitored.PORTS, {}),
        ("southbound, a node", south, monitored.PORTS, own),
    ):  # fmt: skip
        asker = Asker(lab.rundir / f"{name}.sock", database_name)
        rows = asker.monitor(tables, where)
        ports = rows.get("Logical_Switch_Port", rows.get("Port_Binding", {}))
        count = sum(map(len, rows.values()))
        found.append(Answer(question, asker.octets, count, len(ports)))
        if question.endswith("by name"):
            for number in range(1, NAMES + 1):
                names.append(["name", "==", port_name(number)])
                began = time.monotonic()
                asker.change({"Logical_Switch_Port": names})
                seconds.append(time.monotonic() - began)
        asker.close()
    return found, seconds


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something did not come up."""
    parser = argparse.ArgumentParser(prog="python -m perf.ovnreads", description=__doc__)
    parser.add_argument("--ports", type=int, default=10_000, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    options = parser.parse_args(argv)
    if options.ports < PORTS_OF_CHASSIS or options.ports % PORTS_OF_CHASSIS:
        parser.error(f"--ports must be a multiple of {PORTS_OF_CHASSIS}")

    def work(progress: Progress) -> tuple[list[Answer], list[float]]:
        lab = ControlLab(options.ports)
        try:
            lab.build()
            progress(f"{options.ports} ports are there")
            return measure(lab)
        finally:
            lab.remove()

    found = in_lab("python -m perf.ovnreads", work)
    if found is None:
        return 1
    answers, seconds = found
    if options.json:
        print(json.dumps({"answers": [asdict(one) for one in answers], "name_s": seconds}))
        return 0
    rows = [(one.question, str(one.octets), str(one.rows), str(one.port_rows)) for one in answers]
    print(aligned([("asked", "bytes", "rows", "of them ports"), *rows], right={1, 2, 3}))
    middle = statistics.median(seconds) * 1000
    print(f"one more name: {middle:.0f} ms ({min(seconds) * 1000:.0f}..{max(seconds) * 1000:.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
