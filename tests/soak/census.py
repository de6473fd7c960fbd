"""What a node holds at one moment: everything that a leak would make more of."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

from tests.labs.lab import Lab


@dataclass(frozen=True, slots=True)
class Census:
    """Names are compared as sets; numbers of descriptors must not grow; memory may, a little."""

    ovs_ports: frozenset[str]
    links: frozenset[str]
    sockets: frozenset[str]
    records: frozenset[str]
    daemon_fds: int
    vswitchd_fds: int
    daemon_kib: int
    vswitchd_kib: int

    def more_than(self, before: Census) -> list[str]:
        """Names and descriptors that are here and were not before."""
        found: list[str] = []
        for item in fields(self):
            now, then = getattr(self, item.name), getattr(before, item.name)
            if isinstance(now, frozenset):
                found += [f"{item.name}: {name}" for name in sorted(now - then)]
            elif item.name.endswith("_fds") and now > then:
                found.append(f"{item.name}: {then} -> {now}")
        return found


def census(lab: Lab) -> Census:
    """Count now."""
    node, vswitchd = lab.node.pid("node"), lab.node.pid("ovs-vswitchd")
    assert node is not None
    assert vswitchd is not None
    state = Path(f"/var/lib/millrace/{lab.node.name}/attachments")
    sockets = lab.node.rundir / "vhost"
    links = json.loads(lab.namespace.run("ip", "-j", "link", "show"))
    ports = lab.node.vsctl("--columns=name", "--format=csv", "--no-headings", "list", "Port")
    return Census(
        ovs_ports=frozenset(ports.split()),
        links=frozenset(str(link["ifname"]) for link in links),
        sockets=frozenset(str(path.relative_to(sockets)) for path in sockets.rglob("*")),
        records=frozenset(path.name for path in state.iterdir()),
        daemon_fds=_fds(node),
        vswitchd_fds=_fds(vswitchd),
        daemon_kib=_rss_kib(node),
        vswitchd_kib=_rss_kib(vswitchd),
    )


def _fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only their number


def _rss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))
