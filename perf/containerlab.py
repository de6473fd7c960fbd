"""The tests' lab for `millrace perf containers`: a pair of containers for each way to attach them.

All are in the same run: two containers on the node's trunk, two with an OVS port each (the same
switch in OVN, port security on), and two on a Linux bridge, which checks nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface

from dataplane.drivers import processes
from perf.labrun import iperf_time
from tests.labs import lab as topology
from tests.labs import logical, netns
from tests.labs.lab import Lab
from tests.labs.logical import PodPort
from tests.labs.netns import Namespace
from tests.labs.workloads import POD_NAMESPACE, Workload

PREFIX = "mrbox"
TRUNK, PORT, BRIDGE = WAYS = ("trunk", "port", "bridge")
TCP_PORT = 5201
_OWN = {"p1": "10.1.0.81", "p2": "10.1.0.82"}
_BRIDGED = ("10.8.0.1", "10.8.0.2")
_TRIES = 5
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """Who sends, and to what address."""

    client: Namespace
    server: Namespace
    address: str


def bridged(mtu: int, prefix: str = PREFIX) -> Pair:
    """Two containers on a Linux bridge; `mtu`: of everything between them."""
    between = Namespace(f"{prefix}-bridge").create()
    between.run("ip", "link", "add", "br0", "type", "bridge")
    between.run("ip", "link", "set", "br0", "up")
    spaces = []
    for number, address in enumerate(_BRIDGED):
        where = Namespace(f"{prefix}-b{number}").create()
        end = f"to{number}"
        netns.veth(where, "eth0", between, end, left_addresses=[f"{address}/24"])
        # An end that has less drops what is larger; the bridge has the least of its ports'.
        where.run("ip", "link", "set", "eth0", "mtu", str(mtu))
        between.run("ip", "link", "set", end, "mtu", str(mtu), "master", "br0")
        spaces.append(where)
    return Pair(spaces[0], spaces[1], _BRIDGED[1])


@dataclass(slots=True)
class ContainerLab:
    """The lab while it runs."""

    lab: Lab
    pairs: dict[str, Pair] = field(default_factory=dict)

    def attach_own(self) -> Pair:
        """Two containers with an OVS port each: while the node's file asks for it."""
        path, text = self.lab.node.config_path, self.lab.node.config_path.read_text("utf-8")
        spaces = []
        try:
            path.write_text(f'{text}\n[containers]\nattach = "port"\n', encoding="utf-8")
            self.lab.node.ask("apply", path=str(path))
            for name, address in _OWN.items():
                port = PodPort(f"{name}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{address}/24"))
                logical.add_port(self.lab.nb, port)
                where = Namespace(f"{PREFIX}-{name}").create()
                Workload(name, where.name, self.lab.node.cni_socket, "veth", where).attach()
                spaces.append(where)
        finally:
            path.write_text(text, encoding="utf-8")
            self.lab.node.ask("apply", path=str(path))
        return Pair(spaces[0], spaces[1], _OWN["p2"])

    def mtu(self) -> int:
        """Of the containers' interfaces, which all ways share."""
        # Not of /sys, which is the machine's in every namespace here.
        (link,) = json.loads(self.lab.containers["c1"].run("ip", "-j", "link", "show", "eth0"))
        return int(link["mtu"])

    def stream(self, way: str, seconds: float) -> tuple[float, int]:
        """One TCP stream: Gbit/s received, and segments sent again.

        Raises:
            ProcessError: iperf3's server never answered.
        """
        pair, error = self.pairs[way], ""
        argv = ["iperf3", "-c", pair.address, "-p", str(TCP_PORT), "-t", iperf_time(seconds), "-J"]
        for _ in range(_TRIES):
            told = json.loads(pair.client.run(*argv, check=False, timeout_s=seconds + 30))
            if told.get("end"):
                received = float(told["end"]["sum_received"]["bits_per_second"]) / 1e9
                return received, int(told["end"]["sum_sent"].get("retransmits", 0))
            error = str(told.get("error"))
            time.sleep(_PAUSE_S)
        msg = f"iperf3 to {pair.address}: {error}"
        raise processes.ProcessError(msg)

    def round_trip(self, way: str, count: int) -> float:
        """The mean of so many echo requests, each sent when the answer before it is there [ms].

        Raises:
            ProcessError: answers are missing.
        """
        pair = self.pairs[way]
        said = pair.client.run(
            "ping", "-n", "-q", "-A", "-c", str(count), pair.address, check=False, timeout_s=120
        )
        for line in said.splitlines():
            if line.startswith("rtt") and f"{count} received" in said:
                return float(line.split("=")[1].split("/")[1])
        msg = f"ping {pair.address}: {said}"
        raise processes.ProcessError(msg)

    def on_trunk(self) -> int:
        """How many containers the node has on its trunk."""
        return int(self.lab.node.ask("status")["containers"]["on_trunk"])


@contextmanager
def built(progress: Callable[[str], None], underlay_mtu: int) -> Iterator[ContainerLab]:
    """The lab with every pair in it; its threads poll without a pause."""
    with Lab(PREFIX, progress, guests=False, underlay_mtu=underlay_mtu) as lab:
        made = ContainerLab(lab)
        c1, c2 = lab.containers["c1"], lab.containers["c2"]
        made.pairs[TRUNK] = Pair(c1, c2, topology.CONTAINERS["c2"])
        made.pairs[PORT] = made.attach_own()
        made.pairs[BRIDGE] = bridged(made.mtu())
        lab.node.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-maxsleep=0")
        for way, pair in made.pairs.items():
            processes.spawn(
                ["iperf3", "-s", "-p", str(TCP_PORT)],
                log=lab.dir / f"iperf3-{way}.log",
                netns=pair.server.name,
            )
        time.sleep(_PAUSE_S)
        yield made
