"""How fast an OVSDB client reads the initial contents of a large database, by JSON parser.

    python -m perf.ovsjson [--ports N] [--rounds N] [--json]

The message is the reply to a monitor request of a northbound database with so many logical switch
ports. Each parser reads it through `ovs.jsonrpc.Connection.recv`, from chunks as a Unix socket
gives them. Rounds of the parsers alternate, so that a busy machine harms all alike; ratios are
taken within a round.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dataplane.drivers import ovsjson

CHUNK_BYTES = 212_992
"""net.core.wmem_default: as much as a Unix socket hands over at once."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of several rounds."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds to read the message, and times as long as with ours, by parser."""

    ports: int
    message_bytes: int
    rounds: int
    seconds: dict[str, Spread]
    ratio: dict[str, Spread]


def monitor_reply(ports: int) -> bytes:
    """A reply as ovsdb-server gives it to monitor_cond_since, with so many ports."""
    rows: dict[str, Any] = {}
    for number in range(ports):
        key = str(uuid.UUID(int=number))
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        mac = f"0a:58:0a:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
        rows[key] = {
            "initial": {
                "name": f"pod-{number}.namespace-{number % 50}",
                "addresses": f"{mac} {address}",
                "port_security": f"{mac} {address}",
                "external_ids": [
                    "map",
                    [["namespace", f"namespace-{number % 50}"], ["pod", f"pod-{number}"]],
                ],
                "options": ["map", [["requested-chassis", f"node-{number % 100}"]]],
                "up": True,
                "tag": ["set", []],
                "parent_name": ["set", []],
                "dhcpv4_options": ["set", []],
            }
        }
    reply = {"id": 1, "error": None, "result": [False, key, {"Logical_Switch_Port": rows}]}
    return json.dumps(reply, separators=(",", ":")).encode()


class _Wire:
    """The stream of a connection, with everything received already."""

    name = "benchmark"

    def __init__(self, data: bytes) -> None:
        self._chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        self._chunks.reverse()

    def recv(self, size: int) -> tuple[int, bytes]:
        if not self._chunks:
            return errno.EAGAIN, b""
        chunk = self._chunks.pop()
        if len(chunk) > size:
            self._chunks.append(chunk[size:])
        return 0, chunk[:size]

    def close(self) -> None:
        """Nothing to close."""


def measure(ports: int, rounds: int) -> Result:
    """Read the same message with every parser, `rounds` times each."""
    data = monitor_reply(ports)
    readers = ovsjson.readers()
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            wire = _Wire(data)
            gc.collect()
            began = time.perf_counter()
            read(wire)
            times[name].append(time.perf_counter() - began)
    ours = times["millrace"]
    return Result(
        ports,
        len(data),
        rounds,
        {name: _spread(seconds) for name, seconds in times.items()},
        {
            name: _spread([a / b for a, b in zip(seconds, ours, strict=True)])
            for name, seconds in times.items()
        },
    )


def _spread(numbers: Sequence[float]) -> Spread:
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0."""
    options = argparse.ArgumentParser(prog="python -m perf.ovsjson", description=__doc__)
    options.add_argument("--ports", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    chosen = options.parse_args(argv)
    result = measure(chosen.ports, chosen.rounds)
    if chosen.json:
        print(json.dumps(asdict(result), indent=2))
        return 0
    size = result.message_bytes / 1e6
    print(f"{result.ports} ports, {size:.1f} MB, {result.rounds} rounds, [s] median (min..max)")
    for name, seconds in result.seconds.items():
        ratio = result.ratio[name]
        print(
            f"{name:16} {seconds.median:7.3f} ({seconds.min:.3f}..{seconds.max:.3f})  "
            f"{ratio.median:6.1f} times ours ({ratio.min:.1f}..{ratio.max:.1f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
