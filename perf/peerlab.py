"""The namespaces of `millrace perf peers`: for each contestant a router between client and backend.

::

    <name>-c  c0 --- r0  <name>-r  r1 --- b0  <name>-b

The backend's namespace has all backends' addresses; the router has a route to them and knows the
neighbours, so that nothing is asked while packets are counted.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.netns import delete_named, inside_named
from dataplane.model.addr import Mac
from perf import peerflows

PREFIX = "mrpeer"
BACKENDS = IPv4Network("10.128.0.0/12")
VIPS = IPv4Network("10.96.0.0/12")
CLIENTS = IPv4Network("198.51.100.0/24")
SERVICE_ADDRESS = IPv4Address("100.64.255.1")
ROUTER = IPv4Address("192.0.2.1")
"""Its address beside the backends, which masqueraded packets have."""

PORT, BACKEND_PORT = 80, 8080
BACKENDS_PER_SERVICE = 2


def vip(number: int) -> IPv4Address:
    """The VIP of a service, numbered from 0."""
    return VIPS[256 + number]


def backend(number: int, index: int) -> IPv4Address:
    """One backend of a service."""
    return BACKENDS[256 + number * BACKENDS_PER_SERVICE + index]


@dataclass(frozen=True, slots=True)
class Trio:
    """Client, router and backend of one contestant."""

    name: str

    @property
    def client(self) -> str:
        """The client's namespace."""
        return f"{self.name}-c"

    @property
    def router(self) -> str:
        """The router's, where frames are injected and the contestant works."""
        return f"{self.name}-r"

    @property
    def backend(self) -> str:
        """The backend's, where packets end."""
        return f"{self.name}-b"

    def build(self) -> None:
        """Namespaces, devices, addresses, routes, neighbours."""
        for space in (self.client, self.router, self.backend):
            processes.run(["ip", "netns", "add", space])
            processes.run(["ip", "link", "set", "lo", "up"], netns=space)
            for scope in ("all", "default"):
                self._sysctl(space, f"net.ipv6.conf.{scope}.disable_ipv6", "1")
                self._sysctl(space, f"net.ipv4.conf.{scope}.rp_filter", "0")
        for left, here, right, there in (
            (self.client, "c0", self.router, "r0"),
            (self.router, "r1", self.backend, "b0"),
        ):
            processes.run(
                ["ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", right],
                netns=left,
            )
        for space, device, address in (
            (self.client, "c0", "198.51.100.254/24"),
            (self.router, "r0", "198.51.100.253/24"),
            (self.router, "r1", f"{ROUTER}/24"),
            (self.backend, "b0", "192.0.2.2/24"),
        ):
            processes.run(["ip", "address", "add", address, "dev", device], netns=space)
            processes.run(["ip", "link", "set", device, "up"], netns=space)
            # GRO makes a veth receive by NAPI, which redirected frames need and forwarded ones
            # then have, too. Checksums are finished and whole.
            processes.run(["ethtool", "-K", device, "gro", "on", "tx", "off"], netns=space)
        self._sysctl(self.router, "net.ipv4.ip_forward", "1")
        for words in (
            ["route", "add", str(BACKENDS), "via", "192.0.2.2"],
            ["neigh", "add", "192.0.2.2", "lladdr", str(self.mac("b")), "dev", "r1"],
        ):
            processes.run(["ip", *words], netns=self.router)
        for words in (
            ["route", "add", "local", str(BACKENDS), "dev", "lo"],
            ["route", "add", "default", "via", str(ROUTER)],
        ):
            processes.run(["ip", *words], netns=self.backend)

    def remove(self) -> None:
        """Every namespace of it that is there, and so its devices."""
        for space in (self.client, self.router, self.backend):
            if (processes.NETNS_DIR / space).exists():
                delete_named(space)

    def mac(self, side: str) -> Mac:
        """The MAC of r0 ("r") or of b0 ("b")."""
        space, device = (self.router, "r0") if side == "r" else (self.backend, "b0")
        shown = processes.run(["ip", "-j", "link", "show", "dev", device], netns=space)
        return Mac(json.loads(shown)[0]["address"])

    def ifindex(self, device: str) -> int:
        """The number of r0, r1 or b0 in its namespace."""
        space = self.backend if device == "b0" else self.router
        return inside_named(space, lambda: socket.if_nametoindex(device))

    def _sysctl(self, space: str, name: str, value: str) -> None:
        processes.run(["sysctl", "-q", "-w", f"{name}={value}"], netns=space, check=False)

    def load(self, command: list[str], text: str) -> float:
        """Rules by a command of the router's; seconds that it took."""
        began = time.monotonic()
        processes.run(command, netns=self.router, text_in=text, timeout_s=300)
        return time.monotonic() - began

    def forget_flows(self) -> None:
        """Empty the router's conntrack."""
        inside_named(self.router, peerflows.forget)

    def answer_flows(self) -> None:
        """Every flow in the router's conntrack has had an answer."""
        inside_named(self.router, peerflows.answer_all)


def sweep() -> None:
    """Remove what a killed run left: the name says whose it was."""
    if not processes.NETNS_DIR.is_dir():
        return
    for path in processes.NETNS_DIR.glob(f"{PREFIX}-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            delete_named(path.name)


def trio(name: str) -> Trio:
    """One of this process's."""
    return Trio(f"{PREFIX}-{os.getpid()}-{name}")
