"""A service in four ways between one generator's ports: XDP, OVN, nftables, iptables.

::

    c-WAY --- r0  router  r1 --- b-WAY        c-WAY and b-WAY: one namespace, one generator

The router of each way has one processor: the kernel's is a thread for each device's packets
(threaded NAPI), OVS's is its PMD. The other processor is the generator's. Every frame crosses the
same two veth pairs and ends at the same kind of socket.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dataplane.drivers import processes, xdphook
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE
from dataplane.drivers.netns import delete_named, inside_named
from perf import peerlab
from perf.peerlab import Trio
from perf.peerprogs import Ours
from perf.pktgen.driver import Pktgen
from perf.vhostlab import FIRST, LAST, VhostLab

SERVICES = 1_000
WAYS = ("xdp", "ovn", "nftables", "iptables")
KERNEL = ("xdp", "nftables", "iptables")
CLIENT_MAC = "02:00:00:00:00:c1"
OUT_MAC, IN_MAC = "0a:58:c6:33:64:fd", "0a:58:c0:00:02:01"
"""Of the OVN router's two ports."""

SLOTS = 4096
"""Of the generator's rings: frames for four milliseconds at a million a second."""


@dataclass(frozen=True, slots=True)
class Served:
    """One way: the generator's ports, where frames are sent to, and what its router does.

    Attributes:
        busy_ns: what its processor has spent on packets so far; None: ask OVS's PMD.
        forget: empties its table of connections.
    """

    name: str
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
    generator: Pktgen = field(init=False)
    ways: dict[str, Served] = field(default_factory=dict, init=False)
    _trios: dict[str, Trio] = field(default_factory=dict, init=False)
    ours: Ours | None = field(default=None, init=False)

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
        for name in KERNEL:
            self._kernel(name)
        self._ovn()
        devices = []
        for number, device in enumerate(f"{side}-{way}" for way in WAYS for side in "cb"):
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
        os.setpriority(os.PRIO_PROCESS, self.generator.pid, FIRST)
        self.lab.guests.pidfile.write_text(f"{self.generator.pid}\n", encoding="ascii")
        processes.note_start(self.lab.guests)

    def arrange(self, name: str) -> Served:
        """One way's router gets the processor: OVS's busy loop is put behind the others'."""
        for task in self.lab.pmd_threads():
            # OVS makes them anew when a port changes.
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, task, FIRST if name == "ovn" else LAST)
        return self.ways[name]

    def remove(self) -> None:
        """All of it."""
        if hasattr(self, "generator"):
            self.generator.stop()
        if self.ours is not None:
            self.ours.close()
        for trio in self._trios.values():
            trio.remove()
        delete_named(self.space)
        self.lab.remove()

    def described(self, name: str) -> dict[str, object]:
        """What there is to say of a kernel's way."""
        return {"program_tag": self.ours.tag} if name == "xdp" and self.ours else {}

    def _take(self, space: str, device: str, name: str) -> None:
        """A device of a router's neighbour becomes the generator's."""
        processes.run(["ip", "link", "set", device, "netns", self.space, "name", name], netns=space)

    def _kernel(self, name: str) -> None:
        trio = self._trios[name] = peerlab.trio(name)
        trio.build()
        number, router = 2 * WAYS.index(name), trio.router
        forget, backend_mac = trio.forget_flows, trio.mac("b")
        drops: Callable[[], Mapping[str, int]] = dict
        if name == "xdp":
            made = self.ours = inside_named(
                router, partial(Ours, SERVICES, backend_mac, ifindex=trio.ifindex("r1"))
            )
            index = trio.ifindex("r0")
            inside_named(router, lambda: xdphook.attach(index, made.program, XDP_FLAGS_DRV_MODE))
            forget = made.forget_flows

            def drops() -> Mapping[str, int]:
                return {
                    f"XDP: {reason.name}": count
                    for reason, count in made.reasons().items()
                    if reason.name.startswith("DROP_")
                }

        else:
            took = {"nftables": trio.nftables, "iptables": trio.iptables}[name](SERVICES)
            self.progress(f"{name}: {SERVICES} services loaded in {took:.1f} s")
        self._take(trio.client, "c0", f"c-{name}")
        self._take(trio.backend, "b0", f"b-{name}")
        threads = [self._thread(router, device) for device in ("r0", "r1")]
        self.ways[name] = Served(
            name, (number, number + 1), str(trio.mac("r")),
            lambda: sum(_spent_ns(pid) for pid in threads), forget, drops,
        )  # fmt: skip

    def _thread(self, space: str, device: str) -> int:
        """The kernel's thread for a device's packets, on the router's processor."""
        before = _threads(device)
        # `ip netns exec` shows the namespace's own /sys.
        path = f"/sys/class/net/{device}/threaded"
        processes.run(["ip", "netns", "exec", space, "tee", path], text_in="1")
        processes.wait_until(lambda: bool(_threads(device) - before), f"a thread for {device}")
        (pid,) = _threads(device) - before
        os.sched_setaffinity(pid, {self.core})
        os.setpriority(os.PRIO_PROCESS, pid, FIRST)
        return pid

    def _ovn(self) -> None:
        """A gateway router between two switches; the services are a load balancer of its."""
        lab, name = self.lab, "ovn"
        for here, there in (("r0", "c-ovn"), ("r1", "b-ovn")):
            words = ["link", "add", here, "type", "veth", "peer", "name", there, "netns"]
            processes.run(["ip", *words, self.space], netns=lab.name)
            processes.run(["ip", "link", "set", here, "up"], netns=lab.name)
            for space, device in ((lab.name, here), (self.space, there)):
                words = ["ethtool", "-K", device, "gro", "on", "tx", "off"]
                processes.run(words, netns=space)
        lab.start_ovn()
        backend_mac = netns_mac(self.space, "b-ovn")
        words = ["lr-add", "gw", "--", "set", "Logical_Router", "gw", f"options:chassis={lab.name}"]
        for switch, mac, network in (
            ("out", OUT_MAC, "198.51.100.253/24"),
            ("in", IN_MAC, "192.0.2.1/24"),
        ):
            words += ["--", "ls-add", switch, "--", "lrp-add", "gw", f"gw-{switch}", mac, network]
            words += ["--", "lsp-add", switch, f"{switch}-gw"]
            words += ["--", "lsp-set-type", f"{switch}-gw", "router"]
            words += ["--", "lsp-set-addresses", f"{switch}-gw", "router"]
            words += ["--", "lsp-set-options", f"{switch}-gw", f"router-port=gw-{switch}"]
        for switch, port, address in (
            ("out", "r0", f"{CLIENT_MAC} 198.51.100.254"),
            ("in", "r1", f"{backend_mac} 192.0.2.2"),
        ):
            words += ["--", "lsp-add", switch, port, "--", "lsp-set-addresses", port, address]
        words += ["--", "lr-route-add", "gw", str(peerlab.BACKENDS), "192.0.2.2"]
        lab.nbctl(*words)
        self._balance()
        for device in ("r0", "r1"):
            lab.vsctl(
                "add-port", "br-int", device, "--", "set", "Interface", device, "type=afxdp",
                "options:n_rxq=1", "options:xdp-mode=native", f"external_ids:iface-id={device}",
            )  # fmt: skip
        for device in ("r0", "r1"):
            lab.nbctl("wait-until", "Logical_Switch_Port", device, "up=true")
        lab.nbctl("--wait=hv", "sync")
        number = 2 * WAYS.index(name)
        self.ways[name] = Served(
            name, (number, number + 1), OUT_MAC, None,
            self._forget_ovn, dict,
        )  # fmt: skip

    def _forget_ovn(self) -> None:
        self.lab.appctl("dpctl/flush-conntrack")

    def _balance(self) -> None:
        vips = []
        for number in range(SERVICES):
            targets = ",".join(
                f"{peerlab.backend(number, index)}:{peerlab.BACKEND_PORT}"
                for index in range(peerlab.BACKENDS_PER_SERVICE)
            )
            vips.append(f'"{peerlab.vip(number)}:{peerlab.PORT}"="{targets}"')
        row = ["name=peers", "protocol=udp", f"vips={{{','.join(vips)}}}"]
        self.lab.nbctl("create", "Load_Balancer", *row)
        self.lab.nbctl("lr-lb-add", "gw", "peers")


def netns_mac(space: str, device: str) -> str:
    """The MAC of a device in a namespace."""
    path = f"/sys/class/net/{device}/address"
    return processes.run(["ip", "netns", "exec", space, "cat", path]).strip()


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
