"""`millrace restart-ovs`: vswitchd is restarted in order, and the outage is measured."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from cni.wire import call
from controller import embedded
from controller.cli import failures
from controller.cli.read import ask, show
from controller.cli.render import Json, child
from controller.config import load_node
from controller.ovs_restart import Outcome, restart
from dataplane.drivers.processes import ProcessError

ASK_TIMEOUT_S = 15.0
"""The southbound database is told in it; a look takes milliseconds."""

UNIT_TIMEOUT_S = 180.0
_UNIT = re.compile(r"/([\w@.\\-]+\.service)(?:/|$)", re.MULTILINE)


def unit_of(cgroups: str) -> str | None:
    """The systemd unit in a process's /proc/PID/cgroup; None: it is in none."""
    found = _UNIT.findall(cgroups)
    return str(found[-1]) if found else None


def restart_ovs(arguments: argparse.Namespace) -> int:
    """0: restarted, and all is back; 4: something is missing, or the step is only shown."""
    status = ask(arguments, "status")
    pending = child(child(status, "ovs"), "restart_pending")
    if not pending and not arguments.force:
        msg = (
            "no setting waits for a restart of ovs-vswitchd, and a restart interrupts the node's "
            "traffic; --force does it anyway"
        )
        raise failures.CommandError(msg)
    act, step = _way(arguments, status)
    if act is None:
        text = f"ovs-vswitchd is not Millrace's own here. Restart it with --run, or by: {step}"
        show(arguments, {"step": step, "restart_pending": pending, "done": False}, text)
        return failures.DEGRADED

    def asked(op: str, **args: object) -> Json:
        return call(_socket(arguments), op, args, ASK_TIMEOUT_S)

    found = restart(asked, f"pid {os.getpid()}", act, arguments.timeout)
    left = child(child(ask(arguments, "status"), "ovs"), "restart_pending")
    answer = answer_of(found, pending, left, step)
    show(arguments, answer, restart_text(answer))
    if found.failure:
        msg = f"{step} failed: {found.failure}"
        raise failures.CommandError(msg)
    return failures.DEGRADED if found.missing or left else failures.OK


def _socket(arguments: argparse.Namespace) -> str:
    if arguments.socket:
        return str(arguments.socket)
    return str(Path(load_node(Path(arguments.config)).config.rundir) / "agent.sock")


def _way(arguments: argparse.Namespace, status: Json) -> tuple[Callable[[], object] | None, str]:
    """What restarts vswitchd here (None: the operator), and how to call it."""
    config = load_node(Path(arguments.config)).config
    if config.embedded_ovs:
        return lambda: embedded.restart_vswitchd(config), "restart of the embedded ovs-vswitchd"
    pid = child(status, "ovs").get("pid")
    try:
        unit = unit_of(Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"))
    except OSError:
        unit = None
    if unit is None:
        if arguments.run:
            msg = f"ovs-vswitchd (pid {pid}) runs in no systemd unit: restart it as it was started"
            raise failures.CommandError(msg)
        return None, "(no systemd unit found: as it was started)"
    argv = ["systemctl", "restart", unit]
    return (lambda: _run(argv)) if arguments.run else None, " ".join(argv)


def _run(argv: list[str]) -> None:
    done = subprocess.run(  # noqa: S603  # a list, and no shell
        argv, capture_output=True, text=True, check=False, timeout=UNIT_TIMEOUT_S
    )
    if done.returncode:
        msg = f"{' '.join(argv)}: {done.stderr.strip() or f'exit code {done.returncode}'}"
        raise ProcessError(msg)


def answer_of(found: Outcome, pending: Json, left: Json, step: str) -> Json:
    """The outcome for programs."""
    return {
        "step": step,
        "done": not (found.failure or found.missing),
        "applied": {key: value for key, value in pending.items() if key not in left},
        "restart_pending": left,
        "drained_ms": found.drained_ms,
        "withdrawn_vips": found.withdrawn,
        "milestones_ms": dict(found.milestones),
        "missing": list(found.missing),
        "outage_ms": found.outage_ms,
        "notes": list(found.notes),
        "failure": found.failure,
    }


def restart_text(answer: Json) -> str:
    """The outcome for people: when what was back, counted from the order to stop."""
    drained = answer.get("drained_ms")
    lines = [f"drained     in {_ms(drained)}, {answer.get('withdrawn_vips')} VIPs given away"]
    reached = child(answer, "milestones_ms")
    width = max((len(name) for name in reached), default=0)
    lines += [f"after       {name:<{width}}  {_ms(at):>9}" for name, at in reached.items()]
    lines += [f"missing     {name}" for name in _texts(answer, "missing")]
    lines += [f"note        {text}" for text in _texts(answer, "notes")]
    for key, change in sorted(child(answer, "applied").items()):
        old, new = change if isinstance(change, list) else (None, change)
        lines.append(f"in effect   {key}: {_or_default(old)} -> {_or_default(new)}")
    lines += [f"still waits {key}" for key in sorted(child(answer, "restart_pending"))]
    outage = answer.get("outage_ms")
    lines.append(f"outage      {'not over' if outage is None else _ms(outage)}")
    return "\n".join(lines)


def _texts(answer: Json, key: str) -> list[str]:
    found = answer.get(key)
    return [str(one) for one in found] if isinstance(found, list) else []


def _ms(value: object) -> str:
    return f"{value / 1000:.2f} s" if isinstance(value, int | float) else "?"


def _or_default(value: object) -> str:
    return "(OVS's default)" if value is None else str(value)
