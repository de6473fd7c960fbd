"""OVS-DPDK between the ports of our paced generator: the paths of `perf/harness`'s lab "paced".

One vswitchd and one PMD (perf.vhostlab), and one process that has the other end of every vhost-user
port: it sends by the first, counts at the second, and stands in for the guests and the far node on
the way, all in one loop. A guest is then a forwarder that the scheduler never puts aside, as it
would a process of its own where there are fewer processors than busy loops.

::

    p0 (sends)  p1 (counts)  p2=p3 (a guest)  p4=p5 (another)  p6 (wire, turns round)  pa, pb (OVN)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dataplane.drivers import processes
from dataplane.drivers.processes import ProcessError
from perf import priority
from perf.pktgen.driver import Pktgen
from perf.vhostlab import MACS, PORTS, VhostLab

WIRED = tuple(f"p{number}" for number in range(7))
NUMBER = {name: number for number, name in enumerate((*WIRED, *PORTS))}
"""DPDK's number of each port in the generator."""

GUESTS = ((2, 3), (4, 5))
WIRE = 6
NEAR, FAR = "10.9.0.1", "10.9.0.2"
"""Both ends of the tunnels; the far one is the wire's, which turns round what comes."""

FAR_MAC = "0a:58:0a:09:00:02"
TUNNELS = {"geneve": "gnv0", "vxlan": "vx0"}
LARGEST = 9018
USUAL_MTU, LARGE_MTU = 1500, LARGEST - 18
SHARED_FLOWS = 64
"""Of the traffic whose flows go once or twice through the datapath, flow by flow."""

FIRST_SOURCE_PORT = 1024
"""perf/pktgen/stream.h"""


@dataclass(frozen=True, slots=True)
class Way:
    """Ports between which frames go, and what stands in on the way."""

    tx: int = 0
    rx: int = 1
    relays: tuple[tuple[int, int], ...] = ()
    macs: tuple[str, str] = ("", "")


def way_of(name: str) -> Way:
    """The generator's part in a way.

    Raises:
        ProcessError: there is no such way.
    """
    kind = name.partition("/")[0]
    ways = {
        "p2p": Way(),
        "shared": Way(),
        "pvp": Way(relays=GUESTS[:1]),
        "pvvp": Way(relays=GUESTS),
        "geneve": Way(relays=((WIRE, WIRE),)),
        "vxlan": Way(relays=((WIRE, WIRE),)),
        "ovn": Way(NUMBER[PORTS[0]], NUMBER[PORTS[1]], macs=MACS),
    }
    if kind not in ways:
        msg = f"there is no way {name!r} in the paced lab; there are {', '.join(ways)}"
        raise ProcessError(msg)
    return ways[kind]


def flows_of(name: str) -> list[str]:
    """OpenFlow of a way on br0.

    "shared/K": 64 flows go through conntrack, and K of them once more, an extra pass. The rules are
    the same, whatever K is.
    """
    kind, _, count = name.partition("/")
    if kind == "shared":
        extra = int(count)
        found = [
            f"table=1,priority=2,in_port=p0,udp,tp_src={FIRST_SOURCE_PORT + number},"
            f"actions={'ct(table=2)' if number < extra else 'output:p1'}"
            for number in range(SHARED_FLOWS)
        ]
        found.append("table=0,in_port=p0,ip,actions=ct(table=1)")
        return [*found, "table=2,in_port=p0,actions=output:p1"]
    hops: dict[str, Sequence[tuple[str, str]]] = {
        "p2p": (("p0", "p1"),),
        "pvp": (("p0", "p2"), ("p3", "p1")),
        "pvvp": (("p0", "p2"), ("p3", "p4"), ("p5", "p1")),
        **{tunnel: (("p0", port), (port, "p1")) for tunnel, port in TUNNELS.items()},
    }
    return [f"in_port={here},actions=output:{there}" for here, there in hops.get(kind, ())]


@dataclass(slots=True)
class PacedLab:
    """The lab while it runs; `build`, then `arrange` a way and use `generator`."""

    lab: VhostLab
    progress: Callable[[str], None] = lambda _line: None
    generator: Pktgen = field(init=False)
    _way: str = field(default="", init=False)
    _mtu: int = field(default=USUAL_MTU, init=False)

    def build(self) -> None:
        """OVS with bridges, tunnels and OVN's switch; the generator on all of the ports.

        Raises:
            ProcessError, GeneratorError: something does not start.
        """
        lab = self.lab
        lab.build()
        self._bridges()
        lab.start_ovn()
        self.progress("OVS and OVN are up")
        devices = [
            f"--vdev=net_virtio_user{number},path={lab.rundir / name}.sock,server=1,queues=1"
            for name, number in NUMBER.items()
        ]
        self.generator = Pktgen(
            f"{lab.name}-guests", lab.rundir, devices, core=lab.guest_core, max_size=LARGEST
        )
        for name in WIRED:
            self._add_port("br-phy" if name == f"p{WIRE}" else "br0", name)
        for port in PORTS:
            self._add_port("br-int", port, f"external_ids:iface-id={port}")
        # Its ports wait for OVS, which connects by itself.
        self.generator.start()
        # As the guests' process, so that who sweeps up behind a killed run ends it, too.
        lab.guests.pidfile.write_text(f"{self.generator.pid}\n", encoding="ascii")
        processes.note_start(lab.guests)
        processes.wait_until(self._connected, "OVS has all of the generator's ports")
        for port in PORTS:
            lab.nbctl("wait-until", "Logical_Switch_Port", port, "up=true")
        self._tunnels()
        for task in (self.generator.pid, *lab.pmd_threads()):
            # Both sides' busy loops come before what else the machine does: it is not the path.
            priority.give(task, priority.FIRST)

    def remove(self) -> None:
        """All of it."""
        if hasattr(self, "generator"):
            self.generator.stop()
        self.lab.remove()

    def arrange(self, way: str, largest: int) -> Way:
        """Frames go this way from now on; `largest` of them [octets with check sequence].

        Raises:
            ProcessError: there is no such way, or OVS does not take it.
        """
        found = way_of(way)
        mtu = LARGE_MTU if largest > USUAL_MTU + 18 else USUAL_MTU
        if mtu != self._mtu:
            words: list[str] = []
            for name in WIRED:
                words += ["--", "set", "Interface", name, f"mtu_request={mtu}"]
            self.lab.vsctl(*words[1:])
            self._mtu = mtu
        if way != self._way:
            self._flows("br0", flows_of(way))
            kind, _, acls = way.partition("/")
            if kind == "ovn":
                verb, _, count = acls.partition(":")
                self.lab.set_acls(verb or "allow-related", int(count or 0))
            self._way = way
        return found

    def _bridges(self) -> None:
        words: list[str] = []
        for bridge in ("br0", "br-phy"):
            words += ["--", "add-br", bridge, "--", "set", "Bridge", bridge]
            words += ["datapath_type=netdev"]
        self.lab.vsctl(*words[1:])
        self._flows("br0", [])

    def _add_port(self, bridge: str, name: str, *more: str) -> None:
        socket = self.lab.rundir / f"{name}.sock"
        self.lab.vsctl(
            "add-port", bridge, name, "--", "set", "Interface", name,
            "type=dpdkvhostuserclient", f"options:vhost-server-path={socket}", *more,
        )  # fmt: skip

    def _tunnels(self) -> None:
        lab = self.lab
        for kind, port in TUNNELS.items():
            lab.vsctl(
                "add-port", "br0", port, "--", "set", "Interface", port, f"type={kind}",
                f"options:remote_ip={FAR}", f"options:local_ip={NEAR}", "options:key=7",
            )  # fmt: skip
        for words in (
            ["address", "add", f"{NEAR}/24", "dev", "br-phy"],
            ["link", "set", "br-phy", "up"],
        ):
            processes.run(["ip", *words], netns=lab.name)
        lab.appctl("tnl/neigh/set", "br-phy", FAR, FAR_MAC)
        self._flows(
            "br-phy",
            [f"in_port=p{WIRE},actions=LOCAL", f"in_port=LOCAL,actions=output:p{WIRE}"],
        )

    def _flows(self, bridge: str, flows: Sequence[str]) -> None:
        manage = f"unix:{self.lab.rundir}/{bridge}.mgmt"
        processes.run(
            ["ovs-ofctl", "--names", "--bundle", "replace-flows", manage, "-"],
            text_in="".join(f"{flow}\n" for flow in flows),
        )

    def _connected(self) -> bool:
        words: list[str] = []
        for name in NUMBER:
            words += ["--", "get", "Interface", name, "link_state"]
        return set(self.lab.vsctl(*words[1:]).split()) == {"up"}
