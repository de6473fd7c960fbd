"""Random sequences of CNI verbs with kills in between, and what may be attached after them.

A runtime that loses a call does not know how it ended, so the book keeps for each pod every
sandbox that may be its attached one. What it does know must be so; at the end it does what a
runtime does with what it does not know: DEL.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cni import spec, wire

NETWORK = "mill"
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One sandbox of a pod. `mode`: veth or vhost-user; a veth needs the namespace."""

    container: str
    pod: str
    namespace: str
    mode: str
    netns: str = ""

    def arguments(self) -> dict[str, object]:
        """Of the daemon's operations on it."""
        return {
            "network": NETWORK, "container_id": self.container, "ifname": "eth0",
            "netns": self.netns, "pod": self.pod, "namespace": self.namespace,
            "pod_uid": self.container, "mode": self.mode, "mtu": 0, "queues": 1,
        }  # fmt: skip


@dataclass(slots=True)
class Runtime:
    """A runtime's calls to the daemon at `path`, and its book. `kill`: the daemon, by SIGKILL.

    `restart` brings it back and returns when it serves calls.
    """

    path: Path
    sandboxes: Sequence[Sandbox]
    kill: Callable[[], None]
    restart: Callable[[], None]
    seed: int
    random: random.Random = field(init=False)
    may_have: dict[str, set[str | None]] = field(init=False)
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.may_have = {one.pod: {None} for one in self.sandboxes}

    def run(self, steps: int, deaths: float = 0.1) -> None:
        """That many random steps; `deaths`: the share of them in which the daemon is killed."""
        for _ in range(steps):
            one = self.random.choice(self.sandboxes)
            if self.random.random() < deaths:
                self._die_during(one)
                continue
            step = self.random.choice(
                (self.add, self.add, self.delete, self.check, self.gc, self.cut)
            )
            step(one)

    def settle(self) -> dict[str, Sandbox]:
        """DEL of all that is not known; the attached sandbox of each pod that has one."""
        for one in self.sandboxes:
            if len(self.may_have[one.pod]) > 1:
                self.delete(one)
        by_name = {one.container: one for one in self.sandboxes}
        certain: dict[str, Sandbox] = {}
        for pod, may in self.may_have.items():
            assert len(may) == 1, self.history
            (name,) = may
            if name is not None:
                certain[pod] = by_name[name]
        for one in certain.values():
            refused = self._ask("check", one)
            assert refused is None, (refused, self.seed, self.history)
        return certain

    def empty(self) -> None:
        """DEL of everything."""
        for one in self.sandboxes:
            self.delete(one)

    # -- one step each -------------------------------------------------------------------------

    def add(self, one: Sandbox) -> None:
        """ADD, which has to succeed."""
        refused = self._ask("add", one)
        assert refused is None, (refused, self.history)
        self.may_have[one.pod] = {one.container}

    def delete(self, one: Sandbox) -> None:
        """DEL, which has to succeed."""
        refused = self._ask("del", one)
        assert refused is None, (refused, self.history)
        self._lose(one)

    def check(self, one: Sandbox) -> None:
        """CHECK: what it says has to be possible."""
        may = self.may_have[one.pod]
        refused = self._ask("check", one)
        if refused is None:
            assert one.container in may, self.history
            self.may_have[one.pod] = {one.container}
        elif refused.code == spec.UNKNOWN_CONTAINER:
            # A call that was cut short may still be being undone: that is no promise.
            assert may != {one.container}, self.history
        else:
            # Recorded, but its ADD was cut short: only possible where that is not known.
            assert len(may) > 1, (refused, self.history)

    def gc(self, _one: Sandbox) -> None:
        """GC that keeps a random part."""
        kept = [one for one in self.sandboxes if self.random.random() < 0.7]
        self.history.append(f"gc {[one.container for one in kept]}")
        valid = [{"container_id": one.container, "ifname": "eth0"} for one in kept]
        wire.call(str(self.path), "gc", {"network": NETWORK, "valid": valid}, PATIENCE_S)
        for one in self.sandboxes:
            if one not in kept:
                self._lose(one)

    def cut(self, one: Sandbox) -> None:
        """A call whose plugin is killed at a random moment."""
        op = self.random.choice(("add", "del"))
        with self._begun(op, one):
            time.sleep(self.random.uniform(0, 0.03))
        self._unknown(op, one)

    def _die_during(self, one: Sandbox) -> None:
        op = self.random.choice(("add", "del"))
        with self._begun(op, one):
            time.sleep(self.random.uniform(0, 0.03))
            self.history.append("kill")
            self.kill()
        self._unknown(op, one)
        self.restart()

    # -- the book ------------------------------------------------------------------------------

    def _lose(self, one: Sandbox) -> None:
        may = self.may_have[one.pod]
        if one.container in may:
            may.discard(one.container)
            may.add(None)

    def _unknown(self, op: str, one: Sandbox) -> None:
        self.history[-1] += " (cut)"
        self.may_have[one.pod] |= {None, one.container} if op == "add" else set()
        if op == "del" and one.container in self.may_have[one.pod]:
            self.may_have[one.pod].add(None)

    def _ask(self, op: str, one: Sandbox) -> wire.RemoteError | None:
        self.history.append(f"{op} {one.container}")
        args = one.arguments()
        try:
            wire.call(str(self.path), op, args, PATIENCE_S)
        except wire.RemoteError as error:
            return error
        return None

    def _begun(self, op: str, one: Sandbox) -> socket.socket:
        self.history.append(f"{op} {one.container}")
        conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        conn.connect(str(self.path))
        conn.sendall(wire.encode(wire.request(op, dict[str, object](one.arguments()))))
        return conn


def devices_of(records: Path) -> set[str]:
    """The devices that have a durable record."""
    return {path.stem for path in records.glob("*.json")} if records.exists() else set()
