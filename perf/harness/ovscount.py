"""What OVS-DPDK counts during a trial: cycles, passes, caches, upcalls, drops by their place."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import processes

_THREAD = re.compile(r"^(?:pmd thread|main thread)", re.MULTILINE)
_LINE = re.compile(r"^\s+([a-z][a-z ]+[a-z]): (\d+)", re.MULTILINE)
_COVERAGE = re.compile(r"^(\S*drop\S*|\S*upcall\S*)\s.*total: (\d+)", re.MULTILINE)
_PORT = re.compile(r'^ +port +"?([^":]+)"?: rx (.*?)(?=^ +port |\Z)', re.MULTILINE | re.DOTALL)
_COUNT = re.compile(r"(\w+)=(\d+)")
_PLACES = (
    ("rx_missed_errors", "NIC"),
    ("ovs_tx_failure_drops", "vhost or NIC queue full"),
    ("ovs_tx_mtu_exceeded_drops", "frame over the port's MTU"),
    ("ovs_tx_qos_drops", "QoS, sending"),
    ("ovs_rx_qos_drops", "policer, receiving"),
)
"""Counters of a port (ovs-vswitchd.conf.db(5), Interface.statistics) and where a packet ended."""

_COUNTS = re.compile(r" (?:duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]*,")
_TABLE, _PRIORITY = re.compile(r"\btable=(\d+)"), re.compile(r"\bpriority=(\d+)")
_DEFAULT_PRIORITY = 32768
"""ovs-ofctl(8), dump-flows, which leaves it out."""

Ask = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums since start: of PMD threads, and drops by place."""

    threads: Mapping[str, int]
    drops: Mapping[str, int]

    def since(self, before: Counted) -> Counted:
        """The difference to an earlier moment."""
        return Counted(
            {key: value - before.threads.get(key, 0) for key, value in self.threads.items()},
            {key: value - before.drops.get(key, 0) for key, value in self.drops.items()},
        )

    @property
    def busy_share(self) -> float:
        """Of the PMDs' cycles, those in which there was something to do."""
        busy = self.threads.get("processing cycles", 0)
        return busy / max(busy + self.threads.get("idle cycles", 0), 1)

    def counters(self) -> dict[str, float]:
        """Ratios for each packet received from a port, and what says that a trial was steady."""
        got = self.threads
        packets = max(got.get("packets received", 0), 1)
        passes = packets + got.get("packet recirculations", 0)
        upcalls = got.get("miss with success upcall", 0) + got.get("miss with failed upcall", 0)
        return {
            "packets": float(got.get("packets received", 0)),
            "cycles_per_packet": got.get("processing cycles", 0) / packets,
            "passes_per_packet": passes / packets,
            "simple_match_hit_ratio": got.get("simple match hits", 0) / passes,
            "emc_hit_ratio": got.get("emc hits", 0) / passes,
            "smc_hit_ratio": got.get("smc hits", 0) / passes,
            "megaflow_hit_ratio": got.get("megaflow hits", 0) / passes,
            "upcalls": float(upcalls),
            "failed_upcalls": float(got.get("miss with failed upcall", 0)),
        }

    def dropped(self) -> dict[str, int]:
        """Places that dropped anything."""
        return {place: count for place, count in sorted(self.drops.items()) if count > 0}


def counted(appctl: Ask, vsctl: Ask, rundir: Path) -> Counted:
    """Ask vswitchd, and each of its bridges by OpenFlow: the database's figures are seconds old.

    Raises:
        ProcessError: one of them does not answer.
    """
    return Counted(
        threads(appctl("dpif-netdev/pmd-stats-show")),
        drops(
            appctl("coverage/show"),
            "".join(
                processes.run(
                    [
                        "ovs-ofctl",
                        "--names",
                        "-O",
                        "OpenFlow14",
                        "dump-ports",
                        f"unix:{rundir}/{bridge}.mgmt",
                    ]
                )
                for bridge in vsctl("list-br").split()
            ),
        ),
    )


def threads(text: str) -> dict[str, int]:
    """The sums over PMD threads of `dpif-netdev/pmd-stats-show`; the main thread is none."""
    sums: Counter[str] = Counter()
    starts = [match.start() for match in _THREAD.finditer(text)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        block = text[start:end]
        if block.startswith("pmd"):
            for key, value in _LINE.findall(block):
                sums[key] += int(value)
    return dict(sums)


def drops(coverage: str, ports: str) -> dict[str, int]:
    """`coverage/show`'s drops and those of ports (`dump-ports`), by place and port.

    What a port counts beyond its reasons has no reason given.
    """
    found = {f"datapath: {key}": int(value) for key, value in _COVERAGE.findall(coverage)
             if "drop" in key}  # fmt: skip
    for name, text in _PORT.findall(ports):
        receiving, _, sending = text.partition("tx pkts=")
        whole = {
            "receiving": int(dict(_COUNT.findall(receiving)).get("drop", 0)),
            "sending": int(dict(_COUNT.findall(sending)).get("drop", 0)),
        }
        reasons = dict(_COUNT.findall(text))
        for key, place in _PLACES:
            if key in reasons:
                count = found[f"{place}: {name}"] = int(reasons[key])
                if key != "rx_missed_errors":
                    whole["receiving" if key.startswith("ovs_rx") else "sending"] -= count
        for way, left in whole.items():
            found[f"port, {way}, no reason given: {name}"] = max(0, left)
    return found


def configuration(
    vsctl: Ask, ofctl: Ask, appctl: Ask, bridges: tuple[str, ...]
) -> dict[str, object]:
    """OVS as it is set: every other_config, ports and their threads, all flows.

    Flows are in order and without what they counted, so that scenarios of one lab have the same.
    """
    return {
        "open_vswitch": _rows(vsctl("--format=json", "list", "Open_vSwitch")),
        "interfaces": _rows(
            vsctl("--format=json", "--columns=name,type,options,mtu,other_config", "list",
                  "Interface")
        ),
        "pmd_rxq": appctl("dpif-netdev/pmd-rxq-show").splitlines(),
        "flows": {bridge: _flows(ofctl(bridge)) for bridge in bridges},
        "megaflows": appctl("dpctl/dump-flows").splitlines(),
    }  # fmt: skip


def _flows(text: str) -> list[str]:
    """The lines of `dump-flows` by table and priority; its headings and counts are no flows."""
    found = [_COUNTS.sub("", line).strip() for line in text.splitlines() if "actions=" in line]
    return sorted(found, key=lambda flow: (*_place(flow), flow))


def _place(flow: str) -> tuple[int, int]:
    match, _, _ = flow.partition("actions=")
    table, priority = _TABLE.search(match), _PRIORITY.search(match)
    return int(table[1]) if table else 0, -int(priority[1]) if priority else -_DEFAULT_PRIORITY


def _rows(text: str) -> list[dict[str, object]]:
    told = json.loads(text)
    return [dict(zip(told["headings"], row, strict=True)) for row in told["data"]]
