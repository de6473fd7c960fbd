"""`millrace perf run`: scenarios, every trial kept, resumable; nothing is left however it ends."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from dataplane.ports import DataplaneError
from perf.harness import catalog, fingerprint, kernellook, reporting, selftest, senders
from perf.harness.generator import HarnessError
from perf.harness.progress import Display
from perf.harness.rundir import Plan, RunDirectory

QUICK_TRIALS, QUICK_SECONDS = 4, 0.5
TRIALS, SECONDS = selftest.TRIALS_OF_A_RUN, 2.0
RUNS = Path("bench/runs")
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
PATIENCE_S = 90.0
"""For the processes of a run that was killed; their own patience is a minute."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ENDING = "waiting for processes that still measure this run, or clear up behind it"


class _Interrupt:
    """Remembers that somebody wants the run to end; a second time changes nothing."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def list_command(argv: Sequence[str]) -> int:
    """`millrace perf list`: the scenarios, and what sends their packets."""
    parser = argparse.ArgumentParser(
        prog="millrace perf list", description="the scenarios, and what sends their packets"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--senders", action="store_true", help="what sends, and what of it this machine lacks"
    )
    options = parser.parse_args(argv)
    if options.senders:
        found = senders.senders()
        told = [asdict(each) for each in found]
        print(json.dumps(told, indent=2) if options.json else senders.table(found))
        return OK
    if options.json:
        print(json.dumps([_described(each) for each in catalog.SCENARIOS], indent=2))
        return OK
    wide = max(len(each.name) for each in catalog.SCENARIOS)
    for each in catalog.SCENARIOS:
        print(f"{each.name:<{wide}}  {'quick' if each.quick else '     '}  {each.title}")
    print(f"\n{len(catalog.SCENARIOS)} scenarios; the older benchmarks: millrace perf --help\n")
    print(senders.table(senders.senders()))
    return OK


def _described(scenario: catalog.Scenario) -> dict[str, Any]:
    return {**asdict(scenario), "largest_frame": catalog.CARRIES[scenario.carrier]}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="millrace perf run", description="measure scenarios; `millrace perf list` names them"
    )
    parser.add_argument(
        "scenario", nargs="*",
        help="a name, or a pattern ('svc-*'); default: all (with --quick: the quick ones)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="short trials, fewer of them; under ten minutes in all"
    )
    parser.add_argument(
        "--trials", type=int, help=f"of each (default {TRIALS}, quick {QUICK_TRIALS})"
    )
    parser.add_argument("--seconds", type=float, help=f"of a trial (default {SECONDS:g}, quick .5)")
    parser.add_argument("--size", type=int, help="octets of a frame with its check sequence")
    parser.add_argument("--rate", type=float, metavar="PPS", help="measure at it; search for none")
    parser.add_argument(
        "--kernel-latency", action="store_true",
        help="look into the kernel, too, where packets go through its stack (needs headers)",
    )  # fmt: skip
    parser.add_argument("--core", type=int, help="CPU of guests (default 0)")
    parser.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="EAL",
        help="a port to send by, as EAL has it (--port='-a 0000:03:00.0'); a second receives",
    )
    parser.add_argument(
        "--client", default="", metavar="WORDS", help="before a command at the sender: 'ssh vm-a'"
    )
    parser.add_argument("--address", default="", help="of the other end, where iperf3 -s runs")
    parser.add_argument("--dst-mac", default="", metavar="MAC", help="of the frames sent there")
    parser.add_argument(
        "--sender", default="", metavar="WORDS",
        help="a command that sends instead of our generator (docs/perf.md, Generators)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--into", type=Path, metavar="DIR", help=f"default {RUNS}/<time>")
    where.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    return parser.parse_args(argv)


def _plan(options: argparse.Namespace) -> Plan:
    if options.resume:
        asked = {
            "scenarios": options.scenario,
            "--quick": options.quick,
            "--port": options.port,
            "--dst-mac": options.dst_mac,
            "--sender": options.sender,
            "--client": options.client,
            "--address": options.address,
            "--kernel-latency": options.kernel_latency,
        }
        more = [name for name, value in asked.items() if value]
        numbers = ("trials", "seconds", "size", "rate", "core")
        more += [f"--{name}" for name in numbers if getattr(options, name) is not None]
        if more:
            msg = f"--resume goes on with the run's own plan: leave {', '.join(more)} out"
            raise HarnessError(msg)
        plan = RunDirectory(options.resume).plan()
        plan.chosen()
        return plan
    trials = QUICK_TRIALS if options.quick else TRIALS
    seconds = QUICK_SECONDS if options.quick else SECONDS
    trials = trials if options.trials is None else options.trials
    seconds = seconds if options.seconds is None else options.seconds
    chosen = catalog.chosen(
        options.scenario, quick=options.quick, size=options.size, rate_pps=options.rate,
        kernel=options.kernel_latency,
    )  # fmt: skip
    if options.kernel_latency:
        kernellook.check()
    if options.sender:
        senders.check(options.sender)
    core = options.core or 0
    if not 0 <= core < (os.cpu_count() or 1):
        msg = f"CPU {core}: this machine has 0 to {(os.cpu_count() or 1) - 1}"
        raise HarnessError(msg)
    names = tuple(each.name for each in chosen)
    return Plan(
        names, trials, seconds, options.size, core, tuple(options.port), options.dst_mac,
        options.rate, options.kernel_latency, options.client, options.address, options.sender,
    )  # fmt: skip


def run_command(argv: Sequence[str]) -> int:
    """`millrace perf run`: measure; 0 all was, 1 not all could be, 2 nonsense, 130 interrupted."""
    options = _arguments(argv)
    try:
        plan = _plan(options)
        if options.dry_run:
            print(_dry(plan))
            return OK
        if os.geteuid() != 0:
            print("millrace perf run: needs root (namespaces, hugepages, BPF)", file=sys.stderr)
            return FAILED
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        directory = RunDirectory(options.resume or options.into or RUNS / stamp)
        if not options.resume:
            directory.create(plan, fingerprint.fingerprint())
        with directory.held(PATIENCE_S, lambda: print(_ENDING, file=sys.stderr)) as held:
            return _run(directory, plan, held)
    except HarnessError as error:
        print(f"millrace perf run: {error}", file=sys.stderr)
        return USAGE


def _dry(plan: Plan) -> str:
    lines, total = [], 0.0
    for lab in plan.labs():
        order = plan.schedule(lab)
        took = catalog.SETUP_S[lab] + catalog.estimate_s(lab, len(order), plan.seconds)
        total += took
        lines.append(f"lab {lab}: {len(order)} trials, about {took:.0f} s")
        lines += [f"  {each.name}: {each.title}" for each in plan.chosen() if each.lab == lab]
    lines.append(f"in all about {total / 60:.1f} minutes; nothing was started")
    return "\n".join(lines)


def _run(directory: RunDirectory, plan: Plan, held: int) -> int:
    began = datetime.now(UTC).isoformat(timespec="seconds")
    interrupt = _Interrupt()
    todo = {lab: len(directory.missing(lab)) for lab in plan.labs()}
    display = Display({lab: count for lab, count in todo.items() if count}, plan.seconds)
    failed = False
    for lab, count in todo.items():
        if count and not interrupt.asked:
            failed = _lab(directory.path, lab, display, interrupt, held) != 0 or failed
    display.close()
    try:
        results = directory.finish(began)
        reporting.write_all(directory.path, results)
    except OSError as error:
        again = f"millrace perf run --resume {directory.path}"
        first = "make room, and " if error.errno in _FULL else ""
        why = f"{error.strerror or error}; {first}go on with what was measured: {again}"
        print(f"millrace perf run: {directory.path} cannot be written: {why}", file=sys.stderr)
        return FAILED
    except DataplaneError as error:
        print(f"millrace perf run: {error}", file=sys.stderr)
        return FAILED
    print(reporting.table(results))
    print(f"\n{directory.path}: results.json, report.html, report.md, junit.xml")
    again = f"millrace perf run --resume {directory.path}"
    if interrupt.asked:
        print(f"interrupted; what was measured is kept; go on with: {again}", file=sys.stderr)
        return INTERRUPTED
    if failed or not results.complete:
        left = sum(len(directory.missing(lab)) for lab in plan.labs())
        why = f"reasons are in report.md, complaints in {directory.path}/*.log"
        print(f"{left} trials are missing; {why}; try them again: {again}", file=sys.stderr)
        return FAILED
    return OK


def _lab(path: Path, lab: str, display: Display, interrupt: _Interrupt, held: int) -> int:
    """One lab's keeper, until it has ended; its exit code. It holds the run as long as it is."""
    keeper = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "perf.harness.keeper", str(path), lab],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        pass_fds=(held,),
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    told, rest, began = False, b"", time.monotonic()
    while True:
        if interrupt.asked and not told:
            told = True
            display.note(f"ending: {lab} is taken down")
            keeper.stdin.close()
        readable, _, _ = select.select([keeper.stdout], [], [], 0.2)
        display.tick(time.monotonic() - began)
        if not readable:
            continue
        chunk = os.read(keeper.stdout.fileno(), 1 << 16)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            display.event(json.loads(line))
    keeper.stdout.close()
    if not told:
        keeper.stdin.close()
    return keeper.wait()
