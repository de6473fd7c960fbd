"""`millrace perf kernel-latency` compiles with a kernel's headers and times real packets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplane.drivers import processes
from perf import kerneltrace, peerlab
from perf.harness import kernellook
from perf.harness.generator import HarnessError
from perf.peerlab import Trio
from tests.labs import headers

PACKETS, SIZE = 40, 972
"""UDP's payload: a frame is 1,000 octets without its Ethernet header."""
ENOUGH = PACKETS * 3 // 4
"""A machine that others use, too, may lose sight of some: the trace follows everybody's packets."""

RATE_KBIT = 800
FRAME_MS = 10.0
"""What a frame takes at that rate, at least."""

SEND = """
import socket, sys
to = (sys.argv[1], 9)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.bind((sys.argv[2], 0))
    for _ in range(int(sys.argv[3])):
        out.sendto(bytes(int(sys.argv[4])), to)
"""

TALKS, PAUSE_S = 20, 0.05
TALK = """
import ctypes, socket, sys, time
def enter(path):
    with open(path) as space:
        assert ctypes.CDLL(None).setns(space.fileno(), 0) == 0
count, pause, address, *spaces = sys.argv[1:]
for path in spaces[:1]:
    enter(path)
with socket.create_server((address, 0)) as server:
    for path in spaces[1:]:
        enter(path)
    one = socket.create_connection(server.getsockname())
    two, _ = server.accept()
    for _ in range(int(count)):
        one.sendall(bytes(100))
        two.recv(100)
        time.sleep(float(pause))
        two.sendall(bytes(100))
        one.recv(100)
"""


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """A client, a router and a backend."""
    peerlab.sweep()
    made = peerlab.trio("hops")
    try:
        made.build()
        words = ["ip", "route", "add", str(peerlab.BACKENDS), "via", "198.51.100.253"]
        processes.run(words, netns=made.client)
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def tree() -> Path:
    """Headers; of the module, for a test has a network namespace of its own."""
    return headers.tree()


def _traced(trio: Trio, tree: Path | None, done: str, *words: str) -> tuple[int, str, str]:
    """What it says of some frames through the router: exit code, output, complaints."""
    environment = {k: v for k, v in os.environ.items() if k != kerneltrace.ENVIRONMENT}
    if tree is not None:
        environment[kerneltrace.ENVIRONMENT] = str(tree)
    command = [sys.executable, "-m", "perf.kerneltrace", "--seconds", "120", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            first = running.stderr.readline()
            if first.strip() == kerneltrace.READY:
                words_ = [str(peerlab.backend(0, 0)), "198.51.100.254", str(PACKETS), str(SIZE)]
                before = _received(trio)
                processes.run([sys.executable, "-c", SEND, *words_], netns=trio.client)
                processes.wait_until(lambda: _received(trio) - before >= PACKETS, done)
                running.terminate()
            out, complaints = running.communicate(timeout=120)
        finally:
            running.kill()
    return running.returncode, out, first + complaints


def _received(trio: Trio) -> int:
    """Datagrams that came to the backend, where nobody listens; no other frames are among them."""
    shown = processes.run(["cat", "/proc/net/snmp"], netns=trio.backend).splitlines()
    names, figures = (line.split() for line in shown if line.startswith("Udp:"))
    return int(figures[names.index("NoPorts")])


def _hop(told: dict[str, object], *ends: str) -> dict[str, float]:
    hops = told["hops"]
    assert isinstance(hops, list)
    (found,) = [
        hop for hop in hops
        if (hop["from"]["event"], hop["from"]["device"], hop["to"]["event"], hop["to"]["device"])
        == ends
    ]  # fmt: skip
    return dict(found)


def test_every_frame_is_timed_from_one_device_to_the_other(trio: Trio, tree: Path) -> None:
    code, out, complaints = _traced(trio, tree, "frames at the backend", "--json")
    assert code == kerneltrace.OK, complaints
    told = json.loads(out)
    assert not told["absent"]
    through = _hop(told, "entered", "r0", "sent", "r1")
    stack = _hop(told, "received", "r0", "queued", "r1")
    discipline = _hop(told, "queued", "r1", "sent", "r1")
    # What the router has to say itself (ARP) is queued and sent, too, but never came in.
    assert ENOUGH <= through["count"] <= stack["count"] <= PACKETS
    assert discipline["count"] >= ENOUGH
    assert 0 < stack["p50_ns"] <= through["most_ns"]
    assert told["softirqs"]["NET_RX ran"]["count"] > 0


def test_what_waits_for_a_discipline_is_seen_to_wait_there(trio: Trio, tree: Path) -> None:
    words = ["tc", "qdisc", "add", "dev", "r1", "root", "tbf", "rate", f"{RATE_KBIT}kbit"]
    processes.run([*words, "burst", "1600", "limit", "200000"], netns=trio.router)
    try:
        words = ["--json", "--device", "r1"]
        code, out, complaints = _traced(trio, tree, "shaped frames", *words)
    finally:
        processes.run(["tc", "qdisc", "del", "dev", "r1", "root"], netns=trio.router)
    assert code == kerneltrace.OK, complaints
    told = json.loads(out)
    waited = _hop(told, "queued", "r1", "sent", "r1")
    # The last one stands behind all others but those that the burst let through.
    assert waited["count"] >= ENOUGH
    assert waited["most_ns"] >= (ENOUGH - 3) * FRAME_MS * 1e6
    assert waited["p50_ns"] >= (ENOUGH / 2 - 3) * FRAME_MS * 1e6
    assert _hop(told, "received", "r0", "queued", "r1")["p50_ns"] < waited["p50_ns"]


def test_a_trial_looks_into_the_kernel_while_its_frames_go(
    trio: Trio, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, str(tree))
    words = [str(peerlab.backend(0, 0)), "198.51.100.254", str(PACKETS), str(SIZE)]

    def run() -> None:
        before = _received(trio)
        processes.run([sys.executable, "-c", SEND, *words], netns=trio.client)
        processes.wait_until(lambda: _received(trio) - before >= PACKETS, "frames")

    found = kernellook.look(run, "r0", "r1")
    assert ENOUGH <= found.frames <= PACKETS
    assert 0 < found.us50 <= found.us99
    with pytest.raises(HarnessError, match="no frame was seen"):
        kernellook.look(lambda: None, "r0", "r1")
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, "/nowhere")
    with pytest.raises(HarnessError, match="absent here"):
        kernellook.look(run, "r0", "r1")


def test_what_a_socket_sends_later_is_no_packet_that_came_before(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, str(tree))
    processes.run(["ip", "link", "set", "lo", "up"])
    _no_hop_of_a_pause(_talked("127.0.0.1"), "lo")


def test_nor_where_a_kernel_thread_polls(
    trio: Trio, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, str(tree))
    ends = {"r0": trio.router, "c0": trio.client}
    for device, space in ends.items():
        _threaded(space, device, "1")
    try:
        spaces = (str(processes.NETNS_DIR / space) for space in ends.values())
        told = _talked("198.51.100.253", *spaces)
    finally:
        for device, space in ends.items():
            _threaded(space, device, "0")
    for device in ends:
        _no_hop_of_a_pause(told, device)


def _threaded(space: str, device: str, value: str) -> None:
    path = f"/sys/class/net/{device}/threaded"
    # `ip netns exec` shows the namespace's own /sys.
    processes.run(["ip", "netns", "exec", space, "tee", path], text_in=value)


def _talked(*words: str) -> dict[str, Any]:
    """What is told of two sockets that talk by TCP, with pauses."""
    command = [sys.executable, "-m", "perf.kerneltrace", "--seconds", "120", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        try:
            assert running.stderr.readline().strip() == kerneltrace.READY
            processes.run([sys.executable, "-c", TALK, str(TALKS), str(PAUSE_S), *words])
            running.terminate()
            out, _ = running.communicate(timeout=120)
        finally:
            running.kill()
    found: dict[str, Any] = json.loads(out)
    return found


def _no_hop_of_a_pause(told: dict[str, Any], device: str) -> None:
    # TCP frees what it has read where nobody sees it, and the next segment has its memory.
    hops = [hop for hop in told["hops"] if hop["from"]["device"] == device]
    waited = [hop for hop in hops if hop["to"]["event"] in ("queued", "sent")]
    assert waited
    assert [hop for hop in waited if hop["most_ns"] >= PAUSE_S * 1e9] == []


def test_text_has_a_histogram_of_the_way_through(trio: Trio, tree: Path) -> None:
    code, out, complaints = _traced(trio, tree, "frames", "--device", "r0")
    assert code == kerneltrace.OK, complaints
    assert "in r0 -> sent r1" in out
    assert "#" in out


def test_where_bcc_cannot_compile_it_is_said_to_be_absent(trio: Trio, tmp_path: Path) -> None:
    for name in ("include/generated/autoconf.h", "include/linux/kconfig.h"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    code, out, complaints = _traced(trio, tmp_path, "nothing")
    assert code == kerneltrace.ABSENT
    assert not out
    assert "absent here: latency inside the kernel" in complaints
    assert "cannot compile" in complaints
    assert str(tmp_path) in complaints
