"""Network namespaces, veth pairs and commands inside them, all under one prefix.

A namespace is entered with `nsenter --net`, never `ip netns exec`: that remounts /sys and hides
bpffs. What a crashed run left under the same prefix is removed before a new one begins.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import processes, xdphook
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE
from dataplane.drivers.libbpf_programs import Object
from dataplane.drivers.netns import delete_named, inside_named
from dataplane.drivers.processes import NETNS_DIR


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace."""

    name: str

    @property
    def path(self) -> Path:
        """The file that `setns` wants."""
        return NETNS_DIR / self.name

    def run(
        self, *argv: str, check: bool = True, timeout_s: float = 60.0, text_in: str | None = None
    ) -> str:
        """Run a command inside; its standard output."""
        return processes.run(
            argv, netns=self.name, check=check, timeout_s=timeout_s, text_in=text_in
        )

    def create(self) -> Namespace:
        """Make it, with the loopback up."""
        processes.run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")
        return self

    def delete(self) -> None:
        """End every process in it and remove it; no error if it is not there."""
        if not self.path.exists():
            return
        # By pid, and only those whose namespace is this one: it was made by us under our prefix.
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = processes.pids_in_netns(self.path)
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            if not pids:
                break
            try:
                processes.wait_until(
                    lambda: not _alive_in(self.path), f"{self.name} empty", timeout_s=5
                )
            except processes.ProcessError:
                continue
        delete_named(self.name)

    def quiet(self) -> None:
        """No IPv6 in it: router solicitations and duplicate address detection spoil counts."""
        for scope in ("all", "default"):
            self.run("sysctl", "-q", "-w", f"net.ipv6.conf.{scope}.disable_ipv6=1", check=False)


def _alive_in(path: Path) -> list[int]:
    return [pid for pid in processes.pids_in_netns(path) if processes.command_line(pid)]


def leftovers(prefix: str) -> list[Namespace]:
    """The namespaces whose names begin with `prefix`."""
    if not NETNS_DIR.is_dir():
        return []
    return [Namespace(path.name) for path in sorted(NETNS_DIR.glob(f"{prefix}-*"))]


def sweep(prefix: str) -> None:
    """Remove all namespaces of a prefix, with what runs in them."""
    for namespace in leftovers(prefix):
        namespace.delete()


def veth(
    left: Namespace,
    left_name: str,
    right: Namespace,
    right_name: str,
    *,
    left_addresses: Sequence[str] = (),
    right_addresses: Sequence[str] = (),
    queues: int = 1,
) -> None:
    """A veth pair between two namespaces, both ends up."""
    left.run(
        "ip", "link", "add", left_name, "numrxqueues", str(queues), "numtxqueues", str(queues),
        "type", "veth", "peer", "name", right_name, "numrxqueues", str(queues),
        "numtxqueues", str(queues), "netns", right.name,
    )  # fmt: skip
    for namespace, name, addresses in (
        (left, left_name, left_addresses),
        (right, right_name, right_addresses),
    ):
        for address in addresses:
            namespace.run("ip", "address", "add", address, "dev", name)
        namespace.run("ip", "link", "set", name, "up")


def finish_checksums(namespace: Namespace, device: str) -> None:
    """Make a veth's sender finish its checksums: XDP rewrites only finished ones rightly.

    VLAN tags stay in the frame, too, where XDP sees them.
    """
    namespace.run("ethtool", "-K", device, "tx", "off", "txvlan", "off", "rxvlan", "off")


def receive_by_napi(namespace: Namespace, device: str) -> None:
    """Turn GRO on: only then does a veth without a program accept redirected XDP frames."""
    namespace.run("ethtool", "-K", device, "gro", "on")


def receive_transmitted(namespace: Namespace, device: str) -> None:
    """Give a veth's end a program that passes everything on.

    What the program of the other end transmits (XDP_TX) waits in the ring of an end without one
    until something else comes: drivers/net/veth.c, veth_xdp_flush(), looks for a program and not
    for NAPI. A real NIC just sends.
    """
    with Object(OBJECT_DIRECTORY / "perf_peers.bpf.o") as made:
        made.load()
        with made.program("peers_pass") as program:

            def attach() -> None:
                xdphook.attach(socket.if_nametoindex(device), program, XDP_FLAGS_DRV_MODE)

            inside_named(namespace.name, attach)


def mac_of(namespace: Namespace, device: str) -> str:
    """The Ethernet address of a device."""
    line = namespace.run("ip", "-o", "link", "show", "dev", device)
    return line.split("link/ether ")[1].split()[0]


def packets(namespace: Namespace, device: str, counter: str) -> int:
    """A counter of `ip -s -j link` such as `tx.packets`."""
    data = json.loads(namespace.run("ip", "-s", "-j", "link", "show", "dev", device))[0]
    side, _, name = counter.partition(".")
    return int(data["stats64"][side][name])
