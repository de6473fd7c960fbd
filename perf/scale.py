"""The maps of very many services: their memory, and how long the drivers take to fill them.

    python -m perf.scale [--services N] [--backends N] [--json]

Backends are of each service. Real maps below a directory of our own in /sys/fs/bpf, filled by the
drivers that the daemon has. Needs root; touches no device.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bpf.pick import Candidate, member_key, pick
from dataplane.drivers.bpfmaps import BackendTable, VipTable
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.drivers.setsmap import SetTable
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import BackendEntry, SetEntry, SetScope, VipEntry, VipFlag
from dataplane.model.service import Place
from dataplane.plan.capacity import map_sizes

ROOT = "/sys/fs/bpf/millrace-scale"
FIRST_VIP, FIRST_BACKEND = IPv4Address("10.96.0.0"), IPv4Address("10.128.0.0")
SAMPLE, SLOTS = 1000, 50
"""Services whose sets are changed, and slots of each that are compared."""

Members = tuple[tuple[int, int, int], ...]


def power_of_two(least: int) -> int:
    """The next power of two, as the node's file wants capacities."""
    return 1 << (least - 1).bit_length()


def rows(
    services: int, backends: int
) -> tuple[
    list[tuple[L4Addr, VipEntry]],
    list[tuple[int, BackendEntry]],
    list[tuple[tuple[int, SetScope], SetEntry]],
]:
    """What a plan would have: VIPs, backends, and the sets of both scopes."""
    vips, targets, sets = [], [], []
    for service in range(1, services + 1):
        vip = L4Addr(Protocol.TCP, FIRST_VIP + service, 80)
        vips.append((vip, VipEntry(service, VipFlag.SNAT | VipFlag.REJECT)))
        members = []
        for number in range((service - 1) * backends + 1, service * backends + 1):
            target = L4Addr(Protocol.TCP, FIRST_BACKEND + number, 8080)
            targets.append((number, BackendEntry(target, Place.LOCAL, 1500)))
            members.append((number, member_key(str(target)), 1))
        entry = SetEntry(tuple(sorted(members, key=lambda member: member[1])))
        sets += [((service, scope), entry) for scope in SetScope]
    return vips, targets, sets


def memlock(fd: int) -> int:
    """What the kernel says that a map takes [bytes] (bpf_map_show_fdinfo)."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("memlock"))


def timed(into: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """Its result; the seconds go to `into`."""
    began = time.monotonic()
    found = work()
    into[name] = time.monotonic() - began
    return found


def picks(members: Members, slots: Sequence[int]) -> list[int]:
    """Where these slots go."""
    candidates = [Candidate(key, backend, weight) for backend, key, weight in members]
    return [pick(slot, candidates) for slot in slots]


def moved(table: SetTable, held: dict[tuple[int, SetScope], SetEntry]) -> dict[str, int]:
    """Take the last backend of some sets away, and give it back; count slots that moved.

    The picks are the reference's (bpf/pick.py), of the rows as they are given to the driver; that
    the maps hold these rows is compared apart, by a driver that has just been made.
    """
    choice = random.Random(5)  # noqa: S311 - a sample, the same each time
    keys = choice.sample(sorted(key for key in held if key[1] is SetScope.CLUSTER),
                         min(SAMPLE, len(held) // 2))  # fmt: skip
    slots = [choice.randrange(65536) for _ in range(SLOTS)]
    before = {key: picks(held[key].members, slots) for key in keys}
    gone = {key: max(member[0] for member in held[key].members) for key in keys}
    fewer = [
        (key, SetEntry(tuple(m for m in held[key].members if m[0] != gone[key]))) for key in keys
    ]
    found = {"slots": len(keys) * SLOTS, "of_removed": 0, "needless": 0, "after_return": 0}
    if table.upsert(fewer):
        msg = "sets cannot be made smaller"
        raise SystemExit(msg)
    for key, entry in fewer:
        for was, now in zip(before[key], picks(entry.members, slots), strict=True):
            found["of_removed"] += was == gone[key]
            found["needless"] += was not in (gone[key], now)
    if table.upsert([(key, held[key]) for key in keys]):
        msg = "sets cannot be made larger"
        raise SystemExit(msg)
    return found | {
        "after_return": sum(
            was != now
            for key in keys
            for was, now in zip(before[key], picks(held[key].members, slots), strict=True)
        )
    }


def measure(services: int, backends: int) -> dict[str, Any]:
    """Fill, read back, resync, change."""
    config = ServicesConfig(
        services=power_of_two(services + 1), backends=power_of_two(services * backends + 1)
    )
    seconds: dict[str, float] = {}
    vips, targets, sets = timed(seconds, "rows", lambda: rows(services, backends))
    remove_pins(ROOT)
    try:
        with BpfState(ROOT, sizes=map_sizes(config)) as state:
            tables: list[tuple[Any, Any]] = [
                (VipTable, vips), (BackendTable, targets), (SetTable, sets)
            ]  # fmt: skip
            for kind, batch in tables:
                name = f"fill {kind.name}"
                if failures := timed(seconds, name, partial(kind(state).upsert, batch)):
                    msg = f"{name}: {next(iter(failures.values()))}"
                    raise SystemExit(msg)
            memory = {name: memlock(held.fd) for name, held in state.maps.items()}
            # A restarted daemon reads everything and compares it with its plan.
            for kind, batch in tables:
                made = timed(seconds, f"open {kind.name}", partial(kind, state))
                held = timed(seconds, f"observe {kind.name}", made.observe)
                if dict(held) != dict(batch):
                    msg = f"{kind.name}: what is read is not what was written"
                    raise SystemExit(msg)
            change = moved(SetTable(state), dict(sets))
            again = SetTable(state).observe()
            change["differ_in_maps"] = sum(again[key] != row for key, row in sets)
    finally:
        remove_pins(ROOT)
    return {
        "services": services,
        "backends_each": backends,
        "load_average": os.getloadavg()[0],
        "seconds": seconds,
        "memory_bytes": memory,
        "memory_mib": sum(memory.values()) / 2**20,
        "resize": change,
    }


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 1 if a flow moved that need not."""
    parser = argparse.ArgumentParser(prog="python -m perf.scale", description=__doc__)
    parser.add_argument("--services", type=int, default=100_000)
    parser.add_argument("--backends", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    found = measure(options.services, options.backends)
    if options.json:
        print(json.dumps(found))
    else:
        for name, size in sorted(found["memory_bytes"].items(), key=lambda item: -item[1]):
            print(f"{size / 2**20:10.1f} MiB  {name}")
        print(f"{found['memory_mib']:10.1f} MiB  together")
        for name, took in found["seconds"].items():
            print(f"{took:10.2f} s    {name}")
        print(f"resize: {found['resize']}; load average {found['load_average']:.1f}")
    resize = found["resize"]
    return 1 if resize["needless"] or resize["after_return"] or resize["differ_in_maps"] else 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
