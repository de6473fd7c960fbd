"""Traffic of the lab: requests from a namespace, packets counted there, captures."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplane.drivers import processes
from tests.labs.netns import Namespace

CLIENT = Path(__file__).with_name("client.py")
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Answers:
    """What a series of requests came to."""

    sent: int
    ok: int
    names: dict[str, int]
    peers: dict[str, int]
    failures: list[str]
    slowest_ms: float
    seconds: float

    @property
    def all_ok(self) -> bool:
        """Whether every request was answered, and there was one."""
        return self.sent > 0 and self.ok == self.sent


def _argv(kind: str, address: str, port: int, *rest: float) -> list[str]:
    return [PYTHON, "-I", "-S", str(CLIENT), kind, address, str(port), *(f"{r:g}" for r in rest)]


def _answers(text: str) -> Answers:
    raw: dict[str, Any] = json.loads(text)
    return Answers(
        raw["sent"], raw["ok"], raw["names"], raw["peers"], raw["failures"],
        raw["slowest_ms"], raw["seconds"],
    )  # fmt: skip


def http(where: Namespace, address: str, port: int, count: int = 1, **options: object) -> Answers:
    """HTTP requests, one connection each; options are the client's (source=, timeout=)."""
    argv = [*_argv("http", address, port, count), *_words(options)]
    return _answers(where.run(*argv, timeout_s=60 + 6 * count))


def udp(where: Namespace, address: str, port: int, count: int = 1, **options: object) -> Answers:
    """UDP requests, one port each; options are the client's (source=, timeout=, size=)."""
    argv = [*_argv("udp", address, port, count), *_words(options)]
    return _answers(where.run(*argv, timeout_s=60 + 6 * count))


def _words(options: Mapping[str, object]) -> list[str]:
    return [f"{'from' if key == 'source' else key}={value}" for key, value in options.items()]


def rate_gbit_s(where: Namespace, address: str, port: int, seconds: float = 3) -> float:
    """The rate of one TCP download, in Gbit/s."""
    raw = json.loads(where.run(*_argv("rate", address, port, seconds), timeout_s=60))
    return float(raw["gbit_s"])


def ping(where: Namespace, address: str, count: int = 3) -> tuple[int, float | None]:
    """Echo requests: how many were answered, and their mean round trip in ms."""
    said = where.run(
        "ping", "-n", "-q", "-c", str(count), "-i", "0.1", "-W", "2", address, check=False
    )
    received = 0
    mean = None
    for line in said.splitlines():
        if " received" in line:
            received = int(line.split(",")[1].split()[0])
        if line.startswith("rtt"):
            mean = float(line.split("=")[1].split("/")[1])
    return received, mean


@dataclass(slots=True)
class Running:
    """A client that runs beside the test; its result is there after the `with` block."""

    process: subprocess.Popen[str]
    result: dict[str, Any] = field(default_factory=dict)

    def stop(self) -> None:
        """Ask it to end and read what it found."""
        if self.result:
            return
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=90)
        if not out:
            msg = f"the client said nothing: {err}"
            raise AssertionError(msg)
        self.result = json.loads(out)

    def server(self) -> str:
        """The name of who answers an `echo` client; returns once the stream is open."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("served by "), f"the stream did not open: {line}"
        return line.split()[-1]

    @property
    def answers(self) -> Answers:
        """The result of `http` and `udp` clients."""
        return _answers(json.dumps(self.result))


@contextmanager
def beside(where: Namespace, kind: str, address: str, port: int, *rest: float) -> Iterator[Running]:
    """A client in the background; `kind` and `rest` as in `client.py`."""
    argv = processes.in_netns(where.name, _argv(kind, address, port, *rest))
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=processes.clean_environment(),
    )
    running = Running(process)
    try:
        yield running
        running.stop()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def counted(where: Namespace, address: str, protocol: str, port: int) -> Iterator[list[int]]:
    """Count the packets that leave `where` for a service; the number is in the list at the end.

    Segmentation must be off on the device (`gso off`), or one counted packet may be several.
    """
    table = "millrace_lab"
    rules = (
        f"add table ip {table}\n"
        f"add counter ip {table} sent\n"
        f"add chain ip {table} out {{ type filter hook postrouting priority 300 ; }}\n"
        f"add rule ip {table} out ip daddr {address} {protocol} dport {port} counter name sent\n"
    )
    where.run("nft", "-f", "-", text_in=rules)
    found: list[int] = []
    try:
        yield found
        listed = json.loads(where.run("nft", "-j", "list", "counter", "ip", table, "sent"))
        found.append(
            next(int(o["counter"]["packets"]) for o in listed["nftables"] if "counter" in o)
        )
    finally:
        where.run("nft", "delete", "table", "ip", table, check=False)


@contextmanager
def captured(where: Namespace, device: str, into: Path, expression: str) -> Iterator[Path]:
    """A capture of what passes `device` while the block runs."""
    process = subprocess.Popen(
        processes.in_netns(
            where.name,
            ["tcpdump", "-Z", "root", "--immediate-mode", "-U", "-n", "-i", device, "-w",
             str(into), expression],
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=processes.clean_environment(),
    )  # fmt: skip
    assert process.stderr is not None
    try:
        # Its first line says that the socket is open: nothing is missed from here on.
        while "listening on" not in (line := process.stderr.readline()):
            assert line, "tcpdump ended"
        yield into
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def read_capture(path: Path) -> list[str]:
    """The packets of a capture, a line each."""
    return processes.run(["tcpdump", "-n", "-e", "-r", str(path)]).splitlines()
