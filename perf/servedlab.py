"""A service in four ways between one generator's ports: XDP, OVN, nftables, iptables.

::

    cN --- r0  router N  r1 --- bN        all cN and bN: one namespace, one generator

The router of each way has one processor: the kernel's is a thread for each device's packets
(threaded NAPI), OVS's is its PMD. The other processor is the generator's. Every frame crosses the
same two veth pairs and ends at the same kind of socket.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dataplane.drivers import processes, xdphook
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE
from dataplane.drivers.netns import delete_named, inside_named
from perf import peerlab, peerrules, priority
from perf.peerlab import Trio
from perf.peerprogs import Ours
from perf.peerrules import Rules
from perf.pktgen.driver import Pktgen
from perf.vhostlab import VhostLab

SERVICES = 1_000
KINDS = ("xdp", "ovn", "nftables", "iptables")
CLIENT_MAC = "02:00:00:00:00:c1"
OUT_MAC, IN_MAC = "0a:58:c6:33:64:fd", "0a:58:c0:00:02:01"
"""Of the OVN router's two ports."""

AT_ONCE = 1_000
"""Services in one command, whose length is limited."""

SLOTS = 4096
"""Of the generator's rings: frames for four milliseconds at a million a second."""


@dataclass(frozen=True, slots=True)
class Way:
    """Who serves, and how many services its router has."""

    kind: str
    services: int = SERVICES

    @property
    def name(self) -> str:
        """What perf.harness.rated calls it."""
        return self.kind if self.services == SERVICES else f"{self.kind}-of-{self.services}"


WAYS = tuple(Way(kind) for kind in KINDS)
SIZED = tuple(Way(kind, services) for kind in KINDS for services in (1, 10_000))


@dataclass(frozen=True, slots=True)
class Served:
    """One way: the generator's ports, where frames are sent to, and what its router does.

    Attributes:
        busy_ns: what its processor has spent on packets so far; None: ask OVS's PMD.
        forget: empties its table of connections.
    """

    name: str
    services: int
    ports: tuple[int, int]
    router_mac: str
    busy_ns: Callable[[], int] | None
    forget: Callable[[], None]
    drops: Callable[[], Mapping[str, int]]


@dataclass(slots=True)
class ServedLab:
    """The lab while it runs."""

    lab: VhostLab
    core: int
    progress: Callable[[str], None] = lambda _line: None
    asked: tuple[Way, ...] = WAYS
    generator: Pktgen = field(init=False)
    ways: dict[str, Served] = field(default_factory=dict, init=False)
    ours: dict[str, Ours] = field(default_factory=dict, init=False)
    _trios: dict[str, Trio] = field(default_factory=dict, init=False)

    @property
    def space(self) -> str:
        """The generator's namespace; peerlab.sweep removes it, too, once its process is gone."""
        return f"{peerlab.PREFIX}-{os.getpid()}-gen"

    def build(self) -> None:
        """Every router, and the generator.

        Raises:
            DataplaneError: something does not start.
        """
        peerlab.sweep()
        self.lab.build()
        # What the kernel says to nobody there (IPv6's first words) is not among the frames.
        processes.run(["ip", "netns", "add", self.space])
        for number, way in enumerate(self.asked):
            if way.kind == "ovn":
                self._ovn(number, way)
            else:
                self._kernel(number, way)
        devices = []
        ends = (f"{side}{number}" for number in range(len(self.asked)) for side in "cb")
        for number, device in enumerate(ends):
            processes.run(["ip", "link", "set", device, "up"], netns=self.space)
            devices.append(
                f"--vdev=net_af_packet{number},iface={device},framecnt={SLOTS},blocksz=16384,"
                "qdisc_bypass=1"
            )
        self.generator = Pktgen(
            f"{self.lab.name}-guests", self.lab.rundir, devices, core=self.lab.guest_core,
            enter=["nsenter", f"--net={processes.NETNS_DIR / self.space}"],
        )  # fmt: skip
        self.generator.start()
        priority.give(self.generator.pid, priority.FIRST)
        self.lab.guests.pidfile.write_text(f"{self.generator.pid}\n", encoding="ascii")
        processes.note_start(self.lab.guests)

    def arrange(self, name: str) -> Served:
        """One way's router gets the processor: OVS's busy loop is put behind the others'."""
        for task in self.lab.pmd_threads():
            # OVS makes them anew when a port changes.
            with contextlib.suppress(ProcessLookupError):
                busy = self.ways[name].busy_ns is None
                priority.give(task, priority.FIRST if busy else priority.LAST)
        return self.ways[name]

    def remove(self) -> None:
        """All of it."""
        if hasattr(self, "generator"):
            self.generator.stop()
        for made in self.ours.values():
            made.close()
        for trio in self._trios.values():
            trio.remove()
        delete_named(self.space)
        self.lab.remove()

    def described(self, name: str) -> dict[str, object]:
        """What there is to say of a kernel's way."""
        told: dict[str, object] = {"services": self.ways[name].services}
        return told | ({"program_tag": self.ours[name].tag} if name in self.ours else {})

    def _take(self, space: str, device: str, name: str) -> None:
        """A device of a router's neighbour becomes the generator's."""
        processes.run(["ip", "link", "set", device, "netns", self.space, "name", name], netns=space)

    def _kernel(self, number: int, way: Way) -> None:
        name = way.name
        trio = self._trios[name] = peerlab.trio(name)
        trio.build()
        router = trio.router
        forget, backend_mac = trio.forget_flows, trio.mac("b")
        reasons: Callable[[], Mapping[str, int]] = dict
        if way.kind == "xdp":
            made = self.ours[name] = inside_named(
                router, partial(Ours, way.services, backend_mac, ifindex=trio.ifindex("r1"))
            )
            index = trio.ifindex("r0")
            inside_named(router, lambda: xdphook.attach(index, made.program, XDP_FLAGS_DRV_MODE))
            forget = made.forget_flows

            def reasons() -> Mapping[str, int]:
                return {
                    f"XDP: {reason.name}": count
                    for reason, count in made.reasons().items()
                    if reason.name.startswith("DROP_")
                }

        else:
            load = {"nftables": peerrules.nftables, "iptables": peerrules.iptables}[way.kind]
            # A million connections in a trial are more than one address can be masqueraded to.
            took = load(trio, way.services, Rules.BARE)
            self.progress(f"{name}: {way.services} services loaded in {took:.1f} s")
        self._take(trio.client, "c0", f"c{number}")
        self._take(trio.backend, "b0", f"b{number}")
        threads = [self._thread(router, device) for device in ("r0", "r1")]
        self.ways[name] = Served(
            name, way.services, (2 * number, 2 * number + 1), str(trio.mac("r")),
            lambda: sum(_spent_ns(pid) for pid in threads), forget,
            lambda: {**reasons(), **self._queues(number, router, "r1")},
        )  # fmt: skip

    def _queues(self, number: int, space: str, leaving: str) -> Mapping[str, int]:
        """What the veths of a way did not take, for the queue at the other end was full."""
        return {
            "veth's queue full, into the router": _not_taken(self.space, f"c{number}"),
            "veth's queue full, out of the router": _not_taken(space, leaving),
        }

    def _thread(self, space: str, device: str) -> int:
        """The kernel's thread for a device's packets, on the router's processor."""
        before = _threads(device)
        # `ip netns exec` shows the namespace's own /sys.
        path = f"/sys/class/net/{device}/threaded"
        processes.run(["ip", "netns", "exec", space, "tee", path], text_in="1")
        processes.wait_until(lambda: bool(_threads(device) - before), f"a thread for {device}")
        (pid,) = _threads(device) - before
        os.sched_setaffinity(pid, {self.core})
        priority.give(pid, priority.FIRST)
        return pid

    def _ovn(self, number: int, way: Way) -> None:
        """A gateway router between two switches; the services are a load balancer of its."""
        lab, gateway = self.lab, f"gw{number}"
        entry, leaving = f"r0-{number}", f"r1-{number}"
        for here, there in ((entry, f"c{number}"), (leaving, f"b{number}")):
            words = ["link", "add", here, "type", "veth", "peer", "name", there, "netns"]
            processes.run(["ip", *words, self.space], netns=lab.name)
            processes.run(["ip", "link", "set", here, "up"], netns=lab.name)
            for space, device in ((lab.name, here), (self.space, there)):
                words = ["ethtool", "-K", device, "gro", "on", "tx", "off"]
                processes.run(words, netns=space)
        if not any(done.busy_ns is None for done in self.ways.values()):
            lab.start_ovn()
        backend_mac = netns_mac(self.space, f"b{number}")
        words = ["lr-add", gateway, "--", "set", "Logical_Router", gateway]
        words.append(f"options:chassis={lab.name}")
        for side, device, mac, network, neighbour in (
            ("out", entry, OUT_MAC, "198.51.100.253/24", f"{CLIENT_MAC} 198.51.100.254"),
            ("in", leaving, IN_MAC, "192.0.2.1/24", f"{backend_mac} 192.0.2.2"),
        ):
            switch, port = f"{side}{number}", f"{gateway}-{side}"
            words += ["--", "ls-add", switch, "--", "lrp-add", gateway, port, mac, network]
            words += ["--", "lsp-add", switch, f"{switch}-gw"]
            words += ["--", "lsp-set-type", f"{switch}-gw", "router"]
            words += ["--", "lsp-set-addresses", f"{switch}-gw", "router"]
            words += ["--", "lsp-set-options", f"{switch}-gw", f"router-port={port}"]
            words += ["--", "lsp-add", switch, device, "--", "lsp-set-addresses", device, neighbour]
        words += ["--", "lr-route-add", gateway, str(peerlab.BACKENDS), "192.0.2.2"]
        lab.nbctl(*words)
        began = time.monotonic()
        self._balance(gateway, way.services)
        for device in (entry, leaving):
            lab.vsctl(
                "add-port", "br-int", device, "--", "set", "Interface", device, "type=afxdp",
                "options:n_rxq=1", "options:xdp-mode=native", f"external_ids:iface-id={device}",
            )  # fmt: skip
        for device in (entry, leaving):
            lab.nbctl("wait-until", "Logical_Switch_Port", device, "up=true")
        lab.nbctl("--wait=hv", "sync")
        took = time.monotonic() - began
        self.progress(f"{way.name}: {way.services} services installed in {took:.1f} s")
        self.ways[way.name] = Served(
            way.name, way.services, (2 * number, 2 * number + 1), OUT_MAC, None,
            self._forget_ovn, lambda: self._queues(number, lab.name, leaving),
        )  # fmt: skip

    def _forget_ovn(self) -> None:
        self.lab.appctl("dpctl/flush-conntrack")

    def _balance(self, gateway: str, services: int) -> None:
        name = f"{gateway}-services"
        self.lab.nbctl("create", "Load_Balancer", f"name={name}", "protocol=udp")
        for first in range(0, services, AT_ONCE):
            vips = []
            for number in range(first, min(first + AT_ONCE, services)):
                targets = ",".join(
                    f"{peerlab.backend(number, index)}:{peerlab.BACKEND_PORT}"
                    for index in range(peerlab.BACKENDS_PER_SERVICE)
                )
                vips.append(f'"{peerlab.vip(number)}:{peerlab.PORT}"="{targets}"')
            self.lab.nbctl("add", "Load_Balancer", name, "vips", *vips)
        self.lab.nbctl("lr-lb-add", gateway, name)


def netns_mac(space: str, device: str) -> str:
    """The MAC of a device in a namespace."""
    path = f"/sys/class/net/{device}/address"
    return processes.run(["ip", "netns", "exec", space, "cat", path]).strip()


def _not_taken(space: str, device: str) -> int:
    """Frames that were to leave by a veth, and did not (tx_dropped of its statistics)."""
    path = f"/sys/class/net/{device}/statistics/tx_dropped"
    return int(processes.run(["ip", "netns", "exec", space, "cat", path]))


def _threads(device: str) -> set[int]:
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text(encoding="utf-8").startswith(f"napi/{device}-"):
                found.add(int(comm.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def _spent_ns(pid: int) -> int:
    """Processor time of a kernel's thread [ns]."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])
