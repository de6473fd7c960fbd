"""An ordered restart of vswitchd: drain, restart, watch what comes back when, resume.

The outage is counted from the moment the old process is told to end. Each milestone is asked of
what cannot be stale: of the new process, of the kernel, of the daemon's own comparison; OVS's
database keeps what the old process wrote.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cni.wire import RemoteError, WireError

Look = Mapping[str, object]
Ask = Callable[..., Mapping[str, object]]
"""An operation of the daemon's socket, and its arguments by name."""

LOOK_S = 0.05
RENEW_S = 20.0
WITHDRAW_S = 5.0
"""How long OVN may take to tell the nodes [s]."""

SETTLE_S = 1.0
"""For the other nodes to say on the wire that the VIPs are theirs."""

FLOWS_SHARE = 0.9
"""OVN may drop or add a few between two looks."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened: times [ms], milestones after the old process was told to end.

    `missing`: the milestones that did not come in time. `withdrawn`: VIPs given to other nodes.
    """

    drained_ms: float
    milestones: Mapping[str, float]
    missing: tuple[str, ...] = ()
    withdrawn: int = 0
    notes: tuple[str, ...] = ()
    failure: str = ""

    @property
    def outage_ms(self) -> float | None:
        """Until the last milestone; None: one is missing."""
        return None if self.missing or self.failure else max(self.milestones.values(), default=0.0)


@dataclass(slots=True)
class _Watch:
    """Milestones by name, with what has to hold of a look."""

    began: float
    wanted: dict[str, Callable[[Look], bool]]
    reached: dict[str, float] = field(default_factory=dict)

    def see(self, look: Look, now: float) -> None:
        for name, holds in self.wanted.items():
            if name not in self.reached and holds(look):
                self.reached[name] = (now - self.began) * 1000

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in self.wanted if name not in self.reached)


def _names(look: Look, key: str) -> frozenset[str]:
    found = look.get(key)
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()


def _number(look: Look, key: str) -> int:
    found = look.get(key)
    return found if isinstance(found, int) else 0


def milestones(before: Look) -> dict[str, Callable[[Look], bool]]:
    """What has to come back, given what there was."""
    pid = before.get("pid")

    def new(look: Look) -> bool:
        return look.get("pid") not in (None, pid)

    uplinks = _names(before, "uplinks") & _names(before, "polled")
    vhost = _names(before, "vhost")
    flows = _number(before, "flows")
    wanted: dict[str, Callable[[Look], bool]] = {
        "old process gone": lambda look: look.get("pid") != pid,
        "new process up": new,
    }
    if uplinks:
        wanted["uplinks polled"] = lambda look: new(look) and uplinks <= _names(look, "polled")
    if vhost:
        wanted["guests' queues polled"] = lambda look: new(look) and vhost <= _names(look, "vhost")
    if _names(before, "addresses"):
        wanted["bridges' addresses"] = lambda look: new(look) and look.get("addressed") is True
    if flows:
        wanted["OVN's flows"] = lambda look: (
            new(look) and _number(look, "flows") >= FLOWS_SHARE * flows
        )
    wanted["all as planned"] = lambda look: new(look) and look.get("converged") is True
    return wanted


def restart(ask: Ask, holder: str, act: Callable[[], object], timeout_s: float) -> Outcome:
    """Drain the node, run `act`, which restarts vswitchd, and wait for everything to be back.

    Raises:
        RemoteError, WireError: the daemon refuses, or is out of reach, before anything is stopped.
    """
    started = time.monotonic()
    notes: list[str] = []
    try:
        withdrawn = _withdraw(ask, holder, notes)
        before = ask("restart_look")
        drained_ms = (time.monotonic() - started) * 1000
        failures: list[BaseException] = []
        watch = _Watch(time.monotonic(), milestones(before))
        worker = threading.Thread(target=_guarded, args=(act, failures), daemon=True)
        worker.start()
        _follow(ask, holder, watch, failures, timeout_s)
        worker.join(timeout=timeout_s)
        failure = str(failures[0]) if failures else ""
        return Outcome(drained_ms, watch.reached, watch.missing, withdrawn, tuple(notes), failure)
    finally:
        _resume(ask, holder)


def _withdraw(ask: Ask, holder: str, notes: list[str]) -> int:
    had = _number(ask("restart_look"), "announced")
    told = ask("drain", holder=holder).get("withdrawn") is True
    if not had:
        return 0
    if not told:
        notes.append(f"{had} VIPs stay here: the node's file names ovn-cms-options itself")
        return 0
    end = time.monotonic() + WITHDRAW_S
    while left := _number(ask("restart_look"), "announced"):
        if time.monotonic() > end:
            notes.append(f"{left} of {had} VIPs stay here: no other node can take them")
            return had - left
        time.sleep(LOOK_S)
    time.sleep(SETTLE_S)
    return had


def _guarded(act: Callable[[], object], failures: list[BaseException]) -> None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - told by the caller's thread
        failures.append(error)


def _follow(
    ask: Ask, holder: str, watch: _Watch, failures: list[BaseException], timeout_s: float
) -> None:
    renewed = watch.began
    while watch.missing and not failures:
        now = time.monotonic()
        if now - watch.began > timeout_s:
            return
        try:
            if now - renewed > RENEW_S:
                ask("drain", holder=holder)
                renewed = now
            look = ask("restart_look")
            watch.see(look, time.monotonic())
        except (RemoteError, WireError):
            pass  # asked again; what is missing at the end is said
        time.sleep(LOOK_S)


def _resume(ask: Ask, holder: str) -> None:
    # The lease ends by itself.
    with contextlib.suppress(RemoteError, WireError):
        ask("resume", holder=holder)
