"""Where packets of a lab end without a word to anybody, and how many did since a test began.

"16 datagrams are missing" does not say whether a program of ours dropped them, OVS did, a ring was
full because its reader had no processor, or the socket of whoever should have read them; and by
the time that somebody asks, the lab is gone with its counters.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from controller import embedded
from dataplane.drivers import trunkmaps
from dataplane.drivers.bpfstate import version_directory
from dataplane.drivers.counters import counted, summed
from dataplane.drivers.libbpf import Map
from dataplane.drivers.ovstext import parse_coverage
from dataplane.drivers.trunkmaps import TrunkReason
from tests.labs.evidence import Part
from tests.labs.labnode import LabNode
from tests.labs.netns import Namespace
from tests.labs.servicenodes import ServiceLab

_LOSS = re.compile("drop|discard|err|fail|full|lost", re.IGNORECASE)
"""In a counter's name, the kernel's or OVS's: it is of packets that went no further."""

_PASSED = {TrunkReason.TO_TRUNK, TrunkReason.TO_POD}


def since(lab: ServiceLab) -> Callable[[], Sequence[Part]]:
    """What `evidence.behind` is to look at: the counters of losses that have grown from now on.

    Traffic that lost nothing has some grow, too: answers on their way when their flow was ended are
    no flow's any more (DROP_SVC_NO_FLOW).
    """
    before = lost(lab)

    def grown() -> str:
        found = lost(lab) - before
        return "\n".join(f"{place}: {count}" for place, count in sorted(found.items()))

    return lambda: [("lost since the test began, by place", grown)]


def lost(lab: ServiceLab) -> Counter[str]:
    """Every counter of losses on the lab's ways, and the time that the host took [ms]."""
    spaces = (lab.client, lab.wire, *lab.pods.values(), *(node.namespace for node in lab.nodes))
    found = Counter(dict(_of_machine()))
    for where in spaces:
        found.update(dict(_of_namespace(where)))
    for node in lab.nodes:
        found.update(dict(_of_node(node)))
    return found


def _of_machine() -> Iterator[tuple[str, int]]:
    """Queues of each processor (kernel, net/core/net-procfs.c), and proc_stat(5)."""
    for cpu, line in enumerate(Path("/proc/net/softnet_stat").read_text("ascii").splitlines()):
        yield f"backlog of processor {cpu}", int(line.split()[1], 16)
    stolen = int(Path("/proc/stat").read_text("ascii").split()[8])
    yield "taken by the host [ms]", stolen * 1000 // os.sysconf("SC_CLK_TCK")


def _of_namespace(where: Namespace) -> Iterator[tuple[str, int]]:
    """Its sockets, its devices, and their rings: veth's, and AF_XDP's that XDP redirects to."""
    for name, value in json.loads(where.run("nstat", "-asz", "-j"))["kernel"].items():
        if _LOSS.search(name):
            yield f"{where.name} {name}", value
    for link in json.loads(where.run("ip", "-s", "-j", "link", "show")):
        device = f"{where.name} {link['ifname']}"
        for side, counters in link["stats64"].items():
            for name, value in counters.items():
                if _LOSS.search(name):
                    yield f"{device} {side} {name}", value
        for line in where.run("ethtool", "-S", link["ifname"], check=False).splitlines():
            name, _, number = line.strip().partition(": ")
            if _LOSS.search(name):
                yield f"{device} {name}", int(number)


def _of_node(node: LabNode) -> Iterator[tuple[str, int]]:
    """Our programs by reason, and OVS's datapath."""
    root = embedded.load(node.config_path).config.bpf_root
    with Map.at(version_directory(root) / "counters") as verdicts:
        for reason, count in counted(verdicts).items():
            if _LOSS.search(reason.name):
                yield f"{node.name} {reason.name}", count.packets
    with Map.at(trunkmaps.directory(root) / trunkmaps.COUNTERS) as passed:
        sums = summed(passed)
    for dropped in set(TrunkReason) - _PASSED:
        yield f"{node.name} {dropped.name}", sums[dropped].packets
    for event, coverage in parse_coverage(node.appctl("coverage/show")).items():
        if _LOSS.search(event):
            yield f"{node.name} {event}", coverage.total
    yield f"{node.name} upcalls that failed", node.pmd().failed_upcalls
